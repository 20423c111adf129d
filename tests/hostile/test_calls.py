"""Hostile arguments of a pipeline's call: a UserError in one line, before anything is encoded or compiled."""

import difflax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core import memory
from difflax.diffusion.samplers import DDIM
from difflax.generation.arguments import READERS
from difflax.generation.request import Request
from PIL import Image

from tests.fixtures import make_stable_diffusion as reference
from tests.hostile.answers import refusal

NAN, INF = float("nan"), float("inf")
NUMBERS = ("7", b"7", [], {}, NAN, INF, -INF, 1j, 10**400, 10**5000, object(), True, np.ones(3))
WHOLE = (*NUMBERS, 1.5, 0, -8, 10**9, 2**63, np.float32(1))
TEXTS = (
    7,
    b"a cat",
    {},
    object(),
    True,
    [None],
    [b"a"],
    ["a", 1],
    [["a"]],
    [["a"], ["b", "c"]],
    np.array(1),
    {"a": 1},
    "a".encode,
)
TRUTHS = ("True", 2, None, [], NAN, object())

VALUES = {
    "prompt": (*TEXTS, None, [], ()),
    "negative_prompt": (*TEXTS, [], ["a", "b"]),
    "guidance_scale": (*NUMBERS, 1e39, -1e308),
    "num_steps": WHOLE,
    "sampler": ("ddmi", "", 7, b"ddim", None.__class__, [], object(), DDIM),
    "seed": (*NUMBERS[:-1], None, 1.5, -1, 2**32, 2**63, [0, 1], [-1], [None], "0", ["0"]),
    "height": WHOLE,
    "width": WHOLE,
    "num_images": (*WHOLE, None),
    "latents": (
        "a",
        1,
        [1],
        [[1], [1, 2]],
        np.zeros(3, np.float32),
        np.full((1, 8, 8, 4), NAN, np.float32),
        {},
    ),
    "strength": (*NUMBERS, 0.0, -1, 1.5, 0.5),
    "invert": (*TEXTS, "a picture"),
    "denoising_start": (*NUMBERS, 0.0, 1.0, 0.5),
    "denoising_end": (*NUMBERS, 0.0, 1.0),
    "trajectory": TRUTHS,
    "weighted": TRUTHS,
    "chunked": TRUTHS,
    "clip_skip": (*NUMBERS, 1.5, -1, 10**9),
    "prompt_2": TEXTS,
    "image_guidance_scale": (*NUMBERS, 1.5),
    "nonsense": (1,),
    "image": (
        *(
            "a.png",
            b"bytes",
            7,
            {},
            [],
            [None],
            object(),
            np.zeros(3),
            np.zeros((0, 0, 3)),
            np.zeros((8, 8, 7)),
        ),
        *(np.full((64, 64, 3), 2.0), np.full((64, 64, 3), NAN), np.zeros((64, 64, 3), complex)),
        *([[1, 2], [3]], np.zeros((9, 9, 3), np.uint8), np.zeros((2, 64, 64, 3), np.uint8)),
    ),
}
CASES = [(name, i) for name, values in VALUES.items() for i in range(len(values))]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = reference.build("sd15", tmp_path_factory.mktemp("checkpoint") / "sd15")
    return difflax.from_pretrained(str(folder), variant="fp16")


@pytest.mark.parametrize(("name", "index"), CASES)
def test_is_answered_in_one_line(name, index, pipeline):
    arguments = {"prompt": "a cat", "num_steps": 1, name: VALUES[name][index]}
    with refusal():
        pipeline(**arguments)


@pytest.mark.parametrize(
    "mask", ["a", None.__class__, np.zeros(3), np.zeros((64, 64)), np.full((64, 64), NAN), [[1], [1, 2]], {}]
)
def test_a_mask_that_is_none(mask, pipeline):
    picture = Image.new("RGB", (64, 64))
    with refusal():
        pipeline("a cat", image=picture, mask=mask)


def test_arguments_that_are_given_twice_or_not_at_all(pipeline):
    for arguments, named in ((("a", None, 1), {"guidance_scale": 1}), ((), {}), (("a",) * 20, {})):
        with refusal():
            pipeline(*arguments, **named)


def test_every_argument_has_a_reader():
    own = set(Request.__dataclass_fields__) - {"options", "image", "mask"}
    assert own <= set(READERS)


def test_a_half_of_a_pair_of_surrogates_becomes_a_character(pipeline):
    read = Request.of("a \ud83d cat", "b\ude00", prompt_2=["c\ud800"])
    assert (read.prompt, read.negative_prompt) == ("a \ufffd cat", "b\ufffd")
    assert read.options["prompt_2"] == ("c\ufffd",)


def test_the_last_images_seed_is_one_too(pipeline):
    with refusal("seed: the last image.s would be 4294967296"):
        pipeline("a cat", seed=2**32 - 1, num_images=2, num_steps=1)


def test_seeds_of_numpy_are_seeds():
    assert Request.of("a", seed=np.uint32(2**32 - 1)).seed == 2**32 - 1
    assert Request.of(["a", "b"], seed=np.array([1, 2])).seed == (1, 2)


def test_scalars_of_jax_and_numpy_are_numbers():
    read = Request.of("a", guidance_scale=jnp.float32(2.5), num_steps=np.array(7))
    assert (read.guidance_scale, read.num_steps) == (2.5, 7)


def test_an_image_that_no_machine_decodes(pipeline, monkeypatch):
    """The decoder's widest layer counts, not only the image."""
    monkeypatch.setattr(memory, "host_memory", lambda: 2**20)
    with refusal("decoding one image of 256 × 256 pixels would need"):
        pipeline("a", height=256, width=256, num_steps=1)


def test_latents_of_jax_are_latents():
    assert Request.of("a", latents=jnp.zeros((1, 8, 8, 4))).latents.shape == (1, 8, 8, 4)
