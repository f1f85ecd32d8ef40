"""Running an engine: its cache cleared, its costs measured, its state told."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import transformers

from treeserve.calibration.choice import measure_costs
from treeserve.calibration.record import Calibration
from treeserve.calibration.store import store_calibration
from treeserve.calibration.subject import make_subject
from treeserve.engine import Engine
from treeserve.errors import CalibrationError, InvalidRequest, NotPossible
from treeserve.loop import EngineLoop
from treeserve.model import LoadedModel

MIN_CALIBRATION_SECONDS = 1.0
MAX_CALIBRATION_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A calibration that the engine plans by from now on."""

    calibration: Calibration
    unstored_reason: str | None
    """Why later starts do not know of it; None: they do."""


@dataclass(frozen=True, slots=True)
class Status:
    """An engine as it was started, and as it is, by name."""

    versions: Mapping[str, str]
    options: Mapping[str, str]
    counts: Mapping[str, int]


class Administration:
    """What an operator may ask of an engine that runs.

    Args:
        loop: Started.
        model: Of the engine.
        backend: Of its attention.
        options: As it was started, by name, to be shown.
        version: Of treeserve, to be shown.
    """

    def __init__(
        self,
        loop: EngineLoop,
        model: LoadedModel,
        backend: str,
        options: Mapping[str, object],
        version: str,
    ) -> None:
        self._loop = loop
        self._model = model
        self._backend = backend
        self._options = {name: str(value) for name, value in options.items()}
        self._version = version

    async def clear_cache(self) -> int:
        """Evict everything that no running sample needs; the number of tokens."""
        return await self._loop.call(lambda engine: engine.scheduler.clear_cache())

    async def calibrate(self, seconds: float) -> Measured:
        """Measure in the engine's thread what attention costs, and plan by it.

        Raises:
            InvalidRequest: Names "seconds".
            NotPossible: There are requests, which would be held up; or it was started to plan by
                built-in costs; or what was measured cannot be trusted.
        """
        if not MIN_CALIBRATION_SECONDS <= seconds <= MAX_CALIBRATION_SECONDS:
            least, most = MIN_CALIBRATION_SECONDS, MAX_CALIBRATION_SECONDS
            raise InvalidRequest(
                "seconds", f"must be between {least:g} and {most:g}, got {seconds:g}"
            )
        if self._options.get("calibration") == "off":
            raise NotPossible("the server was started with --calibration off")
        return await self._loop.call(lambda engine: self._measure(engine, seconds))

    async def status(self) -> Status:
        """Now, between two steps."""
        counts = await self._loop.look(lambda engine: engine.scheduler.counts())
        return Status(
            versions={
                "treeserve": self._version,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            options=self._options
            | {"backend": self._backend, "device": str(self._model.device)}
            | {"dtype": str(self._model.dtype).removeprefix("torch.")},
            counts={
                "running_samples": counts.running_samples,
                "waiting_requests": counts.waiting_requests,
                "used_pages": counts.used_pages,
                "cached_pages": counts.cached_pages,
                "total_pages": counts.total_pages,
                "retained_tokens": counts.retained_tokens,
                "evicted_tokens": sum(counts.evicted_tokens.values()),
            },
        )

    def _measure(self, engine: Engine, seconds: float) -> Measured:
        if engine.has_work():
            raise NotPossible("there are requests, and measuring would hold them up: try later")
        _, planner = engine.scheduler.insides()
        device = self._model.device
        subject = make_subject(self._model.layers, self._backend, self._model.dtype, device)
        try:
            calibration = measure_costs(subject, device, seconds=seconds)
        except CalibrationError as error:
            raise NotPossible(f"the costs stay as they were: {error}") from None
        except torch.OutOfMemoryError:
            raise NotPossible(
                "the device has too little memory left beside the pool to measure in: run "
                "`treeserve calibrate` before the server is started"
            ) from None
        planner.use_costs(calibration.constants.cost_model())
        try:
            store_calibration(calibration)
        except CalibrationError as error:
            return Measured(calibration, str(error))
        return Measured(calibration, None)
