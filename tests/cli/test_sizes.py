"""Training and sampling with sizes beside the text (Stable Diffusion XL's micro-conditioning)."""

import json

import difflax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.config.checks import check
from difflax.config.experiments import parse as parsed
from difflax.core.types import Conditioning
from difflax.models.size_conditioning import MicroConditioning
from difflax.runs.diffusion import prepare_diffusion
from difflax.training.objectives.denoising import drop_captions
from etils import epath
from PIL import Image

from tests.config.test_sections import parse
from tests.runs import SMALL, command, small_run

SIZES = [(32, 32)] * 4 + [(60, 40)] * 4 + [(20, 30)] * 4
MODEL = {
    "name": "unet2d_condition",
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 32,
    "norm_num_groups": 4,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    place = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    lines = []
    for i, (height, width) in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(place / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": "a red circle", "looks": 0.5 * i}))
    (place / "metadata.jsonl").write_text("\n".join(lines))
    return place


def overrides(pictures, vector, **data):
    """Command-line overrides of a small run; ``vector`` is the width of pooled text and numbers."""
    fields = {"name": "folder", "path": str(pictures), "height": 16, "width": 16, **data}
    model = MODEL | {"projection_class_embeddings_input_dim": vector}
    small = [one for one in SMALL if "config.data" not in one and "config.model" not in one]
    return (*small, f"--config.data={fields}", f"--config.model={model}", "--config.training.batch_size=4")


def small_config(pictures, clip_folder, vector, **data):
    return parse(f"--config.text_encoder.path={clip_folder}", *overrides(pictures, vector, **data))


def run(pictures, clip_folder, workdir, vector, steps=6, **data):
    """The exit status and the errors of a small run."""
    whole = small_run(clip_folder, workdir, steps=steps)
    base = [one for one in whole if one not in SMALL and "config.model" not in one]
    status, _, errors = command(*base, *overrides(pictures, vector, **data))
    return status, errors


def test_the_network_is_told_the_real_sizes(pictures, clip_folder, tmp_path):
    config = small_config(pictures, clip_folder, 16 + 6 * 4)
    check(parsed(config))
    prepared = prepare_diffusion(parsed(config), epath.Path(tmp_path / "run"))
    seen = set()
    for _ in range(6):
        batch = next(prepared.loader)
        made = prepared.prepare(batch)["conditioning"].time_ids
        for row, numbers in zip(batch["index"], made, strict=True):
            seen.add(tuple(map(int, numbers)))
            assert tuple(numbers[:2]) == SIZES[row]
    # 60 × 40 is 24 × 16 when its width is 16, of which the middle 16 rows are kept; 20 × 30 is 16 × 24.
    assert seen == {(32, 32, 0, 0, 16, 16), (60, 40, 4, 0, 16, 16), (20, 30, 0, 4, 16, 16)}


def test_a_refiner_is_told_the_score_of_the_data(pictures, clip_folder, tmp_path):
    config = small_config(pictures, clip_folder, 16 + 5 * 4, score_key="looks")
    prepared = prepare_diffusion(parsed(config), epath.Path(tmp_path / "run"))
    batch = next(prepared.loader)
    made = prepared.prepare(batch)["conditioning"].time_ids
    np.testing.assert_allclose(made[:, 4], batch["index"] / 2)


def test_dropped_captions_keep_their_sizes():
    rng = np.random.default_rng(0)
    given = Conditioning(
        context=jnp.asarray(rng.normal(size=(6, 2, 3)), jnp.float32),
        pooled=jnp.ones((6, 4)),
        time_ids=jnp.asarray(rng.normal(size=(6, 6)), jnp.float32),
    )
    null = Conditioning(context=jnp.zeros((1, 2, 3)), pooled=jnp.zeros((1, 4)))
    made = drop_captions(given, null, 1.0, jax.random.split(jax.random.key(0), 6))
    assert not made.context.any() and not made.pooled.any()
    np.testing.assert_array_equal(made.time_ids, given.time_ids)


@pytest.mark.slow
def test_a_run_with_buckets_trains_and_draws(pictures, clip_folder, tmp_path):
    workdir, buckets = tmp_path / "run", ((24, 16),)
    status, errors = run(pictures, clip_folder, workdir, 16 + 6 * 4, buckets=buckets)
    assert status == 0, errors
    pipeline = difflax.load(str(workdir))
    assert [condition.name for condition in pipeline.model.conditions] == ["text", "size"]
    plain, small = (
        pipeline("a red circle", num_steps=2, guidance_scale=1.0, micro=micro)
        for micro in (None, MicroConditioning(original_size=(4, 4)))
    )
    assert plain.shape == (1, 16, 16, 3)
    assert np.isfinite(plain).all()
    # The zero-initialised output layer has hardly learned; what is told must reach it all the same.
    assert not np.array_equal(plain, small)


@pytest.mark.parametrize(
    ("vector", "says"), [(39, "5 or 6 numbers of 4"), (16 + 5 * 4, "config.data has no scores")]
)
def test_what_does_not_fit_is_one_line(pictures, clip_folder, tmp_path, vector, says):
    status, errors = run(pictures, clip_folder, tmp_path / "run", vector, steps=4)
    assert status == 2
    assert says in errors
    assert len(errors.strip().splitlines()) == 1
