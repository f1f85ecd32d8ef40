"""Messages of any type for hypothesis: mostly right, sometimes anything of a field's type."""

from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st

KNOWN = "known"
SCHEMA = '<schema name="saved">ab<module name="a">xyz</module></schema>'
IMPORTING = '<prompt schema="saved"><a/>ab</prompt>'
MAX_DEPTH = 4

small_texts = st.text(max_size=6) | st.sampled_from(["", "ab", KNOWN, "{}", "[a-c]{2}", "<end>"])
small_ints = st.integers(0, 12) | st.sampled_from([63, 319, 320, 1025, 2**31, 2**32 - 1])
doubles = st.sampled_from([0.0, 0.5, 1.0, 1.5, -1.0, 1e9, float("nan"), float("inf")])
VALUES = {
    FieldDescriptor.TYPE_STRING: small_texts,
    FieldDescriptor.TYPE_UINT32: small_ints,
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_SINT32: st.integers(-101, 101),
    FieldDescriptor.TYPE_DOUBLE: doubles,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_ENUM: st.integers(0, 5),
}
NEEDED = {
    *("text", "tree", "parent", "request_id", "token_ids", "ids", "guide", "prefix", "name"),
    "pml",
}
"""Without these, little of a message is looked at."""
RIGHT = {
    "text": st.sampled_from(["ab", "xyz", "é"]),
    "request_id": st.just(KNOWN),
    "path": st.just([]),
    "sample_index": st.integers(0, 1),
    "num_tokens": st.integers(0, 1),
    "token_ids": st.lists(st.integers(1, 319), min_size=1, max_size=3),
    "ids": st.lists(st.integers(1, 319), min_size=1, max_size=3),
    "n": st.integers(1, 3),
    "priority": st.integers(-100, 100),
    "temperature": st.floats(0, 2),
    "top_k": st.integers(0, 320),
    "top_p": st.floats(0.1, 1),
    "min_p": st.floats(0, 1),
    "repetition_penalty": st.floats(0.5, 2),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "logit_bias": st.dictionaries(st.integers(0, 319), st.floats(-100, 100), max_size=2),
    "max_tokens": st.integers(5, 9),
    "stop": st.lists(st.sampled_from(["a", "xy"]), max_size=2),
    "stop_token_ids": st.lists(st.integers(0, 319), max_size=2),
    "min_tokens": st.integers(0, 4),
    "time_limit_seconds": st.sampled_from([1e-6, 30.0]),
    "logprobs": st.integers(0, 20),
    "json_schema": st.sampled_from(["{}", '{"enum": ["a", 1]}']),
    "regex": st.sampled_from(["[a-c]{2}", "é|ab"]),
    "grammar": st.just('start: "a" | "b"'),
    "choices": st.just(["left", "right"]),
    "name": st.sampled_from(["saved", "other"]),
    "pml": st.sampled_from([SCHEMA, SCHEMA, IMPORTING]),
    "schema": st.just("saved"),
    "modules": st.lists(st.just("a"), max_size=1),
    "arguments": st.dictionaries(st.sampled_from(["days", "x"]), small_texts, max_size=2),
    "weight": st.floats(0.1, 1000),
    "ttl_seconds": st.floats(0.1, 604800),
    "id": st.integers(1, 3),
    "interval_seconds": st.floats(0.1, 60),
    "max_nodes": st.integers(1, 2048),
}


@st.composite
def messages(draw, message_class, depth=0, *, right=14):
    """Each field set or not, to what is right `right` times of `right + 1`, else to anything."""
    message = message_class()
    for field in message.DESCRIPTOR.fields:
        chance = draw(st.integers(0, 9))
        if chance >= (9 if field.name in NEEDED else 3) or depth > MAX_DEPTH:
            continue
        is_plain = field.message_type is None and field.type != FieldDescriptor.TYPE_BOOL
        if is_plain and field.name in RIGHT and draw(st.integers(0, right)):
            put(message, field, draw(RIGHT[field.name]))
        elif field.message_type is None:
            values = VALUES[field.type]
            put(message, field, draw(st.lists(values, max_size=3) if field.is_repeated else values))
        elif field.message_type.GetOptions().map_entry:
            is_right = field.name == "arguments" or draw(st.booleans())
            entries = RIGHT[field.name] if is_right else st.just({320: 1e9})
            getattr(message, field.name).update(draw(entries))
        else:
            nested = messages(field.message_type._concrete_class, depth + 1, right=right)
            put(message, field, draw(st.lists(nested, max_size=2) if field.is_repeated else nested))
    if "params" in message.DESCRIPTOR.fields_by_name and draw(st.integers(0, 9)):
        bound(message, draw(RIGHT["max_tokens"]))
    return message


def bound(message, max_tokens) -> None:
    """What says no limit draws a few tokens, not as many as it may: that takes all the time."""
    if not message.params.stopping.HasField("max_tokens"):
        message.params.stopping.max_tokens = max_tokens


def put(message, field, value) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)
