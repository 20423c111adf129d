"""Original-layout Stable Diffusion 1.x, 2.x and XL checkpoints, all components in one safetensors file.

The file names tensors as CompVis' and Stability's code does: ``model.diffusion_model.`` is the UNet,
``first_stage_model.`` the autoencoder, ``cond_stage_model.`` the text encoder (1.x: transformers' CLIP, 2.x:
OpenCLIP with queries, keys and values in one matrix), ``conditioner.embedders.`` those of XL. Names become
diffusers', and nothing is read before it is asked for. What a file does not hold (tokenizer, scheduler) comes
from the family, or from a pipeline folder that is given as a pattern.
"""

import dataclasses
import re
from typing import Any

from etils import epath

from difflax.pretrained.clip import load_text_encoder_from
from difflax.pretrained.hub import fetch
from difflax.pretrained.names import check_names
from difflax.pretrained.original_names import open_clip_names, unet_names, vae_names
from difflax.pretrained.stable_diffusion import Config, Configs, StableDiffusion, assemble, read_configs
from difflax.pretrained.tensor_files import PICKLES, Tensors, open_file, read_json, refusal
from difflax.pretrained.text_encoders import PENULTIMATE, joined_xl
from difflax.text.encoders import TextEncoder
from difflax.text.tokenizer import Tokenizer, load_tokenizer
from difflax.types import UserError

UNET, VAE = "model.diffusion_model.", "first_stage_model."

_TRAINING_LEFTOVERS = re.compile(
    r"model_ema\.|(alphas_cumprod|betas|log_one_minus|posterior_|sqrt_|lvlb_weights|logvar|scale_factor)"
    r"|global_step|first_stage_model\.loss\.|model\.ema|cond_stage_model\.model\.(logit_scale|attn_mask)"
    r"|cond_stage_model\.(logit_scale|.*position_ids)"
    r"|denoiser\.sigmas|conditioner\.embedders\.\d\.(.*position_ids|(model\.)?(logit_scale|attn_mask))"
)
TOKENIZER = "openai/clip-vit-large-patch14"
_BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
}


@dataclasses.dataclass(frozen=True)
class Tower:
    """A text encoder in a file.

    Attributes:
        open_clip: it has OpenCLIP's names, not transformers'.
        xl: it is one of Stable Diffusion XL's, the ``number``-th of the pipeline.
    """

    prefix: str
    open_clip: bool
    xl: bool = False
    number: int = 1

    @property
    def suffix(self) -> str:
        """Of the folders in a pipeline."""
        return "" if self.number == 1 else f"_{self.number}"


TOWERS = (
    Tower("cond_stage_model.transformer.", open_clip=False),
    Tower("cond_stage_model.model.", open_clip=True),
    Tower("conditioner.embedders.0.transformer.", open_clip=False, xl=True),
    Tower("conditioner.embedders.1.model.", open_clip=True, xl=True, number=2),
    # The refiner's only one.
    Tower("conditioner.embedders.0.model.", open_clip=True, xl=True, number=2),
)


def load_single_file(
    path: epath.PathLike,
    *,
    dtype: Any,
    config: epath.PathLike | None = None,
    tokenizer: epath.PathLike | None = None,
    prediction_type: str | None = None,
) -> StableDiffusion:
    """The checkpoint in one file.

    Args:
        path: a ``.safetensors`` file.
        dtype: of the computation and of the parameters.
        config: a pipeline folder or Hub id whose configs and tokenizer are taken; ``None`` finds the
            structure from the tensors' names and shapes.
        tokenizer: a folder or Hub id; ``None`` takes ``config``'s, or CLIP's own from the Hub.
        prediction_type: ``"epsilon"`` or ``"v_prediction"``, which 2.x files do not tell.

    Raises:
        UserError: a file that is damaged, of another family, or does not fit the configs.
    """
    path = epath.Path(path)
    if path.suffix in PICKLES:
        raise UserError(refusal(path))
    tensors = {n: t for n, t in open_file(path).items() if not _TRAINING_LEFTOVERS.match(n)}
    groups = {prefix: _under(tensors, prefix) for prefix in (UNET, VAE, *(t.prefix for t in TOWERS))}
    towers = [tower for tower in TOWERS if groups[tower.prefix]]
    absent = [name for name in (UNET, VAE) if not groups[name]]
    if absent or not towers:
        raise UserError(
            f"{path} is no Stable Diffusion 1.x, 2.x or XL checkpoint in the original layout: it has no"
            f" tensors under {' and '.join(absent) or 'cond_stage_model. or conditioner.'}"
        )
    stray = sorted(n for n in tensors if not n.startswith(tuple(groups)))
    if stray:
        raise UserError(f"the weights do not fit {path}: {'; '.join(f'unexpected {n}' for n in stray)}")
    xl = towers[0].xl
    if config is None:
        configs = infer_configs(
            groups[UNET],
            groups[VAE],
            second=towers[0].open_clip and not xl,
            prediction_type=prediction_type,
            xl=xl,
            refiner=xl and len(towers) == 1,
        )
        folder = None
    else:
        folder = fetch(config)
        configs = read_configs(folder)
        if prediction_type is not None:
            configs = dataclasses.replace(
                configs, scheduler=configs.scheduler | {"prediction_type": prediction_type}
            )
    where = f"in {path}"
    model, codec, _ = configs.build(dtype)
    unet = unet_names(groups[UNET], configs.unet.get("layers_per_block", 2), xl=xl)
    vae = vae_names(groups[VAE], len(codec.config.block_out_channels))
    check_names(unet, model.abstract(), f"the UNet {where}")
    check_names(vae, codec.network.abstract(), f"the autoencoder {where}")
    encoders = [_encoder(t, groups[t.prefix], folder, tokenizer, where, dtype) for t in towers]
    encoder = joined_xl(*encoders) if len(encoders) > 1 else encoders[0]
    return assemble(configs, unet, vae, encoder, where, dtype=dtype)


def _encoder(
    tower: Tower,
    tensors: Tensors,
    folder: epath.Path | None,
    tokenizer: epath.PathLike | None,
    where: str,
    dtype: Any,
) -> TextEncoder:
    if folder is None:
        config = infer_text_config(tensors, second=tower.open_clip, whole=tower.xl)
    else:
        config = read_json(folder / f"text_encoder{tower.suffix}" / "config.json")
        tokenizer = folder / f"tokenizer{tower.suffix}" if tokenizer is None else tokenizer
    if tower.open_clip:
        tensors = open_clip_names(tensors, config["num_hidden_layers"], projection=tower.xl)
    return load_text_encoder_from(
        config,
        tensors,
        lambda length: _tokenizer(tokenizer, length, tower.open_clip),
        where,
        batch_size=8,
        dtype=dtype,
        param_dtype=dtype,
        **(PENULTIMATE if tower.xl else {}),
    )


def infer_configs(
    unet: Tensors,
    vae: Tensors,
    *,
    second: bool,
    prediction_type: str | None,
    xl: bool = False,
    refiner: bool = False,
) -> Configs:
    """The configs that a file's names and shapes imply, with what 1.x, 2.x (``second``) or XL has in common.

    Raises:
        UserError: a 2.x file without ``prediction_type``.
    """
    if second and prediction_type is None:
        raise UserError(
            "a Stable Diffusion 2.x file does not tell what it predicts: give prediction_type=v_prediction"
            " (the 768-pixel models) or prediction_type=epsilon (the base models)"
        )
    predicts = prediction_type or "epsilon"
    kept = {int(m[1]) for name in unet if (m := re.match(r"input_blocks\.(\d+)\.0\.(op|in_layers)", name))}
    stops = sorted({int(m[1]) for n in unet if (m := re.match(r"input_blocks\.(\d+)\.0\.op\.", n))})
    layers = (stops[0] if stops else max(kept) + 1) - 1
    levels = len(stops) + 1
    firsts = [1 + level * (layers + 1) for level in range(levels)]
    widths = [unet[f"input_blocks.{i}.0.out_layers.3.weight"].shape[0] for i in firsts]
    reads = [f"input_blocks.{i}.1.norm.weight" in unet for i in firsts]
    context = next(t.shape[1] for n, t in unet.items() if n.endswith("attn2.to_k.weight"))
    linear = next(len(t.shape) == 2 for n, t in unet.items() if n.endswith("1.proj_in.weight"))
    unet_config = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": unet["input_blocks.0.0.weight"].shape[1],
        "out_channels": unet["out.2.weight"].shape[0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if r else "DownBlock2D" for r in reads],
        "up_block_types": ["CrossAttnUpBlock2D" if r else "UpBlock2D" for r in reads[::-1]],
        "cross_attention_dim": context,
        "attention_head_dim": [width // 64 for width in widths] if second else 8,
        "use_linear_projection": linear,
        "sample_size": 96 if second and predicts == "v_prediction" else 64,
    }
    if xl:
        unet_config |= _xl_options(unet, widths, firsts)
    ups = sorted({int(m[1]) for n in vae if (m := re.match(r"encoder\.down\.(\d+)\.", n))})
    vae_widths = [vae[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in ups]
    vae_config = {
        "_class_name": "AutoencoderKL",
        "block_out_channels": vae_widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(ups),
        "up_block_types": ["UpDecoderBlock2D"] * len(ups),
        "layers_per_block": len({n.split(".")[4] for n in vae if n.startswith("encoder.down.0.block.")}),
        "latent_channels": vae["decoder.conv_in.weight"].shape[1],
        "sample_size": 1024 if xl else 512,
        "scaling_factor": 0.13025 if xl else 0.18215,
        "use_quant_conv": "quant_conv.weight" in vae,
        "use_post_quant_conv": "post_quant_conv.weight" in vae,
    }
    kind = {"_class_name": "DDIMScheduler"}
    if xl:
        kind = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
    elif predicts == "epsilon":
        kind = {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
    scheduler = _BETAS | kind | {"prediction_type": predicts}
    index: Config = {"_class_name": "StableDiffusionPipeline"}
    if xl:
        index = {
            "_class_name": f"StableDiffusionXL{'Img2Img' * refiner}Pipeline",
            "force_zeros_for_empty_prompt": not refiner,
            "requires_aesthetics_score": refiner,
        }
    return Configs(index=index, unet=unet_config, vae=vae_config, scheduler=scheduler)


def _xl_options(unet: Tensors, widths: list[int], firsts: list[int]) -> Config:
    """What Stable Diffusion XL's UNet has beside; heads have 64 channels, sizes sinusoids of 256."""

    def depth(block: str) -> int:
        pattern = re.compile(rf"{re.escape(block)}\.1\.transformer_blocks\.(\d+)\.")
        return 1 + max((int(m[1]) for name in unet if (m := pattern.match(name))), default=0)

    # The middle block's depth is the last level's, which in the refiner has no attention of its own.
    depths = [depth(f"input_blocks.{i}") for i in firsts[:-1]] + [depth("middle_block")]
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "attention_head_dim": [width // 64 for width in widths],
        "projection_class_embeddings_input_dim": unet["label_emb.0.0.weight"].shape[1],
        "sample_size": 128,
        "transformer_layers_per_block": depths,
    }


def infer_text_config(text: Tensors, *, second: bool, whole: bool = False) -> Config:
    """The text tower's config; heads have 64 channels, as in all of OpenAI's and OpenCLIP's towers.

    ``whole``: with an OpenCLIP tower's last layer and projection.
    """
    blocks = r"transformer\.resblocks\.(\d+)\." if second else r"text_model\.encoder\.layers\.(\d+)\."
    count = 1 + max((int(m[1]) for name in text if (m := re.match(blocks, name))), default=-1)
    token = "token_embedding.weight" if second else "text_model.embeddings.token_embedding.weight"
    inner = "transformer.resblocks.0.mlp.c_fc" if second else "text_model.encoder.layers.0.mlp.fc1"
    position = "positional_embedding" if second else "text_model.embeddings.position_embedding.weight"
    absent = [name for name in (token, f"{inner}.weight", position) if name not in text]
    if absent:
        raise UserError(f"the text encoder in the file is incomplete: missing {'; missing '.join(absent)}")
    vocab, width = text[token].shape
    projects = second and whole
    if projects and "text_projection" not in text:
        raise UserError("the second text encoder in the file is incomplete: missing text_projection")
    return {
        "model_type": "clip_text_model",
        "architectures": [f"CLIPTextModel{'WithProjection' * projects}"],
        "projection_dim": text["text_projection"].shape[1] if projects else width,
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": text[f"{inner}.weight"].shape[0],
        "num_hidden_layers": count - 1 if second and not whole else count,
        "num_attention_heads": width // 64,
        "max_position_embeddings": text[position].shape[0],
        "hidden_act": "gelu" if second else "quick_gelu",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def _tokenizer(source: epath.PathLike | None, length: int, second: bool) -> Tokenizer:
    if source is not None:
        return load_tokenizer(source, max_length=length)
    tokenizer = load_tokenizer(TOKENIZER, max_length=length)
    if second:
        tokenizer.backend.pad_token = "!"  # OpenCLIP pads with id 0
    return tokenizer


def _under(tensors: Tensors, prefix: str) -> dict[str, Any]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
