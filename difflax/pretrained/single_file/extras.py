"""What a single file holds beside its networks: markers of how it was trained, and leftovers of training."""

import re
from collections.abc import Mapping
from typing import Any

from difflax.core.types import UserError
from difflax.pretrained.components.scheduler_classes import SCHEDULER_CLASSES
from difflax.pretrained.format.safetensors import Tensors

V_MARK, ZERO_MARK = "v_pred", "ztsnr"
"""Tensors without numbers, by whose names ComfyUI, reForge and those who publish Stable Diffusion 1.x, 2.x
and XL mark v prediction, and a schedule that ends without signal.
"""

UNSUPPORTED_MARKS = {
    "edm_mean": "EDM's preconditioning and its own latents (Playground 2.5)",
    "edm_std": "EDM's preconditioning and its own latents (Playground 2.5)",
    "edm_vpred.sigma_max": "v prediction on EDM's noise levels (CosXL)",
    "edm_vpred.sigma_min": "v prediction on EDM's noise levels (CosXL)",
}
"""Markers of what is not read, and what they stand for."""

_CLIP = r"(cond_stage_model|conditioner\.embedders\.\d|text_encoders\.\w+)\."

LEFTOVERS = {
    "averages of the weights": r"(first_stage_model\.)?model_ema\.|model\.ema|ema\.(decay|num_updates)$",
    "tables of the process": r"(alphas_cumprod|betas|log_one_minus|posterior_|sqrt_|lvlb_weights|logvar)"
    r"|(ddpm_num_timesteps|log_sigmas|sigmas)$|denoiser\.(log_)?sigmas$",
    "the scale of latents": r"scale_factor",
    "counters": r"(global_step|epoch|iteration|step|train_step|num_updates|pytorch-lightning_version)$",
    "states of an optimizer": r"(optimizer|lr_scheduler|grad_scaler|amp_scaler)(s|_states?)?(\.|$)"
    r"|(callbacks|loops|hparams|hyper_parameters)(\.|$)",
    "the loss of the autoencoder": r"first_stage_model\.loss\.",
    "learned words of CompVis' code": r"embedding_manager\.",
    "what CLIP has beside the text": rf"{_CLIP}(model\.)?(logit_scale|attn_mask)|{_CLIP}.*position_ids",
    "projections that no network reads": r"cond_stage_model\.(transformer\.)?text_projection(\.weight)?$"
    r"|conditioner\.embedders\.0\.transformer\.text_projection\.weight$",
}
"""Kinds of tensors that no network has, and their names."""

_LEFTOVER = re.compile("|".join(f"(?:{pattern})" for pattern in LEFTOVERS.values()))


def of_networks(tensors: Tensors) -> Tensors:
    """The tensors without markers and leftovers."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name not in (V_MARK, ZERO_MARK) and not _LEFTOVER.match(name)
    }


def marked(tensors: Tensors, path: Any) -> tuple[str | None, bool | None]:
    """The prediction type that a file's markers say, and whether its schedule ends without signal; ``None``
    where no marker says it.

    Raises:
        UserError: a marker of something that is not supported.
    """
    for name, what in UNSUPPORTED_MARKS.items():
        if name in tensors:
            raise UserError(f"{path} is marked by {name}: {what} is not supported")
    return "v_prediction" if V_MARK in tensors else None, True if ZERO_MARK in tensors else None


def to_zero_snr(scheduler: Mapping[str, Any], otherwise: str, where: str) -> dict[str, Any]:
    """A scheduler's config with a schedule that ends without signal, from which every run starts: "trailing"
    spacing (Lin et al. 2024, https://arxiv.org/abs/2305.08891, sections 3.1 and 3.3).

    Args:
        otherwise: the class in place of one that has no such schedule.
        where: for errors.

    Raises:
        UserError: the network predicts the noise, which says nothing of the image where there is no signal.
    """
    if scheduler.get("prediction_type", "epsilon") == "epsilon":
        raise UserError(
            f"zero_terminal_snr {where}: noise prediction finds no image where there is no signal: give"
            " prediction_type=v_prediction, or zero_terminal_snr=False"
        )
    given = scheduler.get("_class_name")
    known = SCHEDULER_CLASSES.get(given)
    reads = known is None or "rescale_betas_zero_snr" in known.defaults
    return {
        **scheduler,
        "_class_name": given if reads else otherwise,
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
