"""Images of several shapes in batches of one, and what of its original each image shows."""

import collections
import json

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.data.buckets import nearest_bucket
from difflax.data.loader import Loader
from difflax.data.sources import ImageFolder
from difflax.data.transforms import fit, frame
from PIL import Image

SIZES = [(40, 60)] * 7 + [(64, 30)] * 6 + [(33, 33)] * 5
BUCKETS = ((16, 24), (24, 12))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("pictures")
    lines = []
    for i, (height, width) in enumerate(SIZES):
        Image.new("RGB", (width, height), (i, 0, 0)).save(place / f"{i:02d}.png")
        lines.append(json.dumps({"file_name": f"{i:02d}.png", "text": f"number {i}", "looks": i / 2}))
    (place / "metadata.jsonl").write_text("\n".join(lines))
    return place


def records(folder, **fields):
    return ImageFolder(path=str(folder), height=16, width=16, **fields).split("train")


def bucketed(folder, **settings):
    split = records(folder, buckets=BUCKETS)
    return Loader(split, buckets=split.buckets, **{"batch_size": 4, "seed": 3} | settings)


def rows_of(loader, batches):
    return np.array([next(loader)["index"] for _ in range(batches)])


def test_the_nearest_aspect_ratio():
    assert nearest_bucket(100, 100, [(64, 64), (48, 80)]) == 0
    assert nearest_bucket(600, 1000, [(64, 64), (48, 80)]) == 1
    # 1.5 lies between 1 and 2, nearer to 2 as a ratio of ratios.
    assert nearest_bucket(150, 100, [(10, 10), (20, 10)]) == 1


def test_a_batch_holds_images_of_one_shape_uncut_but_for_the_ratio(folder):
    loader = bucketed(folder)
    shapes = set()
    for _ in range(8):
        batch = next(loader)
        shapes.add(batch["image"].shape)
        sizes = {SIZES[row] for row in batch["index"]}
        assert len(sizes) == 1
        np.testing.assert_array_equal(batch["original_size"], [SIZES[row] for row in batch["index"]])
        red = batch["image"][..., 0].reshape(4, -1)
        np.testing.assert_array_equal(red, np.repeat(batch["index"][:, None], red.shape[1], axis=1))
    assert shapes == {(4, 16, 16, 3), (4, 16, 24, 3), (4, 24, 12, 3)}


def test_an_epoch_has_each_row_at_most_once_and_every_row_comes_in_time(folder):
    loader = bucketed(folder)
    epochs = [rows_of(loader, 3).ravel() for _ in range(12)]  # 7 // 4 + 6 // 4 + 5 // 4 batches
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert set(np.concatenate(epochs)) == set(range(len(SIZES)))
    assert len({tuple(epoch) for epoch in epochs}) == 12


def test_it_goes_on_where_it_stopped_and_is_shared_among_processes(folder):
    whole = rows_of(bucketed(folder), 9)
    first = bucketed(folder)
    rows_of(first, 4)
    again = bucketed(folder)
    again.set_state(json.loads(json.dumps(first.get_state())))
    np.testing.assert_array_equal(rows_of(again, 5), whole[4:])
    for index in range(2):
        part = bucketed(folder, process_index=index, process_count=2)
        np.testing.assert_array_equal(rows_of(part, 9), np.split(whole, 2, axis=1)[index])
    plain = Loader(records(folder), batch_size=4, seed=3)
    with pytest.raises(UserError, match="buckets = None, not 3"):
        first.set_state(plain.get_state())


def test_without_shuffling_rows_come_in_their_order(folder):
    counts = collections.Counter(map(tuple, rows_of(bucketed(folder, shuffle=False), 6)))
    assert counts == {(0, 1, 2, 3): 2, (7, 8, 9, 10): 2, (13, 14, 15, 16): 2}


@pytest.mark.parametrize("batch_size", [6, 8, 50])
def test_a_bucket_that_fills_no_batch_has_one_when_it_is_due(folder, batch_size):
    """Its images are seen as often as those of other buckets: once an epoch."""
    loader = bucketed(folder, batch_size=batch_size)
    batches = rows_of(loader, 120)
    for batch in batches:
        assert len({SIZES[row] for row in batch}) == 1
    seen = np.bincount(batches.ravel(), minlength=len(SIZES))
    by_bucket = [seen[:7], seen[7:13], seen[13:]]
    for counts in by_bucket:
        assert counts.max() - counts.min() <= max(2, 0.2 * counts.mean())
    small = [counts.mean() for counts, size in zip(by_bucket, (7, 6, 5), strict=True) if size < batch_size]
    # So many epochs as the share of whole batches makes; a bucket that is due waits for less than a batch.
    whole = sum(size // batch_size for size in (7, 6, 5))
    if not whole:
        assert max(small) - min(small) <= 2 * batch_size / 5
    else:
        in_small = 120 * sum((7, 6, 5)[i] for i in range(3) if (7, 6, 5)[i] < batch_size) / batch_size
        epochs = 120 / (whole + in_small / 120)
        np.testing.assert_allclose(small, epochs, rtol=0.02, atol=2)


def test_small_buckets_go_on_where_they_stopped(folder):
    whole = rows_of(bucketed(folder, batch_size=6), 40)
    for done in (1, 7, 23):
        again = bucketed(folder, batch_size=6)
        again.set_state({**again.get_state(), "next_batch": done})
        np.testing.assert_array_equal(rows_of(again, 40 - done), whole[done:])
    for index in range(2):
        part = bucketed(folder, batch_size=6, process_index=index, process_count=2)
        np.testing.assert_array_equal(rows_of(part, 40), np.split(whole, 2, axis=1)[index])


def test_a_picture_that_cannot_be_read_is_in_no_bucket_alone(tmp_path):
    """Five wide pictures, and one that would be the only tall one and is cut short."""
    for i in range(5):
        Image.new("RGB", (60, 40), (i, 0, 0)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("wide")
    Image.effect_noise((30, 64), 50).save(tmp_path / "5.png")
    (tmp_path / "5.png").write_bytes((tmp_path / "5.png").read_bytes()[:200])
    (tmp_path / "5.txt").write_text("tall")
    split = records(tmp_path, buckets=BUCKETS)
    assert len(set(split.buckets)) == 1
    loader = Loader(split, buckets=split.buckets, batch_size=2, seed=0, max_bad_examples=0.2)
    assert {int(row) for row in rows_of(loader, 12).ravel()} == set(range(5))
    assert "5.png cannot be read as an image" in loader.new_faults()[0]


def test_the_frame_says_what_was_cut():
    """A gradient shows which of its pixels are left."""
    wide = np.broadcast_to(np.arange(90, dtype=np.uint8)[None, :, None], (30, 90, 3))
    made = frame((30, 90), 15, 15)
    assert made.original_size == (30, 90)
    assert made.corner == (0, 15)  # 15 × 45 when resized, of which 15 columns are left in the middle
    whole = np.asarray(Image.fromarray(wide).resize((45, 15), Image.Resampling.LANCZOS))
    np.testing.assert_allclose(fit(wide, 15, 15, 3), whole[:, 15:30], atol=1)
    assert frame((40, 20), 40, 40).corner == (20, 0)
    assert frame((8, 8), 16, 16) == frame((8, 8), 32, 32)


def test_scores_come_from_the_listing(folder):
    loader = Loader(records(folder, score_key="looks"), batch_size=4, seed=0)
    batch = next(loader)
    np.testing.assert_allclose(batch["score"], batch["index"] / 2)
    with pytest.raises(UserError, match="no number under 'text'"):
        records(folder, score_key="text")
