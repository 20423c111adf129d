"""Stable Diffusion 1.x and 2.x: a CLIP text tower and a UNet, with forms that fill masks in or edit pictures.

It reads the tower's last state after its final norm; 2.x is made without the tower's last layer.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from flax import nnx

from difflax.core.spelling import choose
from difflax.core.types import UserError
from difflax.models.unet import UNet2DConditionModel, reads_pooled
from difflax.pretrained.components.clip import ClipPart
from difflax.pretrained.families.family import Config, Configs, Family, PipelineClass
from difflax.pretrained.format.layout import MISSING
from difflax.pretrained.format.safetensors import Tensors
from difflax.pretrained.single_file.autoencoder import infer_autoencoder_config
from difflax.pretrained.single_file.clip import ClipTower
from difflax.pretrained.single_file.original import Files, Original
from difflax.pretrained.single_file.tensors import HEAD, replaced
from difflax.pretrained.single_file.text import Tower

BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
}
"""Of the schedulers of all published checkpoints with a UNet."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetFamily(Family):
    """What the families with diffusers' ``UNet2DConditionModel`` have in common."""

    denoiser: str = "unet"
    network: type[nnx.Module] = UNet2DConditionModel
    sample_size: int = 64
    num_steps: int = 50

    def text_widths(self, network: Config) -> tuple[int, int | None]:
        return network.get("cross_attention_dim", 1280), None

    def reads_pooled(self, network: Config) -> bool:
        return reads_pooled(network)

    def stated(self, configs: Configs) -> Config:
        """The lines of a saved ``model_index.json`` that are of no component."""
        return {"_class_name": self.pipeline(configs).name}

    def index(self, configs: Configs, written: Mapping[str, list]) -> Config:
        """Without a safety checker, which diffusers takes from the index."""
        version = configs.network.get("_diffusers_version", "0.36.0")
        absent = {"feature_extractor": MISSING, "image_encoder": MISSING}
        entries = {"_diffusers_version": version, **absent, **self.stated(configs), **written}
        return dict(sorted(entries.items()))


class StableDiffusion(UNetFamily):
    """1.x and 2.x."""

    def stated(self, configs: Configs) -> Config:
        more = {"requires_safety_checker": False, "safety_checker": MISSING}
        return super().stated(configs) | more


UNET_NAMES = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}
"""What the original code calls layers of a UNet, and diffusers."""

RESNET_NAMES = {
    "in_layers.0.": "norm1.",
    "in_layers.2.": "conv1.",
    "emb_layers.1.": "time_emb_proj.",
    "out_layers.0.": "norm2.",
    "out_layers.3.": "conv2.",
    "skip_connection.": "conv_shortcut.",
}
"""The same within a residual block."""


def unet_names(tensors: Tensors, config: Config, vector: str = "class_embedding") -> Tensors:
    """The tensors of a UNet of ``config`` by diffusers' names.

    Args:
        vector: what diffusers calls the layers that read the vector beside the time.
    """
    layers = config.get("layers_per_block", 2)
    attentions = {name.rsplit(".norm.", 1)[0] for name in tensors if name.endswith(".norm.weight")}
    # The first input block is the first convolution; on the way down a level has a resnet less, and a step.
    ways = {"input": ("down", 1, layers), "output": ("up", 0, layers + 1)}
    fixed = UNET_NAMES | {"label_emb.0.0": f"{vector}.linear_1", "label_emb.0.2": f"{vector}.linear_2"}

    def place(name: str) -> str:
        for old, new in fixed.items():
            if name.startswith(old + "."):
                return new + name[len(old) :]
        match = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.*)", name)
        if match is None:
            return name
        way, first, resnets = ways[match[1]]
        inside, rest = int(match[3]), match[4]
        level, layer = divmod(int(match[2]) - first, layers + 1)
        if layer == resnets:
            return f"down_blocks.{level}.downsamplers.0.{rest.replace('op.', 'conv.', 1)}"
        if inside == 0:
            return f"{way}_blocks.{level}.resnets.{layer}.{rest}"
        if f"{match[1]}_blocks.{match[2]}.{inside}" in attentions:
            return f"{way}_blocks.{level}.attentions.{layer}.{rest}"
        return f"{way}_blocks.{level}.upsamplers.0.{rest}"

    return {replaced(place(name), RESNET_NAMES): tensor for name, tensor in tensors.items()}


def infer_unet(unet: Tensors) -> tuple[Config, list[int]]:
    """The config that a UNet's names and shapes imply, but for its heads and its size, and where in the file
    each of its levels begins.
    """
    kept = {int(m[1]) for name in unet if (m := re.match(r"input_blocks\.(\d+)\.0\.(op|in_layers)", name))}
    stops = sorted({int(m[1]) for n in unet if (m := re.match(r"input_blocks\.(\d+)\.0\.op\.", n))})
    layers = (stops[0] if stops else max(kept) + 1) - 1
    levels = len(stops) + 1
    firsts = [1 + level * (layers + 1) for level in range(levels)]
    reads = [f"input_blocks.{i}.1.norm.weight" in unet for i in firsts]
    config = {
        "_class_name": UNet2DConditionModel.__name__,
        "in_channels": unet["input_blocks.0.0.weight"].shape[1],
        "out_channels": unet["out.2.weight"].shape[0],
        "block_out_channels": [unet[f"input_blocks.{i}.0.out_layers.3.weight"].shape[0] for i in firsts],
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if r else "DownBlock2D" for r in reads],
        "up_block_types": ["CrossAttnUpBlock2D" if r else "UpBlock2D" for r in reads[::-1]],
        "cross_attention_dim": next(t.shape[1] for n, t in unet.items() if n.endswith("attn2.to_k.weight")),
        "use_linear_projection": next(
            len(t.shape) == 2 for n, t in unet.items() if n.endswith("1.proj_in.weight")
        ),
    }
    return config, firsts


def heads_of_64(unet: Config) -> list[int]:
    """How many heads each level has (``attention_head_dim``, as diffusers calls it)."""
    return [width // HEAD for width in unet["block_out_channels"]]


PUBLISHED = {
    "epsilon": (64, {"_class_name": "PNDMScheduler", "skip_prk_steps": True}),
    "v_prediction": (96, {"_class_name": "DDIMScheduler"}),
    "sample": (64, {"_class_name": "DDIMScheduler"}),
}
"""What goes with a prediction type: the size of 2.x's latents in training, and the scheduler."""


def infer(unet: Tensors, autoencoder: Tensors, found: Sequence[Tower], prediction_type: str | None) -> Files:
    """The configs that a file's names and shapes imply, with what all of 1.x have in common, or all of 2.x,
    which has OpenCLIP's tower.

    Raises:
        UserError: a 2.x file without ``prediction_type``.
    """
    second = found[0].open_clip
    if second and prediction_type is None:
        raise UserError(
            "a Stable Diffusion 2.x file does not tell what it predicts: give prediction_type=v_prediction"
            " (the 768-pixel models) or prediction_type=epsilon (the base models)"
        )
    predicts = prediction_type or "epsilon"
    config, _ = infer_unet(unet)
    trained, kind = choose(PUBLISHED, predicts, "prediction_type")
    heads, size = (heads_of_64(config), trained) if second else (8, 64)
    return {
        "index": {"_class_name": STABLE_DIFFUSION.pipelines[0].name},
        "network": config | {"attention_head_dim": heads, "sample_size": size},
        "autoencoder": infer_autoencoder_config(autoencoder, sample_size=512, scaling_factor=0.18215),
        "scheduler": BETAS | kind | {"prediction_type": predicts},
    }


_TOWER = ClipPart()

STABLE_DIFFUSION = StableDiffusion(
    title="Stable Diffusion 1.x or 2.x",
    pipelines=(
        PipelineClass(name="StableDiffusionPipeline"),
        PipelineClass(name="StableDiffusionImg2ImgPipeline"),
        PipelineClass(name="StableDiffusionInpaintPipeline", reads=("text", "mask")),
        PipelineClass(name="StableDiffusionInpaintPipelineLegacy"),
        PipelineClass(name="StableDiffusionInstructPix2PixPipeline", reads=("picture",), num_steps=100),
    ),
    text=(_TOWER,),
    guidance_scale=7.5,
    original=Original(
        mark="cond_stage_model.",
        towers=(
            ClipTower(prefix="cond_stage_model.transformer.", part=_TOWER),
            ClipTower(prefix="cond_stage_model.model.", part=_TOWER, open_clip=True),
        ),
        denoiser_names=unet_names,
        infer=infer,
        asks_prediction=True,
        example="stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
)
