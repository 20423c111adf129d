"""Every source gives the same rows of the same pictures: pixels, captions, order; whatever holds them."""

import ast
import io
import json
import re

import numpy as np
import pytest
import skimage
from difflax.config import experiment
from difflax.config.experiments import resolve
from difflax.config.files import stored_values
from difflax.config.values import to_json
from difflax.core.types import UserError
from difflax.data import loader as loading
from difflax.data.loader import Loader
from etils import epath
from PIL import Image, ImageCms, ImageOps

from tests.data.stores import STORES, Example, opened, store
from tests.data.test_loader import rows_of, take
from tests.runs import ROOT

RNG = np.random.default_rng(0)
SIZE = (24, 36)
NOISE = RNG.integers(0, 256, (*SIZE, 4), np.uint8)
kinds = pytest.mark.parametrize("kind", STORES)


def encoded(picture, form, **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def oddities():
    """Pictures of every kind that people keep, by name."""
    rgba, rgb, grey = (Image.fromarray(pixels) for pixels in (NOISE, NOISE[..., :3], NOISE[..., 0]))
    lying = Image.fromarray(np.rot90(NOISE[..., :3]).copy())
    exif = Image.Exif()
    exif[274] = 6
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    palette = rgb.quantize(16)
    deep = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)
    transparent = palette.copy()
    transparent.info["transparency"] = 3
    return {
        "jpeg": ("jpg", encoded(rgb, "JPEG")),
        "jpeg lying on its side": ("jpg", encoded(lying, "JPEG", exif=exif)),
        "jpeg in cmyk": ("jpg", encoded(rgb.convert("CMYK"), "JPEG")),
        "grey jpeg": ("jpg", encoded(grey, "JPEG")),
        "jpeg with a profile": ("jpg", encoded(rgb, "JPEG", icc_profile=wide)),
        "png": ("png", encoded(rgb, "PNG")),
        "png with alpha": ("png", encoded(rgba, "PNG")),
        "grey png with alpha": ("png", encoded(rgba.convert("LA"), "PNG")),
        "png of 16 bits": ("png", encoded(deep, "PNG")),
        "png with a palette": ("png", encoded(palette, "PNG")),
        "png with a palette and transparency": ("png", encoded(transparent, "PNG", transparency=3)),
        "png of one bit": ("png", encoded(grey.convert("1"), "PNG")),
        "png lying on its side": ("png", encoded(lying, "PNG", exif=exif)),
        "webp": ("webp", encoded(rgb, "WEBP")),
        "webp with alpha": ("webp", encoded(rgba, "WEBP", lossless=True)),
        "webp that moves": (
            "webp",
            encoded(rgb, "WEBP", save_all=True, append_images=[lying.resize((36, 24))]),
        ),
        "gif that moves": ("gif", encoded(palette, "GIF", save_all=True, append_images=[grey.convert("P")])),
    }


def reference(data):
    """What Pillow itself makes of a file: its EXIF, ICC and alpha."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if picture.mode.startswith("I"):
        return (
            (np.asarray(picture).astype(np.float64) / 257).round().astype(np.uint8)[..., None].repeat(3, -1)
        )
    profile = picture.info.get("icc_profile")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        # Over an opaque colour the two ways of Pillow differ by the rounding of its fixed point alone.
        return np.asarray(
            Image.composite(picture.convert("RGB"), white.convert("RGB"), picture.getchannel("A"))
        )
    if profile:
        return np.asarray(
            ImageCms.profileToProfile(
                picture,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
        )
    return np.asarray(picture.convert("RGB"))


ODD = oddities()
EXAMPLES = [
    Example(f"{i:04d}", data, {"text": f"{name}, {i}", "alt": f"alt {i}", "tags": "a, b, c"}, suffix)
    for i, (name, (suffix, data)) in enumerate(ODD.items())
]
PLAIN = [
    Example(f"{i:04d}", encoded(Image.new("RGB", (40, 30), (i, 0, 0)), "PNG"), {"text": f"number {i}"})
    for i in range(14)
]


@kinds
def test_pixels_are_those_of_the_reference(kind, tmp_path):
    records = store(kind, tmp_path, EXAMPLES).split("train")
    assert list(records.captions) == [example.fields["text"] for example in EXAMPLES]
    for row, example in enumerate(EXAMPLES):
        record = records[row]
        np.testing.assert_array_equal(
            record.image, reference(example.picture), err_msg=example.fields["text"]
        )
        assert record.caption == example.fields["text"]
        assert record.frame.original_size == SIZE and record.frame.corner == (0, 0)


@pytest.mark.parametrize("kind", ["jsonl", "webdataset", "parquet"])
def test_photographs(kind, tmp_path):
    folder = epath.Path(skimage.__file__).parent / "data"
    paths = [folder / name for name in ("chelsea.png", "rocket.jpg", "coffee.png", "camera.png", "page.png")]
    paths = [path for path in paths if path.exists()]
    examples = [Example(p.stem, p.read_bytes(), {"text": p.name}, p.suffix[1:]) for p in paths]
    assert examples
    records = store(kind, tmp_path, examples, height=64, width=64).split("train")
    for row, example in enumerate(examples):
        whole = Image.fromarray(reference(example.picture))
        scale = min(whole.height, whole.width) / 64
        left, top = ((side - scale * 64) / 2 for side in whole.size)
        box = (left, top, left + scale * 64, top + scale * 64)
        right = np.asarray(whole.resize((64, 64), Image.Resampling.LANCZOS, box=box))
        assert np.abs(records[row].image.astype(int) - right).max() <= 1


@kinds
def test_the_order_is_exact(kind, tmp_path, monkeypatch):
    """1, 2 and 4 processes and any number of threads: each example once an epoch, the same batches; and a
    stop at any step goes on identically, on another number of processes too.
    """
    records = store(kind, tmp_path, PLAIN, height=20, width=20, crop="random", flip=0.5).split("train")

    def loader(count=1, index=0, threads=4):
        monkeypatch.setattr(loading, "READ_THREADS", threads)
        return Loader(
            records,
            batch_size=4,
            seed=3,
            epoch=getattr(records, "epoch", None),
            in_memory=False,
            process_index=index,
            process_count=count,
        )

    straight = take(loader(), 14)
    for epoch in rows_of(straight).reshape(-1, len(PLAIN)):
        assert sorted(epoch) == list(range(len(PLAIN)))
    for count, threads in ((1, 1), (2, 3), (4, 2)):
        parts = [loader(count, index, threads) for index in range(count)]
        for stop in (0, 5):
            for part in parts:
                part.set_state({**part.get_state(), "next_batch": stop})
            for batch in straight[stop : stop + 3]:
                read = [next(part) for part in parts]
                for name in ("image", "index", "corner", "original_size"):
                    whole = np.concatenate([piece[name] for piece in read])
                    np.testing.assert_array_equal(whole, batch[name])
                assert [caption for piece in read for caption in piece["caption"]] == batch["caption"]


@pytest.mark.parametrize("kind", [kind for kind in STORES if kind not in ("sidecars", "mixture")])
def test_captions_are_drawn_by_their_shares(kind, tmp_path):
    fields = [{"text": f"number {i}", "alt": f"alt {i}", "tags": "x, y"} for i in range(4)]
    del fields[3]["alt"]
    examples = [Example(one.key, one.picture, fields[i]) for i, one in enumerate(PLAIN[:4])]
    source = store(kind, tmp_path, examples, caption={"text": 0.75, "alt: {alt}": 0.25})
    records = source.split("train")
    assert list(records.captions) == [f"number {i}" for i in range(4)]
    batches = take(Loader(records, batch_size=40, seed=0), 4)
    rows, said = rows_of(batches), np.concatenate([batch["caption"] for batch in batches])
    for row in range(3):
        assert set(said[rows == row]) == {f"number {row}", f"alt: alt {row}"}
    rare = np.char.startswith(said[rows != 3], "alt")
    assert abs(np.mean(rare) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(rare))
    expected = {"number 3", "alt: "} if kind == "csv" else {"number 3"}
    assert set(said[rows == 3]) <= expected | {"number 3"}
    again = Loader(records, batch_size=40, seed=0)
    again.set_state({**again.get_state(), "next_batch": 3})
    assert next(again)["caption"] == batches[3]["caption"]


def test_random_crops_are_parts_of_the_picture(tmp_path):
    """Of a picture that needs no resizing the part is a slice; every place is as likely, mirrored or not."""
    pixels = np.arange(30 * 40, dtype=np.uint16).reshape(30, 40)
    picture = np.stack([pixels // 256, pixels % 256, 0 * pixels], -1).astype(np.uint8)
    example = Example("0", encoded(Image.fromarray(picture), "PNG"), {"text": "x"})
    for flip, shown in ((0.0, picture), (1.0, picture[:, ::-1])):
        source = store("jsonl", tmp_path, [example], height=30, width=33, crop="random", flip=flip)
        batch = next(Loader(source.split("train"), batch_size=160, seed=0))
        assert set(batch["corner"][:, 1]) == set(range(8)) and not batch["corner"][:, 0].any()
        for image, (top, left) in zip(batch["image"], batch["corner"], strict=True):
            np.testing.assert_array_equal(image, shown[top : top + 30, left : left + 33])
        counts = np.bincount(batch["corner"][:, 1])
        assert np.abs(counts - 20).max() < 4 * np.sqrt(160 / 8 * 7 / 8)


def test_no_crop_squeezes(tmp_path):
    example = Example("0", EXAMPLES[5].picture, {"text": "x"})
    record = store("jsonl", tmp_path, [example], height=12, width=12, crop="none").split("train")[0]
    right = Image.fromarray(NOISE[..., :3]).resize((12, 12), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(record.image, np.asarray(right))
    assert record.frame.corner == (0, 0) and record.frame.original_size == SIZE


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (200, 30, 90)])
def test_transparency_over_a_stated_colour(colour, tmp_path):
    examples = [Example(str(i), encoded(Image.fromarray(NOISE).convert(mode), "PNG"), {"text": "x"})
                for i, mode in enumerate(("RGBA", "LA"))]  # fmt: skip
    records = store("jsonl", tmp_path, examples, background=colour).split("train")
    for row, mode in enumerate(("RGBA", "LA")):
        pixels = np.asarray(Image.fromarray(NOISE).convert(mode).convert("RGBA")).astype(float)
        alpha = pixels[..., 3:] / 255
        right = alpha * pixels[..., :3] + (1 - alpha) * np.array(colour)
        assert np.abs(records[row].image - right).max() <= 1


def test_kohyas_repeats(tmp_path):
    for folder, count in (("3_sks dog", 2), ("1_dog", 3)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            (tmp_path / folder / f"{i}.png").write_bytes(PLAIN[i].picture)
            (tmp_path / folder / f"{i}.caption").write_text(f"a {folder} {i}")
    section = {"name": "image_folder", "path": str(tmp_path), "height": 8, "width": 8}
    records = opened({**section, "repeats": True}).split("train")
    assert records.captions == ["a 1_dog 0", "a 1_dog 1", "a 1_dog 2", "a 3_sks dog 0", "a 3_sks dog 1"]
    for in_memory in (True, False):
        batches = Loader(records, batch_size=9, seed=0, epoch=records.epoch, in_memory=in_memory)
        for batch in take(batches, 3):
            assert np.bincount(batch["index"]).tolist() == [1, 1, 1, 3, 3]
    labels = opened({**section, "repeats": True, "caption": "a photo of a {label}"}).split("train")
    assert labels.captions == ["a photo of a dog"] * 3 + ["a photo of a sks dog"] * 2
    assert opened(section).split("train").epoch is None


def test_shares_of_a_mixture(tmp_path):
    """The rare source comes as often as its weight says, and every example of the other comes once."""
    source = store("mixture", tmp_path, PLAIN, weights=(0.25, 0.75))
    records = source.split("train")
    half = len(PLAIN) // 2
    batch = next(Loader(records, batch_size=4 * half, seed=0, epoch=records.epoch))
    counts = np.bincount(batch["index"], minlength=len(PLAIN))
    assert counts.tolist() == [1] * half + [3] * half
    with pytest.raises(UserError, match="make an epoch of"):
        store("mixture", tmp_path / "b", PLAIN, weights=(1.0, 1e-9)).split("train")
    other = {"name": "folder", "path": "x", "height": 32, "width": 32, "flip": 0.5}
    with pytest.raises(UserError, match="sources differ in flip"):
        opened({"name": "mixture", "sources": ({"name": "shapes"}, other)})


def test_the_examples_of_the_documentation_are_configs():
    text = (ROOT / "docs" / "data.md").read_text()
    sections = re.findall(r"^\| `.* \| `(\{.*\})` \|$", text, re.MULTILINE)
    assert len(sections) == 8
    for section in sections:
        assert len(opened(ast.literal_eval(section)).image_shape) == 3


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"caption": "txet"}, "is no column of|nothing else|no 'txet'"),
        ({"caption": "a {}"}, "in braces stands the name of a column"),
        ({"caption": "a {text"}, "is no template"),
        ({"caption": "plain words {text!r}"}, "in braces stands"),
        ({"caption": {"text": -1.0}}, "must be finite and not negative"),
        ({"caption": {"text": 0.0}}, "no share is above 0"),
        ({"caption": 3}, "must be str or a mapping"),
        ({"caption": {"text": "much"}}, "must be float"),
        ({"keep_tags": 2}, "is for shuffle_tags"),
        ({"crop": "middle"}, "crop = 'middle' is unknown"),
        ({"background": (0, 0, 256)}, "at most 255"),
        ({"path": "nowhere"}, "no such folder"),
    ],
)
def test_mistakes(fields, says, tmp_path):
    with pytest.raises(UserError, match=says):
        store("jsonl", tmp_path, PLAIN[:2], **fields).split("train")


def test_a_remote_shard_is_read_in_parts(tmp_path):
    """Through fsspec, here its store in memory."""
    fsspec = pytest.importorskip("fsspec")
    store("webdataset", tmp_path, PLAIN)
    memory = fsspec.filesystem("memory")
    for number in range(3):
        memory.pipe(f"/shards/{number:04d}.tar", (tmp_path / f"{number:04d}.tar").read_bytes())
    section = {"name": "webdataset", "path": "memory://shards/{0000..0002}.tar", "height": 30, "width": 40}
    records = opened({**section, "data_dir": str(tmp_path / "elsewhere")}).split("train")
    assert list(records.captions) == [example.fields["text"] for example in PLAIN]
    np.testing.assert_array_equal(records[9].image, reference(PLAIN[9].picture))


def test_an_index_is_written_once_and_again_when_its_shard_changes(tmp_path, capsys):
    source = store("webdataset", tmp_path, PLAIN)
    assert len(source.split("train")) == len(PLAIN)
    assert "shards are indexed" in capsys.readouterr().err
    assert len(source.split("train")) == len(PLAIN)
    assert capsys.readouterr().err == ""
    (tmp_path / "0002.tar").write_bytes((tmp_path / "0000.tar").read_bytes() + b"")
    records = source.split("train")
    assert records.captions[-5:] == records.captions[:5]
    damaged = sorted((tmp_path / "cache" / "webdataset").glob("*.npz"))
    for path in damaged:
        path.write_bytes(path.read_bytes()[:50])
    assert list(source.split("train").captions) == list(records.captions)


def test_classes_of_the_hub_read_as_their_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    import pyarrow.parquet

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    pictures = [{"bytes": PLAIN[i].picture, "path": None} for i in range(3)]
    rows = datasets.Dataset.from_dict({"image": pictures, "label": [1, 0, 1]}, features=features)
    (tmp_path / "data").mkdir()
    rows.to_parquet(str(tmp_path / "data" / "train-00000-of-00001.parquet"))
    assert pyarrow.parquet.read_schema(tmp_path / "data" / "train-00000-of-00001.parquet").metadata
    for name in ("parquet", "huggingface"):
        section = {"name": name, "path": str(tmp_path), "height": 8, "width": 8, "caption": "a {label}"}
        records = opened({**section, "data_dir": str(tmp_path / "cache")}).split("train")
        assert records.captions == ["a dog", "a cat", "a dog"]
        with pytest.raises(UserError, match="no split 'test'"):
            opened({**section, "data_dir": str(tmp_path / "cache")}).split("test")


def test_several_captions_of_an_image(tmp_path):
    """As COCO has them: a list, or a list of columns."""
    lines = [
        {"file_name": "0000.png", "captions": [{"text": "one"}, {"text": "two"}], "tags": ["a", "b"]},
    ]
    (tmp_path / "0000.png").write_bytes(PLAIN[0].picture)
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    section = {"name": "image_folder", "path": str(tmp_path), "height": 8, "width": 8}
    records = opened({**section, "caption": "captions.text"}).split("train")
    assert set(next(Loader(records, batch_size=20, seed=0))["caption"]) == {"one", "two"}
    assert opened({**section, "caption": "tags: {tags}"}).split("train").captions == ["tags: a, b"]


def test_tags_are_shuffled_behind_those_that_are_kept(tmp_path):
    example = Example("0", PLAIN[0].picture, {"text": "girl,red, hat , blue,tree"})
    source = store("jsonl", tmp_path, [example], shuffle_tags=True, keep_tags=2)
    said = next(Loader(source.split("train"), batch_size=80, seed=0))["caption"]
    assert {caption.split(", ")[0] for caption in said} == {"girl"}
    assert {tuple(caption.split(", ")[:2]) for caption in said} == {("girl", "red")}
    assert len(set(said)) == 6 and {tuple(sorted(c.split(", "))) for c in said} == {
        ("blue", "girl", "hat", "red", "tree")
    }


def test_shares_on_the_command_line_are_stored_and_read_again():
    config = experiment("pretrained", "folder")
    config.data.update(path="x", height=8, width=8)
    config.model.path = "y"
    shares = (("text", 0.95), ("a photo, {alt}.", 0.05))
    given = [("config.data.caption", repr(dict(shares)))]
    values = resolve(config, given)
    assert values["data"]["caption"] == shares
    stored = json.loads(json.dumps(to_json(values)))
    assert resolve(stored)["data"]["caption"] == shares
    assert resolve(stored, [("config.data.caption", "a {label}")])["data"]["caption"] == "a {label}"


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        ({"name": "folder", "caption_key": "other"}, "other"),
        ({"name": "tfds", "caption_key": "label", "caption_template": "{}"}, "label"),
        (
            {"name": "tfds", "caption_key": "label", "caption_template": "a photo of a {}"},
            "a photo of a {label}",
        ),
    ],
)
def test_workdirs_of_earlier_versions_say_the_same_of_captions(data, caption, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"data": {**data, "height": 8}}))
    kept = {"name": data["name"], "height": 8, "caption": caption}
    assert stored_values(tmp_path)["data"] == kept
