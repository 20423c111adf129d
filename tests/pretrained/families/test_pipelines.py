"""Folders of every class of diffusers' pipelines that a family has: loaded, saved again, and sampled as that
class samples the same random weights, by its defaults too.
"""

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import difflax
import numpy as np
import pytest
import safetensors.numpy
from difflax.core.types import UserError
from difflax.diffusion.guidance import TwoConditionGuidance
from difflax.pretrained.families import FAMILIES
from difflax.pretrained.open import open_checkpoint

from tests.fixtures import make_sdxl, make_stable_diffusion, make_stable_diffusion_3

HEIGHT, WIDTH, STEPS = 48, 64, 7
LENGTH = make_stable_diffusion_3.LENGTH


@dataclasses.dataclass(frozen=True)
class Base:
    """A family's tiny checkpoint, and the layer that reads the noise."""

    build: Callable[[Any], Any]
    weights: str
    first: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    call: Mapping[str, Any] = dataclasses.field(default_factory=dict)


BASES = {
    "StableDiffusion": Base(
        build=lambda folder: make_stable_diffusion.build("sd15", folder),
        weights="unet/diffusion_pytorch_model.fp16.safetensors",
        first="conv_in.weight",
    ),
    "StableDiffusionXL": Base(
        build=lambda folder: make_sdxl.build("base", folder, depths=(1, 1, 1)),
        weights="unet/diffusion_pytorch_model.fp16.safetensors",
        first="conv_in.weight",
    ),
    "StableDiffusion3": Base(
        build=lambda folder: make_stable_diffusion_3.build("sd3_medium", folder),
        weights="transformer/diffusion_pytorch_model.fp16.safetensors",
        first="pos_embed.proj.weight",
        options={"t5_length": LENGTH},
        call={"max_sequence_length": LENGTH},
    ),
}
PICTURE, MASK = {"strength": 0.55}, {"strength": 0.8}
CASES = {
    ("StableDiffusion", "Img2Img", 4): PICTURE,
    ("StableDiffusion", "Inpaint", 4): MASK,
    ("StableDiffusion", "Inpaint", 9): MASK,
    ("StableDiffusion", "InstructPix2Pix", 8): {"image_guidance_scale": 1.3},
    ("StableDiffusionXL", "Img2Img", 4): PICTURE,
    ("StableDiffusionXL", "Inpaint", 4): MASK,
    ("StableDiffusionXL", "Inpaint", 9): MASK,
    ("StableDiffusionXL", "InstructPix2Pix", 8): {"image_guidance_scale": 1.3},
    ("StableDiffusion3", "Img2Img", 16): PICTURE,
    ("StableDiffusion3", "Inpaint", 16): MASK,
    ("StableDiffusion3", "Inpaint", 33): MASK,
}
"""A class, the channels that its network reads, and what its call is given."""


def build(start: str, kind: str, channels: int, folder: Any) -> Any:
    """A folder of the class, whose network reads so many channels."""
    base = BASES[start]
    base.build(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": f"{start}{kind}Pipeline"}))
    tensors = safetensors.numpy.load_file(folder / base.weights)
    weight = tensors[base.first]
    more = np.random.default_rng(5).standard_normal((weight.shape[0], channels, *weight.shape[2:]))
    more = (0.3 * more).astype(weight.dtype)
    more[:, : weight.shape[1]] = weight
    tensors[base.first] = more
    safetensors.numpy.save_file(tensors, folder / base.weights, metadata={"format": "pt"})
    config = (folder / base.weights).parent / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": channels}))
    return folder


@pytest.fixture(params=CASES, ids=lambda case: "".join(map(str, case)))
def case(request, tmp_path):
    """The name of a class, a folder of it, and what its call is given."""
    start, kind, channels = request.param
    folder = build(*request.param, tmp_path / "given")
    return f"{start}{kind}Pipeline", folder, BASES[start], CASES[request.param]


def test_a_folder_is_saved_under_its_own_class(case, tmp_path):
    name, folder, base, _ = case
    checkpoint = open_checkpoint(folder, variant="fp16", **base.options)
    reads = {"Inpaint": "mask", "InstructPix2Pix": "picture"}
    plain = checkpoint.configs.network["in_channels"] == checkpoint.autoencoder.config.latent_channels
    extra = {condition for kind, condition in reads.items() if kind in name and not plain}
    assert set(checkpoint.conditions) & set(reads.values()) == extra
    checkpoint.save(tmp_path / "saved")
    made = json.loads((tmp_path / "saved/model_index.json").read_text())
    assert made["_class_name"] == name
    again = open_checkpoint(tmp_path / "saved", **base.options)
    assert (again.conditions, again.guidance, again.num_steps) == (
        checkpoint.conditions,
        checkpoint.guidance,
        checkpoint.num_steps,
    )


@pytest.mark.parametrize(("start", "channels"), [(s, c) for s, k, c in CASES if k == "Inpaint" and c % 2])
def test_a_network_that_reads_a_mask_is_saved_as_what_fills_masks(start, channels, tmp_path):
    """diffusers' plain classes cannot run it, whatever the folder said that it is."""
    folder = build(start, "", channels, tmp_path / "given")
    open_checkpoint(folder, variant="fp16", **BASES[start].options).save(tmp_path / "saved")
    made = json.loads((tmp_path / "saved/model_index.json").read_text())
    assert made["_class_name"] == f"{start}InpaintPipeline"


def test_a_network_that_reads_a_scaled_picture_is_refused(tmp_path):
    folder = build("StableDiffusionXL", "InstructPix2Pix", 8, tmp_path / "given")
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"is_cosxl_edit": True}))
    with pytest.raises(UserError, match="is_cosxl_edit is not supported"):
        open_checkpoint(folder, variant="fp16")


@pytest.mark.parity
def test_defaults_are_those_of_every_class_in_diffusers(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    for start, kind, channels in CASES:
        folder = build(start, kind, channels, tmp_path / f"{start}{kind}{channels}")
        checkpoint = open_checkpoint(folder, variant="fp16", **BASES[start].options)
        call = inspect.signature(getattr(diffusers, f"{start}{kind}Pipeline").__call__).parameters
        default = {name: parameter.default for name, parameter in call.items()}
        assert checkpoint.num_steps == default["num_inference_steps"], (start, kind)
        guidance = checkpoint.guidance
        scales = [default["guidance_scale"]]
        ours = [guidance.scale] if "image_guidance_scale" not in default else [guidance.text_scale]
        if isinstance(guidance, TwoConditionGuidance):
            scales.append(default["image_guidance_scale"])
            ours.append(guidance.image_scale)
        assert ours == scales, (start, kind)


@pytest.mark.parity
def test_every_class_is_one_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    for family in FAMILIES.values():
        for pipeline in family.pipelines:
            assert hasattr(diffusers, pipeline.name), pipeline.name


@pytest.mark.slow
@pytest.mark.parity
def test_images_are_those_of_the_class_in_diffusers(case, monkeypatch):
    torch = pytest.importorskip("torch")
    import diffusers
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
    from PIL import Image

    name, folder, base, given = case
    # diffusers draws the latents of a picture; here they are the distribution's mode.
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[8:40, 16:48] = 255
    pictures = {"image": Image.fromarray(picture)}
    theirs = {**pictures, **given, **base.call}
    ours = {**pictures, **given}
    if "Inpaint" in name:
        ours["mask"] = theirs["mask_image"] = Image.fromarray(mask)
        theirs |= {"height": HEIGHT, "width": WIDTH}
    run = {"prompt": "a red cat", "negative_prompt": "two dogs", "guidance_scale": 2.0}
    pipeline = getattr(diffusers, name).from_pretrained(folder, variant="fp16", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    channels = pipeline.vae.config.latent_channels
    noise = torch.randn((1, channels, HEIGHT // 8, WIDTH // 8), generator=torch.Generator().manual_seed(3))
    expected = pipeline(
        **run, **theirs, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(3), output_type="np"
    ).images
    made = difflax.from_pretrained(str(folder), variant="fp16", **base.options)(
        **run, **ours, num_steps=STEPS, latents=noise.permute(0, 2, 3, 1).numpy(), height=HEIGHT, width=WIDTH
    )
    assert expected.std() > 0.05
    difference = np.abs(made - expected).max()
    print(name, folder, difference)
    assert difference < 1e-4
