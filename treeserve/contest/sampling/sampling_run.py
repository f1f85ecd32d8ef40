"""The run itself: portions go to a source as there is room, samples to the file as they end."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from treeserve.contest.judging.samples import Sample
from treeserve.contest.judging.verdict import Verdict
from treeserve.contest.sampling.background_judge import BackgroundJudge
from treeserve.contest.sampling.drawing import Drawing, DrawSettings
from treeserve.contest.sampling.feedback import feedback
from treeserve.contest.sampling.portion import (
    CUT_SHORT,
    ROUND_STRIDE,
    Portion,
    PortionEnded,
    SampleDrawn,
    SamplePrompt,
    Source,
    SourceEvent,
)
from treeserve.contest.sampling.progress import Progress
from treeserve.contest.sampling.sample_file import SampleWriter, StoredSample
from treeserve.contest.sampling.template import RepairTemplate
from treeserve.errors import InvalidRequest
from treeserve.types import Sharing, Usage


class SamplingRun:
    """Draws what the file does not hold yet.

    Args:
        drawings: Of the problems, in the order in which they are begun.
        settings: What is drawn.
        source: Where samples come from.
        writer: The samples file.
        judge: For settings that ask for verdicts; else None.
        repair_template: Of a problem's format.
        kv_bytes_per_token: For the report; None: not known.
        left_out: Told of each problem whose prompt the source refuses; None: that is an error.
    """

    def __init__(
        self,
        drawings: Sequence[Drawing],
        settings: DrawSettings,
        source: Source,
        writer: SampleWriter,
        *,
        judge: BackgroundJudge | None = None,
        repair_template: Callable[[str], RepairTemplate],
        kv_bytes_per_token: int | None = None,
        left_out: Callable[[str], None] | None = None,
    ) -> None:
        self._drawings = {drawing.problem.problem_id: drawing for drawing in drawings}
        self._settings = settings
        self._source = source
        self._writer = writer
        self._judge = judge
        self._repair_template = repair_template
        self._kv_bytes_per_token = kv_bytes_per_token
        self._left_out = left_out
        self._started = time.monotonic()
        self._told_seconds = 0.0
        self._told_sharing = Sharing()
        self.progress = Progress(len(drawings), len(drawings) * settings.num_samples)

    def run(self, tell: Callable[[Progress], None], stop_asked: Callable[[], bool]) -> bool:
        """Draw until everything is there, or a stop is asked for.

        Args:
            tell: Called whenever something has changed.
            stop_asked: Asked between two steps.

        Returns:
            Whether everything is there.

        Raises:
            InvalidRequest: A prompt or a parameter is out of range.
        """
        self._restore(stop_asked)
        self._unsent = [drawing for drawing in self._drawings.values() if drawing.has_unsent]
        while not stop_asked():
            self._refill()
            is_drawing = any(drawing.open for drawing in self._drawings.values())
            events = self._source.wait() if is_drawing else []
            for event in events:
                self._see(event)
            self._take_verdicts(waits=not is_drawing)
            if events or not is_drawing:
                self._count()
                tell(self.progress)
            if not is_drawing and self._is_done():
                return self.progress.num_failed == 0
        self._tell_usage(None)
        return False

    def _restore(self, stop_asked: Callable[[], bool]) -> None:
        """What the file holds already, and whether that is enough."""
        wanted = [sample for sample in self._writer.samples if self._is_wanted(sample)]
        for sample in wanted:
            drawing = self._drawings[sample.problem_id]
            drawing.see(sample, self._prompt_of(drawing, sample))
            self.progress.samples_before += sample.parent is None
        for sample in wanted:
            self._ask_verdict(self._drawings[sample.problem_id], sample)
        if self._settings.enough_passing is not None:
            while self._judge is not None and not (self._judge.is_idle or stop_asked()):
                self._take_verdicts(waits=True)
        for drawing in self._drawings.values():
            drawing.plan()
        self._count()

    def _is_wanted(self, sample: StoredSample) -> bool:
        """A file may hold problems and samples that this run does not ask for."""
        is_asked_for = sample.sample_index % ROUND_STRIDE < self._settings.num_samples
        return sample.problem_id in self._drawings and is_asked_for

    def _prompt_of(self, drawing: Drawing, sample: StoredSample) -> SamplePrompt:
        if sample.parent is None or not self._settings.rounds:
            return drawing.prompt
        return drawing.prompt_after(sample.parent, sample.feedback)

    def _refill(self) -> None:
        free = self._source.num_free()
        portions = self._next_portions()
        while free > 0:
            portion = next(portions, None)
            if portion is None:
                return
            self._drawings[portion.problem_id].open.append(portion)
            self._source.submit(portion)
            free -= portion.params.n - len(portion.skipped)

    def _next_portions(self) -> Iterator[Portion]:
        """Repairs first, while what they go on from is cached; then problem after problem."""
        for drawing in self._drawings.values():
            while (portion := drawing.take_repair()) is not None:
                yield portion
        self._unsent = [drawing for drawing in self._unsent if drawing.has_unsent]
        for drawing in self._unsent:
            while (portion := drawing.take_portion()) is not None:
                yield portion

    def _see(self, event: SourceEvent) -> None:
        drawing = self._drawings[event.portion.problem_id]
        if isinstance(event, SampleDrawn):
            self._see_sample(drawing, event)
            return
        if event.portion in drawing.open:
            drawing.open.remove(event.portion)
        if isinstance(event, PortionEnded):
            if event.usage is not None:
                self._tell_usage(event.usage)
            return
        if event.portion.parent is not None:
            self.progress.repairs_too_long += 1
            return
        self._refuse(drawing, event.error)

    def _see_sample(self, drawing: Drawing, event: SampleDrawn) -> None:
        if drawing.is_enough:
            return
        if event.finish_reason in CUT_SHORT:
            self.progress.num_failed += 1
            return
        portion = event.portion
        sample = StoredSample(
            problem_id=portion.problem_id,
            sample_index=portion.first_index + event.index,
            text=event.text,
            token_ids=event.token_ids,
            finish_reason=event.finish_reason.value,
            language=self._settings.language,
            parent=portion.parent,
            round=portion.round,
            feedback=portion.feedback,
        )
        self._writer.add_sample(sample)
        self.progress.tokens_drawn += len(event.token_ids)
        self.progress.repairs_done += portion.parent is not None
        drawing.see(sample, portion.prompt)
        self._end_if_enough(drawing)
        self._ask_verdict(drawing, sample)

    def _ask_verdict(self, drawing: Drawing, sample: StoredSample) -> None:
        """Where it can decide anything."""
        may_repair = drawing.may_repair(sample.round) and not drawing.is_repaired(
            sample.sample_index
        )
        wanted = may_repair or self._settings.enough_passing is not None
        if self._judge is not None and wanted and not drawing.is_enough:
            self._judge.submit(drawing.problem, sample.as_sample())

    def _take_verdicts(self, waits: bool) -> None:
        if self._judge is None:
            return
        for sample, verdict in self._judge.wait() if waits else self._judge.take():
            drawing = self._drawings[sample.problem_id]
            if verdict.passed:
                drawing.see_passing()
                self._end_if_enough(drawing)
            elif verdict.code != "unjudged":
                self._repair(drawing, sample, verdict)

    def _repair(self, drawing: Drawing, sample: Sample, verdict: Verdict) -> None:
        if not drawing.may_repair(sample.round) or drawing.is_repaired(sample.sample_index):
            return
        template = self._repair_template(drawing.problem.source)
        told = feedback(verdict, drawing.problem)
        text = template.text(drawing.problem, verdict.code, told)
        drawing.repair(sample.sample_index, sample.round + 1, text)

    def _end_if_enough(self, drawing: Drawing) -> None:
        if drawing.is_enough:
            for portion in drawing.open:
                self._source.cancel(portion)

    def _refuse(self, drawing: Drawing, error: InvalidRequest) -> None:
        """A prompt that is out of range is its problem's; a parameter is everybody's."""
        problem_id = drawing.problem.problem_id
        if not error.field.startswith("prompt"):
            raise error
        described = InvalidRequest(f"problem {problem_id!r}: {error.field}", error.description)
        if self._left_out is None:
            raise described
        if not drawing.is_enough:
            self._left_out(str(described))
            drawing.give_up()

    def _is_done(self) -> bool:
        judged = self._judge is None or self._judge.is_idle
        return judged and all(drawing.is_done for drawing in self._drawings.values())

    def _count(self) -> None:
        drawings = self._drawings.values()
        progress = self.progress
        progress.samples_done = sum(drawing.num_done for drawing in drawings)
        progress.problems_done = sum(drawing.is_done for drawing in drawings)
        progress.num_samples = sum(
            drawing.num_done if drawing.is_enough else self._settings.num_samples
            for drawing in drawings
        )
        progress.seconds = time.monotonic() - self._started

    def _tell_usage(self, usage: Usage | None) -> None:
        """A line with a portion's usage, and what passed and was read since the last line."""
        seconds = time.monotonic() - self._started
        record: dict[str, object] = {"kind": "usage"}
        if usage is not None:
            record |= asdict(usage)
            self.progress.prompt_tokens += usage.prompt_tokens
            self.progress.computed_tokens += usage.computed_tokens
        record["seconds"] = seconds - self._told_seconds
        self._told_seconds = seconds
        sharing = self._source.sharing()
        if sharing is not None:
            told, self._told_sharing = self._told_sharing, sharing
            record["kv_tokens_read"] = sharing.kv_tokens_read - told.kv_tokens_read
            record["kv_tokens_read_flat"] = sharing.kv_tokens_read_flat - told.kv_tokens_read_flat
            if self._kv_bytes_per_token is not None:
                record["kv_bytes_per_token"] = self._kv_bytes_per_token
        self._writer.add(record)
