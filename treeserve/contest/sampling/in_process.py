"""Samples from an engine in this process, which is kept full."""

from dataclasses import dataclass

from treeserve.building import BuiltEngine
from treeserve.contest.sampling.portion import (
    Portion,
    PortionEnded,
    PortionRefused,
    PortionTexts,
    SamplePrompt,
    SourceEvent,
)
from treeserve.engine_messages import EngineEvent
from treeserve.errors import InvalidRequest
from treeserve.text_stream import StoppedSample, TextStreams
from treeserve.types import Delta, Finished, Sharing


@dataclass(frozen=True, eq=False)
class _Open:
    """A portion that the engine has."""

    request_id: str
    samples: PortionTexts
    texts: TextStreams


class InProcess:
    """Keeps portions in an engine that nobody else uses; each `wait` is one of its steps.

    Portions are taken as long as none waits for memory, so that the pool decides how many problems
    are live at once.

    Args:
        built: The engine and its model.
        max_running: Samples that it decodes at once, at most.
    """

    def __init__(self, built: BuiltEngine, max_running: int) -> None:
        self._engine = built.engine
        self._prompter = built.prompter
        self._max_running = max_running
        self._open: dict[str, _Open] = {}
        self._refused: list[SourceEvent] = []
        self._last_prompt: tuple[str, tuple[int, ...]] = ("", ())

    def num_free(self) -> int:
        counts = self._engine.scheduler.counts()
        if counts.waiting_requests or counts.startable_requests:
            return 0
        return self._max_running - counts.running_samples

    def submit(self, portion: Portion) -> None:
        try:
            encoded = self._prompter.encode(self._token_ids(portion.prompt), portion.params)
            self._engine.add(encoded.request)
        except InvalidRequest as error:
            self._refused.append(PortionRefused(portion, error))
            return
        request_id = encoded.request.request_id
        texts = TextStreams([encoded], self._prompter.tokenizer)
        self._open[request_id] = _Open(request_id, PortionTexts(portion), texts)
        for index in portion.skipped:
            # Before its first step a sample costs nothing.
            self._engine.abort(request_id, index)

    def cancel(self, portion: Portion) -> None:
        for entry in self._open.values():
            if entry.samples.portion is portion:
                entry.samples.forget()
                self._engine.abort(entry.request_id)

    def wait(self) -> list[SourceEvent]:
        happened, self._refused = self._refused, []
        if self._engine.has_work():
            events, _ = self._engine.step()
            for event in events:
                happened += self._see(event)
        return happened

    def sharing(self) -> Sharing:
        return self._engine.sharing

    def close(self) -> None:
        self._engine.abort_all()
        self._engine.take_ended()

    def _token_ids(self, prompt: SamplePrompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            # A problem's portions come one after the other: its prompt is tokenised once.
            if prompt != self._last_prompt[0]:
                self._last_prompt = (prompt, self._prompter.token_ids(prompt))
            return self._last_prompt[1]
        text = self._prompter.tokenizer.encode(prompt.text, special_tokens=False)
        return (*self._token_ids(prompt.before), *prompt.token_ids, *text)

    def _see(self, event: EngineEvent) -> list[SourceEvent]:
        entry = self._open.get(event.request_id)
        if entry is None:
            return []
        happened: list[SourceEvent] = []
        for item in entry.texts.push([event]):
            if isinstance(item, StoppedSample):
                self._engine.abort(item.request_id, item.sample_index)
            elif isinstance(item, Finished):
                del self._open[event.request_id]
                happened.append(PortionEnded(entry.samples.portion, item.usage))
            elif isinstance(item, Delta):
                happened += entry.samples.see(item)
        return happened
