"""The families of checkpoints that take a LoRA, as small ones of the fixtures, and random factors."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from difflax.models.lora import init_factors, matching_layers

from tests.fixtures import make_sdxl, make_stable_diffusion_3
from tests.fixtures import make_stable_diffusion as reference

TEXT = ("q_proj", "out_proj", "fc1")
UNET = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "proj_in")
TRANSFORMER = (
    *("to_q", "to_k", "to_out.0", "attn.add_k_proj", "attn.to_add_out"),
    *("ff.net.0.proj", "ff_context.net.2", "norm1.linear", "proj_out"),
)


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of checkpoints, and how diffusers runs it.

    Attributes:
        name: of the family.
        build: makes the folder of a small one.
        denoiser: the name of its denoising network.
        texts: the names of the text encoders that a LoRA may change.
        layers: of the denoiser, that a LoRA changes.
        fixture: the module that has the run's size and noise.
        strength, scale: of the LoRA's factors and of guidance, at which the random weights are not chaotic.
        options: of our loading.
        call: of diffusers' call, beside what all have.
    """

    name: str
    build: Callable
    pipeline: str
    denoiser: str
    texts: tuple[str, ...]
    layers: tuple[str, ...]
    fixture: Any
    strength: float = 0.3
    scale: float = 4.0
    options: dict = dataclasses.field(default_factory=dict)
    call: dict = dataclasses.field(default_factory=dict)

    @property
    def targets(self):
        return {self.denoiser: self.layers, **dict.fromkeys(self.texts, TEXT)}

    def load(self, folder):
        """In diffusers, float32."""
        import diffusers
        import torch

        made = getattr(diffusers, self.pipeline).from_pretrained(
            folder, variant="fp16", torch_dtype=torch.float32
        )
        made.set_progress_bar_config(disable=True)
        return made


FAMILIES = (
    Family(
        name="sd15",
        build=lambda place: reference.build("sd15", place),
        pipeline="StableDiffusionPipeline",
        denoiser="unet",
        texts=("text_encoder",),
        layers=UNET,
        fixture=reference,
    ),
    Family(
        name="sdxl",
        build=lambda place: make_sdxl.build("base", place, depths=(1, 1, 2)),
        pipeline="StableDiffusionXLPipeline",
        denoiser="unet",
        texts=("text_encoder", "text_encoder_2"),
        layers=UNET,
        fixture=make_sdxl,
        strength=0.15,
        scale=2.0,
    ),
    Family(
        name="sd3",
        build=lambda place: make_stable_diffusion_3.build("sd35_medium", place),
        pipeline="StableDiffusion3Pipeline",
        denoiser="transformer",
        texts=("text_encoder", "text_encoder_2"),
        layers=TRANSFORMER,
        fixture=make_stable_diffusion_3,
        options={"t5_length": 12},
        call={"max_sequence_length": 12},
    ),
)


def random_factors(networks, targets, strength, rank=3, seed=0):
    """Both factors away from zero, so that the change is one."""
    factors = {}
    for number, (name, ends) in enumerate(targets.items()):
        layers = matching_layers(networks[name], ends, name)
        tree = init_factors(jax.random.key(seed + number), layers, rank)
        leaves, structure = jax.tree.flatten(tree)
        keys = jax.random.split(jax.random.key(100 + seed + number), len(leaves))
        drawn = [strength * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
        factors[name] = jax.tree.unflatten(structure, drawn)
    return factors
