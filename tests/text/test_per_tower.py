"""Other prompts for single text encoders, and earlier layers, against diffusers' ``encode_prompt``."""

import dataclasses

import difflax
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.text.per_tower import prompts_of_towers, with_clip_skip
from difflax.text.prompts import encode_prompts

from tests.pretrained.adapters.families import FAMILIES

PROMPTS = ("a red cat on a table", "watercolour, soft light", "three small birds")
TOWERS = {"sd15": 1, "sdxl": 2, "sd3": 3}


@pytest.fixture(scope="module", params=[family.name for family in FAMILIES])
def family(request):
    return next(family for family in FAMILIES if family.name == request.param)


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return family.build(tmp_path_factory.mktemp("checkpoint") / "checkpoint")


@pytest.fixture(scope="module")
def encoder(family, folder):
    pipeline = difflax.from_pretrained(str(folder), variant="fp16", batch_size=1, **family.options)
    return pipeline.model.text_encoder


@pytest.fixture(scope="module")
def theirs(family, folder):
    """diffusers' context and pooled vector, or ``None``, of prompts for its text encoders."""
    torch = pytest.importorskip("torch")
    made = family.load(folder)
    if family.name == "sd15":
        # diffusers 0.42 asks for a part of the text tower that transformers 5 left out.
        object.__setattr__(made.text_encoder, "text_model", made.text_encoder)

    def encode(prompts, **options):
        given = dict.fromkeys(("prompt", "prompt_2", "prompt_3")[: TOWERS[family.name]])
        given |= dict(zip(given, prompts, strict=False)) | options | family.call
        given |= {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        with torch.no_grad():
            out = made.encode_prompt(**given)
        return out[0].numpy(), None if family.name == "sd15" else out[2].numpy()

    return encode


def compare(encoder, prompts, expected):
    made = encode_prompts(encoder, prompts) if isinstance(prompts[0], str) else encoder.encode(prompts)
    context, pooled = expected
    assert np.abs(np.asarray(made.context) - context).max() / np.abs(context).max() < 1e-4
    if pooled is not None:
        assert np.abs(np.asarray(made.pooled) - pooled).max() / np.abs(pooled).max() < 1e-4


@pytest.mark.parity
@pytest.mark.parametrize("clip_skip", [None, 0, 1])
def test_clip_skip(encoder, theirs, clip_skip):
    skipped = with_clip_skip(encoder, clip_skip)
    compare(skipped, PROMPTS[:1], theirs(PROMPTS[:1], clip_skip=clip_skip))
    same = np.array_equal(skipped.encode(PROMPTS[:1]).context, encoder.encode(PROMPTS[:1]).context)
    assert same == (clip_skip in (None, 0))


@pytest.mark.parity
@pytest.mark.parametrize("count", [2, 3])
def test_a_prompt_for_each_text_encoder(family, encoder, theirs, count):
    if count > TOWERS[family.name]:
        others = [[prompt] for prompt in PROMPTS[1:count]]
        with pytest.raises(UserError, match=f"prompt_{count}: this model reads prompts with"):
            prompts_of_towers(encoder, PROMPTS[:1], *others)
        return
    others = [[prompt] for prompt in PROMPTS[1:count]]
    prompts = prompts_of_towers(encoder, PROMPTS[:1], *others)
    compare(encoder, prompts, theirs(PROMPTS[:count]))


def test_without_other_prompts_they_are_as_they_were(encoder):
    assert prompts_of_towers(encoder, PROMPTS, None, None) == list(PROMPTS)


@pytest.mark.parametrize("clip_skip", [-1, 99, True])
def test_layers_that_are_not_there(encoder, clip_skip):
    with pytest.raises(UserError, match=r"clip_skip = .*from 0 to"):
        with_clip_skip(encoder, clip_skip)


def test_each_tower_says_its_part_of_a_conditioning_of_its_own(family, encoder):
    """The same as prompts that every tower reads for itself."""
    prompts = PROMPTS[: TOWERS[family.name]]
    wholes = [encoder.encode([prompt]) for prompt in prompts]
    picked = encoder.picked(wholes)
    expected = encoder.encode([tuple(prompts) if len(prompts) > 1 else prompts[0]])
    np.testing.assert_allclose(picked.context, expected.context, atol=1e-6)
    if picked.pooled is not None:
        np.testing.assert_allclose(picked.pooled, expected.pooled, atol=1e-6)
    one = encoder.encode([prompts[0]])
    assert np.array_equal(encoder.picked([one] * len(prompts)).context, one.context)
    without = dataclasses.replace(one, pooled=None)
    assert encoder.picked([without] * len(prompts)).pooled is None
