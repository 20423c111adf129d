"""Examples that cannot be used: passed over, named, the same in every reading, and fatal if they are many."""

import numpy as np
import pytest
from difflax.core.types import BadExample, UserError
from difflax.data.loader import Loader
from difflax.data.sources import Digits, ImageFolder
from PIL import Image

from tests.data.test_loader import rows_of, take


@pytest.fixture
def folder(tmp_path):
    """Twenty pictures; 3 is no picture, 7 has no caption, 11 is cut short."""
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02}.png")
        (tmp_path / f"{i:02}.txt").write_text(f"picture {i}" if i != 7 else " \n")
    (tmp_path / "03.png").write_bytes(b"no picture")
    (tmp_path / "11.png").write_bytes((tmp_path / "11.png").read_bytes()[:100])
    return tmp_path


def loader(folder, *, share=0.2, **options):
    records = ImageFolder(path=str(folder), height=8, width=8).split("train")
    return Loader(records, batch_size=4, seed=0, max_bad_examples=share, **options)


@pytest.mark.parametrize("in_memory", [None, False])
def test_bad_examples_are_passed_over_and_named(in_memory, folder):
    batches = loader(folder, in_memory=in_memory)
    rows = rows_of(take(batches, 5))
    assert set(rows) == set(range(20)) - {3, 7, 11}
    assert [np.sum(rows == row) for row in (4, 8, 12)] == [2, 2, 2]  # the next stands in for each
    faults = batches.new_faults()
    assert sorted(fault.split(" ")[0].rsplit("/")[-1] for fault in faults) == ["03.png", "07.png", "11.png"]
    take(batches, 5)
    assert batches.new_faults() == []  # each is named once


def test_the_same_examples_stand_in_after_a_restart_and_in_memory(folder):
    straight = take(loader(folder, in_memory=None), 9)
    fresh = loader(folder, in_memory=False)
    fresh.set_state({**fresh.get_state(), "next_batch": 5})
    for one, other in zip(take(fresh, 4), straight[5:], strict=True):
        assert one["caption"] == other["caption"]
        np.testing.assert_array_equal(one["image"], other["image"])


@pytest.mark.parametrize("in_memory", [None, False])
def test_too_many_are_an_error(in_memory, folder):
    with pytest.raises(UserError, match="3 of 20 examples cannot be used, more than"):
        take(loader(folder, share=0.1, in_memory=in_memory), 5)
    with pytest.raises(BadExample, match=r"cannot be read as an image|empty caption"):
        take(loader(folder, share=0.0, in_memory=in_memory), 5)


def test_data_without_one_usable_example_is_an_error(folder):
    for path in folder.glob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="examples cannot be used"):
        loader(folder, share=0.9)


def test_a_truncated_shard_is_as_bad_as_its_rows(tmp_path):
    """The file's index stands at its end, so nothing of it can be read."""
    source = Digits(data_dir=str(tmp_path))
    whole = source.split("train")
    captions = list(whole.captions)
    shards = sorted(path for path in tmp_path.rglob("*train*") if path.is_file())
    data = shards[0].read_bytes()
    shards[0].write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"cut short or broken|cannot be used"):
        records = source.split("train")
        assert len(records.captions) == len(captions)
        take(Loader(records, batch_size=4, seed=0, max_bad_examples=0.5), 10)
