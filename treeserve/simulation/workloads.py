"""The committed traces: seeded workloads, written by `python -m treeserve.simulation.workloads`.

Rates are such that the default paper device falls behind in the bursts and catches up between them;
in `overload` it falls behind as long as requests come.
"""

import argparse
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from treeserve.simulation.trace import TraceRequest, write_trace

TRACES_FOLDER = Path(__file__).parent / "traces"
_BLOCK_SIZE = 512
_BURST_SECONDS, _CALM_SECONDS = 3.0, 5.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Arrivals per second, in turn for as long as above."""

    burst: float
    calm: float
    until_seconds: float = math.inf
    """Nobody arrives after that, even if more were asked for."""


class Workload:
    """Requests of several kinds in one trace; all randomness and all block ids are its own."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._blocks = itertools.count(1)
        self._numbers = itertools.count(1)
        self._requests: list[TraceRequest] = []

    def chat(self, num_conversations: int, rates: Rates, **fields: object) -> None:
        """One system prompt; each turn continues the last answer after a while."""
        system = self._fresh_blocks(3)
        for arrival in self._arrivals(num_conversations, rates):
            name = f"c{next(self._numbers)}"
            parent = self._chat_turn(name, arrival, system, None, fields)
            for turn in range(1, self._random.choice((1, 2, 2, 3, 4))):
                think_seconds = self._between(0.5, 4.0)
                parent = self._chat_turn(f"{name}.{turn}", think_seconds, (), parent, fields)

    def contest(
        self, num_problems: int, num_samples: Sequence[int], rates: Rates, **fields: object
    ) -> None:
        """Few-shot examples of 2,400 tokens, a problem, and many samples."""
        block_size = 600
        examples = self._fresh_blocks(4)
        for arrival in self._arrivals(num_problems, rates):
            self._add(
                request_id=f"p{next(self._numbers)}",
                arrival_seconds=arrival,
                input_length=4 * block_size + self._random.randint(300, 600),
                block_ids=(*examples, *self._fresh_blocks(1)),
                block_size=block_size,
                output_lengths=tuple(
                    self._length(200, 0.45, 128, 512)
                    for _ in range(self._random.choice(num_samples))
                ),
                max_tokens=512,
                **fields,
            )

    def documents(
        self, num_documents: int, num_questions: int, rates: Rates, **fields: object
    ) -> None:
        """Documents of 8 to 20 thousand tokens; some are asked much more often."""
        documents = [self._fresh_blocks(self._random.randint(16, 39)) for _ in range(num_documents)]
        weights = [1.0 / (1.0 + 0.15 * rank) for rank in range(num_documents)]
        for arrival in self._arrivals(num_questions, rates):
            [document] = self._random.choices(documents, weights)
            self._add(
                request_id=f"d{next(self._numbers)}",
                arrival_seconds=arrival,
                input_length=len(document) * _BLOCK_SIZE + self._length(50, 0.5, 15, 300),
                block_ids=(*document, *self._fresh_blocks(1)),
                output_lengths=(self._length(120, 0.6, 16, 400),),
                max_tokens=512,
                **fields,
            )

    def agents(self, num_agents: int, rates: Rates, **fields: object) -> None:
        """Trees, three to six deep: each node continues one sample of the node above."""
        tools = self._fresh_blocks(3)
        for arrival in self._arrivals(num_agents, rates):
            name = f"a{next(self._numbers)}"
            root = self._agent_node(name, arrival, tools, None, fields)
            level = [root]
            for depth in range(1, self._random.randint(3, 6)):
                level = [
                    self._agent_node(
                        f"{parent.request_id}.{child}", self._between(0.05, 1.5), (), parent, fields
                    )
                    for parent in level
                    for child in range(self._num_children(depth, len(level)))
                ]

    def unshared(self, num_requests: int, rates: Rates, **fields: object) -> None:
        """Independent prompts."""
        for arrival in self._arrivals(num_requests, rates):
            length = self._length(900, 0.8, 32, 6000)
            self._add(
                request_id=f"u{next(self._numbers)}",
                arrival_seconds=arrival,
                input_length=length,
                block_ids=self._fresh_blocks(-(-length // _BLOCK_SIZE)),
                output_lengths=(self._length(400, 0.7, 8, 2048),),
                max_tokens=2048,
                **fields,
            )

    def reasoning(self, num_requests: int, rates: Rates, **fields: object) -> None:
        """Short questions; answers are long, and most are far shorter than what was asked for."""
        system = self._fresh_blocks(1)
        for arrival in self._arrivals(num_requests, rates):
            self._add(
                request_id=f"r{next(self._numbers)}",
                arrival_seconds=arrival,
                input_length=_BLOCK_SIZE + self._length(150, 0.7, 20, _BLOCK_SIZE),
                block_ids=(*system, *self._fresh_blocks(1)),
                output_lengths=(self._length(1800, 0.7, 100, 8192),),
                max_tokens=8192,
                **fields,
            )

    def requests(self) -> list[TraceRequest]:
        """In the order of arrival, children after their parents."""
        parents = {request.parent for request in self._requests}
        roots = {r.request_id: r.arrival_seconds for r in self._requests if r.parent is None}
        ordered = sorted(self._requests, key=lambda r: roots[r.request_id.partition(".")[0]])
        return [
            request if request.request_id in parents else replace(request, request_id=str(line))
            for line, request in enumerate(ordered, start=1)
        ]

    def _chat_turn(
        self,
        name: str,
        arrival: float,
        system: tuple[int, ...],
        parent: TraceRequest | None,
        fields: dict[str, object],
    ) -> TraceRequest:
        return self._add(
            request_id=name,
            arrival_seconds=arrival,
            input_length=len(system) * _BLOCK_SIZE + self._length(70, 0.8, 8, _BLOCK_SIZE),
            block_ids=(*system, *self._fresh_blocks(1)),
            output_lengths=(self._length(240, 0.6, 8, 800),),
            max_tokens=1024,
            parent=None if parent is None else parent.request_id,
            **fields,
        )

    def _agent_node(
        self,
        name: str,
        arrival: float,
        tools: tuple[int, ...],
        parent: TraceRequest | None,
        fields: dict[str, object],
    ) -> TraceRequest:
        sample = 0 if parent is None else self._random.randrange(parent.num_samples)
        return self._add(
            request_id=name,
            arrival_seconds=arrival,
            input_length=len(tools) * _BLOCK_SIZE + self._length(150, 0.7, 20, _BLOCK_SIZE),
            block_ids=(*tools, *self._fresh_blocks(1)),
            output_lengths=tuple(
                self._length(220, 0.5, 16, 600) for _ in range(self._random.choice((1, 1, 2, 3)))
            ),
            max_tokens=768,
            parent=None if parent is None else parent.request_id,
            parent_sample=sample,
            **fields,
        )

    def _num_children(self, depth: int, width: int) -> int:
        if width > 6:
            return 1
        return self._random.choice((2, 3) if depth == 1 else (1, 1, 2))

    def _add(self, **fields: object) -> TraceRequest:
        request = TraceRequest(**fields)  # type: ignore[arg-type]
        self._requests.append(request)
        return request

    def _fresh_blocks(self, count: int) -> tuple[int, ...]:
        return tuple(itertools.islice(self._blocks, count))

    def _arrivals(self, count: int, rates: Rates) -> Iterator[float]:
        """Seconds, to the millisecond: bursts first."""
        now = 0.0
        for _ in range(count):
            in_burst = now % (_BURST_SECONDS + _CALM_SECONDS) < _BURST_SECONDS
            now += self._random.expovariate(rates.burst if in_burst else rates.calm)
            if now > rates.until_seconds:
                return
            yield round(now, 3)

    def _between(self, least: float, most: float) -> float:
        return round(self._random.uniform(least, most), 3)

    def _length(self, median: float, sigma: float, least: int, most: int) -> int:
        """Log-normal, in tokens."""
        drawn = median * self._random.lognormvariate(0.0, sigma)
        return min(most, max(least, round(drawn)))


def chat() -> list[TraceRequest]:
    workload = Workload(1)
    workload.chat(420, Rates(burst=110, calm=25))
    return workload.requests()


def contest() -> list[TraceRequest]:
    workload = Workload(2)
    workload.contest(120, (32, 32, 32, 48, 64, 128), Rates(burst=3.2, calm=0.9))
    return workload.requests()


def documents() -> list[TraceRequest]:
    workload = Workload(3)
    workload.documents(36, 480, Rates(burst=14, calm=4))
    return workload.requests()


def agents() -> list[TraceRequest]:
    workload = Workload(4)
    workload.agents(64, Rates(burst=30, calm=6))
    return workload.requests()


def unshared() -> list[TraceRequest]:
    workload = Workload(5)
    workload.unshared(600, Rates(burst=28, calm=9))
    return workload.requests()


def reasoning() -> list[TraceRequest]:
    workload = Workload(7)
    workload.reasoning(520, Rates(burst=24, calm=6))
    return workload.requests()


def overload() -> list[TraceRequest]:
    """Three tenants: people who chat and give up, a lab, and batches that nobody waits for."""
    workload = Workload(6)
    workload.chat(150, Rates(burst=20, calm=8), tenant="people", deadline_seconds=30.0)
    workload.documents(14, 120, Rates(burst=12, calm=6), tenant="lab")
    workload.agents(14, Rates(burst=1.5, calm=1), tenant="lab", priority=1)
    workload.contest(20, (16, 32, 64), Rates(burst=2, calm=1), tenant="batch", priority=1)
    workload.unshared(160, Rates(burst=20, calm=10), tenant="batch")
    return workload.requests()


WORKLOADS: dict[str, Callable[[], list[TraceRequest]]] = {
    "chat": chat,
    "contest": contest,
    "documents": documents,
    "agents": agents,
    "unshared": unshared,
    "reasoning": reasoning,
    "overload": overload,
}
"""By the name of their file."""


def write_all(folder: Path) -> None:
    """Write every trace."""
    for name, make in WORKLOADS.items():
        write_trace(folder / f"{name}.jsonl", make())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the committed traces again.")
    parser.add_argument("--output", type=Path, default=TRACES_FOLDER, help="default: %(default)s")
    write_all(parser.parse_args(argv).output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
