"""Prompts: every kind of file, a split that depends on texts and seed alone, hostile files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.imagegen.models.latent import prompts as module
from apps.imagegen.models.latent.prompts import Prompts, load_prompts
from data_tools.cli import UserError

MANY = [f"a picture of thing {index}, in oil" for index in range(120)]
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=30)
files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def _write(path: Path, content: object) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8", newline="")
    return path


def _lines(path: Path, texts: list[str]) -> Path:
    return _write(path, "".join(f"{text}\n" for text in texts))


def test_the_split_is_the_order_of_hashes(tmp_path: Path) -> None:
    found = load_prompts(_lines(tmp_path / "p.txt", MANY), train=7, seed=3)
    ordered = sorted(MANY, key=lambda text: hashlib.sha256(f"3/{text}".encode()).hexdigest())
    assert found.train == tuple(ordered[:7])
    assert found.evaluation == tuple(ordered[7:])
    assert found.all == tuple(ordered)
    assert found.name == "p.txt"


def test_a_sixth_is_trained_on_by_default(tmp_path: Path) -> None:
    assert len(load_prompts(_lines(tmp_path / "p.txt", MANY)).train) == 20
    few = load_prompts(_lines(tmp_path / "few.txt", MANY[:5]))
    assert (len(few.train), len(few.evaluation)) == (0, 5)


def test_order_repetition_and_kind_of_file_do_not_matter(tmp_path: Path) -> None:
    rows = io.StringIO(newline="")
    csv.writer(rows).writerows([["id", "Caption"], *([index, text] for index, text in enumerate(MANY))])
    kinds = [
        _lines(tmp_path / "a.txt", MANY),
        _lines(tmp_path / "b.TXT", [*reversed(MANY), "", "   ", MANY[4], f"  {MANY[5]}\t"]),
        _write(tmp_path / "c.json", MANY),
        _write(tmp_path / "d.json", {f"id{i}": {"category": "art", "prompt": text} for i, text in enumerate(MANY)}),
        _write(tmp_path / "e.json", {"annotations": [{"id": 1, "caption": text} for text in MANY], "info": {}}),
        _write(tmp_path / "f.csv", rows.getvalue()),
        _write(tmp_path / "g.tsv", "prompt\tsource\n" + "".join(f"{text}\tmine\n" for text in MANY)),
        _write(tmp_path / "h.txt", b"\xef\xbb\xbf" + "\r\n".join(MANY).encode()),
    ]
    splits = [load_prompts(path, train=11) for path in kinds]
    assert len({(found.train, found.evaluation, found.fingerprint) for found in splits}) == 1
    assert len(splits[0].all) == 120


def test_ids_name_the_reference_images(tmp_path: Path) -> None:
    content = {"aa11": {"category": "food", "prompt": "a pear"}, "bb22": {"category": "food", "prompt": " a plum "}}
    assert dict(load_prompts(_write(tmp_path / "meta_data.json", content)).ids) == {"a pear": "aa11", "a plum": "bb22"}
    assert not load_prompts(_lines(tmp_path / "p.txt", MANY)).ids


def test_captions_of_one_image_are_on_one_side(tmp_path: Path) -> None:
    captions = [
        {"image_id": image, "caption": f"caption {number} of {image}"} for number in range(5) for image in range(9)
    ]
    (tmp_path / "coco.json").write_text(json.dumps({"annotations": captions}))
    prompts = load_prompts(tmp_path / "coco.json", train=12)
    images = [{text.split()[-1] for text in side} for side in (prompts.train, prompts.evaluation)]
    assert len(prompts.train) == 12
    assert len(images[0]) == 3
    assert not images[0] & images[1]
    assert len(prompts.evaluation) == 5 * (9 - 3)
    with pytest.raises(UserError, match=r"of other images to evaluate.*lower --train_prompts"):
        load_prompts(tmp_path / "coco.json", train=43)


def test_prompts_go_to_other_processes(tmp_path: Path) -> None:
    found = load_prompts(_write(tmp_path / "meta_data.json", {"aa": {"prompt": "a pear"}, "bb": {"prompt": "a plum"}}))
    back = pickle.loads(pickle.dumps(found))
    assert (back, back.ids, hash(back)) == (found, found.ids, hash(found))


def test_the_fingerprint_knows_texts_and_split(tmp_path: Path) -> None:
    path = _lines(tmp_path / "p.txt", MANY)
    found = [load_prompts(path, train, seed) for train, seed in ((11, 0), (12, 0), (11, 1))]
    found.append(load_prompts(_lines(tmp_path / "q.txt", [*MANY[1:], "another"]), 11))
    assert len({prompts.fingerprint for prompts in found}) == 4


def test_prompts_that_are_added_move_few(tmp_path: Path) -> None:
    before = load_prompts(_lines(tmp_path / "p.txt", MANY), 40)
    after = load_prompts(_lines(tmp_path / "q.txt", [*MANY, *(f"new {index}" for index in range(12))]), 40)
    stayed = set(before.train) & set(after.train)
    new = sum(text.startswith("new") for text in after.train)
    assert len(stayed) == 40 - new  # each new one that is trained on pushes one out, and nothing else moves
    assert 0 < new < 12
    assert set(before.evaluation) <= set(after.all) - stayed


def test_rows_count_round(tmp_path: Path) -> None:
    found = load_prompts(_lines(tmp_path / "p.txt", MANY[:7]), train=3)
    assert [found.row(index) for index in (0, 3, 4, 9)] == [3, 6, 3, 4]
    assert [found.row(index, train=True) for index in (0, 2, 3, 7)] == [0, 2, 0, 1]
    with pytest.raises(UserError, match="--train_prompts"):
        Prompts((), ("a",), "p.txt", "").row(0, train=True)


@files
@given(texts=st.lists(TEXTS, max_size=12), seed=st.integers(0, 9), data=st.data())
def test_any_texts_come_back_once(tmp_path: Path, texts: list[str], seed: int, data: st.DataObject) -> None:
    kept = {text.strip() for text in texts if text.strip()}
    rows = io.StringIO(newline="")
    csv.writer(rows).writerows([["n", "prompt"], *(["1", text] for text in texts)])
    content = {"j.json": json.dumps(texts), "t.csv": rows.getvalue()}
    name = data.draw(st.sampled_from(sorted(content)))
    path = _write(tmp_path / name, content[name])
    if not kept:
        with pytest.raises(UserError, match="got none"):
            load_prompts(path)
        return
    train = data.draw(st.integers(0, len(kept) - 1))
    found = load_prompts(path, train, seed)
    assert len(found.train) == train
    assert sorted(found.all) == sorted(kept)


@files
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".txt", ".json", ".csv", ".tsv"]))
def test_any_bytes_are_prompts_or_one_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    said, found = "", ("text",)
    try:
        found = load_prompts(_write(tmp_path / f"p{suffix}", content)).all
    except UserError as error:  # nothing else may be raised
        said = str(error)
    assert len(said.splitlines()) <= 1, said
    assert all(text == text.strip() and text for text in found)
    assert found


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", "", "got none"),
        ("p.txt", " \n\t\n", "got none"),
        ("p.txt", "a caf\xe9\n".encode("latin-1"), "UTF-8"),
        ("p.txt", "ab".encode("utf-16"), "UTF-8"),
        ("p.txt", "one\ntw\0o\n", "NUL"),
        ("p.txt", "a" * 20_001, "20000 characters"),
        ("p.json", "[" * 200_000, "JSON"),
        ("p.json", '{"a": ' * 200_000, "JSON"),
        ("p.json", "[1, 2]", "entry 1"),
        ("p.json", '["a", null]', "entry 2"),
        ("p.json", '"a cat"', "expected a list"),
        ("p.json", "12", "expected a list"),
        ("p.json", '{"x": "a cat"}', "entry 1"),
        ("p.json", '{"x": {"prompt": ["a"]}}', "entry 1"),
        ("p.json", '{"annotations": [{"id": 3}]}', "entry 1"),
        ("p.json", '["\\ud800"]', "surrogate"),
        ("p.json", '["a", ', "JSON"),
        ("p.json", "[" + "9" * 5000 + "]", "JSON"),
        ("p.csv", "text,n\na cat,1\n", "column prompt or caption"),
        ("p.csv", "prompt,n\na cat, a dog,1\n", "line 2"),
        ("p.csv", 'prompt\n"a cat\n', "table"),
        ("p.csv", "prompt\n" + "a" * 200_000, "table"),
        ("p.parquet", b"PAR1", "expected prompts in a file .txt"),
    ],
)
def test_a_hostile_file_is_one_line(tmp_path: Path, name: str, content: object, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load_prompts(_write(tmp_path / name, content))
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600


def test_missing_and_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--prompts"):
        load_prompts(tmp_path / "nothing.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UserError, match="--prompts"):
        load_prompts(tmp_path / "folder.txt")
    monkeypatch.setattr(module, "LARGEST", 10)
    with pytest.raises(UserError, match="larger file"):
        load_prompts(_lines(tmp_path / "p.txt", MANY))


@pytest.mark.parametrize("train", [-1, 120, 5000])
def test_too_few_for_the_split(tmp_path: Path, train: int) -> None:
    with pytest.raises(UserError, match=f"--train_prompts from 0 to 119 .* got {train}"):
        load_prompts(_lines(tmp_path / "p.txt", MANY), train)
