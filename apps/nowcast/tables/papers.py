"""The papers' tables and figures of nowcasts, on SEVIR-LR and PreDiff's own weights."""

from __future__ import annotations

from apps.listing import Ingredient, Reproducible
from apps.nowcast.tables.ingredients import (
    Store,
    Training,
    Values,
    command,
    gpu,
    inception,
    lpips_weights,
    model_in,
)

EVALUATE = "apps.nowcast.evaluate"
SEVIR_LR = Store(
    "out/lr.zarr",
    "python -m data_tools.download sevir --dest sevir --type vil && "
    "python -m data_tools.convert sevir out/lr.zarr --lr",
)
PREDIFF = "out/prediff"
CHECKPOINTS = {
    "autoencoder.safetensors": "pretrained_sevirlr_vae_8x8x64_v1.pt",
    "unet.safetensors": "pretrained_sevirlr_earthformerunet_v1.pt",
    "alignment.safetensors": "pretrained_sevirlr_alignment_avg_x_cuboid_v1.pt",
}
"""File of a model -> PreDiff's checkpoint that it is converted from."""

ON_SEVIR: Values = {"model": PREDIFF, "data": SEVIR_LR.place, "device": "cuda"}

RECIPES = {
    "table4-mse-teacher": ("SpanLift (MSE, teacher)", "spanlift-mse-teacher"),
    "table4-inception-teacher": ("SpanLift (Inc., teacher)", "spanlift-inception-teacher"),
    "table4-inception-target": ("SpanLift (Inc., target)", "spanlift-inception-target"),
}
"""Name -> the row of Table 4 and its recipe."""


def paper_tables() -> list[Reproducible]:
    """Table 4 and Figure 7 of SpanLift, Table 2 of PreDiff."""
    weights, lpips = lpips_weights()
    scored = {**ON_SEVIR, "weights": weights}
    here = (SEVIR_LR.found(), _model("autoencoder.safetensors", "unet.safetensors"), gpu())
    trainings = {name: Training(f"out/{recipe}", ON_SEVIR, recipe) for name, (_, recipe) in RECIPES.items()}
    rows = [
        Reproducible(
            "table4-references",
            "DDPM with 1000 steps and DDIM with 100",
            "SpanLift, Table 4",
            (*here, lpips),
            command(EVALUATE, {"config": "references", **scored}),
        ),
        Reproducible(
            "table4-ddim",
            "DDIM with 5 steps",
            "SpanLift, Table 4",
            (*here, lpips),
            command(EVALUATE, {"config": "ddim-5", **scored}),
        ),
    ]
    for name, (title, recipe) in RECIPES.items():
        rows.append(
            Reproducible(
                name,
                title,
                "SpanLift, Table 4",
                (*here, lpips, *_trained(trainings[name])),
                command(EVALUATE, {"config": recipe, **scored}),
            )
        )
    shown = [trainings["table4-inception-teacher"], trainings["table4-inception-target"]]
    pictured = {"methods": "ddim-100,ddim-5", "solver": ",".join(each.out for each in shown), "events": 1}
    rows.append(
        Reproducible(
            "figure7",
            "frames of each method beside the truth",
            "SpanLift, Figure 7",
            (*here, *_trained(*shown)),
            command(EVALUATE, {**pictured, **ON_SEVIR, "json": "out/figure7.json"}),
        )
    )
    return [*rows, *_prediff()]


def _prediff() -> list[Reproducible]:
    """Its CSI is of the mean of 8 members: `csi_of_mean` in the JSON."""
    options: Values = {"members": 8, "solver": '""', **ON_SEVIR}
    anticipated: Values = {"methods": "aligned-ddpm-1000", "anticipated": 0.12}
    return [
        Reproducible(
            "prediff",
            "persistence and PreDiff, CRPS and CSI of the mean of 8 members (FVD is not computed)",
            "PreDiff, Table 2",
            (SEVIR_LR.found(), _model("autoencoder.safetensors", "unet.safetensors"), gpu()),
            command(EVALUATE, {"methods": "persistence,ddpm-1000", **options, "json": "out/prediff.json"}),
        ),
        Reproducible(
            "prediff-alignment",
            "PreDiff with knowledge alignment, towards an anticipated mean of your choice",
            "PreDiff, Table 2",
            (SEVIR_LR.found(), _model(*CHECKPOINTS), gpu()),
            command(EVALUATE, {**anticipated, **options, "json": "out/prediff-alignment.json"}),
        ),
    ]


def _model(*files: str) -> Ingredient:
    made_by = {name: command("apps.nowcast.convert", {}, f"{CHECKPOINTS[name]} {PREDIFF}") for name in files}
    return model_in(PREDIFF, made_by)


def _trained(*trainings: Training) -> list[Ingredient]:
    """Solvers, and what those that are not here are trained with."""
    found = [training.found(PREDIFF) for training in trainings]
    wanted = [training for training, each in zip(trainings, found, strict=True) if not each.present]
    if any("inception" in str(training.learned.get("loss")) for training in wanted):
        found.append(inception())
    return found
