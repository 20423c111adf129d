"""Data sets by name: what is prepared, what is read back, what is refused."""

import json
import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from difflax.data import builders, digits, records, shapes, sources
from difflax.types import UserError
from PIL import Image

SMALL = {"train": 30, "test": 5, "held_out": 6}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


def pictures(folder, names, size=(8, 8)):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.new("RGB", size, (10 * i, 0, 255 - 10 * i)).save(folder / name)


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def test_shapes_are_the_examples_in_their_order(data_dir):
    source = sources.Shapes(**SMALL, data_seed=7, data_dir=data_dir)
    for split, size in SMALL.items():
        rows = source.split(split)
        assert len(rows) == size
        for i, record in enumerate(rows.__getitems__(range(size))):
            example = shapes.make_example(7, split, i)
            assert record.caption == rows.captions[i] == rows[i].caption == example.caption
            np.testing.assert_array_equal(record.image, example.image)
            np.testing.assert_array_equal(rows[i].image, example.image)
            assert record.image.shape == source.image_shape


def test_settings_of_shapes_do_not_mix(data_dir):
    one = sources.Shapes(**SMALL, one_object_fraction=1.0, data_dir=data_dir).split("train")
    two = sources.Shapes(**SMALL, one_object_fraction=0.0, data_dir=data_dir).split("train")
    assert all(shapes.parse_caption(caption).relation is None for caption in one.captions)
    assert all(shapes.parse_caption(caption).relation is not None for caption in two.captions)


def test_digits_are_those_of_scikit_learn(data_dir):
    source = sources.Digits(data_dir=data_dir)
    for split in digits.SPLITS:
        rows = source.split(split)
        images, labels = digits.load(split)
        assert [digits.parse_caption(caption) for caption in rows.captions] == labels.tolist()
        np.testing.assert_array_equal([row.image for row in rows.__getitems__(range(len(rows)))], images)
        assert rows[0].image.shape == source.image_shape


@pytest.mark.parametrize("source", [sources.Shapes, sources.Digits])
def test_unknown_splits_name_the_known(source, data_dir):
    with pytest.raises(UserError, match=r"no split 'validation'; there are train, test"):
        source(data_dir=data_dir).split("validation")


@pytest.mark.parametrize("wrong", [{"train": 0}, {"one_object_fraction": 1.5}, {"data_seed": -1}])
def test_values_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        sources.Shapes(**wrong)


def test_default_place(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFLAX_DATA_DIR", str(tmp_path))
    assert sources.data_directory(None) == tmp_path
    monkeypatch.delenv("DIFFLAX_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.data_directory(None) == tmp_path / ".cache" / "difflax" / "data"
    assert str(sources.data_directory("elsewhere")) == "elsewhere"


def test_neither_tensorflow_nor_noise(tmp_path):
    # A tensorflow that breaks whoever imports it, whether or not the real one is installed.
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise RuntimeError('TensorFlow was imported')")
    program = (
        "from difflax.data.loader import Loader\n"
        "from difflax.data.sources import Shapes\n"
        f"rows = Shapes(train=20, test=1, held_out=1, data_dir={str(tmp_path / 'data')!r}).split('train')\n"
        "assert next(Loader(rows, batch_size=4, seed=0, in_memory=False))['image'].shape == (4, 32, 32, 3)\n"
        "import sys; assert 'tensorflow' not in sys.modules and 'torch' not in sys.modules\n"
    )
    path = os.pathsep.join([str(tmp_path), os.getcwd()])
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "" and run.stderr == ""


def _build(data_dir, barrier, captions):
    barrier.wait()
    rows = sources.Shapes(train=300, test=1, held_out=1, data_dir=data_dir).split("train")
    captions.put(rows.captions)


def test_processes_that_build_at_once_agree(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    barrier, captions = spawn.Barrier(2), spawn.Queue()
    workers = [spawn.Process(target=_build, args=(str(tmp_path), barrier, captions)) for _ in range(2)]
    for worker in workers:
        worker.start()
    wanted = [shapes.make_example(0, "train", i).caption for i in range(300)]
    assert captions.get(timeout=300) == captions.get(timeout=300) == wanted
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert not list(tmp_path.glob(".building-*"))


class BrokenShapes(builders.DifflaxShapes):
    """Fails in the middle of writing."""

    def _generate_examples(self, split):
        yield from list(super()._generate_examples(split))[:3]
        raise RuntimeError("the power went off")


def test_a_broken_build_leaves_nothing(tmp_path):
    config = builders.ShapesConfig(sizes=SMALL, one_object_fraction=0.5, seed=0)
    with pytest.raises(RuntimeError, match="power"):
        builders.prepare(BrokenShapes, tmp_path, config)
    assert files(tmp_path) == []


class DifflaxLabelled(tfds.core.GeneratorBasedBuilder):
    """Images with a class label and nothing else."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "picture": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "kind": tfds.features.ClassLabel(names=["cat", "dog"]),
            "weight": tfds.features.Scalar(dtype=np.int64),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(6):
            image = np.full((10 + i, 20, 3), i, np.uint8)
            yield i, {"picture": image, "kind": i % 2, "weight": i}


def test_any_tfds_data_set_by_name_or_folder(tmp_path):
    builder = builders.prepare(DifflaxLabelled, tmp_path)
    options = {"image_key": "picture", "caption_key": "kind", "caption_template": "a photo of a {}"}
    by_name = sources.Tfds(
        builder="difflax_labelled", data_dir=str(tmp_path), height=8, width=8, channels=1, **options
    )
    by_folder = sources.Tfds(builder=str(builder.data_path), height=8, width=8, channels=1, **options)
    for source in (by_name, by_folder):
        rows = source.split("train")
        wanted = {(i, f"a photo of a {'dog' if i % 2 else 'cat'}") for i in range(6)}
        assert {(int(row.image[0, 0, 0]), row.caption) for row in rows.__getitems__(range(6))} == wanted
        assert rows[0].image.shape == source.image_shape == (8, 8, 1)


def test_tfds_mistakes_are_one_line(tmp_path, data_dir):
    builder = builders.prepare(DifflaxLabelled, tmp_path)
    size = {"height": 8, "width": 8}
    labelled = {"builder": str(builder.data_path), **size}
    mistakes = [
        ({"builder": "no_such_data", **size}, "neither a TFDS name nor the folder"),
        ({"builder": "difflax_digits", "data_dir": str(tmp_path), **size}, "is not prepared in"),
        (labelled, "image_key = 'image' is no feature.* picture"),
        ({**labelled, "image_key": "picture"}, "caption_key = 'caption' is no feature"),
        ({**labelled, "image_key": "picture", "caption_key": "weight"}, "must be a Text or a ClassLabel"),
    ]
    for settings, message in mistakes:
        with pytest.raises(UserError, match=message) as error:
            sources.Tfds(**settings).split("train")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no split 'val'; there are train"):
        sources.Tfds(**labelled).split("val")
    for wrong in ({"height": 0}, {"channels": 2}, {"flip": 2.0}, {"caption_template": "a photo"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            sources.Tfds(**{**labelled, **wrong})


def test_folder_with_captions_beside_the_images(tmp_path):
    pictures(tmp_path / "sub", ["b.png"])
    pictures(tmp_path, ["c.JPG", "a.png"], size=(24, 12))
    for name, caption in (("sub/b", "bee\n"), ("c", "sea"), ("a", " ay ")):
        (tmp_path / f"{name}.txt").write_text(caption)
    rows = sources.Folder(path=str(tmp_path), height=6, width=6, flip=0.5).split("train")
    assert list(rows.captions) == ["ay", "sea", "bee"]
    assert [rows[i].image.shape for i in range(3)] == [(6, 6, 3)] * 3
    np.testing.assert_array_equal(rows[0].image, np.full((6, 6, 3), (10, 0, 245)))
    assert rows.flip == 0.5


def test_folder_with_a_list_and_splits(tmp_path):
    for split in ("train", "test"):
        pictures(tmp_path / split, ["1.png", "2.png"])
        lines = [{"file_name": f"{i}.png", "label": f"{split} {i}"} for i in (2, 1)]
        (tmp_path / split / "metadata.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    source = sources.Folder(path=str(tmp_path), height=8, width=8, caption_key="label")
    for split in ("train", "test"):
        rows = source.split(split)
        assert list(rows.captions) == [f"{split} 2", f"{split} 1"]
        np.testing.assert_array_equal(rows[0].image[0, 0], (10, 0, 245))


def test_folder_mistakes_are_one_line(tmp_path):
    def refuse(message, split="train", path=tmp_path):
        with pytest.raises(UserError, match=message) as error:
            sources.Folder(path=str(path), height=8, width=8).split(split)
        assert "\n" not in str(error.value)

    refuse("no such folder", path=tmp_path / "nowhere")
    refuse("no image there")
    pictures(tmp_path, ["a.png", "b.png"])
    (tmp_path / "a.txt").write_text("ay")
    refuse(r"1 of 2 images have no caption; write the one of b\.png")
    refuse("no split 'test'; make the folder", split="test")
    listing = tmp_path / "metadata.jsonl"
    for line, message in (
        ("not json", "line 2 is not JSON"),
        ('{"file_name": "b.png"}', "line 2 has no text under 'text'"),
        ('["b.png"]', "line 2 has no text under 'file_name'"),
        ('{"file_name": "z.png", "text": "zed"}', "line 2 names z.png, which is not there"),
    ):
        listing.write_text('{"file_name": "a.png", "text": "ay"}\n' + line)
        refuse(message)
    with pytest.raises(ValueError, match="flip"):
        sources.Folder(path="x", height=8, width=8, flip=-0.1)


def test_a_broken_image_names_its_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "a.txt").write_text("ay")
    rows = sources.Folder(path=str(tmp_path), height=8, width=8).split("train")
    with pytest.raises(UserError, match=r"a\.png cannot be read"):
        rows[0]


def test_records_are_what_loaders_expect(data_dir, tmp_path):
    pictures(tmp_path, ["a.png"])
    (tmp_path / "a.txt").write_text("ay")
    for source in (sources.Digits(data_dir=data_dir), sources.Folder(path=str(tmp_path), height=8, width=8)):
        rows = source.split("train")
        assert isinstance(rows[0], records.Record)
        assert rows[0].image.dtype == np.uint8 and 0 <= rows.flip <= 1
