"""What families of variance-preserving diffusion share: a table of betas made continuous."""

from __future__ import annotations

from typing import Any

import core
from apps.imagegen.models.latent.family import Family, halvings
from core.parametrizations import Target
from data_tools.cli import UserError

PREDICTIONS: dict[str, Target] = {"epsilon": "noise", "v_prediction": "v"}
"""Of diffusers' schedulers."""


class DiffusionFamily(Family):
    """A network of the noise, or of v, in the clock of its own table of betas (`core.DiscreteVP`); it is told places of
    the table, fractions included. Runs end at the table's first entry, as DDIM's do.
    """

    @staticmethod
    def default_size(network: Any, decoder: Any) -> int:
        return network.config.sample_size * DiffusionFamily.pixels_per_latent(network, decoder)

    @staticmethod
    def pixels_per_latent(network: Any, decoder: Any) -> int:
        return halvings(decoder.config.block_out_channels)

    @property
    def channels(self) -> int:
        return self.network.config.in_channels  # pyright: ignore

    @property
    def schedule(self) -> core.DiscreteVP:
        betas = table_of(self.scheduler_config)
        return core.DiscreteVP(betas, t_min=1 / len(betas))

    @property
    def predicts(self) -> Target:
        kind = self.scheduler_config.get("prediction_type", "epsilon")
        if kind not in PREDICTIONS:
            raise UserError(
                f"expected a network that predicts {' or '.join(PREDICTIONS)}, got {kind!r} in the scheduler's "
                "configuration; take another model"
            )
        return PREDICTIONS[kind]

    @property
    def prediction_settings(self) -> dict[str, Any]:
        return {**super().prediction_settings, "betas": [f"{beta:.6e}" for beta in table_of(self.scheduler_config)]}


def table_of(config: Any) -> tuple[float, ...]:
    """The betas of a scheduler's configuration.

    Raises:
        UserError: a table of another kind, or one that ends without signal.
    """
    given = config.get("trained_betas")
    count = config.get("num_train_timesteps", 1000)
    first, last = config.get("beta_start", 1e-4), config.get("beta_end", 2e-2)
    kind = config.get("beta_schedule", "linear")
    if config.get("rescale_betas_zero_snr", False):
        raise UserError(
            "expected a table of betas that keeps some signal, got rescale_betas_zero_snr; no noise prediction "
            "determines a velocity at its end, take a scheduler without"
        )
    if given is not None:
        if not all(0 < beta < 1 for beta in given):
            raise UserError(
                "expected betas strictly between 0 and 1, got others; tables rescaled to zero terminal SNR have no "
                "noise prediction at their end"
            )
        return tuple(float(beta) for beta in given)
    tables = {
        "linear": lambda: core.DiscreteVP.linear(count, first, last).betas,
        "scaled_linear": lambda: core.DiscreteVP.scaled_linear(count, first, last).betas,
        "squaredcos_cap_v2": lambda: core.DiscreteVP.cosine(count).betas,
    }
    if kind not in tables:
        raise UserError(f"expected beta_schedule among {', '.join(tables)}, got {kind!r}; take another model")
    return tables[kind]()
