"""What tables of nowcasts take, whether it is here, and how to get it. Nothing is computed, downloaded or written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
import yaml

import core
from apps.inception import at_hand
from apps.listing import Ingredient
from apps.nowcast.data import open_events
from apps.nowcast.metrics.perceptual import WEIGHTS_VARIABLE
from apps.nowcast.nowcaster import ASSETS, Nowcaster
from apps.nowcast.train_options import CONFIGS
from core.checkpoints import FILE_NAME
from data_tools.cli import UserError

Values = Mapping[str, str | float]
"""Options by name."""

PLACES = {"data", "model", "out", "device", "config"}
"""Options of a training that do not say what is learned, or are told apart from it."""

LPIPS_WEIGHTS = "alexnet-owt-7be5be79.pth"
"""AlexNet's weights of torchvision, by the name of their file."""


def command(module: str, options: Values, positional: str = "") -> str:
    """A command line: `python -m module positional --name value ...`; True is a switch."""
    words = " ".join(f"--{name}" if value is True else f"--{name} {value}" for name, value in options.items())
    return " ".join(part for part in (f"python -m {module}", positional, words) if part)


@dataclass(frozen=True)
class Store:
    """An event store that is made by a command."""

    place: str
    made_by: str
    split: str = "test"

    def found(self) -> Ingredient:
        """Whether it is there, with events of its split; their fields are not read."""
        name, path = f"store {self.place}", Path(self.place)
        if not path.exists():
            return Ingredient(name, False, self.made_by)
        try:
            events = len(open_events(self.place).indices(self.split))
        except UserError as error:
            return Ingredient(name, False, f"{error}")
        if not events:
            return Ingredient(name, False, f"it has no events of split {self.split}; make it anew")
        return Ingredient(name, True, f"{events} events of split {self.split}")


@dataclass(frozen=True)
class Training:
    """A training of an operator by `apps.nowcast.train`.

    Attributes:
        out: folder.
        options: beside it, those that --config gives included where `config` names one.
        config: recipe.
    """

    out: str
    options: Values = field(default_factory=dict)
    config: str | None = None

    @property
    def command(self) -> str:
        """That trains it; the options of a recipe need not be said."""
        options = dict(self.options) if self.config is None else {"config": self.config, **self.options}
        return command("apps.nowcast.train", {**options, "out": self.out})

    @property
    def learned(self) -> Values:
        """Options that decide what is learned, those of the recipe included."""
        recipe = {} if self.config is None else yaml.safe_load((CONFIGS / f"{self.config}.yaml").read_text())
        return {name: value for name, value in {**recipe, **self.options}.items() if name not in PLACES}

    def found(self, model: str | None = None) -> Ingredient:
        """Whether a solver of this training, and of the model that lies in this folder, is there."""
        name = f"trained solver {self.out}"
        if not (Path(self.out) / FILE_NAME).is_file():
            return Ingredient(name, False, self.command)
        if told := self._differs(model):
            return Ingredient(name, False, f"{told} is in its place; move it, then {self.command}")
        return Ingredient(name, True, "")

    def _differs(self, model: str | None) -> str:
        """What lies in its place where it is another solver; empty where it is this one."""
        try:
            card = getattr(core.load(self.out), "card", None)
        except (ValueError, TypeError, KeyError, AttributeError):  # whatever a forged header leads to
            return "a damaged file"
        if card is None:
            return "another kind of solver"
        trained = dict(card.extra.get("command") or {})
        for option, value in self.learned.items():
            if str(trained.get(option)) != str(value):
                return f"one of --{option} {trained.get(option)}"
        if (here := identity(model)) is not None and here != card.field_identity:
            return f"one of model {card.field_identity}"
        return ""


@cache
def identity(model: str | None) -> str | None:
    """Identity of the model in a folder, of the shipped one for None; None where there is none."""
    try:
        return Nowcaster.load(model).identity
    except UserError:
        return None


def model_in(folder: str, files: Mapping[str, str]) -> Ingredient:
    """A converted model: `files` has the command that makes each of its files."""
    lacking = [made_by for file, made_by in files.items() if not (Path(folder) / file).is_file()]
    if lacking:
        return Ingredient(f"model {folder}", False, " && ".join(lacking))
    return Ingredient(f"model {folder}", True, "")


def shipped(name: str) -> Ingredient:
    """A file that comes with the project."""
    there = (ASSETS / name).is_file()
    return Ingredient(f"shipped {name}", there, "" if there else "git checkout apps/nowcast/assets")


def extra(name: str, *modules: str) -> Ingredient:
    """An optional dependency of the project."""
    there = all(find_spec(module) for module in modules)
    return Ingredient(f"extra {name}", there, "" if there else f"pip install 'spanlift[{name}]'")


def lpips_weights() -> tuple[str, Ingredient]:
    """Where AlexNet's weights are, which LPIPS takes, or should be put; and as an ingredient."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_WEIGHTS
    for place in (os.environ.get(WEIGHTS_VARIABLE, ""), str(cached), LPIPS_WEIGHTS):
        if place and Path(place).is_file():
            return place, Ingredient("weights of LPIPS", True, place)
    where = f"torchvision's {LPIPS_WEIGHTS}; without --weights LPIPS* stands in, which is not comparable"
    return LPIPS_WEIGHTS, Ingredient("weights of LPIPS", False, where)


def inception() -> Ingredient:
    """The network of the recipes' loss."""
    where = "pip install 'spanlift[imagegen]', which downloads them; --loss features=1 does without"
    return Ingredient("Inception and its weights", at_hand(), "" if at_hand() else where)


def gpu() -> Ingredient:
    """A graphics card."""
    here = torch.cuda.is_available()
    return Ingredient("a GPU", here, "" if here else "without --device cuda it runs on the CPU, very slowly")
