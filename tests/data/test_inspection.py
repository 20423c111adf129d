"""What `difflax data inspect` says of data whose truth is known."""

import io
import json

import numpy as np
import pytest
from difflax.data.inspection import FAR_APART, difference_hash, near_copies
from difflax.runs.inspection import guess_source
from PIL import Image
from scipy.sparse.csgraph import connected_components

from tests.data.stores import Example, store
from tests.runs import command

RNG = np.random.default_rng(0)


def smooth(seed, size=(48, 48)):
    """A picture of some large shapes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(picture, form, **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def test_a_hash_says_where_it_gets_darker():
    falling = np.tile(np.linspace(255, 0, 90).astype(np.uint8)[:, None], (80, 1, 1))
    assert difference_hash(falling) == 2**64 - 1 and difference_hash(falling[:, ::-1]) == 0
    half = np.concatenate([falling[:40], falling[40:, ::-1]])
    assert difference_hash(half) == (2**32 - 1) << 32


def test_groups_are_those_of_all_pairs():
    """Against the pairs that are compared one with each other, joined by scipy."""
    hashes = RNG.integers(0, 2**64, 40, np.uint64)
    flips = [
        sum(1 << int(bit) for bit in RNG.choice(64, count, replace=False))
        for count in range(7)
        for _ in range(6)
    ]
    hashes = np.concatenate([hashes, hashes[: len(flips)][:40] ^ np.array(flips[:40], np.uint64)])
    colours = np.zeros((len(hashes), 48), np.float32)
    colours[::5] = 50
    near = np.bitwise_count(hashes[:, None] ^ hashes) <= FAR_APART
    near &= np.abs(colours[:, None] - colours).mean(-1) <= 6
    _, label = connected_components(near)
    right = {tuple(np.flatnonzero(label == one)) for one in range(label.max() + 1)}
    assert {tuple(group) for group in near_copies(hashes, colours)} == {g for g in right if len(g) > 1}


@pytest.fixture
def data(tmp_path):
    """Twelve pictures, two with copies (of another format and size), flat ones of two colours, two broken."""
    pictures = [encoded(smooth(seed), "PNG") for seed in range(12)]
    pictures += [encoded(smooth(3), "JPEG", quality=60), encoded(smooth(3, (96, 96)), "PNG")]
    pictures += [
        encoded(smooth(7), "WEBP"),
        *(encoded(Image.new("RGB", (48, 48), c), "PNG") for c in ("red", "blue")),
    ]
    examples = [Example(f"{i:04d}", data, {"text": f"picture {i}"}) for i, data in enumerate(pictures)]
    examples.append(Example("0017", b"no picture", {"text": "x"}))
    examples.append(Example("0018", pictures[0], {"text": ""}))
    return examples, tmp_path / "data"


@pytest.mark.parametrize("kind", ["jsonl", "webdataset", "parquet"])
def test_the_command(kind, data, tmp_path, monkeypatch):
    examples, place = data
    monkeypatch.setenv("DIFFLAX_DATA_DIR", str(tmp_path / "cache"))
    store(kind, place, examples)
    out = tmp_path / "out"
    status, said, errors = command(
        "data", "inspect", f"--path={place}", f"--output={out}", "--tokenizer=difflax/embedded/tokenizer"
    )
    assert status == 0, errors
    found = json.loads((out / "inspect.json").read_text())
    assert found["examples"] == 19 and found["epoch"] == 19
    assert [(one["row"], "image" in one["reason"]) for one in found["unusable"]] == [(17, True), (18, False)]
    assert found["duplicates"] == [[3, 12, 13], [7, 14]]
    assert {(s["height"], s["width"]): s["examples"] for s in found["sizes"]} == {(48, 48): 16, (96, 96): 1}
    assert found["captions"]["captions"] == 18 and found["captions"]["different"] == 18
    assert found["captions"]["characters"]["most"] == len("picture 10")
    assert found["captions"]["over_max_tokens"] == 0
    assert "unusable: 2" in said and "near copies: 5 in 2 groups" in said
    page = (out / "inspect.html").read_text()
    assert "data:image/png;base64," in page and "no picture" not in page.split("<body")[0]
    assert Image.open(out / "contact_sheet.png").size[0] > 1000


def test_a_path_is_taken_for_what_it_looks_like(tmp_path):
    example = [Example(f"{i}", encoded(smooth(i), "PNG"), {"text": f"{i}"}) for i in range(3)]
    names = {
        "sidecars": "ImageFolder",
        "csv": "ImageFolder",
        "webdataset": "WebDataset",
        "parquet": "Parquet",
    }
    for kind, name in names.items():
        store(kind, tmp_path / kind, example)
        assert type(guess_source(str(tmp_path / kind))).__name__ == name
    assert type(guess_source("gs://bucket/{0000..0009}.tar")).__name__ == "WebDataset"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--path=x",), "data what"),
        (("inspect", "--path=x"), "give --output"),
        (("inspect", "--output={out}"), "--config=FILE.py or --path"),
        (("inspect", "--path=nowhere", "--output={out}"), "no folder, and no .tar or .parquet"),
    ],
)
def test_mistakes(flags, says, tmp_path):
    status, _, errors = command("data", *(flag.format(out=tmp_path / "out") for flag in flags))
    assert status == 2 and says in errors and errors.count("\n") == 1
    assert not (tmp_path / "out").exists()
