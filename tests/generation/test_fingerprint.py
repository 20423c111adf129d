"""Whatever changes an image is part of what a measured sweep is known by."""

import shutil

import difflax
import numpy as np
import pytest
import safetensors.numpy
from difflax.pretrained.adapters.textual_inversion import FILE, save_embeddings

from tests.fixtures import make_stable_diffusion as reference
from tests.runs import command

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def load(folder, **changes):
    return difflax.from_pretrained(str(folder), **{"variant": "fp16", **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return reference.build("sd15", tmp_path_factory.mktemp("checkpoint") / "sd15")


@pytest.fixture(scope="module")
def pipeline(folder):
    return load(folder)


@pytest.fixture(scope="module")
def lora(folder, tmp_path_factory):
    """A LoRA of one layer of the UNet."""
    weights = safetensors.numpy.load_file(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    out, inner = weights[f"{LAYER}.weight"].shape
    path = tmp_path_factory.mktemp("lora") / "style.safetensors"
    rows = np.random.default_rng(0).standard_normal((2, 1, max(out, inner))).astype(np.float32)
    factors = {
        f"unet.{LAYER}.lora_A.weight": rows[0, :, :inner].copy(),
        f"unet.{LAYER}.lora_B.weight": rows[1, :, :out].T.copy(),
    }
    safetensors.numpy.save_file(factors, path)
    return path


def test_the_same_checkpoint_has_one_fingerprint_wherever_it_lies(folder, pipeline, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    assert load(tmp_path / "copy").fingerprint() == pipeline.fingerprint()


def test_whatever_changes_an_image_changes_it(folder, pipeline, lora, tmp_path):
    save_embeddings(tmp_path / FILE, "<thing>", np.ones((1, 24), np.float32))
    others = {
        "lora": pipeline.with_lora([(lora, 1.0)]),
        "half of it": pipeline.with_lora([(lora, 0.5)]),
        "word": pipeline.with_textual_inversion(tmp_path),
        "dtype": load(folder, dtype="bfloat16"),
    }
    found = {"checkpoint": pipeline.fingerprint()} | {k: p.fingerprint() for k, p in others.items()}
    assert len(set(found.values())) == len(found), found


def test_other_weights_under_the_same_name(folder, pipeline, tmp_path):
    """One number of the autoencoder, which no config names."""
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    weights = safetensors.numpy.load_file(path)
    weights["decoder.conv_out.bias"] = weights["decoder.conv_out.bias"] + np.float16(0.25)
    safetensors.numpy.save_file(weights, path, metadata={"format": "pt"})
    assert load(tmp_path / "copy").fingerprint() != pipeline.fingerprint()


@pytest.mark.slow
def test_a_lora_finds_no_table_of_the_checkpoint_without_it(folder, lora, tmp_path):
    arguments = [
        "ablate",
        f"--pretrained={folder}",
        "--variant=fp16",
        "--prompt=a cat",
        "--guidance_scales=1",
        "--seeds=1",
        "--num_steps=1",
        f"--output={tmp_path / 'sweep'}",
    ]
    assert command(*arguments)[0] == 0
    table = (tmp_path / "sweep" / "table.csv").read_bytes()
    status, _, errors = command(*arguments, f"--lora={lora}")
    assert status == 2
    assert "another fingerprint" in errors
    assert (tmp_path / "sweep" / "table.csv").read_bytes() == table
    assert command(*arguments)[0] == 0
