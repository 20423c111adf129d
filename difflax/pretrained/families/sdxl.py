"""Stable Diffusion XL and its refiner (Podell et al. 2023, https://arxiv.org/abs/2307.01952).

Its UNet reads (section 2.1) the states before the last layer, without a norm, of CLIP-L and OpenCLIP-bigG
side by side, the projected pooled vector of the second, and the sizes of
`difflax.models.size_conditioning`; the refiner's reads the second tower alone, and a score.
"""

import functools
import re
from collections.abc import Mapping, Sequence

from difflax.core.types import UserError
from difflax.models.size_conditioning import size_conditions
from difflax.pretrained.components.clip import ClipPart
from difflax.pretrained.components.text_encoders import EncoderOptions
from difflax.pretrained.families.family import DENOISERS, Config, Configs, PipelineClass, Strength
from difflax.pretrained.families.sd import BETAS, UNetFamily, heads_of_64, infer_unet, unet_names
from difflax.pretrained.format.layout import INDEX
from difflax.pretrained.format.safetensors import Tensors
from difflax.pretrained.single_file.autoencoder import infer_autoencoder_config
from difflax.pretrained.single_file.clip import ClipTower
from difflax.pretrained.single_file.original import Files, Original
from difflax.pretrained.single_file.text import Tower
from difflax.text.joined import JoinedEncoder
from difflax.text.prompts import PromptEncoder

ZEROS, SCORES = "force_zeros_for_empty_prompt", "requires_aesthetics_score"
"""In the index: no prompt is zeros, and the network reads a score."""


COSXL = "is_cosxl_edit"
"""In the index of an editing checkpoint: its network reads latents of unit variance, which no other does."""


class StableDiffusionXL(UNetFamily):
    """XL and its refiner."""

    def join(
        self, encoders: Mapping[str, PromptEncoder], configs: Configs, options: EncoderOptions
    ) -> PromptEncoder:
        if len(encoders) == 1:
            return super().join(encoders, configs, options)
        return JoinedEncoder(tuple(encoders.values()), along="features", pooled=(1,))

    def conditions(self, configs: Configs, encoder: PromptEncoder, where: str) -> tuple[str, ...]:
        if configs.index.get(COSXL, False):
            raise UserError(
                f"{INDEX} {where} has {COSXL} = true: a CosXL reads the picture in other numbers, which is"
                " not supported"
            )
        text, *channels = super().conditions(configs, encoder, where)
        what = f"the {DENOISERS[self.denoiser]} {where}"
        sizes = size_conditions(configs.network, encoder.pooled_width, what)
        scored = "size_and_score" in sizes
        if sizes and scored != bool(configs.index.get(SCORES, False)):
            model, other = ("a refiner", "false") if scored else ("a base model", "true")
            raise UserError(
                f"{what} is of {model}, but {INDEX} has {SCORES} = {other}: they do not belong together"
            )
        return (text, *sizes, *channels)

    def zero_null(self, index: Config) -> bool:
        return bool(index.get(ZEROS, True))

    def stated(self, configs: Configs) -> Config:
        kept = {name: configs.index[name] for name in (ZEROS, SCORES) if name in configs.index}
        return super().stated(configs) | kept


def infer_options(unet: Tensors, firsts: Sequence[int]) -> Config:
    """What its UNet has beside the others, whose levels begin at ``firsts``; sizes are sinusoids of 256."""

    def depth(block: str) -> int:
        pattern = re.compile(rf"{re.escape(block)}\.1\.transformer_blocks\.(\d+)\.")
        return 1 + max((int(m[1]) for name in unet if (m := pattern.match(name))), default=0)

    # The middle block's depth is the last level's, which in the refiner has no attention of its own.
    depths = [depth(f"input_blocks.{i}") for i in firsts[:-1]] + [depth("middle_block")]
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": unet["label_emb.0.0.weight"].shape[1],
        "sample_size": 128,
        "transformer_layers_per_block": depths,
    }


def infer(unet: Tensors, autoencoder: Tensors, found: Sequence[Tower], prediction_type: str | None) -> Files:
    """The configs that a file's names and shapes imply, with what all published ones have in common; a
    refiner has the second tower alone.
    """
    refiner = all(tower.part is not _CLIP_L for tower in found)
    config, firsts = infer_unet(unet)
    return {
        "index": {
            "_class_name": STABLE_DIFFUSION_XL.pipelines[1 if refiner else 0].name,
            ZEROS: not refiner,
            SCORES: refiner,
        },
        "network": config | {"attention_head_dim": heads_of_64(config)} | infer_options(unet, firsts),
        "autoencoder": infer_autoencoder_config(autoencoder, sample_size=1024, scaling_factor=0.13025),
        "scheduler": BETAS
        | {
            "_class_name": "EulerDiscreteScheduler",
            "timestep_spacing": "leading",
            "prediction_type": prediction_type or "epsilon",
        },
    }


_STATES = {"layer": -2, "final_norm": False}
_CLIP_L = ClipPart(optional=True, **_STATES)
_BIG_G = ClipPart(
    number=2,
    projects=True,
    remedy="a base reads the states of two text encoders, its refiner those of the second; fetch it again",
    **_STATES,
)

STABLE_DIFFUSION_XL = StableDiffusionXL(
    title="Stable Diffusion XL",
    pipelines=(
        PipelineClass(name="StableDiffusionXLPipeline"),
        PipelineClass(name="StableDiffusionXLImg2ImgPipeline"),
        PipelineClass(name="StableDiffusionXLInpaintPipeline", reads=("text", "mask"), guidance_scale=7.5),
        PipelineClass(name="StableDiffusionXLInstructPix2PixPipeline", reads=("picture",), num_steps=100),
    ),
    text=(_CLIP_L, _BIG_G),
    guidance_scale=5.0,
    strength=Strength(picture=0.3, mask=0.9999),
    original=Original(
        mark="conditioner.",
        towers=(
            ClipTower(prefix="conditioner.embedders.0.transformer.", part=_CLIP_L, whole=True),
            ClipTower(prefix="conditioner.embedders.1.model.", part=_BIG_G, open_clip=True, whole=True),
            # The refiner's only one.
            ClipTower(prefix="conditioner.embedders.0.model.", part=_BIG_G, open_clip=True, whole=True),
        ),
        denoiser_names=functools.partial(unet_names, vector="add_embedding"),
        infer=infer,
        asks_prediction=True,
        zero_snr_scheduler="EulerDiscreteScheduler",
        example="stabilityai/stable-diffusion-xl-base-1.0",
    ),
)
