"""A diffusion model's run: its objective and pictures for the loop, and its pipeline."""

import dataclasses
import shutil
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from difflax.config.files import claim_workdir, read_workdir_config
from difflax.data.caches import EmbeddingCache
from difflax.data.latents import WithoutImages, cache_latents
from difflax.diffusion.samplers import SAMPLERS
from difflax.config.networks import check_scores, network, network_kind
from difflax.runs.base import Prepared, make_loader, picture_task
from difflax.config.sections import (
    AUTOENCODER,
    AutoencoderOptions,
    Diffusion,
    Settings,
    WeakOptions,
    autoencoder_folder,
    make_diffusion,
    make_settings,
)
from difflax.generation.pipeline import Pipeline, WeakModel
from difflax.models.size_conditioning import numbers_of, numbers_read
from difflax.models.autoencoder import encode_images
from difflax.models.autoencoder_kl import KLAutoencoder
from difflax.pretrained.components.autoencoder import load_autoencoder, save_autoencoder
from difflax.pretrained.components.clip import load_text_encoder, save_text_encoder
from difflax.text.encoders import TextEncoder
from difflax.training.runtime.checkpoints import Checkpoints
from difflax.training.objectives.denoising import Denoising
from difflax.training.objectives.base import network_params, pixels
from difflax.parallel.sharding import sharded_shapes
from difflax.training.state import TrainState
from difflax.core.types import Conditioning, Params, UserError

LATENTS = "latents.npy"
"""A workdir's latents of the training images, computed once."""


def prepare_diffusion(config: ConfigDict, settings: Settings, workdir: epath.Path) -> Prepared:
    parts = make_diffusion(config, workdir)
    stored = (workdir / "text_encoder").exists()
    folder = workdir if stored else clip_folder(parts.text_encoder.path, "config.text_encoder.path")
    encoder = read_text_encoder(folder, parts)
    null = encode_condition(config, encoder, [""])
    check_widths(config, null)
    check_scores(count_numbers(config, null), settings.source, "config.model")
    claim_workdir(workdir, config)
    if not stored:
        store_text_encoder(encoder, folder, workdir)
    store_autoencoder(config, workdir)
    autoencoder_params = read_autoencoder_params(parts, workdir)
    latents, records = None, settings.source.split("train")
    if autoencoder_params:
        latents = cache_latents(
            records,
            lambda images: encode_images(parts.autoencoder, autoencoder_params, pixels({"image": images})),
            workdir / LATENTS,
            batch_size=64,
        )
        records = WithoutImages(records.captions)
    loader = make_loader(settings, records)
    cache = EmbeddingCache(loader.captions, lambda captions: encode_condition(config, encoder, captions))
    objective = make_objective(config, settings, parts, null)
    prompts = settings.options.sample_prompts or tuple(dict.fromkeys(loader.captions))[:8]
    # One for the whole run: its program is compiled once.
    pipeline = make_pipeline(config, {}, encoder, null, workdir)
    pipeline = dataclasses.replace(pipeline, mesh=settings.mesh.make(), rules=settings.mesh.rules)
    if parts.weak is not None and parts.weak.workdir:
        pipeline = dataclasses.replace(pipeline, **weak_model(parts.weak, workdir, pipeline.mesh))

    def prepare(batch: dict[str, Any]) -> PyTree:
        conditioning = cache.lookup(batch["caption"])
        if pipeline.sizes:
            numbers = numbers_of(batch, pipeline.sizes, batch["image"].shape[1:3])
            conditioning = dataclasses.replace(conditioning, time_ids=numbers)
        made = {"conditioning": conditioning}
        if latents is None:
            made["image"] = batch["image"]
        else:
            made["latent"] = latents[batch["index"]]
        if parts.loss.masked:
            made["mask"] = batch["mask"]
        return made

    def drawing(step: int, state: TrainState) -> Pipeline:
        return dataclasses.replace(pipeline, params=network_params(state.ema_params), step=step)

    return Prepared(
        objective,
        loader,
        prepare,
        constants={"context": null.context} | ({} if null.pooled is None else {"pooled": null.pooled}),
        periodic=(picture_task(settings.options.sample_every, drawing, prompts, workdir),),
    )


def make_objective(config: ConfigDict, settings: Settings, parts: Diffusion, null: Conditioning) -> Denoising:
    """What a diffusion model's run trains."""
    return Denoising(
        model=network(config, parts.autoencoder.latent_shape(*settings.source.image_shape[:2])[-1]),
        autoencoder=parts.autoencoder,
        schedule=parts.schedule,
        prediction_type=parts.prediction_type,
        time_sampler=parts.time_sampler,
        weighting=parts.weighting,
        penalty=parts.penalty,
        network_input=parts.network_input,
        caption_dropout=parts.loss.caption_dropout,
        null=null,
        noise=parts.noise,
        uncertainty=parts.uncertainty,
        masked=parts.loss.masked,
        vlb_weight=parts.loss.vlb_weight,
    )


def make_pipeline(
    config: ConfigDict, params: PyTree, encoder: TextEncoder, null: Conditioning, workdir: epath.Path
) -> Pipeline:
    """The pipeline of a run; what is trained apart from the network is read from ``workdir``."""
    parts, settings = make_diffusion(config, workdir), make_settings(config)
    height, width, _ = settings.source.image_shape
    return Pipeline(
        model=network(config, parts.autoencoder.latent_shape(height, width)[-1]),
        params=params,
        autoencoder=parts.autoencoder,
        autoencoder_params=read_autoencoder_params(parts, workdir),
        schedule=parts.schedule,
        prediction_type=parts.prediction_type,
        network_input=parts.network_input,
        text_encoder=encoder,
        null=null,
        samplers={name: cls() for name, cls in SAMPLERS.items()},
        sampler=parts.sampler,
        time_grid=parts.time_grid,
        num_steps=parts.num_steps,
        options=parts.options,
        guidance=parts.guidance,
        weak=None if parts.weak is None else WeakModel(perturbation=parts.weak.perturbation),
        sizes=count_numbers(config, null),
        height=height,
        width=width,
    )


def weak_model(options: WeakOptions | None, workdir: epath.Path, mesh: Mesh) -> dict[str, Any]:
    """The pipeline's fields for the worse model of a guidance, where it is another than its own."""
    if options is None or not (options.workdir or options.step is not None):
        return {}
    folder = epath.Path(options.workdir or workdir)
    config = read_workdir_config(folder)
    parts, settings = make_diffusion(config, folder), make_settings(config)
    model = network(config, parts.autoencoder.latent_shape(*settings.source.image_shape[:2])[-1])
    checkpoints = Checkpoints(folder / "checkpoints")
    abstract = sharded_shapes(model.abstract(), mesh, settings.mesh.rules)
    params = checkpoints.restore_params(abstract, options.step)
    checkpoints.close()
    return {"weak": WeakModel(model, options.perturbation), "weak_params": params}


def clip_folder(path: str, where: str) -> epath.Path:
    """The Hub folder that ``path`` names: itself, or the one inside a CLIP run's workdir."""
    folder = epath.Path(path)
    if (folder / "clip").is_dir():
        return folder / "clip"
    if (folder / "metrics.jsonl").exists():
        raise UserError(f"{where} = {path!r}: that run has not finished; train it to its last step first")
    if not folder.is_dir():
        raise UserError(
            f"{where} = {path!r}: no such folder; train a CLIP there first (configs/clip.py), or name the"
            " folder of one"
        )
    return folder


def read_text_encoder(folder: epath.Path, parts: Diffusion) -> TextEncoder:
    return load_text_encoder(folder, layer=parts.text_encoder.layer, final_norm=parts.text_encoder.final_norm)


def store_text_encoder(encoder: TextEncoder, folder: epath.Path, workdir: epath.Path) -> None:
    """The encoder into the workdir, so that the workdir alone makes images; a whole CLIP comes along as the
    metric of evaluation.
    """
    save_text_encoder(encoder, workdir)
    if (folder / "preprocessor_config.json").exists():
        shutil.copytree(folder, workdir / "clip")


def store_autoencoder(config: ConfigDict, workdir: epath.Path) -> None:
    """A trained autoencoder into the workdir, for the same reason."""
    if config.autoencoder.name != "autoencoder_kl" or (workdir / AUTOENCODER).is_dir():
        return
    options = AutoencoderOptions(path=config.autoencoder.path)
    autoencoder, params = load_autoencoder(autoencoder_folder(options, None))
    save_autoencoder(autoencoder, params, workdir / AUTOENCODER)


def read_autoencoder_params(parts: Diffusion, workdir: epath.Path) -> Params:
    """The weights of the autoencoder, none if it has none."""
    return load_autoencoder(workdir / AUTOENCODER)[1] if isinstance(parts.autoencoder, KLAutoencoder) else {}


def encode_condition(config: ConfigDict, encoder: TextEncoder, captions: list[str]) -> Conditioning:
    """What the network is given of the captions' condition: tokens, and the pooled vector if it reads one."""
    encoded = encoder.encode(captions)
    reads_pooled = network_kind(config).reads_pooled(dict(config.model))
    return encoded if reads_pooled else dataclasses.replace(encoded, pooled=None)


def count_numbers(config: ConfigDict, condition: Conditioning) -> int:
    """How many numbers the network reads beside the text, see `numbers_read`."""
    width = 0 if condition.pooled is None else condition.pooled.shape[-1]
    return numbers_read(dict(config.model), width, "config.model")


def check_widths(config: ConfigDict, condition: Conditioning) -> None:
    """Refuses a network that expects other widths of the text encoder's condition."""
    kind = network_kind(config)
    widths = {kind.context_option: condition.context.shape[-1]}
    if condition.pooled is not None and not count_numbers(config, condition):
        widths[kind.pooled_option] = condition.pooled.shape[-1]
    for name, width in widths.items():
        given = config.model.get(name)
        if given != width and given != (width,) * len(config.model.get("block_out_channels", ())):
            raise UserError(
                f"config.model.{name} = {given}, but the states of config.text_encoder have width {width}"
            )
