"""Prompts as runs of tokens: two runs are equal, with all before them, where their keys are."""

from typing import NamedTuple

from treeserve.simulation.trace import TraceRequest


class Run(NamedTuple):
    """Some tokens of a prompt after those of the runs before it."""

    key: int
    """Stands for these tokens and all before them."""
    num_tokens: int


def root_key(tenant: str) -> int:
    """Of no tokens at all, which no two tenants have in common."""
    return hash(tenant)


def block_runs(request: TraceRequest, above: int) -> list[Run]:
    """The request's own tokens, a run for each block.

    Args:
        request: Of a trace.
        above: The key of what they follow.
    """
    runs, left, key = [], request.input_length, above
    for block_id in request.block_ids:
        size = min(request.block_size, left)
        key = hash((key, block_id, size))
        runs.append(Run(key, size))
        left -= size
    return runs


def drawn_run(above: int, request_number: int, sample_index: int, num_tokens: int) -> Run:
    """What a sample drew, all but its last token, which is never computed.

    Args:
        above: The key of the prompt.
        request_number: Of the request, as no other request in the trace has it.
        sample_index: Of the sample.
        num_tokens: Drawn, the last one among them.
    """
    return Run(hash((above, -1, request_number, sample_index)), num_tokens - 1)


def last_drawn_run(drawn: Run) -> Run:
    """The token after them, which whoever continues the sample has to compute."""
    return Run(hash((drawn.key, -2)), 1)
