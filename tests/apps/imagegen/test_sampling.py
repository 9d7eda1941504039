"""Images depend on their seeds alone; pixels are EDM's; the command writes a folder once and goes on where it was."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import core
from apps.imagegen.data import load_images
from apps.imagegen.methods import MethodOptions
from apps.imagegen.models import ImageModel, load_model
from apps.imagegen.pictures import enlarged
from apps.imagegen.sample import MANIFEST, SampleOptions, image_path, main
from apps.imagegen.sampling import batches, build_sampler, parse_seeds, sample_batch, solver_identity, to_uint8
from data_tools.cli import UserError


@pytest.fixture(scope="module")
def colour(small_models: dict[str, Path]) -> ImageModel:
    return load_model(small_models["colour"])


def options_for(small_models: dict[str, Path], out: Path, **changes: object) -> SampleOptions:
    return SampleOptions(**{"model": str(small_models["grey"]), "seeds": "3-9", "batch": 4, "out": str(out), **changes})


@pytest.mark.parametrize("solver", ["ipndm", "ddpm", "heun"])
def test_an_image_depends_on_its_seed_alone(colour: ImageModel, solver: str) -> None:
    sampler = build_sampler(colour, MethodOptions(solver, 4))
    together, nfe = sampler.sample(colour, [5, 2, 1 << 32, 7, 9])
    assert (nfe, together.shape) == (4, (5, 3, 8, 8))
    alone = torch.cat([sampler.sample(colour, part)[0] for part in ([5], [2, 1 << 32], [7, 9])])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_a_batch_is_the_integral_from_the_noise_of_the_grid(colour: ImageModel) -> None:
    grid, solver, seeds = core.build_grid("karras", 3, 40.0, 0.01), core.build_solver("ipndm", order=2), [4, 6]
    images, nfe = sample_batch(colour, solver, grid, seeds, afs=True, denoise=True, class_index=2)
    field = colour.field(torch.tensor([[0.0, 0.0, 1.0]] * 2))
    expected = core.integrate(field, solver, 40.0 * colour.noise(seeds), grid, afs=True, denoise=True)
    assert torch.equal(images, expected.x)
    assert nfe == expected.nfe == 3
    others, _ = sample_batch(colour, solver, grid, seeds, afs=True, denoise=True, class_index=0)
    assert not torch.allclose(images, others)
    with pytest.raises(UserError, match="0 to 2"):
        sample_batch(colour, solver, grid, seeds, class_index=3)


def test_pixels_are_truncated_and_clipped() -> None:
    x = torch.tensor([-2.0, -1.0, -0.999, -1 / 127.5, 0.0, 0.9921, 0.996, 1.0, 3.0])
    assert to_uint8(x).tolist() == [0, 0, 0, 127, 128, 254, 254, 255, 255]
    exact = (torch.arange(256) - 128) / 127.5 + 1e-4
    assert to_uint8(exact).tolist() == list(range(256))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 40)), min_size=1, max_size=6), st.integers(1, 30))
def test_seeds_are_read_and_cut_into_batches(ranges: list[tuple[int, int]], size: int) -> None:
    text = ", ".join(f"{first}-{first + more}" if more else str(first) for first, more in ranges)
    expected = [seed for first, more in ranges for seed in range(first, first + more + 1)]
    seeds = parse_seeds(text)
    assert seeds == list(dict.fromkeys(expected))
    parts = batches(seeds, size)
    assert [seed for part in parts for seed in part] == seeds
    assert all(len(part) == size for part in parts[:-1])


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="0123456789-, ax٣", max_size=12))
def test_other_texts_are_refused_or_read(text: str) -> None:
    with suppress(UserError):  # and nothing else
        assert parse_seeds(text)


@pytest.mark.parametrize(
    "text", ["", "5-3", "-1", "1,,2", "a", "0-99999999999", "0-20000000", "1.5", "4294967296", "4294967290-4294967300"]
)
def test_seeds_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="seeds"):
        parse_seeds(text)


def test_the_last_seed_is_the_last_that_has_images_of_its_own(colour: ImageModel) -> None:
    assert parse_seeds("4294967295") == [(1 << 32) - 1]
    assert torch.equal(colour.noise([7]), colour.noise([7 + (1 << 32)]))  # EDM's rule


@pytest.mark.parametrize(
    "sampling",
    [[1], "afs", {"nfe": "three"}, {"nfe": 0}, {"nfe": True}, {"nfe": 2.0}, {"afs": 1}, {"denoise": "no"}, None],
)
def test_a_card_that_no_command_wrote_is_told_in_one_line(
    small_models, put_solver, run_here, tmp_path: Path, sampling: object
) -> None:
    model = load_model(small_models["grey"])
    spec = MethodOptions("dyweight", 3, afs=True)
    solver = put_solver(model, tmp_path, spec, sampling={"nfe": None} if sampling is None else sampling)
    arguments = ["--model", str(small_models["grey"]), "--solver", str(solver), "--out", str(tmp_path / "o")]
    done = run_here("apps.imagegen.sample", *arguments, "--seeds", "0-1")
    if sampling is None:  # a card that says nothing: no analytic start, which is a call more
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "o" / MANIFEST).read_text())["sampler"]["nfe"] == 4
        return
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"in the card of {solver}, got" in done.stderr
    assert not (tmp_path / "o").exists()


def test_a_solver_of_other_sizes_is_told_in_one_line(small_models, put_solver, run_here, tmp_path: Path) -> None:
    grey, colour = (load_model(small_models[name]) for name in ("grey", "colour"))
    spec = MethodOptions("spanlift", 3, base="ipndm", width=4)
    channels = put_solver(colour, tmp_path / "channels", spec, identity=grey.identity)
    steps = put_solver(grey, tmp_path / "steps", MethodOptions("dyweight", 3))
    solver = core.load(steps)
    core.save(
        steps, solver, grid=grey.grid("karras", 5), field_identity=grey.identity, supervision="teacher", loss="mse"
    )  # pyright: ignore
    for path, message in ((channels, "an operator on 1 channels"), (steps, "steps")):
        arguments = ["--model", str(small_models["grey"]), "--solver", str(path), "--out", str(tmp_path / "o")]
        done = run_here("apps.imagegen.sample", *arguments, "--seeds", "0-1")
        assert done.returncode == 2
        assert message in done.stderr.splitlines()[-1]


def test_solvers_are_told_apart(colour: ImageModel) -> None:
    ipndm = core.build_solver("ipndm", order=3)
    grid = colour.grid("karras", 3)
    configuration = core.ResidualConfig(3, history=3, width=8, kernel=3, steps=3, data_std=0.5)
    torch.manual_seed(0)
    others = [
        ipndm,
        core.build_solver("ipndm", order=2),
        core.build_solver("dyweight", base=ipndm, grid=grid, history=3),
        core.spanlift(ipndm, configuration, core.EDM()),
        core.spanlift(core.build_solver("euler"), configuration, core.EDM()),
    ]
    assert len({solver_identity(solver) for solver in others}) == len(others)
    torch.manual_seed(0)
    again = core.build_solver("dyweight", base=ipndm, grid=grid, history=3)
    assert solver_identity(again) == solver_identity(others[2])


def test_a_folder_is_filled_gone_on_with_and_refused_to_another_run(small_models, tmp_path: Path) -> None:
    out = tmp_path / "images"
    main(options_for(small_models, out))
    kept = {seed: image_path(out, seed).read_bytes() for seed in range(3, 10)}
    model = load_model(small_models["grey"])
    expected, _ = build_sampler(model, MethodOptions("ipndm", 3)).sample(model, range(3, 7))
    for image, seed in zip(to_uint8(expected).numpy(), range(3, 7), strict=True):
        assert np.array_equal(np.asarray(Image.open(image_path(out, seed))), image[0])
    assert len(load_images(str(out))) == 7  # no sheet, no manifest among the images
    assert (tmp_path / "images.png").exists()

    image_path(out, 5).unlink()  # as if it had been killed
    image_path(out, 4).write_bytes(b"kept as it is")
    main(options_for(small_models, out, seeds="3-12", grid_image=False))
    assert image_path(out, 4).read_bytes() == b"kept as it is"
    assert np.array_equal(_pixels(image_path(out, 5)), _pixels_of(kept[5], tmp_path))
    assert image_path(out, 12).exists()

    with pytest.raises(UserError, match=r"000004\.png, got another or a damaged file"):
        main(options_for(small_models, out))
    image_path(out, 4).write_bytes(kept[4])

    with pytest.raises(UserError, match="other sampler"):
        main(options_for(small_models, out, solver="heun", nfe=4))
    assert image_path(out, 3).read_bytes() == kept[3]
    main(options_for(small_models, out, solver="heun", nfe=4, seeds="3-4", overwrite=True))
    assert [seed for seed in range(20) if image_path(out, seed).exists()] == [3, 4]
    assert json.loads((out / MANIFEST).read_text())["sampler"]["name"] == "heun"


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def _pixels_of(content: bytes, folder: Path) -> np.ndarray:
    path = folder / "content.png"
    path.write_bytes(content)
    return _pixels(path)


def test_small_pictures_are_enlarged_and_large_ones_left() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    large = enlarged(image)
    assert large.shape == (1, 8, 12)
    assert np.array_equal(large[:, ::4, ::4], image)
    assert np.array_equal(large[:, 3::4, 3::4], image)
    assert enlarged(np.zeros((3, 40, 600), np.uint8)).shape == (3, 40, 600)


def test_names_of_images_are_edms() -> None:
    assert image_path(Path("o"), 7) == Path("o/000000/000007.png")
    assert image_path(Path("o"), 12_345) == Path("o/012000/012345.png")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": "9-3"}, "--seeds"),
        ({"batch": 0}, "--batch"),
        ({"devices": 0}, "--devices"),
        ({"class_index": 0}, "no class"),
        ({"solver": "heum"}, "heun"),
        ({"solver": "heun", "nfe": 3, "afs": False}, "--nfe"),
        ({"solver": "absent.safetensors"}, "absent.safetensors"),
        ({"model": "absent.safetensors"}, "absent.safetensors"),
        ({"device": "nowhere"}, "device"),
    ],
)
def test_mistakes_leave_nothing_behind(small_models, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(options_for(small_models, tmp_path / "images", **changes))
    assert list(tmp_path.iterdir()) == []


def test_folders_and_files_of_others_are_left_alone(small_models, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    note = tmp_path / "mine" / "note.txt"
    note.write_text("precious")
    for out in (tmp_path / "mine", note, note / "below"):
        with pytest.raises(UserError, match=r"expected (a new|--out to be a) folder"):
            main(options_for(small_models, out, overwrite=True))
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "note.txt"]


def test_a_sheet_of_others_is_left_alone_and_the_working_folder_may_be_filled(
    small_models, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "here.png").write_text("precious")
    with pytest.raises(UserError, match=r"expected a new file, got .*here\.png"):
        main(options_for(small_models, tmp_path / "here", seeds="3"))
    assert [path.name for path in tmp_path.iterdir()] == ["here.png"]
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / ".manifest.json.7.part").write_text("{")  # of a run that was killed at its start
    monkeypatch.chdir(tmp_path / "there")
    main(options_for(small_models, Path("."), seeds="3"))
    assert (tmp_path / "there.png").read_bytes().startswith(b"\x89PNG")
    assert image_path(Path("."), 3).exists()


def test_a_model_that_gives_no_numbers_says_so(small_models, tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object) -> torch.Tensor:
        return torch.full((4, 1, 8, 8), torch.nan)

    monkeypatch.setattr("apps.imagegen.models.edm.EDMPrecond.forward", broken)
    with pytest.raises(UserError, match=r"finite.*seeds 3 to 6"):
        main(options_for(small_models, tmp_path / "images"))


def test_the_command_as_a_user_runs_it(run_cli, run_here, small_models, tmp_path: Path) -> None:
    arguments = ["--model", str(small_models["colour"]), "--seeds", "0-4", "--batch", "2", "--out", str(tmp_path / "o")]
    done = run_cli("apps.imagegen.sample", *arguments)
    assert done.returncode == 0, done.stderr
    assert load_images(str(tmp_path / "o")).pixels.shape == (5, 3, 8, 8)
    refused = run_here("apps.imagegen.sample", *arguments, "--nfe", "5")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "--overwrite" in refused.stderr


@pytest.mark.slow
def test_two_processes_share_the_seeds(run_cli, small_models, tmp_path: Path) -> None:
    arguments = ["--model", str(small_models["colour"]), "--seeds", "0-4", "--batch", "2"]
    done = run_cli("apps.imagegen.sample", *arguments, "--out", str(tmp_path / "two"), "--devices", "2")
    assert done.returncode == 0, done.stderr
    main(SampleOptions(str(small_models["colour"]), seeds="0-4", batch=2, out=str(tmp_path / "one")))
    one, two = (load_images(str(tmp_path / name)).pixels.astype(int) for name in ("one", "two"))
    assert one.shape == two.shape == (5, 3, 8, 8)
    assert np.abs(one - two).max() <= 1  # batches were cut otherwise
