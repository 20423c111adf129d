"""A tiny CLIP that `difflax train` trained for a few seconds knows unseen scenes by their captions."""

import jax
import numpy as np
import pytest
from difflax.data.shapes.examples import make_examples
from difflax.pretrained.components.clip import load_clip
from difflax.text.contrastive import retrieval
from difflax.text.joint import clip_network
from scipy.stats import binom

from tests.runs import command

# On one worker, so that what the tests share is made once.
pytestmark = [pytest.mark.xdist_group("trained_clip"), pytest.mark.slow]

SCENES = 256

CONFIG = """
from tests.runs import load_config


def get_config(arg=""):
    config = load_config("clip", "shapes").unlock()
    config.data = {"name": "shapes", "train": 2000, "test": 8, "held_out": 8}
    config.training.update({"steps": 150, "batch_size": 64})
    for tower in ("text_config", "vision_config"):
        config.model[tower].update({"hidden_size": 64, "intermediate_size": 128})
    return config.lock()
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    (folder / "small.py").write_text(CONFIG)
    workdir = folder / "run"
    status, _, errors = command("train", f"--config={folder / 'small.py'}", f"--workdir={workdir}")
    assert status == 0, errors
    return load_clip(workdir / "clip")


@pytest.fixture(scope="module")
def unseen():
    """Captions and images of scenes that training, on rows of "train", never drew."""
    examples = make_examples(0, "test", range(1000, 1000 + SCENES))
    captions = [example.caption for example in examples]
    ids = np.asarray([captions.index(caption) for caption in captions])
    return captions, np.stack([example.image for example in examples]) / 255, ids


def recalls(clip, unseen):
    captions, images, ids = unseen
    return retrieval(clip.text_features(captions) @ clip.image_features(images).T, jax.numpy.asarray(ids))


def test_retrieval_on_unseen_scenes_is_far_above_chance(clip, unseen):
    found = recalls(clip, unseen)
    assert found.chance < 0.01
    assert found.text_to_image > 10 * found.chance
    assert found.image_to_text > 10 * found.chance


def test_random_weights_are_at_chance(clip, unseen):
    found = recalls(clip.replace(params=clip_network(clip.config).init(jax.random.key(1))), unseen)
    # What 256 guesses exceed once in a million times.
    limit = binom.isf(1e-6, SCENES, float(found.chance)) / SCENES
    assert found.text_to_image <= limit
    assert found.image_to_text <= limit
