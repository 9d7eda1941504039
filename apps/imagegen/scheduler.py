"""Our solvers as a scheduler of diffusers pipelines, one network call a step.

    pipe.scheduler = SpanLiftScheduler.from_solver("out/spanlift-sana")                             # a trained one
    pipe.scheduler = SpanLiftScheduler.from_config(pipe.scheduler.config, solver="ipndm", order=2)  # a handcrafted one

A pipeline asks its model and hands the answer to `step`; the solver takes it for its own evaluation and moves on. What
needs more than one call a step, a gradient, or a free first step is done by `python -m apps.imagegen.sample` and
`core.integrate`, which give the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

import core
from apps.imagegen.scheduling.grid import Request
from apps.imagegen.scheduling.guidance import GuidanceWatch, trained_guidance
from apps.imagegen.scheduling.method import Method, Plan
from apps.imagegen.scheduling.options import OF_THE_MODEL, translated, words_of_others
from apps.imagegen.scheduling.run import Run
from apps.imagegen.scheduling.trained import check_pipeline, file_beside, write_beside
from core.checkpoints import FILE_NAME

try:
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
except ImportError as error:
    raise ImportError(
        "expected diffusers 0.32 or later for SpanLiftScheduler, got none; pip install 'spanlift[imagegen]'"
    ) from error

__all__ = ["SchedulerMixin", "SpanLiftScheduler"]  # a pipeline that is loaded looks for the base class here

SAME_TIMESTEP = 1e-2
"""How far a timestep may be from ours, which are in single precision."""


class SpanLiftScheduler(SchedulerMixin, ConfigMixin):
    """Any solver of `core` that asks the network once a step, in any diffusers pipeline of a flow or of a table of
    betas.

    Times are floats and are not cut to integers; flows run on sigma = s u / (1 + (s - 1) u) of even u from 1 to 0,
    tables from their last entry to their first (see `apps.imagegen.compatible` for what diffusers does). Learned query
    times are what the pipeline is told as timesteps. The state is float32 at least, whatever the latents are.

    Args:
        solver: a handcrafted method of `core.SOLVERS`, or the file or folder of a trained solver, which brings its
            order and grid with it.
        order: of methods that have several; 3 where not given.
        kind: what the model predicts: "flow", "noise", "v" or "data".
        shift: s of a flow.
        grid: of `core.GRIDS`; where not given "shifted" for flows, else "logsnr" for exponential methods, "discrete".
        prediction, variant, lower_order_final: of exponential methods, see `core.build_solver`.
        compatible: reproduce the grid and the timesteps of a diffusers scheduler, see `apps.imagegen.compatible`.
        packed: (rows, columns) of packed latents, for a spatial operator on FLUX: the image's height and width over 16.
        num_train_timesteps: timesteps of the model's training.
        use_dynamic_shifting, time_shift_type, base_shift, max_shift, base_image_seq_len, max_image_seq_len: of a flow
            whose shift depends on the image's size, as diffusers has them; the pipeline computes `mu` from these.
        shift_terminal: where the last sigma of a flow before 0 is stretched to.
        beta_start, beta_end, beta_schedule, trained_betas: of a table, as diffusers has them.

    Raises:
        ValueError: an unknown or unfit option, or a trained solver that no pipeline can run.
    """

    order = 1
    init_noise_sigma = 1.0
    _compatibles: list[str] = []  # noqa: RUF012 (the name and type that diffusers reads)

    @register_to_config
    def __init__(
        self,
        solver: str = "ipndm",
        order: int | None = None,
        kind: str = "flow",
        shift: float = 3.0,
        grid: str | None = None,
        prediction: Literal["data", "noise"] | None = None,
        variant: Literal["bh1", "bh2"] | None = None,
        lower_order_final: bool = True,
        compatible: str | None = None,
        packed: tuple[int, int] | None = None,
        num_train_timesteps: int = 1000,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
        base_shift: float | None = 0.5,
        max_shift: float | None = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        shift_terminal: float | None = None,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        trained_betas: Sequence[float] | None = None,
    ) -> None:
        self._method = Method.of(self.config)
        kind, shift = self._method.clock.kind, self._method.own_shift
        self.register_to_config(kind=kind, shift=shift, **words_of_others(kind, shift))
        self.num_inference_steps: int | None = None
        self.timesteps, self.sigmas = torch.empty(0), torch.empty(0)
        self._plan: Plan | None = None
        self._begin: int | None = None
        self._first = 0
        self._run: Run | None = None
        self._watch: GuidanceWatch | None = None

    @classmethod
    def from_solver(
        cls,
        path: str | os.PathLike[str],
        pipeline: Any = None,
        *,
        kind: str | None = None,
        packed: tuple[int, int] | None = None,
    ) -> Self:
        """The scheduler of a trained solver.

        Args:
            path: what `python -m apps.imagegen.train` wrote: the file, or its folder.
            pipeline: of the model that it was trained for; its channels, its kind and its betas are compared, it
                tells the kind of a model with a table of betas, and a call of it with another guidance than that of
                the training is warned of.
            kind: what such a model predicts, without a pipeline.
            packed: see the class.

        Raises:
            ValueError: no such file, a damaged or foreign one, one of another model, or one that needs our own loop.
        """
        said: Mapping[str, Any] = {} if pipeline is None else translated(pipeline.scheduler.config)
        kept = {name: said[name] for name in OF_THE_MODEL if name in said}
        scheduler = cls(solver=os.fspath(path), kind=kind or said.get("kind", "flow"), packed=packed, **kept)
        if pipeline is not None:
            trained = scheduler._method.trained
            assert trained is not None
            check_pipeline(trained, os.fspath(path), pipeline, packed is not None)
            scale = trained_guidance(trained.card, pipeline)
            scheduler._watch = None if scale is None else GuidanceWatch(scale, pipeline)
        return scheduler

    @classmethod
    def from_config(cls, config: Any, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The scheduler of a configuration, ours or that of another scheduler, whose words of the model are taken;
        further options as for the class."""
        said = translated(config)
        known = {name: said.pop(name) for name in cls._get_init_keys(cls) if name in said}
        made: Any = super().from_config(known, return_unused_kwargs, **kwargs)
        scheduler: Self = made[0] if return_unused_kwargs else made
        scheduler.register_to_config(**{**said, **scheduler.config})  # for going back to the other scheduler
        return made

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any = None, subfolder: str | None = None,
        return_unused_kwargs: bool = False, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """What `save_pretrained` wrote; a trained solver lies beside the configuration."""
        config, rest = cls.load_config(
            pretrained_model_name_or_path, subfolder=subfolder, return_unused_kwargs=True, **kwargs
        )
        if config.get("solver", "ipndm") not in core.SOLVERS and "solver" not in rest:
            rest["solver"] = file_beside(str(pretrained_model_name_or_path), subfolder, kwargs)
        return cls.from_config(config, return_unused_kwargs=return_unused_kwargs, **rest)

    def save_config(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `scheduler_config.json` and, of a trained solver, `solver.safetensors` beside it."""
        path, trained = self.config["solver"], self._method.trained
        if trained is None:
            return super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)
        write_beside(trained, save_directory)
        self.register_to_config(solver=FILE_NAME)
        try:
            super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)
        finally:
            self.register_to_config(solver=path)

    @property
    def step_index(self) -> int | None:
        """Index of the next step; None before a run."""
        return None if self._run is None else self._first + self._run.done

    @property
    def begin_index(self) -> int | None:
        return self._begin

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Where the pipeline starts in `timesteps`, as image to image does."""
        self._begin = begin_index

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Begin a run: `timesteps` (N,) is what the pipeline has to tell its model.

        Args:
            num_inference_steps: N.
            device: of the timesteps.
            sigmas: N of them, in place of the grid: of a flow before the shift, of a table sigma / alpha.
            mu: logarithm of a flow's dynamic shift.
            timesteps: N times to be told to the model, in place of the grid.

        Raises:
            ValueError: a solver of more than one call a step, another number of steps or another grid than that of its
                training, times that are none.
        """
        plan = self._method.plan(Request(num_inference_steps, sigmas, timesteps), mu)
        if self._watch is not None:
            self._watch()
        self._plan = plan
        self.num_inference_steps = len(plan.timesteps)
        self.timesteps = plan.timesteps.to(device)
        self.sigmas = self._method.clock.sigmas(plan.grid).float()
        self._begin, self._first, self._run = None, 0, None

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the model is to be shown: the latents as they are, but for solvers that ask elsewhere in a VP chart."""
        return self._started(timestep, sample.device).show(sample)

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Tensor]:
        """The latents of the next time, of the shape and precision of `sample`.

        Args:
            model_output: (B, *space), guidance included, what the model said of `sample` at `timestep`.
            timestep: the next one of `timesteps`.
            sample: (B, *space).
            return_dict: whether in a `SchedulerOutput`, as `prev_sample`, else in a tuple.

        Raises:
            ValueError: a step before `set_timesteps` or after the last, a timestep that is not the next, other shapes
                than those of the solver's training.
        """
        run = self._started(timestep, sample.device)
        self._check_next(timestep, self._first + run.done)
        x = run.step(model_output, sample)
        return SchedulerOutput(prev_sample=x) if return_dict else (x,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha data + sigma noise at each sample's timestep (B,) of the run."""
        t = torch.stack([self._time(float(timestep)) for timestep in timesteps.reshape(-1)])
        signal = self._method.clock.schedule(t)
        shape = (-1, *(1,) * (original_samples.ndim - 1))
        alpha, sigma = (value.float().to(noise.device).view(shape) for value in (signal.alpha, signal.sigma))
        return (alpha * original_samples.float() + sigma * noise.float()).to(original_samples.dtype)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise` by the name it has for flows."""
        return self.add_noise(sample, noise, timestep)

    def __len__(self) -> int:
        return self.config["num_train_timesteps"]

    def _started(self, timestep: Any, device: torch.device) -> Run:
        """The run, begun here where it has not begun yet; ValueError before `set_timesteps`."""
        if self._plan is None:
            raise ValueError("expected set_timesteps before the first step, got none; call it before each run")
        if self._run is None:
            self._first = (self._index(timestep) or 0) if self._begin is None else self._begin
            self._run = self._method.run(self._plan, self._first, device)
        return self._run

    def _index(self, timestep: Any) -> int | None:
        """Which of the timesteps it is; None where it is none."""
        assert self._plan is not None
        if timestep is None:
            return None
        apart = (self._plan.timesteps.double() - float(timestep)).abs()
        return int(apart.argmin()) if float(apart.min()) <= SAME_TIMESTEP else None

    def _check_next(self, timestep: Any, index: int) -> None:
        """Raise ValueError unless it is the timestep of this index; one of our own tensor is told by its place."""
        if index >= len(self.timesteps):
            return  # the run says so
        if isinstance(timestep, Tensor) and timestep.data_ptr() == self.timesteps[index].data_ptr():
            return
        if self._index(timestep) != index:
            raise ValueError(
                f"expected the timestep {float(self.timesteps[index]):g}, next of this scheduler's, got "
                f"{float(timestep):g}; take them from scheduler.timesteps, in order, after set_timesteps"
            )

    def _time(self, timestep: float) -> Tensor:
        """The time of the state at a timestep."""
        index = None if self._plan is None else self._index(timestep)
        if index is not None and self._plan is not None:
            return self._plan.grid[index]
        return self._method.clock.times(torch.tensor(timestep, dtype=torch.float64))
