"""What a config leads to, computed small: numbers of the built objects, traced programs, files, errors.

Each function takes the resolved values of a config and a `Tools`, and gives a tree of arrays, numbers and
texts; another value of a field has to give another.
"""

import dataclasses
import functools
import json
import pathlib
import re
import sys
from collections.abc import Callable

import difflax.cli.ablate
import difflax.runs.autoencoder
import difflax.runs.base
import difflax.runs.diffusion
import difflax.runs.finetune
import jax
import jax.numpy as jnp
import numpy as np
import optax
from difflax.cli import evaluate, main
from difflax.config.checks import check
from difflax.config.experiments import parse
from difflax.config.guidance import GUIDANCE
from difflax.config.resolve import read_section
from difflax.config.sections import clip_with_tokenizer
from difflax.core.types import Conditioning, UserError
from difflax.diffusion.denoisers import network_inputs
from difflax.diffusion.guidance import (
    ComposedGuidance,
    Guided,
    Prompts,
    TwoConditionGuidance,
    TwoConditions,
    WithWeak,
)
from difflax.diffusion.predictions import Prediction
from difflax.diffusion.samplers import sample
from difflax.diffusion.schedules import noise_level
from difflax.models.functional import functional
from difflax.parallel.sharding import shardings
from difflax.runs.base import make_loader
from difflax.runs.clip import clip_objective
from difflax.runs.load import read_checkpoint
from difflax.runs.plan import _example
from difflax.text.tokenizer import load_tokenizer, train_bpe
from difflax.training.state import TrainState
from etils import epath
from flax import nnx
from jax.sharding import AbstractMesh

from tests.training import toy


@dataclasses.dataclass
class Tools:
    """Folders that configs name, and a place for files."""

    place: pathlib.Path
    monkeypatch: object
    clip: pathlib.Path
    sd15: pathlib.Path
    sd3: pathlib.Path
    count: int = 0

    def fresh(self):
        """A folder that is not there yet."""
        self.count += 1
        return epath.Path(self.place / f"made_{self.count}")


def or_line(function: Callable, *args):
    """What a function gives, or the line with which it refuses."""
    try:
        return function(*args)
    except UserError as error:
        return str(error)


def traced(function, *args):
    """The program of a function, without what differs from run to run, and its constants' sums."""
    program = jax.make_jaxpr(function)(*args)
    sums = [float(jnp.sum(jnp.abs(_numbers(constant)))) for constant in program.consts]
    return re.sub(r"0x[0-9a-f]+|at \S+\.py:\d+", "", str(program)), sums


def _numbers(constant):
    """A constant's numbers, a random key's too."""
    constant = jnp.asarray(constant)
    return jax.random.key_data(constant) if jnp.issubdtype(constant.dtype, jax.dtypes.prng_key) else constant


KEY = jax.random.key(0)
TIMES = np.array([0.15, 0.5, 0.85])


# --- the mathematics


def schedule(values, tools):
    made = parse(values).schedule
    return [np.asarray(a) for a in made.alpha_sigma(jnp.asarray(TIMES))]


def prediction(values, tools):
    made = parse(values)
    return [np.asarray(a) for a in made.prediction.coefficients(noise_level(made.schedule, TIMES))]


def network_input(values, tools):
    """What a network is shown."""
    made = parse(values)
    x = jnp.asarray([[1.0], [2.0], [3.0]])
    shown = network_inputs(x, noise_level(made.schedule, TIMES), made.network_input)
    return [np.asarray(part) for part in shown]


class ToyNetwork(nnx.Module):
    """A number times the image, plus the mean of the caption."""

    def __init__(self, rngs):
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x, timesteps, conditioning, dropout_key=None):
        return self.scale[...] * x + conditioning.context.mean((1, 2))[:, None, None, None]


def loss(values, tools):
    """Losses of three steps, and the shapes of what is trained."""
    made = parse(values)
    check(made)
    null = Conditioning(context=jnp.zeros((1, 2, 3)))
    objective = dataclasses.replace(made.objective(null), model=functional(ToyNetwork))
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (8, 4, 4, 3)), jnp.uint8),
        "mask": jnp.asarray(rng.integers(0, 2, (8, 4, 4, 1)) * 255, jnp.uint8),
        "conditioning": Conditioning(context=jnp.asarray(rng.normal(size=(8, 2, 3)), jnp.float32)),
    }
    params = jax.tree.map(lambda leaf: leaf + 0.1, objective.init(KEY))
    memory, found = objective.begin(), []
    for step in range(3):
        key = jax.random.fold_in(KEY, step)
        losses, _ = objective.loss(params, batch, key, memory)
        memory = objective.advance(memory, losses, key)
        found.append(np.asarray(losses))
    return found, [leaf.shape for leaf in jax.tree.leaves(params)]


def levels(values, tools):
    made = parse(values)
    found = made.sampler.levels(made.schedule, made.prediction)
    return [np.asarray(a) for a in (found.alpha, found.sigma, found.t)]


def repainted(values, tools):
    """The levels of a run that makes a part of an image anew."""
    made = parse(values)
    found = made.sampler.run_options.repainting(made.sampler.levels(made.schedule, made.prediction))
    return [np.asarray(a) for a in (found.alpha, found.sigma, found.t)]


def denoise(x, level, shift):
    """A denoiser that is no linear map."""
    alpha, sigma = (jnp.reshape(a, (-1, 1, 1, 1)) for a in (level.alpha, level.sigma))
    x0 = 0.8 * jnp.tanh(1.5 * x) + 0.1 * shift
    return Prediction(x0=x0, eps=(x - alpha * x0) / jnp.maximum(sigma, 1e-2))


def image_of_sampler(values, tools):
    made = parse(values)
    found = made.sampler.levels(made.schedule, made.prediction)
    x = jax.random.normal(KEY, (2, 4, 4, 1)) * found.sigma[0]
    run = jax.jit(lambda x, keys: sample(denoise, made.sampler.sampler, found, x, keys, conditioning=0.0))
    return np.asarray(run(x, jax.random.split(KEY, 2)))


def guided(values, tools):
    """Guided predictions at three steps of a run, one after the other."""
    made = parse(values | {"guidance": {"name": "cfg"}})
    plan = read_section(GUIDANCE, values["guidance"], "config.guidance").plan
    found = made.sampler.levels(made.schedule, made.prediction)
    x = jax.random.normal(KEY, (2, 4, 4, 1))
    told = {value: Conditioning(context=jnp.full((2, 1, 1), value)) for value in (-1.0, 0.0, 0.3, 1.0, 2.0)}
    conditioning = {
        ComposedGuidance: Prompts((told[1.0], told[2.0]), told[0.0]),
        TwoConditionGuidance: TwoConditions(told[1.0], told[0.3], told[0.0]),
    }.get(type(getattr(plan, "guidance", plan)), Guided(told[1.0], told[-1.0]))

    def better(x, level, condition):
        return denoise(x, level, condition.context[..., None])

    def worse(x, level, condition):
        return denoise(0.5 * x, level, condition.context[..., None])

    wrapped = plan.resolve(made.schedule, found).wrap(WithWeak(better, worse))
    memory, results = wrapped.begin(x), []
    for step in (0, 5, 9):
        outcome = wrapped.advance(x, found[step], conditioning, memory)
        memory = outcome.memory
        results.append((np.asarray(outcome.guided.x0), np.asarray(outcome.guided.eps)))
    return results


def weak_model(values, tools):
    """Which checkpoint of which run is read; there is none."""
    workdir = epath.Path(tools.place / "run_of_weak")
    workdir.mkdir(exist_ok=True)
    made = parse(values)
    (workdir / "config.json").write_text(json.dumps(made.resolved))
    return or_line(difflax.runs.diffusion.weak_model, made.guidance.weak, workdir, made.mesh.make())


def perturbed(values, tools):
    """The program of the worse network."""
    made = parse(values)
    _, batch = _example(made, 3)
    x = jnp.zeros((1, 8, 8, 3))

    def network(params, *given):
        return made.network.module(params, made.guidance.weak.perturbation)(*given)

    return or_line(lambda: traced(network, made.network.abstract(), x, jnp.zeros(1), batch["conditioning"]))


# --- networks


def training_program(values, tools):
    """The programs of the loss and of where it starts, and the shapes of what it trains."""
    made = parse(values)
    check(made)
    null, batch = jax.tree.map(jnp.asarray, _example(made, 3))
    objective, params = made.objective(null), made.network.abstract()
    program = traced(lambda p, b, k: objective.loss(p, b, k)[0], params, batch, KEY)
    return program, traced(made.network.init, KEY), jax.tree.map(lambda leaf: leaf.shape, params)


def clip(values, tools):
    """The program of a CLIP's loss, and where its temperature starts."""
    made = parse(values)
    captions = ["a red circle", "a small blue square", "a cross"] * 3
    tokenizer = train_bpe(captions, tools.fresh(), vocab_size=600, max_length=made.tokenizer.max_length)
    config = clip_with_tokenizer(made.model, tokenizer, made.tokenizer.max_length)
    objective = clip_objective(config, made.loss)
    ids = tokenizer(captions[:2])
    batch = {"image": np.zeros((2, 32, 32, 3), np.uint8), "input_ids": ids, "caption_id": np.arange(2)}
    params = objective.init(KEY)
    start = jax.tree.leaves({k: v for k, v in params.items() if k == "logit_scale"})
    return traced(lambda p, b: objective.loss(p, b, KEY)[0], params, batch), np.asarray(start)


def tokens(values, tools):
    options, folder = parse(values).tokenizer, tools.fresh()
    captions = [
        f"a {size} {colour} thing" for size in ("large", "small") for colour in ("red", "blue", "green")
    ]
    tokenizer = train_bpe(captions, folder, vocab_size=options.vocab_size, max_length=options.max_length)
    again = load_tokenizer(folder, max_length=options.max_length)
    return tokenizer.vocab_size, np.asarray(again(captions))


def autoencoder_loss(values, tools):
    """The program of an autoencoder's loss."""
    made = parse(values)
    check(made)
    prepared = difflax.runs.autoencoder.prepare_autoencoder(made, tools.fresh())
    batch = {"image": np.zeros((1, 32, 32, 3), np.uint8)}
    params = prepared.objective.model.abstract()
    return traced(lambda p, b: prepared.objective.loss(p, b, KEY)[0], params, batch)


# --- optimization


def optimizer(values, tools):
    """Parameters after the run's steps, and the types of the optimizer's state."""
    made = parse(values)
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(130, 129)), jnp.float32), "b": jnp.ones(3)}
    transformation = made.optimizer.build(made.training.steps)
    state = transformation.init(params)
    for step in range(made.training.steps):
        # Some gradients are clipped, and some are not.
        grads = {name: 10.0 ** (step - 3) * rng.normal(size=leaf.shape) for name, leaf in params.items()}
        grads = jax.tree.map(jnp.float32, grads)
        updates, state = transformation.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return jax.tree.map(np.asarray, params), [str(leaf.dtype) for leaf in jax.tree.leaves(state)]


def ema(values, tools):
    made, average = parse(values).ema, {"w": jnp.zeros(2)}
    for step in range(1, 4):
        average = made.update(average, {"w": jnp.ones(2)}, jnp.asarray(step))
    return np.asarray(average["w"])


def snapshots(values, tools):
    """The steps whose power-function averages a toy's run of three steps keeps."""
    workdir = pathlib.Path(tools.fresh())
    toy.train(workdir, toy.options(3), ema=parse(values).ema)
    return sorted(path.name for path in (workdir / "snapshots").glob("step_*"))


def mesh(values, tools):
    """The mesh of the devices there are, or why there is none; how it splits parameters."""
    made = parse(values).mesh
    sizes = or_line(lambda: dict(made.make().shape))
    state = {"to_q": {"kernel": np.zeros((4, 8))}, "other": {"kernel": np.zeros((4, 8))}}
    split = shardings(state, AbstractMesh((1, 1, 1, 2), ("data", "fsdp", "context", "tensor")), made.rules)
    return sizes, [str(leaf.spec) for leaf in jax.tree.leaves(split)]


def loop(values, tools, **more):
    """What a toy's run leaves in its workdir, or why it ended."""
    made, workdir = parse(values).training, pathlib.Path(tools.fresh())
    ended = or_line(lambda: int(toy.train(workdir, made, **more).step))
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    kept = sorted(path.name for path in (workdir / "checkpoints").glob("step_*"))
    files = sorted(path.name for path in workdir.iterdir())
    events = [json.loads(line)["event"] for line in (workdir / "events.jsonl").open()]
    losses = [(row["step"], row["loss"]) for row in rows]
    return re.sub(r"\S*made_\d+", "", str(ended)), losses, kept, files, events


def loop_without_disk(values, tools):
    """Where checkpoints would lie is a file."""
    made, workdir = parse(values).training, pathlib.Path(tools.fresh())
    workdir.mkdir()
    (workdir / "checkpoints").write_text("not a folder")
    line = or_line(lambda: toy.train(workdir, made))
    rows = [json.loads(row)["step"] for row in (workdir / "metrics.jsonl").open()]
    return re.sub(r"\S*made_\d+", "", str(line)), rows


def loop_of_broken_data(values, tools):
    """Some rows' losses are no numbers, all in one batch."""

    class InOrder(toy.Loader):
        def __init__(self, *args, **options):
            super().__init__(*args, **options, shuffle=False)

    return loop(values, tools, records=toy.Pixels(broken=range(32, 40)), loader=InOrder)


def pictures_while_training(values, tools):
    """How often a run draws, and what: the task that it gives to the loop."""
    drawn = []
    task = difflax.runs.base.picture_task

    def recorded(every, pipeline, prompts, workdir):
        drawn.append((every, tuple(prompts)))
        return task(every, pipeline, prompts, workdir)

    tools.monkeypatch.setattr(difflax.runs.diffusion, "picture_task", recorded)
    difflax.runs.diffusion.prepare_diffusion(parse(values), tools.fresh())
    return drawn


def measured_while_training(values, tools):
    """How often a run measures its pictures, and of which prompts."""
    asked = []

    def recorded(draw, group, seeds, judge):
        asked.append((group.prompts, seeds))
        return {}

    tools.monkeypatch.setattr(difflax.runs.base, "spot_check", recorded)
    task = difflax.runs.diffusion.prepare_diffusion(parse(values), tools.fresh())
    task.measured.action(1, TrainState(step=np.int32(1), params={}, opt_state=(), ema_params={}))
    return task.measured.every, asked


def validated(values, tools):
    """How often a run measures its test images, and their losses under a toy's network."""
    made = parse(values)
    null = Conditioning(context=jnp.zeros((1, 2, 3)))
    objective = dataclasses.replace(made.objective(null), model=functional(ToyNetwork))

    def prepare_of(records):
        told = Conditioning(context=np.zeros((made.training.batch_size, 2, 3), np.float32))
        return lambda batch: {"image": batch["image"], "conditioning": told}

    task = difflax.runs.diffusion.validation_task(made, objective, prepare_of, made.mesh.make())
    state = TrainState(step=np.int32(1), params={}, opt_state=(), ema_params={"scale": jnp.float32(0.5)})
    return None if task is None else (task.every, task.action(1, state))


def first_batch(values, tools):
    """Of a run's loader: images, captions, rows; or why there is none."""

    def read():
        batch = next(make_loader(parse(values)))
        return {key: np.asarray(batch[key]) for key in sorted(batch)}

    return or_line(read)


# --- data


def data(values, tools):
    """The rows of the splits, or why there are none."""
    source = parse(values).data
    found = [source.image_shape, getattr(source, "image_shapes", None)]
    for split in ("train", "test", "held_out"):
        records = or_line(source.split, split)
        if isinstance(records, str):
            found.append(re.sub(r"/\S+", "", records))
            continue
        row = records[0]
        fields = [getattr(row, field.name) for field in dataclasses.fields(row)]
        found.append((len(records), list(records.captions)[:20], fields, getattr(records, "weights", None)))
    return found, first_batch(values, tools)


def data_folder(values, tools):
    """Where files are written."""
    source = parse(values).data
    source.split("train")
    folder = pathlib.Path(source.data_dir or tools.place / "default")
    return sorted(path.name for path in folder.glob("*"))


def class_pictures(values, tools):
    """How many pictures a run would make of the class, and where it reads those that are there."""
    source = parse(values).data
    return source.missing_class_images(), [str(row) for row, _ in source._class_rows()]


def text_states(values, tools):
    def read():
        options = parse(values).text_encoder
        folder = difflax.runs.diffusion.clip_folder(options.path, "config.text_encoder.path")
        made = difflax.runs.diffusion.read_text_encoder(folder, options).encode(["a red circle"])
        return np.asarray(made.context), np.asarray(made.pooled)

    return or_line(read)


def latents(values, tools):
    made = parse(values)
    channels = made.autoencoder.channels
    images = np.random.default_rng(0).normal(size=(1, 8, 8, channels)).astype(np.float32)
    if made.trained_autoencoder is not None:
        return made.latent_shape
    return np.asarray(made.autoencoder.encode({}, jnp.asarray(images)))


@functools.cache
def any_model():
    """A model that comes with difflax."""
    return difflax.load("embedded")


def evaluation(values, tools):
    """What ``difflax evaluate`` would measure: prompts, real images, seeds."""
    workdir = pathlib.Path(tools.fresh())
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(parse(values).resolved))
    asked = {}

    def run_sweep(painter, groups, *, seeds, **more):
        asked["seeds"] = list(seeds)
        asked["groups"] = [(group.name, group.prompts, group.real_images.shape) for group in groups]
        raise UserError("enough")

    tools.monkeypatch.setattr("difflax.evaluation.ablation.sweep.run_sweep", run_sweep)
    # What is asked depends on the config alone: any model will do.
    tools.monkeypatch.setattr(difflax.cli.ablate, "read_model", lambda flags, weights=None: any_model())
    flags = main.parse(evaluate, "evaluate", [f"--workdir={workdir}", f"--output={tools.fresh()}"])
    return or_line(evaluate.run, flags), asked


# --- checkpoints of the Hub


def checkpoint_asked_for(values, tools):
    """What is asked of the reader of checkpoints, the mesh aside."""
    asked = []

    def open_checkpoint(source, *, place, **options):
        asked.append((str(source), sorted(options.items(), key=str)))
        raise UserError("enough")

    tools.monkeypatch.setattr(sys.modules[read_checkpoint.__module__], "open_checkpoint", open_checkpoint)
    or_line(read_checkpoint, parse(values).model, tools.fresh())
    return asked


def read(values, tools):
    return read_checkpoint(parse(values).model, tools.fresh())


def checkpoint_program(values, tools):
    """The programs of a checkpoint's network and autoencoder, and of its text encoder's states."""
    made = read(values, tools)
    null = made.null
    x = jnp.zeros((1, 8, 8, made.autoencoder.config.latent_channels))
    return (
        traced(made.model.apply, made.params, x, jnp.zeros(1), null),
        traced(made.autoencoder.encode, made.autoencoder_params, jnp.zeros((1, 32, 32, 3))),
        np.asarray(null.context),
    )


def flow_times(values, tools):
    """Training times of a flow's run."""
    objective = difflax.runs.finetune.make_objective(parse(values), read(values, tools))
    sampler = objective.denoising.time_sampler
    return np.asarray(sampler.quantile(jnp.asarray(TIMES), objective.denoising.schedule))


def tuned(values, tools):
    """What is trained, and what a network's layer is after it is."""

    def train():
        made = parse(values)
        checkpoint = made.tune.prepare(read(values, tools))
        networks = checkpoint.networks
        trained = made.tune.start(networks) or made.tune.init(KEY, networks)
        moved = jax.tree.map(lambda leaf: leaf + 0.01, trained)
        merged = made.tune.merge(made.tune.frozen(networks), moved)
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(trained)]
        sums = jax.tree.map(lambda leaf: float(jnp.sum(jnp.abs(leaf))), merged)
        ids = jax.tree.leaves(checkpoint.text_encoder.tokenize(["a <toy> and a <dog>"]))
        return paths, [leaf.shape for leaf in jax.tree.leaves(trained)], sums, ids

    return or_line(train)


def finetuning(values, tools):
    """What a run keeps in its workdir, and what a batch of its loss holds."""
    workdir = tools.fresh()
    made = parse(values)
    check(made)
    prepared = difflax.runs.finetune.prepare_finetune(made, workdir)
    batch = prepared.prepare(next(prepared.loader))
    return sorted(path.name for path in pathlib.Path(workdir).iterdir()), sorted(batch)
