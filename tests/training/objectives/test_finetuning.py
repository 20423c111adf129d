"""Fine-tuning of a tiny checkpoint of the true structure: the loss against PyTorch, and whole runs."""

import re
import shutil
import signal
import subprocess
import sys

import difflax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from difflax.config.experiments import parse
from difflax.config.pretrained import STORED
from difflax.core import streams
from difflax.diffusion.loss.time_samplers import sample_times
from difflax.parallel.sharding import MeshShape
from difflax.pretrained.adapters.textual_inversion import embedding_table
from difflax.pretrained.format.layout import AUTOENCODER
from difflax.runs.finetune import make_objective, prepare_finetune
from difflax.runs.load import read_checkpoint
from difflax.training.state import TrainState
from difflax.training.step import abstract_state
from etils import epath
from PIL import Image

from tests.fixtures import make_stable_diffusion as reference
from tests.runs import ROOT, command, load_config

CAPTIONS = ["a photograph of a red cat", "two dogs and three birds in the rain", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return reference.build("sd15", tmp_path_factory.mktemp("checkpoint") / "sd15")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    place = tmp_path_factory.mktemp("pictures")
    for i, caption in enumerate(CAPTIONS[:2]):
        Image.effect_noise((32, 32), 90).convert("RGB").save(place / f"{i}.png")
        (place / f"{i}.txt").write_text(caption)
    return place


def config_of(name, path, **changes):
    config = load_config(name, str(path)).unlock()
    config.model.update(variant="fp16", dtype="float32", remat="none")
    config.cache.text = False
    for section, values in changes.items():
        config[section].update(values)
    return config.lock()


def prepared(config):
    """The run's objective with a checkpoint's arrays in it, and what it would train at first."""
    experiment = parse(config)
    tuning = experiment.tune
    checkpoint = tuning.prepare(read_checkpoint(experiment.model, epath.Path("nowhere")))
    frozen = {**tuning.frozen(checkpoint.networks), AUTOENCODER: checkpoint.autoencoder_params}
    objective = make_objective(experiment, checkpoint).reading(frozen)
    start = tuning.start(checkpoint.networks) or objective.init(jax.random.key(0))
    return checkpoint, objective, start


@pytest.mark.parity
@pytest.mark.parametrize("case", ["sd15", "sd21_v"])
def test_the_loss_is_that_of_diffusers(case, tmp_path):
    """Same weights, latents, noise and timesteps; min-SNR weights by diffusers' own SNR. The prediction type
    is the checkpoint's, told by nobody.
    """
    torch = pytest.importorskip("torch")
    import diffusers
    from diffusers.training_utils import compute_snr

    folder = reference.build(case, tmp_path / "sd")
    dropout = {"caption_dropout": 0.0}
    checkpoint, objective, params = prepared(config_of("finetune_sd15", folder, loss=dropout))
    rng, count = np.random.default_rng(0), len(CAPTIONS)
    mean = rng.standard_normal((count, 4, 4, 4)).astype(np.float32) / 0.18215
    batch = {
        "moments": np.concatenate([mean, np.full_like(mean, -30)], -1),
        "tokens": checkpoint.text_encoder.tokenizer(CAPTIONS),
    }
    key = jax.random.key(3)
    losses, _ = jax.jit(objective.loss)(params, batch, key)

    keys = streams.sample_keys(key, jnp.arange(count))
    inner = objective.denoising
    t = sample_times(inner.time_sampler, streams.substream(keys, "time"), inner.schedule)
    noise = inner.noise(streams.substream(keys, "noise"), jnp.zeros_like(mean))
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        folder, variant="fp16", torch_dtype=torch.float32
    )
    scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    steps = torch.from_numpy(np.asarray(t * 1000).round().astype(np.int64) - 1)
    x0, eps = (torch.from_numpy(np.array(a)).permute(0, 3, 1, 2) for a in (mean * 0.18215, noise))
    with torch.no_grad():
        context = pipe.text_encoder(torch.from_numpy(batch["tokens"]).long())[0]
        out = pipe.unet(scheduler.add_noise(x0, eps, steps), steps, context).sample
        v = pipe.scheduler.config.get("prediction_type") == "v_prediction"
        target = scheduler.get_velocity(x0, eps, steps) if v else eps
        snr = compute_snr(scheduler, steps)
        weight = snr.clamp(max=5.0) / (snr + 1 if v else snr)
        expected = weight * (out - target).square().mean((1, 2, 3))
    assert v == (case == "sd21_v")
    np.testing.assert_allclose(losses, expected.numpy(), rtol=2e-4)


@pytest.mark.slow
def test_dropped_captions_are_the_empty_one(folder):
    """With all of them dropped, any caption gives the loss of none."""
    config = config_of("finetune_sd15", folder, loss={"caption_dropout": 1.0})
    checkpoint, objective, params = prepared(config)
    run = jax.jit(objective.loss)
    losses = []
    for captions in (CAPTIONS[:2], ["", ""]):
        tokens = checkpoint.text_encoder.tokenizer(captions)
        batch = {"moments": np.ones((2, 4, 4, 8), np.float32), "tokens": tokens}
        losses.append(np.asarray(run(params, batch, jax.random.key(1))[0]))
    np.testing.assert_array_equal(*losses)


def factors_of_queries(folder):
    """Of rank 2 for every self-attention's queries, counted in the file: both factors of every layer."""
    unet = safetensors.numpy.load_file(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    return sum(2 * sum(t.shape) for name, t in unet.items() if name.endswith("attn1.to_q.weight"))


@pytest.mark.parametrize("kind", ["lora", "textual_inversion"])
def test_only_what_is_trained_has_an_optimizers_state(folder, kind):
    if kind == "lora":
        config = config_of("lora_sd15", folder, tune={"unet": ("attn1.to_q",), "rank": 2})
        expected = factors_of_queries(folder)
    else:
        config, expected = _inversion(folder, {"vectors": 3, "initializer": "a"}), 3 * 24
    _, objective, _ = prepared(config)
    state = abstract_state(objective, optax.adam(1e-3), MeshShape().make())
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == expected
    moments = [leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(moments) == 2 * expected


def _inversion(folder, tune):
    config = load_config("textual_inversion").unlock()
    config.model.update(path=str(folder), variant="fp16", dtype="float32", remat="none")
    config.tune.update(tune)
    return config.lock()


TINY = (
    "--config.model.variant=fp16",
    "--config.model.dtype=float32",
    "--config.model.remat=none",
    "--config.data.height=32",
    "--config.data.width=32",
    "--config.training.batch_size=2",
    "--config.optimizer.warmup_steps=0",
)


def train(name, workdir, path, *more, steps=2):
    return command(*arguments(name, workdir, path, *more, steps=steps))


def arguments(name, workdir, path, *more, steps=2):
    return (
        "train",
        f"--config={ROOT / 'configs' / name}",
        f"--workdir={workdir}",
        f"--config.model.path={path}",
        *TINY,
        f"--config.training.steps={steps}",
        *more,
    )


def test_a_run_that_starts_again_reads_the_checkpoint_again(folder, pictures, tmp_path):
    """After a roll-back to before its first checkpoint; what it was given first is used up by then."""
    config = config_of("finetune_sd15", folder, data={"path": str(pictures), "height": 32, "width": 32},
                       training={"batch_size": 2})  # fmt: skip
    workdir = epath.Path(tmp_path / "run")
    made = prepare_finetune(parse(config), workdir)
    first = made.start()
    expected = jax.tree.map(np.array, first)
    jax.tree.map(lambda array: array.delete(), first)
    jax.tree.map(np.testing.assert_array_equal, made.start(), expected)


@pytest.fixture
def split_pictures(pictures, tmp_path):
    """The pictures to train on, and three others to be validated on."""
    shutil.copytree(pictures, tmp_path / "data" / "train")
    (tmp_path / "data" / "test").mkdir()
    for i, caption in enumerate(("a cat", "a red dog", "a bird in the rain")):
        Image.effect_noise((32, 32), 60).convert("RGB").save(tmp_path / "data" / "test" / f"{i}.png")
        (tmp_path / "data" / "test" / f"{i}.txt").write_text(caption)
    return tmp_path / "data"


@pytest.mark.slow
def test_the_validation_loss_of_a_checkpoint_is_that_of_what_it_is_trained_from(
    folder, split_pictures, tmp_path
):
    """Whether or not images and captions are encoded in the step."""
    found = []
    for cached in (False, True):
        config = config_of(
            "finetune_sd15",
            folder,
            data={"path": str(split_pictures), "height": 32, "width": 32},
            training={"batch_size": 2},
            cache={"text": cached, "latents": cached},
            validation={"every": 1, "times": (0.25, 0.75), "every_time": True},
        )
        made = prepare_finetune(parse(config), epath.Path(tmp_path / f"run_{cached}"))
        found.append(made.validation.action(0, TrainState(0, {}, (), ema_params=made.start())))
    assert found[0]["validation_loss"] > 0.1
    assert found[0] == pytest.approx(found[1], rel=1e-4)


KILLED_WHILE_COPYING = """
import os, signal, sys
from difflax.cli.main import run
from difflax.pretrained.families import family
write = family.write_model
def write_and_die(*arguments):
    write(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
family.write_model = write_and_die
run(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_run_killed_while_it_copies_its_checkpoint_is_started_again(folder, pictures, tmp_path):
    """A copy counts when it is whole; the same command goes on."""
    workdir = tmp_path / "run"
    given = arguments("lora_sd15.py", workdir, folder, f"--config.data.path={pictures}")
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_COPYING, *given], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert list(workdir.rglob("*.safetensors")) and not (workdir / STORED).exists()
    status, _, errors = command(*given)
    assert status == 0, errors
    assert difflax.load(workdir).model.conditions
    assert [path.name for path in workdir.iterdir() if STORED in path.name] == [STORED]


@pytest.mark.slow
def test_lora_run_stopped_and_taken_up_again(folder, pictures, tmp_path):
    """The file that training leaves, merged into the checkpoint, is what the workdir loads; a run that was
    stopped leaves the same file, bit for bit.
    """
    more = (f"--config.data.path={pictures}", "--config.cache.text=False", "--config.cache.latents=True",
            "--config.tune.text_encoder=('q_proj',)")  # fmt: skip
    assert train("lora_sd15.py", tmp_path / "whole", folder, *more)[0] == 0
    assert train("lora_sd15.py", tmp_path / "parts", folder, *more, "--stop_at=1")[0] == 0
    assert not (tmp_path / "parts" / "trained").exists()
    assert train("lora_sd15.py", tmp_path / "parts", folder, *more)[0] == 0
    files = [tmp_path / w / "trained" / "pytorch_lora_weights.safetensors" for w in ("whole", "parts")]
    one, other = (safetensors.numpy.load_file(file) for file in files)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    # Where the image is a single token, its attention to itself is one whatever query and key are.
    alone = re.compile(r"unet\.(down_blocks\.2|mid_block|up_blocks\.1)\..*attn1\.to_[qk]\.lora_B")
    still = {name for name, t in one.items() if "lora_B" in name and not t.any()}
    assert still == {name for name in one if alone.match(name)}

    loaded = difflax.load(str(tmp_path / "whole"))
    merged = difflax.from_pretrained(str(folder), variant="fp16").with_lora([(files[0], 1.0)])
    for ours, theirs in (
        (loaded.model.params, merged.model.params),
        (loaded.model.text_encoder.params, merged.model.text_encoder.params),
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), ours, theirs)


@pytest.mark.slow
def test_dreambooth_run_makes_its_class_and_saves_the_whole(folder, pictures, tmp_path):
    workdir = tmp_path / "run"
    more = (f"--config.data.path={pictures}", "--config.data.class_images=2", "--config.sampler.num_steps=2")
    status, _, errors = train("dreambooth.py", workdir, folder, *more)
    assert status == 0, errors
    assert len(list((workdir / "class_images").glob("*.png"))) == 2
    loaded, saved = difflax.load(str(workdir)), difflax.from_pretrained(str(workdir / "trained"))
    jax.tree.map(np.testing.assert_array_equal, loaded.model.params, saved.model.params)
    before = difflax.from_pretrained(str(folder), variant="fp16")
    moved = jax.tree.map(
        lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), loaded.model.params, before.model.params
    )
    assert max(jax.tree.leaves(moved)) > 0
    status, _, errors = command("convert", f"--workdir={workdir}", f"--output={tmp_path / 'out'}")
    assert status == 0, errors
    assert (tmp_path / "out" / "model_index.json").exists()


@pytest.mark.slow
def test_textual_inversion_moves_the_new_row_alone(folder, pictures, tmp_path):
    workdir = tmp_path / "run"
    status, _, errors = train(
        "textual_inversion.py", workdir, folder, f"--config.data.path={pictures}",
        "--config.tune.initializer=a",
    )  # fmt: skip
    assert status == 0, errors
    base = difflax.from_pretrained(str(folder), variant="fp16")
    table = embedding_table(base.model.text_encoder.params)
    loaded = difflax.load(str(workdir))
    learned = np.asarray(embedding_table(loaded.model.text_encoder.params))
    np.testing.assert_array_equal(learned[:-1], table[: base.model.text_encoder.tokenizer.vocab_size])
    word = base.model.text_encoder.tokenizer(["a"])[0, 1]
    # Two of Adam's steps move a number by at most twice the learning rate, and decay.
    assert 0 < np.abs(learned[-1] - np.asarray(table[word])).max() < 5e-3
    jax.tree.map(np.testing.assert_array_equal, loaded.model.params, base.model.params)
    again = base.with_textual_inversion(workdir / "trained")
    np.testing.assert_array_equal(embedding_table(again.model.text_encoder.params), learned)


@pytest.mark.parametrize(
    ("config", "more", "says"),
    [
        ("lora_sd15.py", ["--config.tune.rank=0"], "rank = 0 must be at least 1"),
        ("lora_sd15.py", ["--config.tune.unet=('to_qq',)"], "did you mean 'to_q'"),
        ("lora_sd15.py", ["--config.tune.unet=()"], "nothing to train"),
        ("textual_inversion.py:!", ["--config.tune.initializer=a"], "already in the vocabulary"),
        ("textual_inversion.py:<a>", ["--config.tune.initializer=photograph of"], "a word of one"),
        ("finetune_sd15.py", ["--config.cache.text=True", "--config.tune.text_encoder=True"], "cache.text"),
        ("finetune_sd15.py", ["--config.cache.latents=True", "--config.data.flip=0.5"], "flip"),
        ("finetune_sd15.py", ["--config.model.dtype=int8"], "config.model.dtype = 'int8' is unknown"),
        ("finetune_sd15.py", ["--config.data.height=36"], "multiples of 8"),
        (
            "dreambooth.py",
            ["--config.data.class_prompt=", "--config.data.class_path=x"],
            "needs a class_prompt",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(folder, pictures, tmp_path, config, more, says):
    where = [] if "data.path" in str(more) else [f"--config.data.path={pictures}"]
    status, _, errors = train(config, tmp_path / "run", folder, *where, *more)
    assert status == 2 and says in errors and len(errors.strip().splitlines()) == 1, errors
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_is_none(pictures, tmp_path, folder):
    inpainting = reference.build("sd15_inpainting", tmp_path / "inpainting")
    for path, says in ((tmp_path, "no model_index.json"), (inpainting, "fills masks in")):
        status, _, errors = train("lora_sd15.py", tmp_path / "run", path, f"--config.data.path={pictures}")
        assert status == 2 and says in errors, errors
