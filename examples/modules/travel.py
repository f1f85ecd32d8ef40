"""A travel plan with parameters, the Python way; the same schema as travel.pml."""

from typing import Annotated, Literal

from treeserve.pml import MaxTokens, schema


@schema
def surf():
    """
    Teach them to surf.
    """


@schema
def trip(
    duration: Annotated[str, MaxTokens(6)],
    travellers: Annotated[str, MaxTokens(8)],
    destination: Literal["miami", "oslo"],
):
    f"Plan a trip of {duration} for {travellers}.\n"
    match destination:
        case "miami":
            "The trip goes to Miami: beaches, art deco, and the Everglades an hour away.\n"
            surf()
        case "oslo":
            "The trip goes to Oslo: fjords, museums, and forests at the end of the tram.\n"


@schema(scaffolds={"cheap-trip": ("trip", "low_budget")})
def travel(low_budget: bool):
    "You plan trips and know every town.\n"
    trip()
    if low_budget:
        "Money is short: choose what costs nothing.\n"
