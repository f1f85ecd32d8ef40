"""Personalisation by unions of traits, the Python way; the same schema as traits.pml."""

from typing import Literal

from treeserve.pml import schema


@schema
def traits(
    age: Literal["child", "student", "retired"],
    taste: Literal["science", "history", "crime"],
    style: Literal["brief", "detailed"],
):
    "Recommend a book to a reader.\n"
    match age:
        case "child":
            "The reader is a child of ten and reads with a parent.\n"
        case "student":
            "The reader is a student with little time.\n"
        case "retired":
            "The reader is retired and reads all day.\n"
    match taste:
        case "science":
            "The reader loves science and how things work.\n"
        case "history":
            "The reader loves history and old towns.\n"
        case "crime":
            "The reader loves crime stories with a clever end.\n"
    match style:
        case "brief":
            "Answer in one sentence.\n"
        case "detailed":
            "Answer with three books and a reason for each.\n"
