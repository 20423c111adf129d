"""Every class of pipeline that makes an image from a picture, each held against its own in diffusers on the
same random weights.
"""

import dataclasses
import inspect
import json

import difflax
import numpy as np
import pytest
import safetensors.numpy
from difflax.core.types import UserError
from difflax.pretrained.families import FAMILIES, read_configs
from difflax.pretrained.families.family import denoiser_network
from difflax.pretrained.format.layout import DIFFUSERS
from difflax.pretrained.format.safetensors import open_weights
from difflax.pretrained.format.torch_names import check_names
from difflax.pretrained.open import open_checkpoint

from tests.fixtures import make_sdxl, make_stable_diffusion, make_stable_diffusion_3

# On one worker, so that every checkpoint's program is compiled once.
pytestmark = pytest.mark.xdist_group("inpainting")

CASES = {
    # class of the index: the family, and the channels that its network reads
    "StableDiffusionImg2ImgPipeline": ("sd", 4),
    "StableDiffusionInpaintPipeline-4": ("sd", 4),
    "StableDiffusionInpaintPipeline-9": ("sd", 9),
    "StableDiffusionInstructPix2PixPipeline": ("sd", 8),
    "StableDiffusionXLImg2ImgPipeline": ("xl", 4),
    "StableDiffusionXLInpaintPipeline-4": ("xl", 4),
    "StableDiffusionXLInpaintPipeline-9": ("xl", 9),
    "StableDiffusionXLInstructPix2PixPipeline": ("xl", 8),
    "StableDiffusion3Img2ImgPipeline": ("sd3", 16),
    "StableDiffusion3InpaintPipeline-16": ("sd3", 16),
    "StableDiffusion3InpaintPipeline-33": ("sd3", 33),
}
BUILD = {
    # With DDIM: after a late start diffusers' PNDM takes the second step for the repeated first one.
    "sd": ("unet", "conv_in", lambda folder: make_stable_diffusion.build("sd21_v", folder)),
    "xl": ("unet", "conv_in", lambda folder: make_sdxl.build("base", folder, depths=(1, 1, 1))),
    "sd3": (
        "transformer",
        "pos_embed.proj",
        lambda folder: make_stable_diffusion_3.build("sd3_medium", folder),
    ),
}


def build(name, folder):
    """The folder of a case, whose first layer has as many channels as it says."""
    kind, channels = CASES[name]
    part, first, make = BUILD[kind]
    make(folder)
    index = json.loads((folder / "model_index.json").read_text()) | {"_class_name": name.partition("-")[0]}
    (folder / "model_index.json").write_text(json.dumps(index))
    config = json.loads((folder / part / "config.json").read_text())
    (folder / part / "config.json").write_text(json.dumps(config | {"in_channels": channels}))
    [path] = (folder / part).glob("*.safetensors")
    tensors = safetensors.numpy.load_file(path)
    kernel = tensors[f"{first}.weight"]
    more = np.random.default_rng(7).standard_normal((len(kernel), channels, *kernel.shape[2:]))
    wide = (more * kernel.std()).astype(kernel.dtype)
    wide[:, : kernel.shape[1]] = kernel
    safetensors.numpy.save_file(tensors | {f"{first}.weight": wide}, path, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """The name of a case, and its folder."""
    return request.param, build(request.param, tmp_path_factory.mktemp("inpainting") / "given")


@pytest.fixture(scope="module")
def pipeline(case):
    name, folder = case
    options = {"t5_length": make_stable_diffusion_3.LENGTH} if CASES[name][0] == "sd3" else {}
    return difflax.from_pretrained(str(folder), variant="fp16", **options)


def read(case):
    """The name of its class, and its configs."""
    name, folder = case
    return name.partition("-")[0], read_configs(folder)


def test_it_is_read_and_its_network_has_a_name_there(case):
    _, folder = case
    name, configs = read(case)
    assert configs.family.pipeline(configs).name == name
    network = denoiser_network(configs.family.network, json.dumps(configs.network), "float32")
    check_names(open_weights(folder / configs.denoiser, DIFFUSERS, variant="fp16"), network.abstract(), name)


@pytest.mark.parity
def test_it_samples_by_default_as_its_class_in_diffusers(case):
    diffusers = pytest.importorskip("diffusers")
    name, configs = read(case)
    call = inspect.signature(getattr(diffusers, name).__call__).parameters
    default = {key: parameter.default for key, parameter in call.items()}
    assert configs.family.steps(configs) == default["num_inference_steps"]
    guidance = configs.family.guidance(configs, configs.family.channel_conditions(configs))
    if "image_guidance_scale" in default:
        assert guidance.image_scale == default["image_guidance_scale"]
        assert guidance.text_scale == default["guidance_scale"]
    else:
        assert guidance.scale == default["guidance_scale"]


@pytest.mark.slow
def test_it_is_saved_under_its_own_name(case, pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["_class_name"] == read(case)[0]


def test_a_network_with_more_channels_gets_the_class_that_gives_them(case):
    """Whatever the index said: diffusers runs such a network in no other."""
    name, configs = read(case)
    reads, family = configs.family.channel_conditions(configs), configs.family
    plain = dataclasses.replace(configs, index={"_class_name": family.pipelines[0].name})
    assert family.pipeline(plain).name == (name if reads else family.pipelines[0].name)


def test_a_network_that_reads_a_picture_in_other_numbers_is_refused(tmp_path):
    folder = build("StableDiffusionXLInstructPix2PixPipeline", tmp_path / "given")
    index = json.loads((folder / "model_index.json").read_text()) | {"is_cosxl_edit": True}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="is_cosxl_edit = true"):
        open_checkpoint(folder, variant="fp16")


@pytest.mark.parity
def test_every_class_is_one_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    for family in FAMILIES.values():
        for pipeline in family.pipelines:
            assert hasattr(diffusers, pipeline.name), pipeline.name


@pytest.fixture
def posterior_mean(monkeypatch):
    """diffusers takes the mean of the autoencoder's posterior, not a draw from it."""
    pytest.importorskip("torch")
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Posterior

    monkeypatch.setattr(Posterior, "sample", lambda self, generator=None: self.mode())


@pytest.mark.parity
@pytest.mark.slow
def test_images_are_those_of_diffusers(case, pipeline, posterior_mean):
    """From a part of the run, and those that fill a mask from the whole of it, too."""
    import diffusers
    import torch

    name, folder = case
    kind = name.partition("-")[0]
    theirs = getattr(diffusers, kind).from_pretrained(folder, variant="fp16", torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    for steps, strength in [(7, 0.75), (6, 1.0)] if "Inpaint" in name else [(7, 0.75)]:
        made, expected = both(kind, pipeline, theirs, steps, strength)
        assert expected.std() > 0.02
        assert np.abs(made - expected).max() < 1e-4, f"{np.abs(made - expected).max():.1e}"


def both(kind, ours, theirs, steps, strength):
    """The images that the two make of one picture, of the same noise."""
    import torch

    y, x = np.mgrid[:48, :64] / 48
    picture = np.stack([0.5 + 0.4 * np.sin(5 * x + 3 * y), y, 1 - x / 1.4], -1).astype(np.float32)
    mask = np.zeros((48, 64), np.float32)
    mask[8:40, 16:56] = 1
    config = theirs.vae.config
    noise = torch.randn((1, config.latent_channels, 6, 8), generator=torch.Generator().manual_seed(3))
    more = {"image": picture, "latents": noise.permute(0, 2, 3, 1).numpy()}
    given = {"image": torch.from_numpy(picture.transpose(2, 0, 1)[None])}
    if "Inpaint" in kind:
        more["mask"], given["mask_image"] = mask, torch.from_numpy(mask[None, None])
    if kind not in ("StableDiffusionImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline"):
        given |= {"height": 48, "width": 64}
    named = {"image_guidance_scale": 1.5} if "Pix2Pix" in kind else {"strength": strength}
    prompts = {"prompt": "a photograph of a red cat", "negative_prompt": "blurry", "guidance_scale": 3.0}
    made = ours(**prompts, num_steps=steps, height=48, width=64, **more, **named)
    if "3" in kind:
        named["max_sequence_length"] = make_stable_diffusion_3.LENGTH
    latents = theirs(
        **prompts,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
        **given,
        **named,
    ).images
    with torch.no_grad():
        # Not by the pipeline, which in diffusers 0.42 forgets the shift in SD3's inpainting.
        image = theirs.vae.decode(latents / config.scaling_factor + (config.shift_factor or 0.0)).sample
    return made[0], np.clip(image[0].permute(1, 2, 0).numpy() / 2 + 0.5, 0, 1)
