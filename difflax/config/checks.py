"""What can be wrong with a config, found before data, devices or a compiler are asked."""

from typing import Any

from etils import epath
from ml_collections import ConfigDict

from difflax.config.build import build, construct, nearest
from difflax.config.networks import NETWORKS, network, network_kind
from difflax.config.pretrained import make_pretrained
from difflax.config.sections import (
    AutoencodingLoss,
    DenoisingLoss,
    Settings,
    TokenizerOptions,
    autoencoder_config,
    clip_config,
    make_diffusion,
    make_settings,
    model_name,
)
from difflax.core.types import UserError
from difflax.diffusion.loss.time_samplers import RunningLoss
from difflax.diffusion.loss.weightings import NoUncertainty
from difflax.diffusion.samplers import DDPM
from difflax.evaluation.protocols import PROTOCOLS

COMMON_SECTIONS = ("data", "ema", "loss", "mesh", "model", "optimizer", "seed", "training")
SECTIONS = {
    "autoencoder_kl": COMMON_SECTIONS,
    "clip": (*COMMON_SECTIONS, "tokenizer"),
    "pretrained": (*COMMON_SECTIONS, "cache", "guidance", "sampler", "tune"),
    **dict.fromkeys(
        NETWORKS,
        (
            *COMMON_SECTIONS,
            *("autoencoder", "guidance", "prediction", "sampler", "schedule", "text_encoder"),
        ),
    ),
}
"""What a config must have, by ``config.model.name``."""
OPTIONAL_SECTIONS = ("evaluation", "network_input")


def check(config: ConfigDict, workdir: epath.PathLike | None = None) -> None:
    """Everything about a config that can be wrong without data or devices.

    Raises:
        UserError: naming the key, its value and what is valid.
    """
    name = model_name(config)
    wanted = SECTIONS[name]
    for section in config:
        if section not in (*wanted, *OPTIONAL_SECTIONS):
            raise UserError(
                f"config has no section {section!r}{nearest(section, [*wanted, *OPTIONAL_SECTIONS])}"
            )
    missing = [section for section in wanted if section not in config]
    if missing:
        raise UserError(f"config has no section {', '.join(missing)}: a {name} run needs {', '.join(wanted)}")
    settings = make_settings(config)
    if settings.options.steps <= settings.optimizer.warmup_steps:
        raise UserError(
            f"config.optimizer.warmup_steps = {settings.optimizer.warmup_steps} must be less than"
            f" config.training.steps = {settings.options.steps}"
        )
    if name == "clip":
        clip_config(config, vocab_size=config.tokenizer.get("vocab_size", 1024))
        construct(TokenizerOptions, config.tokenizer, "config.tokenizer")
        return
    if name == "autoencoder_kl":
        autoencoder_config(config, settings.source.image_shape)
        build({"autoencoding": AutoencodingLoss}, config.loss, "config.loss")
        return
    if name == "pretrained":
        pretrained = make_pretrained(config).loss
        check_loss(settings, **{key: pretrained[key] for key in ("loss", "time_sampler", "uncertainty")})
        return
    if "evaluation" in config:
        build(PROTOCOLS, config.evaluation, "config.evaluation")
    parts = make_diffusion(config, workdir)
    if config.autoencoder.name == "autoencoder_kl":
        if config.data.get("flip"):
            raise UserError(
                "config.data.flip: images for a trained autoencoder are encoded once and not mirrored; set 0"
            )
        if parts.loss.masked:
            raise UserError("config.loss.masked does not go with a trained autoencoder")
        if config.data.get("buckets"):
            raise UserError("config.data.buckets do not go with a trained autoencoder")
    channels = settings.source.image_shape[-1]
    if parts.autoencoder.channels != channels:
        raise UserError(
            f"config.autoencoder.channels = {parts.autoencoder.channels}, but the images of config.data have"
            f" {channels}"
        )
    own_past = parts.weak is not None and parts.weak.step is not None and not parts.weak.workdir
    if own_past and settings.options.sample_every:
        raise UserError(
            "config.guidance.weak.step: a checkpoint of this run cannot guide the pictures that it draws: set"
            " config.training.sample_every = 0, or name another run in config.guidance.weak.workdir"
        )
    check_loss(settings, parts.loss, parts.time_sampler, parts.uncertainty)
    if parts.sampler == DDPM(variance="learned_range") and not parts.loss.vlb_weight:
        raise UserError(
            "config.sampler.variance = 'learned_range' is what a network predicts beside the image, and this"
            " one predicts none: choose 'small' or 'large', or train it with config.loss.vlb_weight = 0.001"
        )
    for height, width, _ in getattr(settings.source, "image_shapes", (settings.source.image_shape,)):
        shape = parts.autoencoder.latent_shape(height, width)
        network_kind(config).check_latent(dict(config.model), *shape[:2])
    network(config, shape[-1]).abstract()
    try:
        levels = parts.options.levels(parts.schedule, parts.time_grid, parts.num_steps, parts.prediction_type)
    except ValueError as error:
        raise UserError(f"config.sampler: {error}") from error
    try:
        parts.guidance.resolve(parts.schedule, levels)
    except ValueError as error:
        raise UserError(f"config.guidance: {error}") from error


def check_loss(settings: Settings, loss: DenoisingLoss, time_sampler: Any, uncertainty: Any) -> None:
    """What fields of ``config.loss`` ask of each other and of the data."""
    if loss.masked and not getattr(settings.source, "alpha_mask", False):
        raise UserError(
            "config.loss.masked: the images of config.data have no masks; a folder of images with"
            " alpha_mask = True has"
        )
    if isinstance(time_sampler, RunningLoss) and not isinstance(uncertainty, NoUncertainty):
        raise UserError(
            "config.loss.time_sampler (running_loss) follows the size of the loss, which"
            " config.loss.uncertainty (learned) takes away: choose one of them"
        )
