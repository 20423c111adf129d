"""Damaged files of a checkpoint and of a workdir: wrong types anywhere, folders, circles of links."""

import json
import math
import os
import shutil

import difflax
import jax.numpy as jnp
import pytest
from difflax.config.files import read_workdir
from difflax.pretrained.components.text_encoders import EncoderOptions, load_text_encoders
from difflax.pretrained.families import read_configs
from etils import epath

from tests.fixtures import make_stable_diffusion as reference
from tests.hostile.answers import answered, refusal, refused
from tests.runs import load_config

BAD = (None, -5, 0, "a", [], {}, [None], True, math.nan, 10**30, 1.5)
WHOLE = (None, 3, "x", [1])

FILES = (
    "model_index.json",
    "vae/config.json",
    "text_encoder/config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/tokenizer.json",
    "tokenizer/special_tokens_map.json",
)
SLOW = ("unet/config.json",)
"""Whose network is built for each value that may be one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return reference.build("sd15", tmp_path_factory.mktemp("checkpoint") / "sd15")


def read(folder):
    """All that is read of a checkpoint but the weights of its large networks."""
    configs = read_configs(folder)
    model, _, _ = configs.build(jnp.float32)
    options = EncoderOptions(dtype=jnp.float32, variant="fp16", t5=None, t5_length=None)
    model.abstract()
    load_text_encoders(epath.Path(folder), configs.family.text, configs.index, configs.family.title, options)


def survives(path, read):
    """Puts every wrong value in every place of a JSON file: it is read, or refused in one line."""
    good = path.read_text()
    whole = json.loads(good)
    try:
        for made in (*WHOLE, *({**whole, key: bad} for key in whole for bad in BAD)):
            path.write_text(json.dumps(made))
            with answered():
                read()
        for text in ("", "{", "\0", "[" * 100_000, '{"a": 1} b', good[: len(good) // 2]):
            path.write_text(text)
            with refusal():
                read()
    finally:
        path.write_text(good)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FILES, *SLOW])
def test_wrong_types_at_every_place(name, folder):
    survives(folder / name, lambda: read(folder))


@pytest.mark.parametrize(
    ("name", "key", "bad"),
    [
        ("vae/config.json", "scaling_factor", 0),
        ("vae/config.json", "scaling_factor", None),
        ("vae/config.json", "scaling_factor", "a"),
        ("vae/config.json", "scaling_factor", math.nan),
        ("vae/config.json", "norm_num_groups", 0),
        ("unet/config.json", "attention_head_dim", 0),
        ("unet/config.json", "norm_num_groups", 0),
        ("unet/config.json", "block_out_channels", [0, 0]),
        ("unet/config.json", "layers_per_block", 10**7),
        ("unet/config.json", "in_channels", [4]),
        ("text_encoder/config.json", "num_attention_heads", 0),
        ("text_encoder/config.json", "hidden_size", -1),
        ("text_encoder/config.json", "model_type", []),
        ("tokenizer/tokenizer_config.json", "model_max_length", "a"),
        ("tokenizer/tokenizer.json", "model", None),
        ("model_index.json", "_class_name", 3),
    ],
)
def test_a_number_that_no_network_has(name, key, bad, folder):
    path = folder / name
    good = path.read_text()
    path.write_text(json.dumps(json.loads(good) | {key: bad}))
    try:
        with refusal():
            read(folder)
    finally:
        path.write_text(good)


@pytest.mark.parametrize("name", [*FILES, *SLOW])
@pytest.mark.parametrize("kind", ["folder", "circle", "nothing"])
def test_something_else_in_place_of_a_file(name, kind, folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path = copy / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "circle":
        os.symlink(path, path)
    with answered():
        read(copy)


@pytest.fixture
def workdir(tmp_path):
    """As far as it is read before its checkpoints."""
    from difflax.config.experiments import resolve
    from difflax.config.values import to_json

    config = load_config("shapes")
    config.text_encoder.path = "clip"
    (tmp_path / "config.json").write_text(json.dumps(to_json(resolve(config))))
    return tmp_path


def test_the_config_of_a_workdir(workdir):
    survives(workdir / "config.json", lambda: read_workdir(workdir))


@pytest.mark.slow
def test_sections_of_the_config_of_a_workdir(workdir):
    path = workdir / "config.json"
    whole = json.loads(path.read_text())
    for section, fields in whole.items():
        for key in fields if isinstance(fields, dict) else ():
            for bad in BAD[::3]:
                path.write_text(json.dumps(whole | {section: fields | {key: bad}}))
                with answered():
                    read_workdir(workdir)


def test_a_workdir_that_is_none(tmp_path):
    (tmp_path / "file").write_text("x")
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    for path in (tmp_path / "file", tmp_path / "loop", tmp_path / ("n" * 300), "a\0b", "gs://bucket/x"):
        with refusal():
            difflax.load(path)
        with refusal():
            difflax.from_pretrained(path)


def test_a_sweep_that_is_none(tmp_path):
    from tests.evaluation.known_sweep import sweep

    sweep(tmp_path, scales=[1])
    path = tmp_path / "cells" / "sweep.json"
    whole = path.read_text()
    for text in ("", "[]", "3", "null", "{", "\0", '{"seeds": 3}'):
        path.write_text(text)
        with refusal():
            sweep(tmp_path, scales=[1])
    path.write_text(whole)
    for text in ("", "[]", "{}", '{"packs": 3}', '{"packs": [[3]]}', '{"packs": [["a"]]}'):
        (tmp_path / "cells" / "packs.json").write_text(text)
        with refusal():
            sweep(tmp_path, scales=[1, 2])


def test_a_picture_that_would_fill_the_memory(tmp_path):
    """A PNG of a few kilobytes that holds 144 million pixels of one colour."""
    from PIL import Image

    path = tmp_path / "large.png"
    Image.new("1", (12_000, 12_000)).save(path)
    command = ("sample", "--pretrained=nowhere", "--prompt=a", f"--output={tmp_path / 'out'}")
    assert "12000 × 12000 pixels would need" in refused(*command, f"--image={path}")
