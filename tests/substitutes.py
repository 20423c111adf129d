"""A folder in which the documentation's commands find what they name, in tiny form: checkpoints, files in the
original layout, LoRA, pictures, and the workdirs that other commands of the documentation train.
"""

import functools
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import difflax
import jax
import numpy as np
import safetensors.numpy
from difflax.evaluation.ablation.report import write_ablation
from difflax.models.dinov2 import DINOv2Config
from difflax.pretrained.components.dinov2 import dinov2_network
from difflax.pretrained.components.inception import inception_network
from difflax.pretrained.format.layout import TRANSFORMERS, write_model
from difflax.pretrained.format.safetensors import write_file
from difflax.pretrained.format.torch_names import to_torch
from PIL import Image

from tests.documented import ELLIPSIS, Block, Command, quoted
from tests.evaluation import known_sweep
from tests.fixtures import make_sdxl, make_stable_diffusion, make_stable_diffusion_3, original_layout
from tests.runs import PIXELS, ROOT, SMALL, SMALL_NETWORKS, command, random_clip

CAPTIONS = make_stable_diffusion.CAPTIONS
SD15 = ("sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5", "FOLDER_OR_HUB_ID")
INPAINTING = ("sd15-inpainting", "sd15_inpainting")
EDITING = ("timbrooks/instruct-pix2pix", "instruct_pix2pix")
XL = ("sdxl", "stabilityai/stable-diffusion-xl-base-1.0")
REFINER = ("sdxl_refiner", "refiner", "stabilityai/stable-diffusion-xl-refiner-1.0")
SD35 = ("sd35-medium", "sd35_medium", "stabilityai/stable-diffusion-3.5-medium")
SD3 = ("stabilityai/stable-diffusion-3-medium-diffusers", "stabilityai/stable-diffusion-3.5-large")
PICTURES = ("my_images", "my_dog", "my_toy", "pictures")
DEPTHS = {"base": (1, 1, 2), "refiner": (1, 1, 1, 1)}
"""Of XL's transformers, level by level; all of their blocks take minutes to compile."""


def checkpoint(build: Callable[[pathlib.Path], pathlib.Path]) -> Callable[[pathlib.Path], None]:
    """A folder of the tests' checkpoints, its weights also without the variant in their names."""

    def make(path: pathlib.Path) -> None:
        for file in build(path).rglob("*.fp16.safetensors"):
            shutil.copy(file, file.with_name(file.name.replace(".fp16", "")))

    return make


def make_metadata(path: pathlib.Path) -> None:
    """Two lines of GenEval's."""
    rows = [{"tag": "colors", "include": [], "prompt": f"a photo of a {c} ball"} for c in ("red", "blue")]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def make_original(path: pathlib.Path, case: str) -> None:
    """A checkpoint of Stable Diffusion 1 or 2 as one file in the original layout."""
    folder = make_stable_diffusion.build(case, path.parent / f"{path.stem}_parts")
    parts = {
        part: safetensors.numpy.load_file(next((folder / part).glob("*.safetensors")))
        for part in ("unet", "vae", "text_encoder")
    }
    unet, vae = original_layout.unet_modules([True, True, True, False], 2), original_layout.vae_modules(4, 2)
    # Attention in the autoencoder is made of 1 × 1 convolutions there.
    wide = {
        n: t[..., None, None] if ".attentions.0.to_" in n and t.ndim == 2 else t
        for n, t in parts["vae"].items()
    }
    text = {n if n.startswith("text_") else f"text_model.{n}": t for n, t in parts["text_encoder"].items()}
    groups = {
        "model.diffusion_model.": original_layout.rename(parts["unet"], unet),
        "first_stage_model.": original_layout.rename(wide, vae),
    }
    if case == "sd15":
        groups["cond_stage_model.transformer."] = text
    else:
        groups["cond_stage_model.model."] = original_layout.open_clip(text, 3)
    tensors = {f"{prefix}{n}": t for prefix, group in groups.items() for n, t in group.items()}
    safetensors.numpy.save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, path)


def make_lora(path: pathlib.Path) -> None:
    """A LoRA of rank 2 for the queries of ``sd15``'s UNet, by diffusers' names."""
    weights = make_stable_diffusion.DIRECTORY / "unet_1" / "diffusion_pytorch_model.fp16.safetensors"
    tensors, rng = {}, np.random.default_rng(0)
    for name, weight in safetensors.numpy.load_file(weights).items():
        if name.endswith("attn1.to_q.weight"):
            layer = f"unet.{name.removesuffix('.weight')}"
            shapes = {"lora_A": (2, weight.shape[1]), "lora_B": (weight.shape[0], 2)}
            tensors |= {f"{layer}.{n}.weight": rng.normal(size=s) for n, s in shapes.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file({n: t.astype(np.float32) for n, t in tensors.items()}, path)


def make_pictures(path: pathlib.Path) -> None:
    """Captioned pictures of 32 × 32 pixels."""
    path.mkdir()
    for i, caption in enumerate(CAPTIONS):
        Image.effect_noise((32, 32), 90 + i).convert("RGB").save(path / f"{i}.png")
        (path / f"{i}.txt").write_text(caption)


def make_picture(path: pathlib.Path, kind: str) -> None:
    """One picture of 64 × 64 pixels."""
    Image.effect_noise((64, 64), 90).convert(kind).save(path)


def make_inception(path: pathlib.Path, seed: int = 0) -> None:
    """Random weights of FID's Inception, of a size at which features neither vanish nor overflow."""
    rng = np.random.default_rng(seed)

    def random(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if len(leaf.shape) == 1:  # of norms, whose variances are positive
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return rng.normal(0, (2 / np.prod(leaf.shape[:3])) ** 0.5, leaf.shape).astype(np.float32)

    write_file(path, to_torch(jax.tree.map(random, inception_network().abstract())))


def make_dinov2(path: pathlib.Path) -> None:
    """A DINOv2 of one layer."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    network = dinov2_network(DINOv2Config(**sizes))
    write_model(
        path, TRANSFORMERS, {"model_type": "dinov2", **sizes}, to_torch(network.init(jax.random.key(0)))
    )


def make_result(path: pathlib.Path) -> None:
    """A small sweep of drawings by a formula, with its report."""
    write_ablation(known_sweep.sweep(path), path)


SUBSTITUTES: dict[str, Callable[[pathlib.Path], object]] = {
    **dict.fromkeys(SD15, checkpoint(functools.partial(make_stable_diffusion.build, "sd15"))),
    **dict.fromkeys(
        INPAINTING, checkpoint(functools.partial(make_stable_diffusion.build, "sd15_inpainting"))
    ),
    **dict.fromkeys(EDITING, checkpoint(functools.partial(make_stable_diffusion.build, "sd15_editing"))),
    **dict.fromkeys(XL, checkpoint(functools.partial(make_sdxl.build, "base", depths=DEPTHS["base"]))),
    **dict.fromkeys(
        REFINER, checkpoint(functools.partial(make_sdxl.build, "refiner", depths=DEPTHS["refiner"]))
    ),
    **dict.fromkeys(SD35, checkpoint(functools.partial(make_stable_diffusion_3.build, "sd35_medium"))),
    **dict.fromkeys(SD3, checkpoint(functools.partial(make_stable_diffusion_3.build, "sd3_medium"))),
    "original.safetensors": functools.partial(make_original, case="sd15"),
    "v1-5-pruned-emaonly.safetensors": functools.partial(make_original, case="sd15"),
    "512-base-ema.safetensors": functools.partial(make_original, case="sd21_base"),
    "style.safetensors": make_lora,
    "runs/lora/trained": lambda path: make_lora(path / "pytorch_lora_weights.safetensors"),
    **dict.fromkeys(PICTURES, make_pictures),
    "cat.png": functools.partial(make_picture, kind="RGB"),
    "mask.png": functools.partial(make_picture, kind="L"),
    "prompts.txt": lambda path: path.write_text("\n".join(CAPTIONS[:2])),
    "evaluation_metadata.jsonl": make_metadata,
    "image_prompts.txt": lambda path: path.write_text("\n".join([CAPTIONS[0]] * len(CAPTIONS))),
    **dict.fromkeys(("real_images", "other_real_images"), make_pictures),
    "inception.safetensors": make_inception,
    "other_inception.safetensors": functools.partial(make_inception, seed=1),
    "dinov2-large": make_dinov2,
    "methods.json": lambda path: path.write_text('{"arms": [{"guidance": "cfg"}, {"guidance": "apg"}]}'),
    "clip-vit-base-patch32": random_clip,
    **dict.fromkeys(("runs/ablation", "runs/other"), make_result),
}
"""What the documentation names that is not in the repository, and who makes it."""

UNAVAILABLE = (
    "sd3_medium_incl_clips_t5xxlfp16.safetensors",
    "sd3_medium_incl_clips.safetensors",
    "sd3.5_large.safetensors",
    "sd_xl_base_1.0.safetensors",
)
"""Files that have no substitute: commands that name them are parsed alone; tests/pretrained/ opens such."""

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
CLIP = (
    *(f"--config.model.text_config.{name}={value}" for name, value in TOWER.items()),
    *(f"--config.model.vision_config.{name}={value}" for name, value in TOWER.items()),
    *("--config.model.projection_dim=16", "--config.optimizer.warmup_steps=2"),
    *("--config.training.steps=4", "--config.training.batch_size=16"),
)
CLIP_OF_TESTS = "--config.text_encoder.path=runs/clip_shapes"
ONE_DEVICE = tuple(f"--config.mesh.{axis}=1" for axis in ("data", "fsdp", "tensor"))
SMALL_TRAIN = {
    "clip": (*SMALL[:3], *CLIP),
    "autoencoder": (
        *(*SMALL[:3], "--config.model.block_out_channels=(8,8,8,8)", "--config.model.norm_num_groups=4"),
        *("--config.training.steps=2", "--config.training.batch_size=8", "--config.optimizer.warmup_steps=1"),
    ),
    **{
        name: (*SMALL, *network, CLIP_OF_TESTS, "--config.training.steps=4", *ONE_DEVICE)
        for name, network in SMALL_NETWORKS.items()
    },
}
"""What makes the training of a config small; the others' is that of fine-tuning."""
FINETUNE = (
    *("--config.data.height=32", "--config.data.width=32", "--config.model.dtype=float32"),
    *("--config.model.remat=none", "--config.training.steps=2", "--config.training.batch_size=2"),
    *("--config.training.log_every=1", "--config.sampler.num_steps=2", "--config.mesh.fsdp=1"),
    "--config.optimizer.warmup_steps=0",
)
SUBJECT = ("--config.data.class_images=2",)
WORD = ("--config.tune.initializer=a",)
SMALL_COMMANDS = {
    "ablate": ("--guidance_scales=0,2", "--seeds=1", "--num_steps=2"),
    "benchmark": (
        *("--block_out_channels=8", "--layers_per_block=1", "--cross_attention_dim=8", "--size=8"),
        *("--norm_num_groups=4", "--attention_head_dim=2", "--batch_size=2", "--tokens=3"),
        *("--num_steps=2", "--rounds=1", "--nopytorch"),
    ),
    "convert": (),
    "report": (),
    "decisions": ("--seeds=1", "--restarts=2", "--points=2", "--num_steps=2"),
    "evaluate": ("--bits_per_dimension=5",),
    "explain": (),
    "launch": (),
    "measure": ("--kid_subset_size=2", "--kid_subsets=2", "--nearest=1", "--batch_size=2"),
    "plan": ("--topology=cpu:16", "--tokens=24", *SMALL, *SMALL_NETWORKS["shapes"]),
    "sample": ("--num_images=1", "--num_steps=5"),
    "samplers": ("--names=ddim",),
    "switches": ("--prompts=2", "--seeds=2", "--points=2", "--num_steps=2"),
}


COMMAND = "import sys; from difflax.cli.main import run; sys.exit(run(sys.argv[1:]))"
TRAINED = ("--config=configs/shapes.py", "--workdir=runs/shapes")
"""What a job trains whose command leaves that out."""


class Sandbox:
    """A folder that commands are run in, each once, after what they need.

    Args:
        folder: empty.
        documented: the commands of the documentation, of which some train what others read.
    """

    def __init__(self, folder: pathlib.Path, documented: list[Command]):
        self.folder, self.documented = folder, documented
        self.done: set[tuple[str, ...]] = set()
        self.executed: set[Block] = set()
        self.names: dict[str, dict[str, Any]] = {}
        (folder / "configs").symlink_to(ROOT / "configs")
        shutil.copytree(ROOT / "docs", folder / "docs")

    def run(self, words: tuple[str, ...]) -> None:
        """Runs a command of difflax in small form, in this folder, which must be the current one."""
        if words in self.done:
            return
        for name in paths_of(words):
            self.provide(name)
        # Another one may have left its results there, which are not replaced.
        if words[1] == "launch":
            for script in self.folder.glob("difflax.*"):
                script.unlink()
        if words[1] == "ablate":
            output = next(word.partition("=")[2] for word in words if word.startswith("--output="))
            shutil.rmtree(self.folder / output, ignore_errors=True)
        if words[1] == "plan":
            # In a process of its own, whose number of devices is fixed at its start.
            arguments = [sys.executable, "-c", COMMAND, *small(words)]
            ran = subprocess.run(arguments, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
            status, errors = ran.returncode, ran.stderr.decode()
        else:
            # What a result says that it was made by, which `difflax explain` reads.
            with mock.patch.object(sys, "argv", ["difflax", *small(words)]):
                status, _, errors = command(*small(words))
        assert status == 0, errors
        self.done.add(words)

    def execute(self, block: Block, others: list[Block]) -> None:
        """Runs a block of Python after those of ``others`` before it on its page, in the page's namespace."""
        if block.page not in self.names:
            self.names[block.page] = {"difflax": difflax}
        for part in others:
            if part.page == block.page and part.line <= block.line and part not in self.executed:
                for name in quoted(part.text):
                    self.provide(name)
                exec(compile(part.text, f"{part.page}:{part.line}", "exec"), self.names[block.page])
                self.executed.add(part)

    def provide(self, name: str) -> None:
        """Makes what a command names, if it is a substitute, or trains it, if another command does."""
        path = self.folder / name
        if path.exists():
            return
        if name in SUBSTITUTES:
            path.parent.mkdir(parents=True, exist_ok=True)
            SUBSTITUTES[name](path)
            return
        for other in self.documented:
            workdir = next((w.partition("=")[2] for w in other.words if w.startswith("--workdir=")), None)
            trained = other.words[1] == "train" and workdir
            made = other.words[1] in ("measure", "ablate") and f"--output={name}" in other.words
            if made or (trained and (name == workdir or name.startswith(f"{workdir}/"))):
                self.run(other.words)
                return


def config_of(words: tuple[str, ...]) -> str:
    """The name of the config file that a command trains by."""
    config = next(word for word in words if word.startswith("--config="))
    return pathlib.Path(config.partition("=")[2].partition(":")[0]).stem


def paths_of(words: tuple[str, ...]) -> Iterator[str]:
    """What a command reads, as far as it is named by a flag: all values but those of ``--output``, and what a
    config file names.
    """
    if words[1] == "train" and config_of(words) in SMALL_NETWORKS:
        yield "runs/clip_shapes"
    elif words[1] == "train" and config_of(words) not in SMALL_TRAIN:
        config = next(word for word in words if word.startswith("--config="))
        yield XL[1] if "sdxl" in config else SD3[0] if "sd3" in config else SD15[1]
    if words[1] in ("report", "explain"):
        yield from (word for word in words[2:] if not word.startswith("-"))
    for word in words:
        flag, _, value = word.partition("=")
        if flag == "--output" or (words[1] == "train" and flag == "--workdir"):
            continue
        # A LoRA has its weight behind a colon, a config its argument.
        yield from itertools.accumulate(value.split(":"), lambda a, b: f"{a}:{b}")
        yield value.partition(":")[2]


def small(words: tuple[str, ...]) -> tuple[str, ...]:
    """A command's arguments, and what makes it small: the last of several values counts."""
    name, given = words[1], tuple(word for word in words[1:] if word != ELLIPSIS)
    # The substitutes have fewer layers.
    given = tuple(word.replace("[789]", "[01]") for word in given)
    if name == "train":
        stem = config_of(words)
        more = SMALL_TRAIN.get(stem, FINETUNE)
        if any(word.startswith("--config.autoencoder.path") for word in words):
            more = tuple(flag for flag in more if flag not in PIXELS)
        if "dreambooth" in stem:
            more = (*more, *SUBJECT)
        return (*given, *more, *(WORD if stem == "textual_inversion" else ()))
    if name == "data":
        named = any(word.startswith("--config=") for word in words)
        return (*given, *(("--config.data.train=20",) if named else ()))
    more = SMALL_COMMANDS[name]
    if name == "launch":
        given = tuple(word for word in given if word != "--submit")
        if any(ELLIPSIS in word for word in words):
            given = (*given[: given.index("--") + 1], *TRAINED)
        return given
    original = next((pathlib.Path(w.partition("=")[2]) for w in words if w.endswith(".safetensors")), None)
    if name == "convert" and original:
        # Nothing is fetched from the Hub, and no file says how narrow these networks are.
        more = (f"--config={original.stem}_parts",)
    if name == "convert":
        # Where another command reads what is there.
        output = next(word.partition("=")[2] for word in words if word.startswith("--output="))
        more = (*more, f"--output=converted/{output}")
    if name == "sample" and any(word.startswith("--pretrained") for word in words):
        more = (*more, "--height=64", "--width=64")
    if name == "ablate" and any(word.startswith("--sweep") for word in words):
        whole = any(word.startswith("--sweep=") for word in words)
        more = (*more[1:], *(() if whole else ("--design=random", "--arms=2")))
    elif name == "ablate" and any(re.fullmatch(r"--guidance_scales=[^,]+", word) for word in words):
        more = more[1:]
    if name == "ablate" and any(word.startswith("--pretrained") for word in words):
        more = (*more, "--prompts_file=prompts.txt")
    return (*given, *more)
