"""Captions that are drawn, from the data to what a network is told: cached latents, texts, the step."""

import io

import numpy as np
import pytest
from difflax.config import experiment
from difflax.config.checks import check
from difflax.config.experiments import parse
from difflax.core.types import UserError
from difflax.data.latents import cache_latents
from difflax.data.loader import Loader
from difflax.data.records import every_caption
from difflax.runs.diffusion import prepare_diffusion
from etils import epath
from PIL import Image

from tests.data.stores import Example, store
from tests.data.test_loader import rows_of, take
from tests.runs import random_clip

SHARES = {"text": 0.5, "alt": 0.5}


def examples(count=6):
    found = []
    for i in range(count):
        file = io.BytesIO()
        Image.new("RGB", (20, 16), (40 * i, 0, 0)).save(file, "PNG")
        fields = {"text": f"a circle, red, small, {i}", "alt": f"a square {i}"}
        found.append(Example(f"{i:04d}", file.getvalue(), fields))
    return found


@pytest.mark.parametrize("kind", ["jsonl", "webdataset", "parquet", "mixture"])
def test_cached_latents_draw_the_same_captions(kind, tmp_path):
    fields = {"caption": SHARES, "shuffle_tags": kind == "jsonl", "height": 16, "width": 16}
    if kind == "mixture":
        fields = {"height": 16, "width": 16, "weights": (0.25, 0.75)}
    records = store(kind, tmp_path / "data", examples(), **fields).split("train")
    cached = cache_latents(
        records, lambda images: images[:, ::4, ::4], tmp_path / "latents.npy", encoder="a part of them"
    )
    rows = cached.records(records)
    assert (rows.epoch is None) == (kind != "mixture")
    batches = {
        one: take(Loader(source, batch_size=3, seed=0, epoch=source.epoch), 8)
        for one, source in (("pictures", records), ("latents", rows))
    }
    for picture, latent in zip(batches["pictures"], batches["latents"], strict=True):
        assert picture["caption"] == latent["caption"]
        np.testing.assert_array_equal(cached.latents[latent["index"]], picture["image"][:, ::4, ::4])
        np.testing.assert_array_equal(picture["corner"], latent["corner"])
    assert set(rows_of(batches["latents"])) == set(range(6))
    if kind == "jsonl":
        assert every_caption(rows) is None and every_caption(records) is None
    else:
        said = {caption for batch in batches["latents"] for caption in batch["caption"]}
        assert said <= set(every_caption(rows)) == set(every_caption(records))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return random_clip(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_network_is_told_the_caption_that_was_drawn(shuffled, clip, tmp_path):
    source = store("webdataset", tmp_path / "data", examples(), height=16, width=16)
    config = experiment("unet2d_condition", "webdataset", prediction="x0", sampler="ddim")
    config.text_encoder.path = str(clip)
    config.model.update(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=32,
        norm_num_groups=4,
    )
    config.data.update(path=source.path, data_dir=source.data_dir, height=16, width=16, crop="random")
    config.data.caption = SHARES
    config.data.shuffle_tags = shuffled
    config.training.update(steps=2, batch_size=4)
    config.optimizer.warmup_steps = 1
    prepared = parse(config)
    check(prepared)
    task = prepare_diffusion(prepared, epath.Path(tmp_path / "run"))
    told: dict[str, np.ndarray] = {}
    for _ in range(5):
        batch = next(task.loader)
        context = np.asarray(task.prepare(batch)["conditioning"].context)
        for caption, row in zip(batch["caption"], context, strict=True):
            np.testing.assert_allclose(told.setdefault(caption, row), row, atol=1e-5)
    assert {caption[:8] for caption in told} >= {"a square"} and len(told) > 6


@pytest.mark.parametrize(
    ("cache", "fields", "says"),
    [
        ("text", {"shuffle_tags": True}, "captions with shuffled tags"),
        ("latents", {"crop": "random"}, "cached images are not cut anew"),
    ],
)
def test_what_no_cache_holds_is_refused(cache, fields, says):
    config = experiment("pretrained", "image_folder")
    config.data.update(path="x", height=16, width=16, **fields)
    config.model.path = "y"
    config.cache[cache] = True
    with pytest.raises(UserError, match=says):
        check(parse(config))
