"""A checkpoint that edits images (InstructPix2Pix), and guidances given by name; the image of a whole run is
compared with diffusers' in test_stable_diffusion.py.
"""

import difflax
import numpy as np
import pytest
from difflax import runs
from difflax.core.types import UserError
from difflax.generation import program as sampling
from difflax.generation.conditions import named
from PIL import Image

from tests.fixtures import make_stable_diffusion as reference
from tests.runs import command

# On one worker, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("editing")

SMALL = {"num_steps": 3, "height": 32, "width": 40}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return reference.build("sd15_editing", tmp_path_factory.mktemp("editing") / "sd15_editing")


@pytest.fixture(scope="module")
def pipeline(folder):
    return difflax.from_pretrained(str(folder), variant="fp16", batch_size=2)


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).random((2, 32, 40, 3), np.float32)


def test_the_scales_are_what_the_paper_says(pipeline, pictures):
    """At 1 and 1 neither the negative prompt nor the lack of an image counts; at 0 and 0 nothing else does.
    New scales compile nothing.
    """
    first, second = pictures
    off = {"guidance_scale": 1.0, "image_guidance_scale": 1.0, **SMALL}
    with_both = pipeline("make it red", image=first, **off)
    compiled = sampling.sample_batch._cache_size()
    np.testing.assert_allclose(pipeline("make it red", "blurry", image=first, **off), with_both, atol=1e-4)
    assert np.abs(pipeline("make it red", image=second, **off) - with_both).max() > 0.02
    none = {"guidance_scale": 0.0, "image_guidance_scale": 0.0, **SMALL}
    with_neither = pipeline("make it red", image=first, **none)
    np.testing.assert_allclose(pipeline("a dog", image=second, **none), with_neither, atol=1e-4)
    assert np.abs(with_neither - with_both).max() > 0.02
    assert sampling.sample_batch._cache_size() == compiled


@pytest.mark.slow
def test_guidance_by_the_text_alone_is_the_same_at_equal_scales(pipeline, pictures):
    """``neither + (image - neither) + s (both - image)`` is plain guidance with the image in both."""
    plain = runs.with_guidance(pipeline, "{'name': 'cfg', 'scale': 3.0}")
    made = [
        p("make it red", "blurry", 3.0, image=pictures[0], **scales, **SMALL)
        for p, scales in ((pipeline, {"image_guidance_scale": 1.0}), (plain, {}))
    ]
    np.testing.assert_allclose(*made, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "edits images: give image"),
        ({"image": True, "strength": 0.5}, "strength does not go"),
        ({"image": True, "mask": np.ones((32, 40))}, "mask does not go"),
        ({"image": True, "image_guidance_scale": float("nan")}, "image_guidance_scale=nan"),
    ],
)
def test_what_cannot_be(pipeline, pictures, given, says):
    given = given | ({"image": pictures[0]} if "image" in given else {})
    with pytest.raises(UserError, match=says):
        pipeline("make it red", **given, **SMALL)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("two_condition", "reads the image it edits"),
        ("apq", "did you mean 'apg'"),
        ("{'name': 'cfg'", "give a name, or a section"),
        ("{'name': 'cfg', 'scal': 3}", "did you mean 'scale'"),
        ("autoguidance", "needs --guidance.weak"),
        ("{'name': 'autoguidance', 'weak': {'step': 3}}", "itself with a perturbation"),
    ],
)
def test_a_guidance_that_cannot_be_is_one_line(tmp_path, text, says):
    plain = reference.build("sd15", tmp_path / "sd15")
    given = ("sample", f"--pretrained={plain}", "--variant=fp16", "--prompt=a cat", f"--guidance={text}")
    status, _, errors = command(*given, f"--output={tmp_path / 'out'}")
    assert status == 2 and says in errors and len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_on_the_command_line(folder, pictures, tmp_path):
    Image.fromarray((pictures[0] * 255).astype(np.uint8)).save(tmp_path / "in.png")
    given = ("sample", f"--pretrained={folder}", "--variant=fp16", "--prompt=make it red", "--num_steps=2")
    status, _, errors = command(
        *given, f"--image={tmp_path / 'in.png'}", "--image_guidance_scale=1.2", f"--output={tmp_path / 'out'}"
    )
    assert status == 0, errors
    made = Image.open(tmp_path / "out" / "0000_seed0.png")
    assert made.size == (40, 32) and made.text["image_guidance_scale"] == "1.2"


@pytest.mark.slow
def test_a_perturbation_by_name_guides_a_checkpoint(tmp_path):
    plain = difflax.from_pretrained(str(reference.build("sd15", tmp_path / "sd15")), variant="fp16")
    weak = {"perturbation": {"kind": "identity", "layers": "down_blocks"}}
    none, much = (
        runs.with_guidance(
            plain, repr({"name": "perturbation", "scale": 1.0, "perturbation_scale": strength, "weak": weak})
        )("a cat", **SMALL)
        for strength in (0.0, 2.0)
    )
    assert np.abs(much - none).max() > 0.02


def test_saving_keeps_what_it_is(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    assert "StableDiffusionInstructPix2PixPipeline" in (tmp_path / "model_index.json").read_text()
    assert difflax.from_pretrained(str(tmp_path)).model.conditions == named(("text", "picture"))
