"""A diffusion model's run: its objective and pictures for the loop, and its pipeline."""

import dataclasses
import shutil
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import PyTree
from ml_collections import ConfigDict

from difflax.config import claim_workdir, read_workdir_config
from difflax.data.caches import EmbeddingCache
from difflax.diffusion.samplers import SAMPLERS
from difflax.experiment.networks import network, network_kind
from difflax.experiment.prepared import Prepared, make_loader
from difflax.experiment.sections import Diffusion, Settings, WeakOptions, make_diffusion, make_settings
from difflax.generation import Pipeline, WeakModel
from difflax.pretrained.clip import load_text_encoder, save_text_encoder
from difflax.text.encoders import TextEncoder
from difflax.training.checkpoints import Checkpoints
from difflax.training.loop import Periodic
from difflax.training.objectives import Denoising, network_params
from difflax.training.state import TrainState
from difflax.types import Conditioning, UserError


def prepare_diffusion(config: ConfigDict, settings: Settings, workdir: epath.Path) -> Prepared:
    parts = make_diffusion(config)
    stored = (workdir / "text_encoder").exists()
    folder = workdir if stored else clip_folder(parts.text_encoder.path, "config.text_encoder.path")
    encoder = read_text_encoder(folder, parts)
    null = encode_condition(config, encoder, [""])
    check_widths(config, null)
    claim_workdir(workdir, config)
    if not stored:
        store_text_encoder(encoder, folder, workdir)
    loader = make_loader(settings)
    cache = EmbeddingCache(loader.captions, lambda captions: encode_condition(config, encoder, captions))
    objective = Denoising(
        model=network(config, parts.codec.latent_shape(*settings.source.image_shape[:2])[-1]),
        codec=parts.codec,
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
    )
    prompts = settings.options.sample_prompts or tuple(dict.fromkeys(loader.captions))[:8]
    # One for the whole run: its program is compiled once.
    pipeline = make_pipeline(config, {}, encoder, null)
    if parts.weak is not None and parts.weak.workdir:
        pipeline = dataclasses.replace(pipeline, **weak_model(parts.weak, workdir))

    def prepare(batch: dict[str, Any]) -> PyTree:
        mask = {"mask": batch["mask"]} if parts.loss.masked else {}
        return {"image": batch["image"], "conditioning": cache.lookup(batch["caption"]), **mask}

    def draw(step: int, state: TrainState, logger: Any) -> None:
        from difflax.evaluation.grids import captioned_grid
        from difflax.evaluation.png import save_png

        params = jax.tree.map(np.asarray, network_params(state.ema_params))
        drawing = dataclasses.replace(pipeline, params=params, step=step)
        images = drawing(list(prompts), seed=list(range(len(prompts))))
        grid = captioned_grid(images, prompts)
        (workdir / "samples").mkdir(exist_ok=True)
        save_png(workdir / "samples" / f"step_{step:07d}.png", grid, {"step": step, "prompts": list(prompts)})
        logger.picture(step, "samples", np.asarray(grid.convert("RGB")))

    return Prepared(
        objective,
        loader,
        prepare,
        constants={"context": null.context} | ({} if null.pooled is None else {"pooled": null.pooled}),
        periodic=(Periodic(settings.options.sample_every, draw),),
    )


def make_pipeline(config: ConfigDict, params: PyTree, encoder: TextEncoder, null: Conditioning) -> Pipeline:
    parts, settings = make_diffusion(config), make_settings(config)
    height, width, _ = settings.source.image_shape
    return Pipeline(
        model=network(config, parts.codec.latent_shape(height, width)[-1]),
        params=params,
        codec=parts.codec,
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
        height=height,
        width=width,
    )


def weak_model(options: WeakOptions | None, workdir: epath.Path) -> dict[str, Any]:
    """The pipeline's fields for the worse model of a guidance, where it is another than its own."""
    if options is None or not (options.workdir or options.step is not None):
        return {}
    folder = epath.Path(options.workdir or workdir)
    config = read_workdir_config(folder)
    parts, settings = make_diffusion(config), make_settings(config)
    model = network(config, parts.codec.latent_shape(*settings.source.image_shape[:2])[-1])
    checkpoints = Checkpoints(folder / "checkpoints")
    params = checkpoints.restore_params(model.abstract(), options.step)
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


def encode_condition(config: ConfigDict, encoder: TextEncoder, captions: list[str]) -> Conditioning:
    """What the network is given of the captions' condition: tokens, and the pooled vector if it reads one."""
    encoded = encoder.encode(captions)
    reads_pooled = network_kind(config).reads_pooled(dict(config.model))
    return encoded if reads_pooled else dataclasses.replace(encoded, pooled=None)


def check_widths(config: ConfigDict, condition: Conditioning) -> None:
    """Refuses a network that expects other widths of the text encoder's condition."""
    kind = network_kind(config)
    widths = {kind.context_option: condition.context.shape[-1]}
    if condition.pooled is not None:
        widths[kind.pooled_option] = condition.pooled.shape[-1]
    for name, width in widths.items():
        given = config.model.get(name)
        if given != width and given != (width,) * len(config.model.get("block_out_channels", ())):
            raise UserError(
                f"config.model.{name} = {given}, but the states of config.text_encoder have width {width}"
            )
