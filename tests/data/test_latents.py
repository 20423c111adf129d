"""Latents that were computed before: of these images and this autoencoder, or computed again."""

import json
import os

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.data.fingerprints import arrays_fingerprint
from difflax.data.latents import cache_latents
from difflax.data.loader import Loader
from difflax.data.sources import Digits, ImageFolder, Shapes
from PIL import Image

from tests.data.test_loader import rows_of, take

COLOURS = {"b": (255, 0, 0), "c": (0, 255, 0), "d": (0, 0, 255), "e": (9, 9, 9), "f": (90, 0, 90)}


class Encoder:
    """A picture's every fourth pixel, and which pictures were asked for."""

    def __init__(self, scale=1.0):
        self.scale, self.calls = scale, []

    def __call__(self, images):
        self.calls.append(len(images))
        return self.scale * images[:, ::4, ::4].astype(np.float32)

    @property
    def fingerprint(self):
        return arrays_fingerprint({"scale": np.float32(self.scale)})


@pytest.fixture
def folder(tmp_path):
    for name, colour in COLOURS.items():
        put(tmp_path / "pics", name, colour)
    return tmp_path / "pics"


def put(folder, name, colour, size=(8, 8)):
    folder.mkdir(exist_ok=True)
    Image.new("RGB", size, colour).save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text(f"{colour}")


def split_of(folder, **fields):
    return ImageFolder(path=str(folder), **{"height": 8, "width": 8} | fields).split("train")


def cached(folder, encoder, *, share=0.0, records=None, **fields):
    records = split_of(folder, **fields) if records is None else records
    return cache_latents(
        records,
        encoder,
        folder.parent / "latents.npy",
        encoder=encoder.fingerprint,
        max_bad_examples=share,
        batch_size=2,
    )


def right(folder, encoder, **fields):
    records = split_of(folder, **fields)
    return encoder.scale * np.stack([records[i].image for i in range(len(records))])[:, ::4, ::4]


def test_they_are_computed_once(folder):
    encoder = Encoder()
    for _ in range(2):
        np.testing.assert_array_equal(cached(folder, encoder).latents, right(folder, encoder))
    assert encoder.calls == [2, 2, 2]
    assert sorted(path.name for path in folder.parent.iterdir()) == [
        "latents.json",
        "latents.npy",
        "latents_frames.npy",
        "pics",
    ]


def replaced(folder):
    put(folder, "d", (255, 255, 255))


def replaced_with_the_times_and_size_of_the_old(folder):
    path = folder / "d.png"
    before = path.stat()
    data = bytearray(path.read_bytes())
    Image.new("RGB", (8, 8), (0, 0, 254)).save(path)
    assert path.stat().st_size == len(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def curated(folder):
    """As many as before, others."""
    (folder / "d.png").unlink()
    (folder / "d.txt").unlink()
    put(folder, "a", (255, 255, 255))


def exchanged(folder):
    (folder / "b.png").rename(folder / "x.png")
    (folder / "c.png").rename(folder / "b.png")
    (folder / "x.png").rename(folder / "c.png")


def grown(folder):
    put(folder, "g", (1, 2, 3))


@pytest.mark.parametrize(
    "change", [replaced, replaced_with_the_times_and_size_of_the_old, curated, exchanged, grown]
)
def test_other_pictures_are_noticed(change, folder, capsys):
    encoder = Encoder()
    cached(folder, encoder)
    change(folder)
    np.testing.assert_array_equal(cached(folder, encoder).latents, right(folder, encoder))
    assert "was made of other images: it is made anew" in capsys.readouterr().err


def test_another_autoencoder_and_another_cut_are_noticed(folder, capsys):
    cached(folder, Encoder())
    np.testing.assert_array_equal(cached(folder, Encoder(2.0)).latents, right(folder, Encoder(2.0)))
    assert "was made of other autoencoder" in capsys.readouterr().err
    wide = cached(folder, Encoder(2.0), width=16).latents
    np.testing.assert_array_equal(wide, right(folder, Encoder(2.0), width=16))
    assert "was made of other transform" in capsys.readouterr().err


def test_a_copied_or_touched_data_set_is_still_itself(folder, tmp_path):
    encoder = Encoder()
    cached(folder, encoder)
    os.utime(folder / "c.png", (1, 1))
    cached(folder, encoder)
    folder.rename(tmp_path / "moved")
    cached(tmp_path / "moved", encoder)
    assert len(encoder.calls) == 3


def broken_array(folder):
    (folder / "latents.npy").write_bytes(b"nothing")


def short_array(folder):
    data = (folder / "latents.npy").read_bytes()
    (folder / "latents.npy").write_bytes(data[:-5])


def lost_frames(folder):
    (folder / "latents_frames.npy").unlink()


def lost_facts(folder):
    """As an earlier version left them."""
    (folder / "latents.json").unlink()


def broken_facts(folder):
    (folder / "latents.json").write_text('{"identity": 3, "files": []}')


@pytest.mark.parametrize("damage", [broken_array, short_array, lost_frames, lost_facts, broken_facts])
def test_what_is_not_whole_is_made_anew(damage, folder):
    encoder = Encoder()
    cached(folder, encoder)
    damage(folder.parent)
    np.testing.assert_array_equal(cached(folder, encoder).latents, right(folder, encoder))


def test_an_encoder_that_fails_leaves_nothing(folder):
    def fails(images):
        raise KeyboardInterrupt

    fails.fingerprint = "fails"
    with pytest.raises(KeyboardInterrupt):
        cached(folder, fails)
    assert [path.name for path in folder.parent.iterdir()] == ["pics"]


@pytest.mark.parametrize("bad", [["b"], ["b", "c"], ["f"], ["b", "c", "d", "e"]])
def test_unusable_pictures_are_passed_over_as_without_a_cache(bad, folder):
    for name in bad:
        (folder / f"{name}.png").write_bytes(b"")
    encoder, records = Encoder(), split_of(folder)
    settings = {"batch_size": 3, "seed": 1, "max_bad_examples": 0.8}
    for _ in range(2):
        made = cached(folder, encoder, share=0.8)
        loader, plain = Loader(made.records(records), **settings), Loader(records, **settings)
        for batch, read in zip(take(loader, 7), take(plain, 7), strict=True):
            np.testing.assert_array_equal(batch["index"], read["index"])
            np.testing.assert_array_equal(made.latents[batch["index"]], read["image"][:, ::4, ::4])
        faults = loader.new_faults()
        assert sorted(faults) == sorted(plain.new_faults())
        assert len(faults) == len(bad) and "the file is empty" in faults[0]
    with pytest.raises(UserError, match="examples cannot be used, more than the share"):
        (folder.parent / "latents.npy").unlink()
        cached(folder, encoder, share=0.1)
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]


def test_a_caption_that_is_written_later_gives_a_latent(folder):
    (folder / "c.txt").write_text("  ")
    encoder = Encoder()
    assert "empty caption" in cached(folder, encoder, share=0.5).bad[1]
    (folder / "c.txt").write_text("green at last")
    made = cached(folder, encoder)
    assert made.bad == {}
    np.testing.assert_array_equal(made.latents, right(folder, encoder))


def test_every_row_is_given_to_a_loader_without_its_image(folder):
    records = split_of(folder)
    rows = cached(folder, Encoder()).records(records)
    assert set(rows_of(take(Loader(rows, batch_size=2, seed=0), 5))) == set(range(5))


def test_they_know_what_their_images_showed(tmp_path):
    for i, size in enumerate([(20, 12), (8, 30), (16, 16)]):
        put(tmp_path / "pics", str(i), (i, 0, 0), size)
    records = split_of(tmp_path / "pics")
    rows = cached(tmp_path / "pics", Encoder()).records(records)
    made, known = (next(Loader(r, batch_size=3, seed=0, shuffle=False)) for r in (rows, records))
    np.testing.assert_array_equal(made["original_size"], [(12, 20), (30, 8), (16, 16)])
    for name in ("original_size", "corner"):
        np.testing.assert_array_equal(made[name], known[name])


@pytest.mark.parametrize("kind", ["files", "made when they are read"])
def test_data_of_other_sources_is_known_by_its_contents(kind, tmp_path):
    def latents(seed):
        records = {
            "files": lambda: Digits(data_dir=str(tmp_path / "data")).split(("test", "train")[seed]),
            "made when they are read": lambda: Shapes(train=6, data_seed=seed).split("train"),
        }[kind]()
        (tmp_path / "pics").mkdir(exist_ok=True)
        return cached(tmp_path / "pics", encoder, records=records)

    encoder = Encoder()
    first = latents(0).latents
    made = len(encoder.calls)
    assert made > 1
    np.testing.assert_array_equal(latents(0).latents, first)
    assert len(encoder.calls) == made
    assert not np.array_equal(first, latents(1).latents)
    facts = json.loads((tmp_path / "latents.json").read_text())
    assert set(facts["identity"]) == {"images", "transform", "autoencoder", "captions"}
