"""How a stage of training is run, whatever it trains: on which processes, in how many passes, with what memory, logs.

Nothing of this is part of what a run is: a run of one kind is gone on with by another, and both end with the same
weights up to the order of additions (and, where a network drops activations, up to which ones).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from apps.nowcast.model.autoencoder import AttentionBlock, ResnetBlock
from apps.nowcast.model.cuboid import CuboidBlock
from apps.nowcast.model.residual import ResidualBlock
from core.distributed import Alone, Fabric, Portion, portions
from core.fitting import FitConfig, fit
from core.rematerialisation import forget_activations
from core.sharding import shard
from data_tools.progress import Report, TensorBoard

PortionLoss = Callable[[Portion, int], tuple[Tensor, Mapping[str, float | Tensor]]]
"""(portion, iteration) -> (loss of the portion's rows with their weight, see `core.distributed.rows_of`; what to log
beside it)."""
Reporter = Callable[[int, Mapping[str, float]], None]

FORGETFUL = (CuboidBlock, ResidualBlock, ResnetBlock, AttentionBlock)
"""Blocks that activation checkpointing computes twice."""
UNITS = (CuboidBlock, ResnetBlock, AttentionBlock)
"""Blocks whose parameters are gathered one at a time; a `ResidualBlock` of the UNet serves a whole level."""


@dataclass(frozen=True, eq=False)
class Execution:
    """How a stage is run.

    Attributes:
        device: of this process.
        fabric: processes that share each batch.
        passes: in how many portions each process computes its rows, one after another.
        rematerialise: whether blocks of networks keep only their inputs for the backward pass.
        sharded: whether parameters, gradients and optimiser are cut over the processes.
        tensorboard: whether the log is written for TensorBoard too.
    """

    device: str = "cpu"
    fabric: Fabric = field(default_factory=Alone)
    passes: int = 1
    rematerialise: bool = False
    sharded: bool = False
    tensorboard: bool = False

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.fabric.global_rank == 0

    def prepare(self, network: nn.Module) -> None:
        """Make a network that is to be trained, and computes by being called, ready in place."""
        self.lighten(network)
        if self.sharded:
            shard(network, [part for part in network.modules() if isinstance(part, UNITS)])

    def lighten(self, network: nn.Module) -> None:
        """Let the blocks of a network, trained or frozen, forget their activations where that is asked for."""
        if self.rematerialise:
            forget_activations(part for part in network.modules() if isinstance(part, FORGETFUL))

    def fit(
        self,
        name: str,
        module: nn.Module,
        loss: PortionLoss,
        config: FitConfig,
        folder: Path,
        *,
        identity: Mapping[str, Any],
        precision: Literal["float32", "bfloat16"],
    ) -> None:
        """`core.fitting.fit` of a loss of portions, with its progress shown under this name."""
        losses = [partial(loss, portion) for portion in portions(self.fabric, self.passes)]
        with self.reports(name, config, folder) as report:
            fit(
                module,
                losses,
                config,
                folder,
                identity=identity,
                report=report,
                autocast=precision,
                fabric=self.fabric,
            )

    @contextmanager
    def reports(self, name: str, config: FitConfig, folder: Path) -> Iterator[Reporter | None]:
        """Where the iterations of a run are told to; None in processes that do not lead."""
        with ExitStack() as stack:
            reporters: list[Reporter] = []
            if self.leads:
                reporters.append(stack.enter_context(Report(name, config.iterations)))
                if self.tensorboard:
                    reporters.append(stack.enter_context(TensorBoard(folder / "tensorboard", config.log_every)))

            def tell(iteration: int, values: Mapping[str, float]) -> None:
                for reporter in reporters:
                    reporter(iteration, values)

            yield tell if reporters else None
