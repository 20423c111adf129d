"""Runs small enough for tests: real commands, real files, random text towers."""

import contextlib
import importlib.util
import io
import pathlib

import jax
import numpy as np
from difflax.cli.main import run
from difflax.config.experiments import parse
from difflax.config.files import read_config_file
from difflax.data.shapes.examples import make_captions
from difflax.pretrained.components.clip import save_clip
from difflax.runs.diffusion import prepare_diffusion
from difflax.text.clip_config import CLIPConfig
from difflax.text.joint import CLIP, clip_network
from difflax.text.pixels import PixelConfig
from difflax.text.tokenizer import Tokenizer, train_bpe
from difflax.training.runtime.averages import write_averages
from etils import epath
from ml_collections import ConfigDict

ROOT = pathlib.Path(__file__).parent.parent

SMALL = (
    "--config.data.train=96",
    "--config.data.test=64",
    "--config.data.held_out=64",
    "--config.training.batch_size=16",
    "--config.training.log_every=1",
    "--config.optimizer.warmup_steps=2",
    "--config.sampler.num_steps=4",
    "--config.evaluation.prompts=2",
    "--config.evaluation.real_images=4",
)


PIXELS = (
    "--config.autoencoder.name=cosine_transform",
    "--config.autoencoder.patch_size=8",
    "--config.autoencoder.whitening=1.25",
)
"""Nothing to encode, and no weights that come from elsewhere."""

SMALL_NETWORKS = {
    "shapes": (
        *PIXELS,
        "--config.model.block_out_channels=(16,)",
        "--config.model.cross_attention_dim=32",
        "--config.model.projection_class_embeddings_input_dim=16",
        "--config.model.norm_num_groups=4",
        "--config.model.attention_head_dim=2",
    ),
    "sd3_shapes": (
        *PIXELS,
        "--config.model.num_layers=2",
        "--config.model.attention_head_dim=8",
        "--config.model.num_attention_heads=2",
        "--config.model.joint_attention_dim=32",
        "--config.model.pooled_projection_dim=16",
    ),
}


def count_tokens(tokenizer: Tokenizer, caption: str) -> int:
    """How many tokens the whole caption takes, start and end included."""
    return len(tokenizer.backend(tokenizer.expand(caption))["input_ids"])


def load_config(name: str, argument: str = "", folder: pathlib.Path = ROOT / "configs") -> ConfigDict:
    """The config of a file."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument) if argument else module.get_config()


def random_clip(folder: pathlib.Path) -> pathlib.Path:
    """A CLIP folder with random weights, two layers of width 32 a tower."""
    captions = make_captions(0, "train", range(1000))
    tokenizer = train_bpe(captions, folder, vocab_size=768, max_length=47)
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    backend = tokenizer.backend
    text = {
        "vocab_size": tokenizer.vocab_size,
        "max_position_embeddings": 47,
        "bos_token_id": backend.bos_token_id,
        "eos_token_id": backend.eos_token_id,
        "pad_token_id": backend.pad_token_id,
    }
    config = CLIPConfig.from_config(
        {
            "projection_dim": 16,
            "text_config": tower | text,
            "vision_config": tower | {"image_size": 32, "patch_size": 8},
        }
    )
    params = clip_network(config).init(jax.random.key(0))
    save_clip(CLIP(params, config, tokenizer, PixelConfig(size=32)), folder)
    return folder


def small_run(
    clip: pathlib.Path,
    workdir: pathlib.Path,
    *more: str,
    steps: int = 6,
    config: str = "shapes",
    folder: pathlib.Path = ROOT / "configs",
) -> list[str]:
    """The command line of a small training run."""
    return [
        "train",
        f"--config={folder / f'{config}.py'}",
        f"--workdir={workdir}",
        *SMALL,
        *SMALL_NETWORKS[config],
        f"--config.training.steps={steps}",
        f"--config.text_encoder.path={clip}",
        *more,
    ]


def untrained_run(clip: pathlib.Path, workdir: pathlib.Path, steps: tuple[int, ...]) -> pathlib.Path:
    """The workdir of a small run that has random parameters at these steps; no train step is compiled."""
    said = [flag.removeprefix("--").split("=", 1) for flag in small_run(clip, workdir)[1:]]
    file, *overrides = [(key, value) for key, value in said if key.startswith("config")]
    folder = epath.Path(workdir)
    experiment = parse(read_config_file(file[1], overrides), folder)
    task = prepare_diffusion(experiment, folder)
    for step in steps:
        # Not as it is begun with: the last layer's zeros would make every picture grey.
        draws = np.random.default_rng(step)
        params = jax.tree.map(
            lambda leaf, draws=draws: draws.normal(0, 0.1, leaf.shape).astype(leaf.dtype),
            experiment.network.abstract(),
        )
        write_averages(folder, step, params, task.constants, np.float32)
    return workdir


def command(*arguments: str) -> tuple[int, str, str]:
    """Runs a command in this process: exit status, output, errors."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(list(arguments))
    return status, out.getvalue(), err.getvalue()


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
