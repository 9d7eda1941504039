"""Progress of a training, as people see it."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from data_tools.cli import progress_bar


class Report:
    """A progress bar that shows the running mean of the loss; a `report` of `core.fitting.fit`."""

    def __init__(self, name: str, iterations: int) -> None:
        self._bar = progress_bar()
        self._task = self._bar.add_task(name, total=iterations, note="")
        self._mean: float | None = None

    def __enter__(self) -> Report:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, iteration: int, values: Mapping[str, float]) -> None:
        loss = values["loss"]
        self._mean = loss if self._mean is None else 0.98 * self._mean + 0.02 * loss
        self._bar.update(self._task, completed=iteration + 1, note=f"loss {self._mean:.4f}")
