"""What fields of a config ask of each other, found before data, devices or a compiler are asked."""

from collections.abc import Callable, Mapping
from typing import Any

from difflax.config.experiments import (
    AutoencoderExperiment,
    CLIPExperiment,
    DiffusionExperiment,
    Experiment,
    FineTuningExperiment,
)
from difflax.config.sections import fit_autoencoder
from difflax.core.types import UserError
from difflax.diffusion.loss.losses import check_weight
from difflax.diffusion.samplers import DDPM


def check(experiment: Experiment) -> None:
    """Everything about an experiment that can be wrong without data or devices.

    Raises:
        UserError: naming the key, its value and what is valid.
    """
    steps, warmup = experiment.training.steps, experiment.optimizer.warmup_steps
    if steps <= warmup:
        raise UserError(
            f"config.optimizer.warmup_steps = {warmup} must be less than config.training.steps = {steps}"
        )
    every = experiment.training.evaluate_every
    if every and getattr(experiment, "evaluation", None) is None:
        raise UserError(
            f"config.training.evaluate_every = {every}, but nothing judges the images of this run: set 0, or"
            " config.evaluation.name"
        )
    CHECKS[type(experiment)](experiment)


def check_loss(experiment: DiffusionExperiment | FineTuningExperiment) -> None:
    """What fields of ``config.loss`` ask of each other, of the data and of the training; that the data can be
    validated on.
    """
    loss, source = experiment.loss, experiment.data
    if experiment.validation.every and getattr(source, "buckets", ()):
        raise UserError(
            "config.validation.every: test images of several shapes (config.data.buckets) are not measured:"
            " set 0"
        )
    if experiment.training.accumulate > 1 and loss.noise.pairs:
        raise UserError(
            f"config.training.accumulate = {experiment.training.accumulate}: config.loss.noise (paired)"
            " chooses among the noises of the whole batch: set 1, or another noise"
        )
    if loss.masked and not getattr(source, "alpha_mask", False):
        raise UserError(
            "config.loss.masked: the images of config.data have no masks; a folder of images with"
            " alpha_mask = True has"
        )
    if loss.time_sampler.follows_loss and loss.uncertainty.init() is not None:
        raise UserError(
            "config.loss.time_sampler (running_loss) follows the size of the loss, which"
            " config.loss.uncertainty (learned) takes away: choose one of them"
        )


def _check_clip(experiment: CLIPExperiment) -> None:
    if experiment.training.accumulate > 1:
        raise UserError(
            f"config.training.accumulate = {experiment.training.accumulate}: CLIP's loss tells each example"
            " from all others of its batch, and parts of it are another loss: set 1, and spread it over"
            " more devices (config.mesh) or set a smaller config.training.batch_size"
        )


def _check_autoencoder(experiment: AutoencoderExperiment) -> None:
    fit_autoencoder(experiment.model, experiment.data.image_shape)


def _check_finetuning(experiment: FineTuningExperiment) -> None:
    check_loss(experiment)
    cache, source = experiment.cache, experiment.data
    if experiment.guidance.weak is not None:
        raise UserError("config.guidance.weak: a pretrained model has no worse one; take another guidance")
    if cache.text and experiment.tune.trains_text:
        raise UserError("config.cache.text: the text encoder is trained, its states change; set it to False")
    if cache.text and any(getattr(one, "shuffle_tags", False) for one in _sources_of(source)):
        raise UserError(
            "config.cache.text: captions with shuffled tags (config.data.shuffle_tags) are too many to be"
            " computed once: set it to False"
        )
    if cache.latents and _cuts_at_random(source):
        raise UserError(
            "config.cache.latents: cached images are not cut anew; set config.data.crop = 'center'"
        )
    if cache.latents and getattr(source, "flip", 0):
        raise UserError("config.cache.latents: cached images are not mirrored; set config.data.flip = 0")
    if cache.latents and getattr(source, "buckets", ()):
        raise UserError("config.cache.latents: buckets have latents of several shapes; set it to False")
    if cache.latents and experiment.loss.masked:
        raise UserError("config.cache.latents does not go with config.loss.masked, whose masks it leaves out")


def _check_diffusion(experiment: DiffusionExperiment) -> None:
    check_loss(experiment)
    autoencoder, source, weak = experiment.autoencoder, experiment.data, experiment.guidance.weak
    if experiment.trained_autoencoder is not None:
        _check_encoded_once(experiment)
    channels = source.image_shape[-1]
    if autoencoder.channels != channels:
        raise UserError(
            f"config.autoencoder.channels = {autoencoder.channels}, but the images of config.data have"
            f" {channels}"
        )
    draws = experiment.training.sample_every or experiment.training.evaluate_every
    if weak is not None and weak.own_snapshot and draws:
        raise UserError(
            "config.guidance.weak.step, ema_length: what this run has written cannot guide the pictures that"
            " it draws: set config.training.sample_every and evaluate_every to 0, or name another run in"
            " config.guidance.weak.workdir"
        )
    if experiment.sampler.sampler == DDPM(variance="learned_range") and not experiment.loss.vlb_weight:
        raise UserError(
            "config.sampler.variance = 'learned_range' is what a network predicts beside the image, and this"
            " one predicts none: choose 'small' or 'large', or train it with config.loss.vlb_weight = 0.001"
        )
    for height, width, _ in getattr(source, "image_shapes", (source.image_shape,)):
        experiment.model.check_latent(*autoencoder.latent_shape(height, width)[:2])
    loss = experiment.loss
    check_weight(
        loss.weighting, experiment.prediction, experiment.schedule, loss.time_sampler, loss.vlb_weight
    )
    if experiment.validation.every:
        experiment.validation.check(experiment.schedule, experiment.prediction, experiment.network_input)
    experiment.network.abstract()
    levels = experiment.sampler.levels(experiment.schedule, experiment.prediction)
    try:
        experiment.guidance.plan.resolve(experiment.schedule, levels)
    except ValueError as error:
        raise UserError(f"config.guidance: {error}") from error


def _check_encoded_once(experiment: DiffusionExperiment) -> None:
    """What a trained autoencoder, whose latents are computed before training, leaves out."""
    source: Any = experiment.data
    if getattr(source, "flip", 0):
        raise UserError(
            "config.data.flip: images for a trained autoencoder are encoded once and not mirrored; set 0"
        )
    if _cuts_at_random(source):
        raise UserError(
            "config.data.crop = 'random': images for a trained autoencoder are encoded once; set 'center'"
        )
    if experiment.loss.masked:
        raise UserError("config.loss.masked does not go with a trained autoencoder")
    if getattr(source, "buckets", ()):
        raise UserError("config.data.buckets do not go with a trained autoencoder")


def _cuts_at_random(source: Any) -> bool:
    return any(getattr(one, "crop", None) == "random" for one in _sources_of(source))


def _sources_of(source: Any) -> tuple[Any, ...]:
    """Those of a mixture, or the one."""
    return getattr(source, "sources", (source,))


CHECKS: Mapping[type[Experiment], Callable[[Any], None]] = {
    AutoencoderExperiment: _check_autoencoder,
    CLIPExperiment: _check_clip,
    DiffusionExperiment: _check_diffusion,
    FineTuningExperiment: _check_finetuning,
}
"""What the sections of each kind of run ask of each other."""
