"""README's tables of nowcasts, as they are made: on synthetic storms, and on real radar."""

from __future__ import annotations

from apps.listing import Ingredient, Reproducible
from apps.nowcast.tables.ingredients import Store, Training, Values, command, extra, shipped

EVALUATE, INGEST = "apps.nowcast.evaluate", "data_tools.ingest"
ASSETS = "apps/nowcast/assets/mini"
SHIPPED = ("autoencoder.safetensors", "unet.safetensors", "spanlift-teacher.safetensors", "spanlift-target.safetensors")

KNMI = command(
    INGEST, {"format": "knmi", "stride": 3, "overlap": 64, "max_missing": 0.1, "out": "out/knmi.zarr"}, "RADAR/knmi"
)  # fmt: skip
TEST_STORES = (
    Store("out/fmi2017.zarr", command(
        INGEST,
        {"format": "fmi", "split": "test", "wet_fraction": 0.02, "max_missing": 0.1, "out": "out/fmi2017.zarr"},
        "RADAR/fmi/20170509",
    )),
    Store("out/knmi.zarr", KNMI),
)  # fmt: skip
"""What README's tables on real radar are scored on; RADAR is the folder of the archives."""

TRAINING_STORES = (
    Store("out/knmi.zarr", KNMI, "train"),
    Store("out/fmi2016.zarr", command(
        INGEST,
        {"format": "fmi", "stride": 3, "overlap": 32, "max_missing": 0.1, "splits": '"[0.66,1.0,1.0]"',
         "out": "out/fmi2016.zarr"},
        "RADAR/fmi/20160928",
    ), "train"),
    Store("out/mrms.zarr", command(
        INGEST,
        {"format": "mrms", "stride": 3, "overlap": 32, "max_missing": 0.1, "split": "train", "out": "out/mrms.zarr"},
        "RADAR/mrms",
    ), "train"),
    Store("out/storms.zarr", command("data_tools.storms", {"events": 600, "seed": 1, "out": "out/storms.zarr"}),
          "train"),
)  # fmt: skip
"""What the shipped model and README's operators learned from."""

ON_RADAR: Values = {
    "data": ",".join(store.place for store in TEST_STORES), "split": "test", "precision": "bfloat16",
}  # fmt: skip


def _training(out: str, iterations: int, **chosen: str | float) -> Training:
    """README's $TRAIN, with what a table varies."""
    options = {
        "supervision": "target", "base": "ddim", "data": ",".join(store.place for store in TRAINING_STORES),
        "variants": 1, "pairs": 160, "batch": 2, "precision": "bfloat16",
    }  # fmt: skip
    return Training(out, {**options, **chosen, "iterations": iterations})


CRPS = _training("out/crps", 100, loss="crps")
LOSSES = (_training("out/mse", 100, loss="mse=1"), _training("out/features", 90, loss="features=1"), CRPS)
COUNTS = (
    _training("out/steps2", 100, loss="crps", steps=2),
    _training("out/steps3", 100, loss="crps", steps=3),
    CRPS,
    _training("out/steps10", 60, loss="crps", steps=10),
    _training("out/range", 90, loss="crps", nfe="2:10"),
)
CONDITION = (_training("out/blind", 100, loss="crps", condition="off"), CRPS)


def own_tables() -> list[Reproducible]:
    """README's tables, in its order."""
    model = tuple(shipped(name) for name in SHIPPED)
    pysteps = extra("pysteps", "pysteps", "cv2")
    ours = ",".join([*(f"{ASSETS}/{name}" for name in SHIPPED[2:]), CRPS.out])
    return [
        Reproducible(
            "storms", "five steps against a hundred, on synthetic storms", "ours, README", model, command(EVALUATE, {})
        ),
        Reproducible(
            "radar",
            "five steps against a hundred, on real radar; RADAR stands for the folder of the archives",
            "ours, README",
            (*_stores(), *model),
            command(EVALUATE, {**ON_RADAR, "json": "out/test.json"}),
        ),
        Reproducible(
            "peers",
            "against pysteps on real radar, by lead time",
            "ours, README",
            _once(*_stores(), *model, pysteps, *_trained(CRPS)),
            command(EVALUATE, {
                **ON_RADAR, "members": 8, "methods": "persistence,extrapolation,sprog,steps,ddim-5", "solver": ours,
                "statistics": "out/peers.zarr", "baseline": "steps", "json": "out/peers.json",
                "report": "out/peers.html",
            }),
        ),
        _table("losses", "what the loss decides", LOSSES, {"members": 4, "methods": "ddim-5,teacher"}),
        _table(
            "counts",
            "one operator for every number of steps",
            COUNTS,
            {"members": 2, "methods": "ddim-2,ddim-3,ddim-5,ddim-10"},
            {"nfe": "2,3,5,10"},
        ),
        _table("condition", "an operator that sees the context frames", CONDITION, {"members": 4, "methods": "ddim-5"}),
    ]  # fmt: skip


def _table(
    name: str, title: str, trainings: tuple[Training, ...], options: Values, after: Values | None = None
) -> Reproducible:
    """A table of operators that were trained for it."""
    solvers = {"solver": ",".join(training.out for training in trainings)}
    made = command(EVALUATE, {**ON_RADAR, **options, **solvers, **(after or {}), "json": f"out/{name}.json"})
    model = (shipped(each) for each in SHIPPED[:2])
    return Reproducible(name, title, "ours, README", _once(*_stores(), *model, *_trained(*trainings)), made)


def _once(*ingredients: Ingredient) -> tuple[Ingredient, ...]:
    """A store that lacks both of the parts that are wanted of it is made by one command."""
    return tuple(dict.fromkeys(ingredients))


def _stores() -> list[Ingredient]:
    return [store.found() for store in TEST_STORES]


def _trained(*trainings: Training) -> list[Ingredient]:
    """Solvers, and what those that are not here are trained on."""
    found = [training.found() for training in trainings]
    if all(each.present for each in found):
        return found
    return [*found, *(store.found() for store in TRAINING_STORES)]
