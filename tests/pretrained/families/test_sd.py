"""Stable Diffusion 1.5, 2.1-base, 2.1-v, inpainting and editing, at small width with the true structure,
against what PyTorch diffusers and transformers computed from the same weights
(tests/fixtures/make_stable_diffusion.py).
"""

import difflax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning

from tests.fixtures import make_stable_diffusion as reference

CASES = list(reference.CASES)
SETTINGS = {
    "negative_prompt": reference.NEGATIVE,
    "guidance_scale": reference.SCALE,
    "num_steps": reference.STEPS,
    "height": reference.HEIGHT,
    "width": reference.WIDTH,
}


@pytest.fixture(scope="session")
def tensors():
    return reference.references()


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    folder = reference.build(request.param, tmp_path_factory.mktemp("checkpoints") / request.param)
    return request.param, difflax.from_pretrained(str(folder), variant="fp16")


def of_cases(*names):
    """The fixture with these in the fast tier: each program of the others takes its time to compile."""
    params = [pytest.param(name, marks=[] if name in names else pytest.mark.slow) for name in CASES]
    return pytest.mark.parametrize("case", params, indirect=True, scope="module")


def section(tensors, prefix):
    return {n.removeprefix(prefix + "."): t for n, t in tensors.items() if n.startswith(prefix + ".")}


def relative_error(ours, theirs):
    """The largest error over the largest value."""
    assert np.asarray(ours).shape == theirs.shape
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def pictures(name, given):
    """What a case's pipeline reads beside the prompt."""
    if "inpainting" in name:
        return {"image": given["image"], "mask": given["mask"]}
    if "editing" in name:
        return {"image": given["image"], "image_guidance_scale": reference.IMAGE_SCALE}
    return {}


def test_text_encoder(case, tensors):
    name, pipeline = case
    expected = section(tensors, name)
    prompts = [reference.PROMPT, reference.NEGATIVE, ""]
    np.testing.assert_array_equal(pipeline.model.text_encoder.tokenizer(prompts), expected["input_ids"])
    encoded = pipeline.model.text_encoder.encode(prompts)
    assert relative_error(encoded.context, expected["context"]) < 1e-5
    assert relative_error(encoded.pooled, expected["pooled"]) < 1e-5


@of_cases("sd15")  # the others have the same
def test_autoencoder(case, tensors):
    _, pipeline = case
    given, expected = section(tensors, "inputs"), section(tensors, "sd15")
    network, params = pipeline.model.autoencoder.network, pipeline.model.autoencoder_params
    encode = jax.jit(lambda p, x: network.apply(p, x, method="encode"))
    decode = jax.jit(lambda p, x: network.apply(p, x, method="decode"))
    posterior = encode(params, jnp.asarray(given["image"]) * 2 - 1)
    assert relative_error(posterior.mean, expected["mean"]) < 3e-5
    assert relative_error(posterior.log_variance, expected["log_variance"]) < 3e-5
    decoded = decode(params, jnp.asarray(given["noise"]))
    assert relative_error(decoded, expected["decoded"]) < 3e-5


@of_cases("sd15", "sd21_base")  # a whole run evaluates those of the others
def test_unet(case, tensors):
    name, pipeline = case
    given, expected = section(tensors, "inputs"), section(tensors, name)
    x = jnp.asarray(given["noise"])
    if "inpainting" in name:
        image, mask = given["image"] * 2 - 1, given["mask"][..., None]
        under = pipeline.model.autoencoder.encode(
            pipeline.model.autoencoder_params, jnp.asarray(image * (1 - mask))
        )
        x = jnp.concatenate([x, mask[:, ::8, ::8], under], axis=-1)
    if "editing" in name:
        x = jnp.concatenate([x, section(tensors, "sd15")["mean"]], axis=-1)
    out = jax.jit(pipeline.model.network.apply)(
        pipeline.model.params, x, jnp.asarray([981.0]), Conditioning(context=expected["context"][:1])
    )
    assert relative_error(out, expected["unet"]) < 1e-4


@of_cases("sd21_v", "sd15_inpainting", "sd15_editing")
def test_a_whole_run_of_twenty_steps(case, tensors):
    name, pipeline = case
    given, expected = section(tensors, "inputs"), section(tensors, name)
    made = pipeline(reference.PROMPT, latents=given["noise"], **SETTINGS, **pictures(name, given))
    assert expected["image"].std() > 0.05
    assert np.abs(made - expected["image"]).max() < 5e-4


def test_from_an_image(tmp_path, tensors):
    given, expected = section(tensors, "inputs"), section(tensors, "sd21_v")
    pipeline = difflax.from_pretrained(str(reference.build("sd21_v", tmp_path / "sd")), variant="fp16")
    made = pipeline(
        reference.PROMPT,
        image=given["image"],
        strength=0.5,
        latents=expected["from_image_noise"],
        **SETTINGS,
    )
    assert np.abs(made - expected["from_image"]).max() < 2e-3
    whole = pipeline(reference.PROMPT, latents=expected["from_image_noise"], **SETTINGS)
    assert np.abs(made - whole).max() > 0.05
