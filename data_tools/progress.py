"""Progress of long work, as people see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from data_tools.cli import UserError, progress_bar


@contextmanager
def moving_bar(title: str, total: int) -> Iterator[Callable[..., None]]:
    """A progress bar, and how to move it: `move(position, note="")`. A failure wipes it: the error stands alone."""
    bar = progress_bar()
    task = bar.add_task(title, total=total, note="")
    bar.start()
    try:
        yield lambda position, note="": bar.update(task, completed=position, note=note)
    except BaseException:
        bar.live.transient = True
        bar.live.stop()  # `bar.stop` would end the bar's line even where none is shown
        raise
    bar.stop()


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


def check_tensorboard() -> None:
    """Raises UserError unless the package is installed."""
    if find_spec("tensorboard") is None:
        raise UserError("expected the package of --tensorboard, found none: pip install tensorboard")


class TensorBoard:
    """Writes what a training logs as events for TensorBoard (`pip install spanlift[tensorboard]`).

    A run that goes on tells TensorBoard to forget what the killed one wrote after its last checkpoint.

    Args:
        folder: of the events.
        every: iterations between events.

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self, folder: Path, every: int) -> None:
        check_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._open, self._folder, self._every = SummaryWriter, folder, every
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def __call__(self, iteration: int, values: Mapping[str, float]) -> None:
        if self._writer is None:
            self._writer = self._open(str(self._folder), purge_step=iteration)
        if iteration % self._every == 0:
            for name, value in values.items():
                self._writer.add_scalar(name, value, iteration)
