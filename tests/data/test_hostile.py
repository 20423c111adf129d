"""Data that somebody else made: what cannot be used is passed over, counted and named, in every source."""

import io
import os
import re
import struct
import subprocess
import sys
import tarfile
import zlib

import pytest
from difflax.core.types import UserError
from difflax.data.loader import Loader
from PIL import Image

from tests.data.stores import STORES, Example, add_member, opened, store, write_shard
from tests.data.test_loader import rows_of, take

GOOD = 8


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (36, 24), colour).save(file, "PNG")
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(edge=50_000):
    """A picture that says it has 2.5 thousand million pixels."""
    row = zlib.compress(b"\0" * (edge // 8 + 1) * 64, 1)
    header = struct.pack(">IIBBBBB", edge, edge, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")


EXAMPLES = [Example(f"{i:04d}", png((i, 0, 0)), {"text": f"number {i}"}) for i in range(GOOD)]
PICTURES = {
    "truncated": (EXAMPLES[0].picture[:50], "cannot be read as an image"),
    "zero bytes": (b"", "the file is empty"),
    "no picture": (b"<html>404 Not Found</html>", "of a format that is meant"),
    "a bomb": (bomb(), "exceeds limit|would need"),
}
CAPTIONS = {
    "a megabyte": ("word " * 200_000, "caption of 999,999 characters|more than 262,144 bytes"),
    "empty": ("", "empty caption|no caption"),
    "missing": (None, "no caption|empty caption"),
}


def read(records, unusable, *, epochs=3):
    """What is wrong with the rows that cannot be used; the others come, and again after a restart."""
    total = len(records)
    share = (unusable + 0.5) / total

    def loader(in_memory):
        return Loader(
            records,
            batch_size=4,
            seed=0,
            epoch=getattr(records, "epoch", None),
            max_bad_examples=share,
            in_memory=in_memory,
        )

    batches = loader(False)
    seen = take(batches, epochs * total // 4)
    good = set(rows_of(seen))
    assert len(good) == total - unusable
    faults = batches.new_faults()
    assert len(faults) == unusable and not batches.new_faults()
    again = loader(True)
    assert [b["index"].tolist() for b in take(again, len(seen))] == [b["index"].tolist() for b in seen]
    assert sorted(again.new_faults()) == sorted(faults)
    for fault in faults:
        assert "\n" not in fault and len(fault) <= UserError.LONGEST
    with pytest.raises(UserError):
        take(Loader(records, batch_size=4, seed=0, in_memory=False), total)
    return faults


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("name", PICTURES)
def test_pictures(kind, name, tmp_path):
    data, says = PICTURES[name]
    examples = list(EXAMPLES)
    examples[3] = Example("0003", data, {"text": "number 3"})
    (fault,) = read(store(kind, tmp_path, examples).split("train"), 1)
    assert re.search(says, fault) and re.search("0003|row 3", fault)


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("name", CAPTIONS)
def test_captions(kind, name, tmp_path):
    text, says = CAPTIONS[name]
    examples = list(EXAMPLES)
    fields = {} if text is None else {"text": text}
    examples[3] = Example("0003", EXAMPLES[3].picture, fields)
    (fault,) = read(store(kind, tmp_path, examples).split("train"), 1)
    assert re.search(says, fault) and re.search("0003|row 3", fault)


def test_captions_that_are_no_utf_8(tmp_path):
    """A byte order mark is no part of a caption; Cyrillic in its old encoding is not guessed."""
    for kind in ("sidecars", "webdataset"):
        place = tmp_path / kind
        source = store(kind, place, EXAMPLES)
        texts = {1: "\ufeffwith a mark".encode(), 2: "красный круг".encode("cp1251")}
        if kind == "sidecars":
            for row, text in texts.items():
                (place / f"{row:04d}.txt").write_bytes(text)
        else:
            with tarfile.open(place / "0000.tar", "w") as tar:
                for row in range(3):
                    add_member(tar, f"{row:04d}.png", EXAMPLES[row].picture)
                    add_member(tar, f"{row:04d}.txt", texts.get(row, b"number 0"))
        records = source.split("train")
        assert records.captions[:3] == ["number 0", "with a mark", ""]
        (fault,) = read(records, 1)
        assert "save it as UTF-8" in fault and "0002" in fault


# Shards


def link(tar, name, target, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    tar.addfile(info)


def with_text(tar, key, data=EXAMPLES[0].picture):
    add_member(tar, f"{key}.png", data)
    add_member(tar, f"{key}.txt", b"text")


def duplicates(tar):
    with_text(tar, "0001")
    add_member(tar, "0005.txt", b"a second one")


MEMBERS = {
    "a name that leads out": (lambda tar: with_text(tar, "../../evil"), "leads out of the archive"),
    "an absolute name": (lambda tar: with_text(tar, "/tmp/evil"), "leads out of the archive"),
    "a symbolic link": (lambda tar: link(tar, "x.png", "/etc/passwd", tarfile.SYMTYPE), "link or device"),
    "a hard link": (lambda tar: link(tar, "x.png", "0000.png", tarfile.LNKTYPE), "link or device"),
    "a device": (lambda tar: link(tar, "x.png", "", tarfile.CHRTYPE), "link or device"),
    "a key twice": (lambda tar: with_text(tar, "0000"), "a second time"),
    "two pictures": (lambda tar: (with_text(tar, "x"), add_member(tar, "x.png", b"")), "two members .png"),
    "no picture": (lambda tar: add_member(tar, "x.txt", b"text"), "has no picture"),
    "broken JSON": (lambda tar: (with_text(tar, "x"), add_member(tar, "x.json", b"{")), "is not valid JSON"),
    "a huge text": (lambda tar: (add_member(tar, "x.png", EXAMPLES[0].picture),
                                 add_member(tar, "x.txt", b" " * 5_000_000)), "5,000,000 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", MEMBERS)
def test_members_of_a_shard(name, tmp_path):
    add, says = MEMBERS[name]
    shards = tmp_path / "shards"
    shards.mkdir()
    write_shard(shards / "0.tar", EXAMPLES)
    with tarfile.open(shards / "0.tar", "a") as tar:
        add(tar)
    before = files_below(tmp_path)
    (fault,) = read(tars(shards, tmp_path, caption={"txt": 1, "none": 0.1}), 1)
    assert re.search(says, fault)
    new = files_below(tmp_path) - before
    assert new and all(path.split("/")[0] == "cache" for path in new)


def tars(shards, place, **fields):
    section = {"name": "webdataset", "path": str(shards), "data_dir": str(place / "cache")}
    return opened({**section, "height": 24, "width": 36, **fields}).split("train")


def files_below(place):
    return {str(path.relative_to(place)) for path in place.rglob("*")}


def broken(data):
    """A header in the middle that is none."""
    return data[: 6 * 512] + b"\xff" * 512 + data[7 * 512 :]


SHARDS = {
    "cut short in a picture": lambda data: data[: len(data) // 2 // 512 * 512 + 100],
    "zero bytes": lambda data: b"",
    "compressed": lambda data: zlib.compress(data),
    "no tar": lambda data: b"<html>" * 1000,
    "a broken header": broken,
}


@pytest.mark.parametrize("name", SHARDS)
def test_shards(name, tmp_path):
    """What stood before the damage is there, and the damage is one row that cannot be used."""
    shards = tmp_path / "shards"
    shards.mkdir()
    write_shard(shards / "0.tar", EXAMPLES)
    write_shard(shards / "1.tar", EXAMPLES)
    (shards / "1.tar").write_bytes(SHARDS[name]((shards / "1.tar").read_bytes()))
    records = tars(shards, tmp_path)
    faults = read(records, 1 if name != "cut short in a picture" else len(_faulty(records)))
    assert len(records) > GOOD and all("1.tar" in fault for fault in faults)


def _faulty(records):
    return [caption for caption in records.captions if not caption]


def test_a_shard_of_lies_costs_no_memory(tmp_path):
    """Headers of gigabytes, members of negative size, and a bomb, in a process whose memory is counted."""
    shards = tmp_path / "shards"
    shards.mkdir()
    write_shard(shards / "0.tar", [*EXAMPLES, Example("bomb", bomb(), {"text": "x"})])
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 8 * 2**30
    backwards = tarfile.TarInfo("x.png").tobuf(tarfile.GNU_FORMAT)
    backwards = bytearray(backwards)
    backwards[124:136] = b"\xff" * 10 + b"\xf0\x00"
    backwards[148:156] = b" " * 8
    backwards[148:156] = b"%06o\0 " % sum(backwards)
    for number, header in ((1, long_name.tobuf(tarfile.GNU_FORMAT)), (2, bytes(backwards))):
        with (shards / f"{number}.tar").open("wb") as file:
            file.write(header)
            file.truncate(9 * 2**30)  # sparse: it takes no room on the disk
    code = f"""
import resource, sys
from difflax.data.sources import WebDataset
from difflax.data.loader import Loader
source = WebDataset(path={str(shards)!r}, height=24, width=36, data_dir={str(tmp_path / "cache")!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loader = Loader(source.split("train"), batch_size=4, seed=0, max_bad_examples=0.5)
for _ in range(6): next(loader)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(len(loader.new_faults()), grown)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    faults, grown = done.stdout.split()
    assert faults == "3" and float(grown) < 200, done.stdout


# Parquet

TABLES = {
    "cut short": lambda data: data[: len(data) // 2],
    "zero bytes": lambda data: b"",
    "other bytes": lambda data: data[:200] + bytes(100) + data[300:],
}


@pytest.mark.parametrize("name", TABLES)
def test_parquet_files(name, tmp_path):
    source = store("parquet", tmp_path, [*EXAMPLES, *EXAMPLES])
    path = sorted(tmp_path.glob("*.parquet"))[1]
    path.write_bytes(TABLES[name](path.read_bytes()))
    records = source.split("train")
    assert list(records.captions)[:GOOD] == [f"number {i}" for i in range(GOOD)]
    faults = read(records, len(_faulty(records)))
    assert faults and all(path.name in fault for fault in faults)


def test_a_row_without_a_picture(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pictures = [example.picture for example in EXAMPLES]
    pictures[2] = None
    table = pyarrow.table({"image": pictures, "text": [e.fields["text"] for e in EXAMPLES]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    section = {"name": "parquet", "path": str(tmp_path), "height": 24, "width": 36}
    (fault,) = read(opened({**section, "data_dir": str(tmp_path / "cache")}).split("train"), 1)
    assert "row 2 has no picture" in fault


# Folders


def test_a_table_with_names_that_are_no_files(tmp_path):
    source = store("jsonl", tmp_path, EXAMPLES)
    (tmp_path / "0002.png").unlink()
    (tmp_path / "0002.png").mkdir()
    (tmp_path / "0004.png").unlink()
    os.mkfifo(tmp_path / "0004.png")
    faults = sorted(read(source.split("train"), 2))
    assert "is a folder and no picture" in faults[0] and "no such file" in faults[1]


def test_csv_with_a_megabyte_and_lines_too_short(tmp_path):
    source = store("csv", tmp_path, EXAMPLES)
    lines = (tmp_path / "metadata.csv").read_text().splitlines()
    lines[3], lines[5] = "0002.png", f'0004.png,"{"word " * 200_000}"'
    (tmp_path / "metadata.csv").write_text("\r\n".join(lines))
    faults = sorted(read(source.split("train"), 2))
    assert "no caption" in faults[0] and "999,999 characters" in faults[1]
