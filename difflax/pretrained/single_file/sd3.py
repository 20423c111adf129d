"""Stable Diffusion 3 and 3.5 in one safetensors file in the original layout.

``model.diffusion_model.`` is the transformer by Stability's names, ``first_stage_model.`` the autoencoder.
Under ``text_encoders.`` are both CLIPs and T5, or the CLIPs alone, or nothing. An encoder that the file has
not comes from the pipeline folder that is given; without one, CLIPs are asked for and T5 stays out.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from etils import epath

from difflax.core.types import Params, UserError
from difflax.pretrained.components.text_encoders import has_component
from difflax.pretrained.families.sd3 import (
    Configs3,
    StableDiffusion3,
    assemble_3,
    check_encoder_3,
    check_t5_length,
    check_weights_3,
    is_stable_diffusion_3,
    joined_3,
    load_clip_3,
    load_t5_3,
    read_configs_3,
)
from difflax.pretrained.format.hub import INDEX, download
from difflax.pretrained.format.safetensors import Tensors
from difflax.pretrained.single_file.inferred_configs import infer_configs_3
from difflax.pretrained.single_file.original_names import (
    DENOISER,
    VAE,
    check_strays,
    grouped,
    mmdit_names,
    vae_names,
)
from difflax.pretrained.single_file.text import T5, TOWERS_3, load_t5, load_tower
from difflax.text.joined import JoinedEncoder

_T5_ENTRIES = {
    "text_encoder_3": ["transformers", "T5EncoderModel"],
    "tokenizer_3": ["transformers", "T5Tokenizer"],
}


def is_stable_diffusion_3_file(tensors: Tensors) -> bool:
    """Whether the names in a file are of this family."""
    return any(name.startswith(f"{DENOISER}joint_blocks.") for name in tensors)


def load_single_file_3(
    path: epath.Path,
    tensors: Tensors,
    *,
    dtype: Any,
    config: epath.PathLike | None,
    tokenizer: epath.PathLike | None,
    variant: str | None,
    t5: bool,
    t5_length: int,
    place: Callable[[Params], Params] | None,
) -> StableDiffusion3:
    """The checkpoint of the tensors of ``path``; arguments as for `load_single_file`.

    Raises:
        UserError: tensors are missing, left over or of another shape, all by name; a text encoder is neither
            in the file nor in ``config``; ``config`` is of another family.
    """
    check_t5_length(t5_length)
    groups = grouped(tensors, (DENOISER, VAE, *(tower.prefix for tower in TOWERS_3), T5))
    if not groups[VAE]:
        raise UserError(
            f"{path} is the transformer of a Stable Diffusion 3 alone, without tensors under {VAE}: take the"
            " file with the autoencoder"
        )
    check_strays(tensors, groups, path)
    absent = [tower for tower in TOWERS_3 if not groups[tower.prefix]]
    if absent and config is None:
        raise UserError(
            f"{path} has no text encoder under {' and '.join(t.prefix for t in absent)}: give"
            " config=FOLDER_OR_HUB_ID of a pipeline in diffusers' layout that has"
            f" {' and '.join(t.name for t in absent)}, such as stabilityai/stable-diffusion-3.5-medium"
        )
    if config is None:
        folder, configs = None, infer_configs_3(groups[DENOISER], groups[VAE])
    else:
        wanted = [t.name for t in absent] + ["text_encoder_3"] * (t5 and not groups[T5])
        folder = download(config, variant=variant, weights=wanted)
        if not is_stable_diffusion_3(folder):
            raise UserError(f"config={config}: no {INDEX} of a Stable Diffusion 3, which {path} is")
        configs = read_configs_3(folder)
    where = f"in {path}"
    layers = configs.transformer.get("num_layers", 18)
    transformer = mmdit_names(groups[DENOISER], layers)
    vae = vae_names(groups[VAE], len(configs.vae.get("block_out_channels", (64,))))
    check_weights_3(configs, transformer, vae, where)
    encoder, configs = _text_encoders(
        groups, configs, folder, tokenizer, where, dtype=dtype, variant=variant, t5=t5, t5_length=t5_length
    )
    shardings = None
    if place is not None:
        shardings = place(configs.build(dtype)[0].abstract())
    return assemble_3(configs, transformer, vae, encoder, where, dtype=dtype, shardings=shardings)


def _text_encoders(
    groups: dict[str, Tensors],
    configs: Configs3,
    folder: epath.Path | None,
    tokenizer: epath.PathLike | None,
    where: str,
    *,
    dtype: Any,
    variant: str | None,
    t5: bool,
    t5_length: int,
) -> tuple[JoinedEncoder, Configs3]:
    """The encoders, each of the file where it is there, otherwise of the folder; and the configs, which name
    T5 where there is one.
    """
    clips = []
    for tower in TOWERS_3:
        if groups[tower.prefix]:
            clips.append(load_tower(tower, groups[tower.prefix], folder, tokenizer, where, dtype))
        else:
            check_encoder_3(folder, configs.index, tower.number)
            clips.append(load_clip_3(folder, tower.number, dtype=dtype, variant=variant))
    told, third = has_component(configs.index, "text_encoder_3"), None
    if t5 and groups[T5]:
        third = load_t5(groups[T5], folder if told else None, where, length=t5_length, dtype=dtype)
        if not told:
            configs = dataclasses.replace(configs, index=configs.index | _T5_ENTRIES)
    elif t5 and told:
        check_encoder_3(folder, configs.index, 3)
        third = load_t5_3(folder, t5_length, dtype=dtype, variant=variant)
    return joined_3(clips, third, configs, t5_length, where), configs
