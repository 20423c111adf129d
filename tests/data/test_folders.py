"""Folders as people keep them: subfolders, litter, formats, encodings."""

import json
import os

import numpy as np
import pytest
from difflax.config.resolve import read_section
from difflax.config.schema import Section
from difflax.core.types import UserError
from difflax.data.loader import Loader
from difflax.data.sources import SOURCES, ImageFolder
from PIL import Image

from tests.data.test_loader import rows_of, take


def put(path, text="a red circle", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), "red").save(path, **options)
    if text is not None:
        path.with_suffix(".txt").write_bytes(text if isinstance(text, bytes) else text.encode())


def split(root, name="train", **fields):
    return ImageFolder(path=str(root), **{"height": 16, "width": 16} | fields).split(name)


def test_subfolders_are_read_in_the_order_of_paths(tmp_path):
    for name in ("top.png", "sub/a.png", "sub/deeper/b.png", "another/c.png"):
        put(tmp_path / name, name)
    assert split(tmp_path).captions == ["another/c.png", "sub/a.png", "sub/deeper/b.png", "top.png"]


def test_other_splits_are_no_part_of_the_folder(tmp_path):
    for name in ("a.png", "test/b.png", "cats/c.png", "cats/test/d.png"):
        put(tmp_path / name, name)
    assert split(tmp_path).captions == ["a.png", "cats/c.png", "cats/test/d.png"]
    assert split(tmp_path, "test").captions == ["test/b.png"]
    put(tmp_path / "train" / "e.png", "e")
    assert split(tmp_path).captions == ["e"]


def test_litter_does_not_count(tmp_path):
    put(tmp_path / "a.png")
    put(tmp_path / ".ipynb_checkpoints" / "a-checkpoint.png", None)
    put(tmp_path / "__MACOSX" / "b.png", None)
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (tmp_path / "._a.txt").write_bytes(b"\0\5\x16\7")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    assert len(split(tmp_path)) == 1


def test_links_in_a_circle(tmp_path):
    put(tmp_path / "a" / "a.png")
    put(tmp_path / "elsewhere" / "b.png")
    os.symlink(tmp_path / "a", tmp_path / "a" / "again")
    os.symlink(tmp_path / "elsewhere", tmp_path / "a" / "linked")
    os.symlink(tmp_path / "a", tmp_path / "elsewhere" / "back")
    assert len(split(tmp_path / "a")) == 2


@pytest.mark.parametrize(
    "suffix",
    [".gif", ".tif", ".tiff", ".avif", ".jfif", ".jp2", ".bmp", ".webp", ".JPG", ".jpe", ".ppm", ".PNG"],
)
def test_formats_beside_others_are_not_dropped(suffix, tmp_path):
    put(tmp_path / "a.png")
    put(tmp_path / f"b{suffix}", format={".jfif": "JPEG"}.get(suffix))
    records = split(tmp_path)
    assert len(records) == 2
    assert np.abs(records[1].image.astype(int) - [255, 0, 0]).max() <= 6


def test_formats_that_are_not_read_are_named(tmp_path, capsys):
    put(tmp_path / "a.png")
    for name in ("b.heic", "c.HEIC", "d.psd"):
        (tmp_path / name).write_bytes(b"x")
    assert len(split(tmp_path)) == 1
    assert "2 .heic, 1 .psd are left out" in capsys.readouterr().err
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"no image there.*2 .heic, 1 .psd cannot be read: convert them"):
        split(tmp_path)


CAPTION = "a café – “naïve”"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_captions_of_every_encoding(encoding, tmp_path):
    put(tmp_path / "a.png", f" {CAPTION}\r\n".encode(encoding))
    assert split(tmp_path).captions == [CAPTION]
    line = json.dumps({"file_name": "a.png", "text": CAPTION}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_bytes(f"{line}\r\n\r\n".encode(encoding))
    assert split(tmp_path).captions == [CAPTION]


def test_a_separator_of_paragraphs_inside_a_json_line(tmp_path):
    put(tmp_path / "a.png", None)
    texts = ["first\u2028second", "one\x85two", "a \ud83d half", "a \ud83d\ude00 whole"]
    lines = [
        json.dumps({"file_name": "a.png", "text": text}, ensure_ascii=i > 1) for i, text in enumerate(texts)
    ]
    for i in (0, 1):
        lines[i] = json.dumps({"file_name": "a.png", "text": texts[i]}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert split(tmp_path).captions == [texts[0], texts[1], "a \ufffd half", "a 😀 whole"]


def test_captions_that_cannot_be_used_count_as_bad_examples(tmp_path):
    """Cyrillic in an old encoding, a megabyte, bytes of another file."""
    for i in range(10):
        put(tmp_path / f"{i}.png", f"picture {i}")
    for i, data in ((2, "красный круг".encode("cp1251")), (5, b"word " * 200_000), (7, b"\0\1\2")):
        (tmp_path / f"{i}.txt").write_bytes(data)
    records = split(tmp_path)
    for in_memory in (True, False):
        loader = Loader(records, batch_size=5, seed=0, in_memory=in_memory, max_bad_examples=0.3)
        assert set(rows_of(take(loader, 4))) == set(range(10)) - {2, 5, 7}
        faults = sorted(loader.new_faults())
        assert [fault.split(".txt")[0][-1] for fault in faults] == ["2", "5", "7"]
        assert "save it as UTF-8" in faults[0] and "more than" in faults[1] and "no text" in faults[2]
    with pytest.raises(UserError, match="3 of 10 examples cannot be used"):
        take(Loader(records, batch_size=5, seed=0, max_bad_examples=0.25), 4)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[" * 100_000, "is not valid JSON"),
        ('{"file_name": "a.png", "text": "x", "score": NaN}', "no number under 'score'"),
        ('{"file_name": "a.png", "text": "x", "score": 1e999}', "no number under 'score'"),
        ('{"file_name": "a\\u0000.png", "text": "x", "score": 1}', "is not there"),
        ('{"file_name": "' + "a" * 5000 + '", "text": "x", "score": 1}', "is not there"),
        ('{"file_name": 3, "text": "x"}', "no text under 'file_name'"),
        ("3", "no mapping of names"),
        ('{"file_name": "a.png", "text": "x", "score": true}', "no number under 'score'"),
        ('{"file_name": "a.png", "text": "x", "score": 1' + "0" * 400 + "}", "no number under 'score'"),
    ],
)
def test_lines_that_are_no_listing(line, says, tmp_path):
    put(tmp_path / "a.png", None)
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(UserError, match=says) as raised:
        split(tmp_path, score_key="score")
    assert "metadata.jsonl line 1" in str(raised.value) and len(str(raised.value)) < 500


FOLDER = {"name": "folder", "path": "x", "height": 16, "width": 16}
SUBJECT = {**FOLDER, "name": "subject", "prompts": ("a sks",)}


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({**FOLDER, "height": 30_000, "width": 30_000}, "3.6 GB of memory"),
        ({**FOLDER, "width": 10**9}, "at most 32,768"),
        ({**FOLDER, "buckets": ((16, 10**9),)}, "GB of memory"),
        ({**FOLDER, "height": -8}, "height"),
        ({**FOLDER, "flip": float("nan")}, "flip"),
        ({**SUBJECT, "height": 10**9}, "height = 1000000000 must be at least 1 and at most 32,768"),
        ({"name": "shapes", "train": 10**15}, "must be at least 1 and at most 100,000,000"),
        ({"name": "shapes", "test": 10**9}, "must be at least 1 and at most 100,000,000"),
        ({"name": "tfds", "builder": "x", "height": 10**9, "width": 64}, "at most 32,768"),
    ],
)
def test_what_it_would_need_is_said_at_once(section, says):
    with pytest.raises(UserError, match=says) as raised:
        read_section(Section(of=SOURCES), section, "config.data")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


@pytest.mark.parametrize("buckets", [(16,), ((16, 16.5),), ((16, 16, 16),), (("a", "b"),)])
def test_buckets_are_pairs(buckets):
    with pytest.raises(UserError, match="buckets"):
        read_section(Section(of=SOURCES), {**FOLDER, "buckets": buckets}, "config.data")
