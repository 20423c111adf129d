"""From a config to objects: the only file that knows every concrete class by name."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import PyTree
from ml_collections import ConfigDict

from difflax.config import build, claim_workdir, construct, nearest, read_workdir_config, to_json
from difflax.data.caches import EmbeddingCache
from difflax.data.loader import Loader
from difflax.data.sources import SOURCES
from difflax.diffusion.denoisers import NetworkInput
from difflax.diffusion.guidance import (
    CORRECTIONS,
    GUIDANCES,
    Autoguidance,
    Bounds,
    ClassifierFreeGuidance,
    Guidance,
    GuidancePlan,
    PerturbationGuidance,
    ScaleShape,
    TwoConditionGuidance,
)
from difflax.diffusion.losses import PENALTIES
from difflax.diffusion.noises import NOISES
from difflax.diffusion.predictions import PREDICTIONS
from difflax.diffusion.run_options import Restart, RunOptions
from difflax.diffusion.samplers import SAMPLERS
from difflax.diffusion.schedules import SCHEDULES
from difflax.diffusion.time_grids import TIME_GRIDS
from difflax.diffusion.time_samplers import TIME_SAMPLERS, RunningLoss
from difflax.diffusion.weightings import UNCERTAINTIES, WEIGHTINGS, NoUncertainty
from difflax.evaluation.measurement import Instruments, PromptGroup
from difflax.evaluation.protocols import PROTOCOLS, EvaluationProtocol, clip_features
from difflax.generation import Pipeline, WeakModel
from difflax.models.autoencoder import CODECS
from difflax.models.functional import Functional, functional
from difflax.models.layers import choose
from difflax.models.perturbation import Perturbation
from difflax.models.unet import UNet2DConditionModel, reads_pooled
from difflax.pretrained.clip import load_clip, load_text_encoder, save_clip, save_text_encoder
from difflax.pretrained.hub import fetch
from difflax.pretrained.single_file import load_single_file
from difflax.pretrained.stable_diffusion import load_stable_diffusion
from difflax.text.clip_config import CLIPConfig
from difflax.text.encoders import TextEncoder
from difflax.text.joint import CLIP, clip_network
from difflax.text.pixels import PixelConfig
from difflax.text.tokenizer import Tokenizer, load_tokenizer, train_bpe
from difflax.training.checkpoints import Checkpoints
from difflax.training.ema import EMA
from difflax.training.loop import Periodic, TrainingOptions, fit
from difflax.training.objectives import Contrastive, Denoising, Objective, network_params
from difflax.training.optimizers import OPTIMIZERS
from difflax.training.sharding import MeshShape
from difflax.training.state import TrainState
from difflax.types import Conditioning, UserError

MODELS = ("unet2d_condition", "clip")
COMMON_SECTIONS = ("data", "ema", "loss", "mesh", "model", "optimizer", "seed", "training")
CLIP_SECTIONS = (*COMMON_SECTIONS, "tokenizer")
DIFFUSION_SECTIONS = (
    *COMMON_SECTIONS,
    *("autoencoder", "guidance", "prediction", "sampler", "schedule", "text_encoder"),
)
OPTIONAL_SECTIONS = ("evaluation", "network_input")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoisingLoss:
    """The fields of ``config.loss`` of a diffusion model, beside its sections.

    Attributes:
        caption_dropout, masked: see `Denoising`.
    """

    caption_dropout: float = 0.1
    masked: bool = False

    def __post_init__(self):
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(f"caption_dropout must lie in [0, 1], got {self.caption_dropout}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderOptions:
    """``config.text_encoder``: a CLIP folder, or the workdir of a run that trained one, and which state of it
    conditions (see `TextEncoder`).
    """

    path: str
    layer: int = -1
    final_norm: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerOptions:
    """``config.tokenizer``: see `train_bpe`."""

    vocab_size: int = 1024
    max_length: int = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeakOptions:
    """``config.guidance.weak``: the worse model of autoguidance and perturbation guidance.

    Attributes:
        workdir: of another run, or empty for this one.
        step: the checkpoint, ``None`` for the newest.
        perturbation: of the network, ``None`` for the network as it is.
    """

    workdir: str = ""
    step: int | None = None
    perturbation: Perturbation | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """The parts of a config that are the same for every model, built and checked."""

    source: Any
    optimizer: Any
    ema: EMA
    mesh: MeshShape
    options: TrainingOptions
    seed: int


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """The parts of a diffusion model's config, built and checked; nothing is computed yet."""

    codec: Any
    schedule: Any
    prediction_type: Any
    network_input: NetworkInput
    weighting: Any
    penalty: Any
    time_sampler: Any
    noise: Any
    uncertainty: Any
    loss: DenoisingLoss
    text_encoder: TextEncoderOptions
    sampler: Any
    time_grid: Any
    num_steps: int
    options: RunOptions
    guidance: Guidance
    weak: WeakOptions | None


def check(config: ConfigDict) -> None:
    """Everything about a config that can be wrong without data or devices.

    Raises:
        UserError: naming the key, its value and what is valid.
    """
    name = _model_name(config)
    wanted = CLIP_SECTIONS if name == "clip" else DIFFUSION_SECTIONS
    for section in config:
        if section not in (*wanted, *OPTIONAL_SECTIONS):
            raise UserError(
                f"config has no section {section!r}{nearest(section, [*wanted, *OPTIONAL_SECTIONS])}"
            )
    missing = [section for section in wanted if section not in config]
    if missing:
        raise UserError(f"config has no section {', '.join(missing)}: a {name} run needs {', '.join(wanted)}")
    settings = make_settings(config)
    if name == "clip":
        _clip_config(config, vocab_size=config.tokenizer.get("vocab_size", 1024))
        construct(TokenizerOptions, config.tokenizer, "config.tokenizer")
        return
    if "evaluation" in config:
        build(PROTOCOLS, config.evaluation, "config.evaluation")
    parts = make_diffusion(config)
    height, width, channels = settings.source.image_shape
    if parts.codec.channels != channels:
        raise UserError(
            f"config.autoencoder.channels = {parts.codec.channels}, but the images of config.data have"
            f" {channels}"
        )
    if parts.loss.masked and not getattr(settings.source, "alpha_mask", False):
        raise UserError(
            "config.loss.masked: the images of config.data have no masks; a folder of images with"
            " alpha_mask = True has"
        )
    own_past = parts.weak is not None and parts.weak.step is not None and not parts.weak.workdir
    if own_past and settings.options.sample_every:
        raise UserError(
            "config.guidance.weak.step: a checkpoint of this run cannot guide the pictures that it draws: set"
            " config.training.sample_every = 0, or name another run in config.guidance.weak.workdir"
        )
    if isinstance(parts.time_sampler, RunningLoss) and not isinstance(parts.uncertainty, NoUncertainty):
        raise UserError(
            "config.loss.time_sampler (running_loss) follows the size of the loss, which"
            " config.loss.uncertainty (learned) takes away: choose one of them"
        )
    shape = parts.codec.latent_shape(height, width)
    unet(config, shape[-1]).abstract()
    levels = len(config.model.block_out_channels)
    if any(edge % 2 ** (levels - 1) for edge in shape[:2]):
        raise UserError(
            f"config.model.block_out_channels has {levels} levels, which halve {levels - 1} times, but the"
            f" latent is {shape[0]} × {shape[1]}: use fewer levels or a smaller config.autoencoder.patch_size"
        )
    if settings.options.steps <= settings.optimizer.warmup_steps:
        raise UserError(
            f"config.optimizer.warmup_steps = {settings.optimizer.warmup_steps} must be less than"
            f" config.training.steps = {settings.options.steps}"
        )
    try:
        levels = parts.options.levels(parts.schedule, parts.time_grid, parts.num_steps, parts.prediction_type)
    except ValueError as error:
        raise UserError(f"config.sampler: {error}") from error
    try:
        parts.guidance.resolve(parts.schedule, levels)
    except ValueError as error:
        raise UserError(f"config.guidance: {error}") from error


def make_settings(config: ConfigDict) -> Settings:
    """Data, optimizer, average, mesh and options."""
    if isinstance(config.seed, bool) or not isinstance(config.seed, int) or not 0 <= config.seed < 2**32:
        raise UserError(f"config.seed = {config.seed!r} must be a whole number from 0 to 2^32 - 1")
    return Settings(
        source=build(SOURCES, config.data, "config.data"),
        optimizer=build(OPTIMIZERS, config.optimizer, "config.optimizer"),
        ema=construct(EMA, config.ema, "config.ema"),
        mesh=construct(MeshShape, config.mesh, "config.mesh"),
        options=construct(TrainingOptions, config.training, "config.training"),
        seed=config.seed,
    )


def make_diffusion(config: ConfigDict) -> Diffusion:
    """The parts of a diffusion model's config."""
    loss, sampler = dict(config.loss), dict(config.sampler)
    num_steps, grid = sampler.pop("num_steps", 50), sampler.pop("time_grid", {"name": "trailing"})
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
        raise UserError(f"config.sampler.num_steps = {num_steps!r} must be a whole number, at least 1")
    options = {
        "schedule": sampler.pop("schedule", None),
        "restart": sampler.pop("restart", None),
        **{name: sampler.pop(name) for name in ("variance_exploding", "final_t") if name in sampler},
    }
    if options["schedule"] is not None:
        options["schedule"] = build(SCHEDULES, options["schedule"], "config.sampler.schedule")
    if options["restart"] is not None:
        options["restart"] = construct(Restart, options["restart"], "config.sampler.restart")
    guidance, weak = make_guidance(config.guidance)
    parts = {
        "noise": build(NOISES, loss.pop("noise", {"name": "white"}), "config.loss.noise"),
        "uncertainty": build(
            UNCERTAINTIES, loss.pop("uncertainty", {"name": "none"}), "config.loss.uncertainty"
        ),
        "weighting": build(WEIGHTINGS, loss.pop("weighting", {"name": "constant"}), "config.loss.weighting"),
        "penalty": build(PENALTIES, loss.pop("penalty", {"name": "mean_squared"}), "config.loss.penalty"),
        "time_sampler": build(
            TIME_SAMPLERS, loss.pop("time_sampler", {"name": "uniform"}), "config.loss.time_sampler"
        ),
    }
    return Diffusion(
        codec=build(CODECS, config.autoencoder, "config.autoencoder"),
        schedule=build(SCHEDULES, config.schedule, "config.schedule"),
        prediction_type=build(PREDICTIONS, config.prediction, "config.prediction"),
        network_input=construct(NetworkInput, config.get("network_input", {}), "config.network_input"),
        loss=build({"denoising": DenoisingLoss}, loss, "config.loss"),
        text_encoder=build({"clip": TextEncoderOptions}, config.text_encoder, "config.text_encoder"),
        sampler=build(SAMPLERS, sampler, "config.sampler"),
        time_grid=build(TIME_GRIDS, grid, "config.sampler.time_grid"),
        num_steps=num_steps,
        options=construct(RunOptions, options, "config.sampler"),
        guidance=guidance,
        weak=weak,
        **parts,
    )


def make_guidance(section: ConfigDict) -> tuple[Guidance, WeakOptions | None]:
    """``config.guidance``: a guidance's name and fields, and what every guidance may have beside them.

    ``scale`` may be a number, a `ScaleShape` or one number a step; ``interval``: `Bounds`; ``corrections``: a
    tuple of named sections; ``weak``: `WeakOptions`.
    """
    where = "config.guidance"
    fields = dict(section)
    plan: dict[str, Any] = {}
    scale = fields.get("scale")
    if isinstance(scale, ConfigDict | dict):
        plan["scale_over_run"] = construct(ScaleShape, fields.pop("scale"), f"{where}.scale")
    elif isinstance(scale, tuple | list):
        plan["scale_over_run"] = tuple(fields.pop("scale"))
    bounds = fields.pop("interval", None)
    if bounds is not None:
        plan["bounds"] = construct(Bounds, bounds, f"{where}.interval")
    plan["corrections"] = tuple(
        build(CORRECTIONS, correction, f"{where}.corrections[{i}]")
        for i, correction in enumerate(fields.pop("corrections", ()))
    )
    weak = fields.pop("weak", None)
    if weak is not None:
        weak = dict(weak)
        perturbation = weak.get("perturbation")
        if perturbation is not None:
            weak["perturbation"] = construct(Perturbation, perturbation, f"{where}.weak.perturbation")
        weak = construct(WeakOptions, weak, f"{where}.weak")
    guidance = build(GUIDANCES, fields, where)
    if isinstance(guidance, Autoguidance | PerturbationGuidance) and weak is None:
        raise UserError(f"{where} ({section.name}) needs {where}.weak, the worse model to go away from")
    if isinstance(guidance, TwoConditionGuidance):
        raise UserError(
            f"{where}.name = {section.name!r} needs images as a condition, which no config trains yet: use"
            " TwoConditionGuidance from Python"
        )
    return GuidancePlan(guidance, **plan) if any(plan.values()) else guidance, weak


def unet(config: ConfigDict, channels: int) -> Functional:
    """The UNet of ``config.model`` for latents of ``channels``."""
    fields = {key: value for key, value in config.model.items() if key != "name"}
    return functional(
        lambda rngs: construct(
            UNet2DConditionModel,
            fields,
            "config.model",
            in_channels=channels,
            out_channels=channels,
            rngs=rngs,
        )
    )


def train(config: ConfigDict, workdir: epath.PathLike, *, stop_at: int | None = None) -> None:
    """Trains what the config names, or goes on with it; see `fit`."""
    check(config)
    workdir = epath.Path(workdir)
    settings = make_settings(config)
    mesh = settings.mesh.make()
    if settings.options.batch_size % (mesh.shape["data"] * mesh.shape["fsdp"]):
        raise UserError(
            f"config.training.batch_size = {settings.options.batch_size} must be a multiple of the"
            f" {mesh.shape['data'] * mesh.shape['fsdp']} devices of the mesh's data and fsdp axes"
        )
    run = _clip_run if _model_name(config) == "clip" else _diffusion_run
    prepared = run(config, settings, workdir)
    state = fit(
        workdir,
        to_json(config),
        objective=prepared.objective,
        optimizer=settings.optimizer.build(settings.options.steps),
        ema=settings.ema,
        mesh=mesh,
        seed=settings.seed,
        options=settings.options,
        loader=prepared.loader,
        prepare=prepared.prepare,
        constants=prepared.constants,
        periodic=prepared.periodic,
        label=_model_name(config),
        stop_at=stop_at,
    )
    if int(state.step) == settings.options.steps and prepared.finish is not None:
        prepared.finish(state)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a kind of model adds to the common loop."""

    objective: Objective
    loader: Any
    prepare: Callable[[dict[str, Any]], PyTree]
    constants: dict[str, Any]
    periodic: tuple[Periodic, ...] = ()
    finish: Callable[[TrainState], None] | None = None


def _loader(settings: Settings) -> Loader:
    split = settings.source.split("train")
    return Loader(split, batch_size=settings.options.batch_size, seed=settings.seed)


def _diffusion_run(config: ConfigDict, settings: Settings, workdir: epath.Path) -> Prepared:
    parts = make_diffusion(config)
    stored = (workdir / "text_encoder").exists()
    folder = workdir if stored else _clip_folder(parts.text_encoder.path, "config.text_encoder.path")
    encoder = _text_encoder(folder, parts)
    null = _condition(config, encoder, [""])
    _check_widths(config, null)
    claim_workdir(workdir, config)
    if not stored:
        _store_text_encoder(encoder, folder, workdir)
    loader = _loader(settings)
    cache = EmbeddingCache(loader.captions, lambda captions: _condition(config, encoder, captions))
    objective = Denoising(
        model=unet(config, parts.codec.latent_shape(*settings.source.image_shape[:2])[-1]),
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
    pipeline = _pipeline(config, {}, encoder, null)
    if parts.weak is not None and parts.weak.workdir:
        pipeline = dataclasses.replace(pipeline, **_weak_model(parts.weak, workdir))

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


def _clip_run(config: ConfigDict, settings: Settings, workdir: epath.Path) -> Prepared:
    claim_workdir(workdir, config)
    loader = _loader(settings)
    options = construct(TokenizerOptions, config.tokenizer, "config.tokenizer")
    folder = workdir / "tokenizer"
    if folder.exists():
        tokenizer = load_tokenizer(folder, max_length=options.max_length)
    else:
        tokenizer = train_bpe(
            loader.captions, folder, vocab_size=options.vocab_size, max_length=options.max_length
        )
    clip_config = _clip_config(config, tokenizer=tokenizer)
    pixels = PixelConfig(size=clip_config.vision_config.image_size)
    objective = Contrastive(model=clip_network(clip_config), pixels=pixels)
    unique = {caption: i for i, caption in enumerate(dict.fromkeys(loader.captions))}
    ids = tokenizer(list(unique))

    def prepare(batch: dict[str, Any]) -> PyTree:
        rows = np.asarray([unique[caption] for caption in batch["caption"]], np.int32)
        return {"image": batch["image"], "input_ids": ids[rows], "caption_id": rows}

    def finish(state: TrainState) -> None:
        params = jax.tree.map(np.asarray, state.ema_params)
        save_clip(CLIP(params, clip_config, tokenizer, pixels), workdir / "clip")

    return Prepared(objective, loader, prepare, constants={}, finish=finish)


def load(workdir: epath.PathLike) -> Pipeline:
    """The pipeline of a workdir, from its newest checkpoint's averaged parameters.

    Raises:
        UserError: no workdir, no checkpoint, or not of a diffusion model.
    """
    workdir = epath.Path(workdir)
    config = read_workdir_config(workdir)
    if _model_name(config) == "clip":
        raise UserError(
            f"{workdir} holds a CLIP, which makes no images: give the workdir of a diffusion model"
        )
    if not (workdir / "checkpoints").exists():
        raise UserError(f"{workdir} has no checkpoint yet: train it first (difflax train)")
    parts, settings = make_diffusion(config), make_settings(config)
    checkpoints = Checkpoints(workdir / "checkpoints")
    model = unet(config, parts.codec.latent_shape(*settings.source.image_shape[:2])[-1])
    params = checkpoints.restore_params(model.abstract())
    null = checkpoints.restore_constants()
    step = checkpoints.latest
    checkpoints.close()
    pipeline = _pipeline(config, params, _text_encoder(workdir, parts), Conditioning(**null))
    return dataclasses.replace(pipeline, step=step, **_weak_model(parts.weak, workdir))


def _weak_model(options: WeakOptions | None, workdir: epath.Path) -> dict[str, Any]:
    """The pipeline's fields for the worse model of a guidance, where it is another than its own."""
    if options is None or not (options.workdir or options.step is not None):
        return {}
    folder = epath.Path(options.workdir or workdir)
    config = read_workdir_config(folder)
    parts, settings = make_diffusion(config), make_settings(config)
    model = unet(config, parts.codec.latent_shape(*settings.source.image_shape[:2])[-1])
    checkpoints = Checkpoints(folder / "checkpoints")
    params = checkpoints.restore_params(model.abstract(), options.step)
    checkpoints.close()
    return {"weak": WeakModel(model, options.perturbation), "weak_params": params}


def from_pretrained(
    source: epath.PathLike,
    *,
    dtype: Any = "float32",
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
    batch_size: int | None = None,
    tile: int | None = None,
    config: epath.PathLike | None = None,
    tokenizer: epath.PathLike | None = None,
    prediction_type: str | None = None,
) -> Pipeline:
    """The pipeline of a checkpoint; see `difflax.from_pretrained`."""
    kinds = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
    kind = choose(kinds, jnp.dtype(dtype).name if not isinstance(dtype, str) else dtype, "dtype")
    single = {"config": config, "tokenizer": tokenizer, "prediction_type": prediction_type}
    if epath.Path(source).is_file():
        checkpoint = load_single_file(source, dtype=kind, **single)
    else:
        for name, value in single.items():
            if value is not None:
                raise UserError(f"{name}={os.fspath(value)!r} is for a single file, {source} is none")
        folder = fetch(
            source,
            revision=revision,
            variant=variant,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        checkpoint = load_stable_diffusion(folder, dtype=kind, variant=variant)
    if tile is not None:
        codec = dataclasses.replace(checkpoint.codec, tile=tile // checkpoint.codec.config.downscale)
        checkpoint = dataclasses.replace(checkpoint, codec=codec)
    return Pipeline.of_checkpoint(
        checkpoint,
        samplers={name: cls() for name, cls in SAMPLERS.items()},
        guidance=ClassifierFreeGuidance(scale=7.5),
        num_steps=50,
        batch_size=4 * jax.local_device_count() if batch_size is None else batch_size,
    )


def evaluation(
    workdir: epath.PathLike,
) -> tuple[dict[str, Any], EvaluationProtocol, Instruments, list[PromptGroup]]:
    """The resolved config of a workdir with its protocol, what reads its images, and its prompt groups."""
    config = read_workdir_config(workdir)
    if "evaluation" not in config:
        raise UserError(f"{workdir}: its config has no section 'evaluation', so there is nothing to measure")
    protocol = build(PROTOCOLS, config.evaluation, "config.evaluation")
    folder = epath.Path(workdir) / "clip"
    features = clip_features(load_clip(folder)) if folder.exists() else None
    instruments = Instruments(features=features, judge=protocol.judge)
    return to_json(config), protocol, instruments, protocol.groups(make_settings(config).source)


def evaluation_of_prompts(
    pipeline: Pipeline, prompts: list[str], clip: epath.PathLike | None
) -> tuple[dict[str, Any], Instruments, list[PromptGroup]]:
    """The configs of a checkpoint, and what measures its images of given prompts: a CLIP's features."""
    features = None if clip is None else clip_features(load_clip(clip), "CLIP")
    config = {} if pipeline.configs is None else dataclasses.asdict(pipeline.configs)
    groups = [PromptGroup(name="prompts", prompts=tuple(dict.fromkeys(prompts)))]
    return config, Instruments(features=features), groups


def _pipeline(config: ConfigDict, params: PyTree, encoder: TextEncoder, null: Conditioning) -> Pipeline:
    parts, settings = make_diffusion(config), make_settings(config)
    height, width, _ = settings.source.image_shape
    return Pipeline(
        model=unet(config, parts.codec.latent_shape(height, width)[-1]),
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


def _model_name(config: ConfigDict) -> str:
    name = config.model.get("name") if "model" in config else None
    build({known: lambda **fields: None for known in MODELS}, {"name": name}, "config.model")
    return name


def _clip_config(
    config: ConfigDict, *, tokenizer: Tokenizer | None = None, vocab_size: int | None = None
) -> CLIPConfig:
    """``config.model`` as a `CLIPConfig`; what the tokenizer decides is filled in."""
    fields = {key: value for key, value in config.model.to_dict().items() if key != "name"}
    length = config.tokenizer.get("max_length", TokenizerOptions.max_length)
    text = {**fields.pop("text_config", {}), "vocab_size": vocab_size, "max_position_embeddings": length}
    if tokenizer is not None:
        backend = tokenizer.backend
        text |= {
            "vocab_size": tokenizer.vocab_size,
            "bos_token_id": backend.bos_token_id,
            "eos_token_id": backend.eos_token_id,
            "pad_token_id": backend.pad_token_id,
        }
    vision = fields.pop("vision_config", {})
    return construct(
        lambda projection_dim=512: CLIPConfig.from_config(
            {"projection_dim": projection_dim, "text_config": text, "vision_config": vision}
        ),
        fields,
        "config.model (clip)",
    )


def _clip_folder(path: str, where: str) -> epath.Path:
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


def _text_encoder(folder: epath.Path, parts: Diffusion) -> TextEncoder:
    return load_text_encoder(folder, layer=parts.text_encoder.layer, final_norm=parts.text_encoder.final_norm)


def _store_text_encoder(encoder: TextEncoder, folder: epath.Path, workdir: epath.Path) -> None:
    """The encoder into the workdir, so that the workdir alone makes images; a whole CLIP comes along as the
    metric of evaluation.
    """
    save_text_encoder(encoder, workdir)
    if (folder / "preprocessor_config.json").exists():
        shutil.copytree(folder, workdir / "clip")


def _condition(config: ConfigDict, encoder: TextEncoder, captions: list[str]) -> Conditioning:
    """What the network is given of the captions' condition: tokens, and the pooled vector if it reads one."""
    encoded = encoder.encode(captions)
    return encoded if reads_pooled(dict(config.model)) else dataclasses.replace(encoded, pooled=None)


def _check_widths(config: ConfigDict, condition: Conditioning) -> None:
    """Refuses a network that expects other widths of the text encoder's condition."""
    widths = {"cross_attention_dim": condition.context.shape[-1]}
    if condition.pooled is not None:
        widths["projection_class_embeddings_input_dim"] = condition.pooled.shape[-1]
    for name, width in widths.items():
        given = config.model.get(name)
        if given != width and given != (width,) * len(config.model.block_out_channels):
            raise UserError(
                f"config.model.{name} = {given}, but the states of config.text_encoder have width {width}"
            )
