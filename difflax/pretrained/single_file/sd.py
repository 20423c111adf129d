"""Checkpoints of Stable Diffusion in the original layout, all components in one safetensors file.

The file names tensors as CompVis' and Stability's code does: ``model.diffusion_model.`` is the UNet or the
transformer, ``first_stage_model.`` the autoencoder, ``cond_stage_model.`` the text encoder, ``conditioner.``
those of XL, ``text_encoders.`` those of 3 (see `difflax.pretrained.single_file.sd3`). Names become
diffusers', and nothing is read before it is asked for. What a file does not hold (tokenizer, scheduler) comes
from the family, or from a pipeline folder that is given as a pattern.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from etils import epath

from difflax.core.types import Params, UserError
from difflax.pretrained.components.text_encoders import joined_xl
from difflax.pretrained.families.base import Checkpoint
from difflax.pretrained.families.sd import assemble, read_configs
from difflax.pretrained.families.sd3 import T5_LENGTH
from difflax.pretrained.format.hub import download
from difflax.pretrained.format.safetensors import PICKLES, open_file, refusal
from difflax.pretrained.format.torch_names import check_names
from difflax.pretrained.single_file.inferred_configs import infer_configs
from difflax.pretrained.single_file.original_names import (
    DENOISER,
    VAE,
    check_strays,
    grouped,
    unet_names,
    vae_names,
)
from difflax.pretrained.single_file.sd3 import is_stable_diffusion_3_file, load_single_file_3
from difflax.pretrained.single_file.text import TOWERS, load_tower

_TRAINING_LEFTOVERS = re.compile(
    r"model_ema\.|(alphas_cumprod|betas|log_one_minus|posterior_|sqrt_|lvlb_weights|logvar|scale_factor)"
    r"|global_step|first_stage_model\.loss\.|model\.ema|cond_stage_model\.model\.(logit_scale|attn_mask)"
    r"|cond_stage_model\.(logit_scale|.*position_ids)"
    r"|denoiser\.sigmas|conditioner\.embedders\.\d\.(.*position_ids|(model\.)?(logit_scale|attn_mask))"
    r"|text_encoders\.\w+\.(logit_scale|.*position_ids)"
)


def load_single_file(
    path: epath.PathLike,
    *,
    dtype: Any,
    config: epath.PathLike | None = None,
    tokenizer: epath.PathLike | None = None,
    prediction_type: str | None = None,
    variant: str | None = None,
    t5: bool = True,
    t5_length: int = T5_LENGTH,
    place: Callable[[Params], Params] | None = None,
) -> Checkpoint:
    """The checkpoint in one file.

    Args:
        path: a ``.safetensors`` file.
        dtype: of the computation and of the parameters.
        config: a pipeline folder or Hub id whose configs and tokenizers are taken, and of Stable Diffusion 3
            the text encoders that the file has not; ``None`` finds the structure from the tensors' names and
            shapes.
        tokenizer: a folder or Hub id, of the CLIPs; ``None`` takes ``config``'s, or CLIP's own from the Hub.
        prediction_type: ``"epsilon"`` or ``"v_prediction"``, which 2.x files do not tell.
        variant: of the weights of ``config``, ``"fp16"``.
        t5: ``False`` leaves Stable Diffusion 3's third text encoder out, also where there is one.
        t5_length: tokens that it gives a prompt, or zeros in its place.
        place: shapes of the denoising network's parameters to their shardings, see `from_torch`.

    Raises:
        UserError: a file that is damaged, of another family, or does not fit the configs; text encoders that
            are neither in it nor in ``config``.
    """
    path = epath.Path(path)
    if path.suffix in PICKLES:
        raise UserError(refusal(path))
    tensors = {n: t for n, t in open_file(path).items() if not _TRAINING_LEFTOVERS.match(n)}
    if is_stable_diffusion_3_file(tensors):
        if prediction_type is not None:
            raise UserError(
                f"prediction_type={prediction_type!r} is for Stable Diffusion 2.x files, {path} is a Stable"
                " Diffusion 3"
            )
        return load_single_file_3(
            path,
            tensors,
            dtype=dtype,
            config=config,
            tokenizer=tokenizer,
            variant=variant,
            t5=t5,
            t5_length=t5_length,
            place=place,
        )
    groups = grouped(tensors, (DENOISER, VAE, *(t.prefix for t in TOWERS)))
    towers = [tower for tower in TOWERS if groups[tower.prefix]]
    absent = [name for name in (DENOISER, VAE) if not groups[name]]
    if absent or not towers:
        raise UserError(
            f"{path} is no Stable Diffusion 1.x, 2.x, XL or 3 checkpoint in the original layout: it has no"
            f" tensors under {' and '.join(absent) or 'cond_stage_model. or conditioner.'}"
        )
    check_strays(tensors, groups, path)
    xl = towers[0].whole
    if config is None:
        configs = infer_configs(
            groups[DENOISER],
            groups[VAE],
            second=towers[0].open_clip and not xl,
            prediction_type=prediction_type,
            xl=xl,
            refiner=xl and len(towers) == 1,
        )
        folder = None
    else:
        folder = download(config, weights=())
        configs = read_configs(folder)
        if prediction_type is not None:
            configs = dataclasses.replace(
                configs, scheduler=configs.scheduler | {"prediction_type": prediction_type}
            )
    where = f"in {path}"
    model, autoencoder, _ = configs.build(dtype)
    unet = unet_names(groups[DENOISER], configs.unet.get("layers_per_block", 2), xl=xl)
    vae = vae_names(groups[VAE], len(autoencoder.config.block_out_channels))
    check_names(unet, model.abstract(), f"the UNet {where}")
    check_names(vae, autoencoder.network.abstract(), f"the autoencoder {where}")
    encoders = [load_tower(t, groups[t.prefix], folder, tokenizer, where, dtype) for t in towers]
    encoder = joined_xl(*encoders) if len(encoders) > 1 else encoders[0]
    shardings = None if place is None else place(model.abstract())
    return assemble(configs, unet, vae, encoder, where, dtype=dtype, shardings=shardings)
