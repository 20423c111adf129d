"""What a checkpoint's pipeline does: sizes, seeds, pictures, masks, compilation, devices, saving."""

import dataclasses
import json
import os
import subprocess
import sys
import warnings

import difflax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from difflax.core.types import UserError
from difflax.diffusion.time_grids.run import RunOptions
from difflax.generation import program as sampling
from difflax.generation.run import UnconditionalWarning
from difflax.models.autoencoder import Identity
from PIL import Image

from tests.fixtures import make_stable_diffusion as reference
from tests.runs import command

SMALL = {"num_steps": 3, "height": 32, "width": 40}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return reference.build("sd21_v", tmp_path_factory.mktemp("pipeline") / "sd21_v")


@pytest.fixture(scope="module")
def pipeline(folder):
    return difflax.from_pretrained(str(folder), variant="fp16", batch_size=4)


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).random((32, 40, 3), np.float32)


def test_defaults_are_the_checkpoints(pipeline):
    assert (pipeline.defaults.height, pipeline.defaults.width) == (64, 64)
    assert pipeline.defaults.guidance.scale == 7.5
    assert pipeline.defaults.num_steps == 50
    assert type(pipeline.defaults.sampler).__name__ == "DDIM"


def test_an_image_depends_on_its_own_prompt_and_seed(pipeline):
    several = pipeline(["a red cat", "a dog"], num_images=2, seed=5, **SMALL)
    assert several.shape == (4, 32, 40, 3)
    alone = pipeline(["a dog"], seed=6, **SMALL)
    np.testing.assert_allclose(several[3], alone[0], atol=1e-4)
    assert np.abs(several[2] - several[3]).max() > 0.05


def test_latents_are_unit_noise_in_nhwc(pipeline):
    latents = np.random.default_rng(1).standard_normal((1, 4, 5, 4)).astype(np.float32)
    a, b = (pipeline("a cat", latents=x, **SMALL) for x in (latents, latents))
    np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match=r"latents have shape \(1, 4, 4, 5\)"):
        pipeline("a cat", latents=latents.transpose(0, 3, 1, 2), **SMALL)


@pytest.mark.parametrize("size", [(30, 40), (4, 40)])
def test_sizes_that_no_latent_has(pipeline, size):
    with pytest.raises(UserError, match="multiples of 8"):
        pipeline("a cat", height=size[0], width=size[1], num_steps=1)


def test_guidance_of_zero_is_unconditional_and_of_one_is_off(pipeline):
    """Not the other way round, and not 1 for 0 (diffusers #9680); who means "off" by 0, as the cards of turbo
    models do, is told what to give.
    """
    with pytest.warns(UnconditionalWarning, match=r"is off there, give guidance_scale=1"):
        cat, dog = (pipeline(p, guidance_scale=0.0, **SMALL) for p in ("a cat", "a dog"))
    np.testing.assert_allclose(cat, dog, atol=1e-5)
    a, b = (pipeline("a cat", n, guidance_scale=1.0, **SMALL) for n in ("blurry", "two dogs"))
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.abs(a - cat).max() > 0.02


def test_no_negative_prompt_is_the_empty_one(pipeline):
    """The null of sampling is the null of training (diffusers #7920)."""
    np.testing.assert_allclose(pipeline("a cat", **SMALL), pipeline("a cat", "", **SMALL), atol=1e-5)


def test_what_changes_between_calls_compiles_nothing(pipeline):
    """diffusers #927."""

    def compiled():
        return [function._cache_size() for function in (sampling.sample_batch, sampling.decode)]

    pipeline("a cat", "blurry", guidance_scale=4.0, seed=1, **SMALL)
    before = compiled()
    pipeline("a dog in the rain", "blurry", guidance_scale=4.0, seed=1, **SMALL)
    pipeline("a cat", "two birds", guidance_scale=0.0, seed=2, **SMALL)
    pipeline("a cat", guidance_scale=-1.5, seed=3, **SMALL)
    pipeline("a cat", **(SMALL | {"num_steps": 7}))
    assert compiled() == before


def test_every_sampler_by_name(pipeline):
    """Loads and steps; their numbers are the samplers' own tests."""
    made = pipeline("a cat", sampler="euler", **SMALL)
    assert np.isfinite(made).all()
    # DDIM without noise and Euler are the same map.
    np.testing.assert_allclose(made, pipeline("a cat", sampler="ddim", **SMALL), atol=1e-3)
    with pytest.raises(UserError, match=r"sampler='ddmi' is unknown, did you mean .*ddim"):
        pipeline("a cat", sampler="ddmi", **SMALL)


class TestPictures:
    def test_more_strength_is_further_from_the_picture(self, pipeline, picture):
        settings = {**SMALL, "num_steps": 10, "image": picture}
        low, high = (pipeline("a cat", strength=s, **settings) for s in (0.1, 1.0))
        autoencoder, params = pipeline.model.autoencoder, pipeline.model.autoencoder_params
        there = autoencoder.encode(params, jnp.asarray(picture[None] * 2 - 1))
        again = np.clip(np.asarray(autoencoder.decode(params, there)) / 2 + 0.5, 0, 1)
        assert np.abs(low - again).mean() < np.abs(high - again).mean() / 2

    def test_bytes_and_fractions_and_pillow_are_the_same(self, pipeline, picture):
        data = (picture * 255).round().astype(np.uint8)
        settings = {**SMALL, "strength": 0.5}
        a = pipeline("a cat", image=data, **settings)
        b = pipeline("a cat", image=data / np.float32(255), **settings)
        c = pipeline("a cat", image=Image.fromarray(data), **settings)
        np.testing.assert_allclose(a, b, atol=1e-4)
        np.testing.assert_array_equal(a, c)

    def test_what_is_outside_the_mask_stays(self, pipeline):
        """The network's space taken as the image's, so that nothing blurs what is kept."""
        model = dataclasses.replace(pipeline.model, autoencoder=Identity(channels=4), autoencoder_params={})
        image = np.random.default_rng(2).random((8, 16, 4), np.float32)
        mask = np.zeros((8, 16), bool)
        mask[2:6, 3:11] = True
        defaults = dataclasses.replace(pipeline.defaults, options=RunOptions(final_t=0.0))
        to_the_data = dataclasses.replace(pipeline, model=model, defaults=defaults)
        made = to_the_data("a cat", image=image, mask=mask, num_steps=3, height=8, width=16)[0]
        np.testing.assert_allclose(made[~mask], image[~mask], atol=1e-5)
        assert np.abs(made[mask] - image[mask]).mean() > 0.05

    def test_an_inverted_picture_comes_back_and_nothing_else_does(self, pipeline, picture):
        """Under the prompt that it was inverted with and without guidance, DDIM walks the same way down; from
        noise of the seed it ends elsewhere.
        """
        settings = {"height": 32, "width": 40, "guidance_scale": 1.0, "strength": 0.6, "image": picture}
        coarse, fine = (pipeline("a cat", invert="a cat", num_steps=n, seed=3, **settings) for n in (10, 80))
        model = pipeline.model
        there = model.autoencoder.encode(model.autoencoder_params, jnp.asarray(picture[None] * 2 - 1))
        again = np.asarray(model.autoencoder.decode(model.autoencoder_params, there)) / 2 + 0.5
        errors = [np.abs(made - np.clip(again, 0, 1)).mean() for made in (coarse, fine)]
        noised = pipeline("a cat", num_steps=80, seed=3, **settings)
        assert errors[1] < errors[0] / 3
        assert errors[1] < np.abs(noised - np.clip(again, 0, 1)).mean() / 10
        # The seed has no part in it.
        other = pipeline("a cat", invert="a cat", num_steps=80, seed=4, **settings)
        np.testing.assert_allclose(other, fine, atol=1e-5)
        dog = pipeline("a dog", invert="a cat", num_steps=80, seed=3, **settings)
        assert np.abs(dog - fine).max() > 0.01

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"invert": "a cat"}, "without an image"),
            ({"micro": None}, "reads no size"),
            ({"imgae": None}, "no argument 'imgae'"),
            ({"seed": 2**32}, "seed=4294967296 must be a whole number, from 0"),
            ({"strength": 0.5}, "without an image"),
            ({"mask": np.ones((32, 40))}, "without an image"),
            ({"image": np.zeros((32, 40, 4))}, r"give \[height, width, 3\]"),
            ({"image": np.zeros((40, 32, 3))}, "resize it"),
            ({"image": np.full((32, 40, 3), 3.0)}, r"\[0, 1\]"),
            ({"image": np.zeros((32, 40, 3)), "strength": 0.0}, "strength=0.0"),
            ({"image": np.zeros((32, 40, 3)), "strength": 1.5}, "strength=1.5"),
            ({"image": np.zeros((32, 40, 3)), "mask": np.zeros((32, 40))}, "nothing to make"),
            ({"image": np.zeros((32, 40, 3)), "mask": np.zeros((4, 5))}, "as large as the image"),
            ({"num_images": 0}, "num_images=0 must be a whole number, from 1"),
            ({"num_steps": 0}, "num_steps=0 must be a whole number, from 1 to 100000"),
        ],
    )
    def test_what_cannot_be(self, pipeline, given, says):
        with pytest.raises(UserError, match=says):
            pipeline("a cat", **(SMALL | given))

    def test_an_inpainting_checkpoint_needs_a_mask(self, tmp_path):
        folder = reference.build("sd15_inpainting", tmp_path / "inpainting")
        with pytest.raises(UserError, match="give image and mask"):
            difflax.from_pretrained(str(folder), variant="fp16")("a cat", **SMALL)


class TestPrompts:
    def test_long_ones_are_cut_with_a_warning_or_encoded_in_pieces(self, pipeline):
        long = "two dogs and three birds in the rain " * 12 + "blurry"
        with pytest.warns(UserWarning, match="lost: .*blurry"):
            cut = pipeline(long, **SMALL)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            whole = pipeline(long, "a short one", chunked=True, **SMALL)
        assert np.abs(cut - whole).max() > 0.02

    def test_weights(self, pipeline):
        plain = pipeline("a red cat", **SMALL)
        np.testing.assert_allclose(pipeline("a red cat", weighted=True, **SMALL), plain, atol=1e-4)
        assert np.abs(pipeline("a (red:1.8) cat", weighted=True, **SMALL) - plain).max() > 0.005


class TestSaving:
    @pytest.fixture(scope="class")
    def saved(self, pipeline, tmp_path_factory):
        place = tmp_path_factory.mktemp("saved") / "out"
        pipeline.save_pretrained(place)
        return place

    def test_every_tensor_comes_back_bit_for_bit(self, folder, saved):
        for part, name in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"),
                           ("text_encoder", "model")):  # fmt: skip
            before = safetensors.numpy.load_file(folder / part / f"{name}.fp16.safetensors")
            after = safetensors.numpy.load_file(saved / part / f"{name}.safetensors")
            assert len(after) == len(before)
            for key, tensor in before.items():
                key = key if key in after else f"text_model.{key}"
                np.testing.assert_array_equal(after[key], tensor.astype(np.float32))
            assert json.loads((saved / part / "config.json").read_text())

    def test_and_makes_the_same_image(self, pipeline, saved):
        again = difflax.from_pretrained(str(saved))
        np.testing.assert_array_equal(again("a cat", **SMALL), pipeline("a cat", **SMALL))

    @pytest.mark.parity
    def test_diffusers_loads_the_same_tensors_and_renders_the_same(self, folder, saved):
        torch = pytest.importorskip("torch")
        import diffusers

        first, second = (
            diffusers.StableDiffusionPipeline.from_pretrained(p, torch_dtype=torch.float32, **more)
            for p, more in ((folder, {"variant": "fp16"}), (saved, {}))
        )
        for name in ("unet", "vae", "text_encoder"):
            before, after = (getattr(p, name).state_dict() for p in (first, second))
            assert before.keys() == after.keys()
            assert all(torch.equal(before[key], after[key]) for key in before), name
        assert first.scheduler.config == second.scheduler.config
        made = []
        for p in (first, second):
            p.set_progress_bar_config(disable=True)
            generator = torch.Generator().manual_seed(0)
            size = {"height": 32, "width": 32}
            images = p("a cat", num_inference_steps=2, generator=generator, output_type="np", **size).images
            made.append(images)
        # Equal weights at other addresses: PyTorch's kernels then add in another order.
        np.testing.assert_allclose(*made, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(folder, pipeline, dtype):
    half = difflax.from_pretrained(str(folder), variant="fp16", dtype=dtype)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.model.params)} == {dtype}
    # The autoencoder overflows in float16 (force_upcast) and is kept out of it.
    expected = "float32" if dtype == "float16" else dtype
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.model.autoencoder_params)} == {expected}
    if dtype == "bfloat16":  # XLA has no float16 attention on the CPU, which the UNet needs
        made, full = (p("a cat", guidance_scale=1.0, **SMALL) for p in (half, pipeline))
        assert np.abs(made - full).mean() < 0.03


@pytest.mark.parametrize("missing", [["tokenizer.json"], ["vocab.json", "merges.txt"]])
def test_slow_and_fast_tokenizer_files(tmp_path, missing):
    folder = reference.build("sd21_base", tmp_path / "sd")
    expected = reference.references()["sd21_base.input_ids"]
    for name in missing:
        (folder / "tokenizer" / name).unlink()
    tokenizer = difflax.from_pretrained(str(folder), variant="fp16").model.text_encoder.tokenizer
    np.testing.assert_array_equal(tokenizer([reference.PROMPT, reference.NEGATIVE, ""]), expected)


@pytest.mark.slow
def test_a_batch_over_eight_devices_is_the_batch_on_one(folder, pipeline, tmp_path):
    code = """
import sys, numpy as np, jax
jax.config.update("jax_num_cpu_devices", 8)
import difflax
pipeline = difflax.from_pretrained(sys.argv[1], variant="fp16", batch_size=8)
assert jax.local_device_count() == 8
images = pipeline(["a cat", "a dog", "a red cat"], seed=[0, 1, 2], num_steps=3, height=32, width=40)
assert len(jax.tree.leaves(pipeline._placed[0].params)[0].sharding.device_set) == 8
np.save(sys.argv[2], images)
"""
    out = tmp_path / "images.npy"
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code, folder, out], check=True, env=environment)
    expected = pipeline(["a cat", "a dog", "a red cat"], seed=[0, 1, 2], **SMALL)
    np.testing.assert_allclose(np.load(out), expected, atol=1e-4)


class TestCommands:
    def run(self, *arguments):
        status, out, errors = command(*arguments)
        assert status == 0, errors
        return out

    def test_sample(self, folder, picture, tmp_path):
        Image.fromarray((picture * 255).astype(np.uint8)).save(tmp_path / "in.png")
        mask = np.zeros((32, 40), np.uint8)
        mask[8:24, 8:24] = 255
        Image.fromarray(mask).save(tmp_path / "mask.png")
        common = ("sample", f"--pretrained={folder}", "--variant=fp16", "--prompt=a cat", "--num_steps=2")
        self.run(*common, "--height=32", "--width=40", f"--output={tmp_path / 'a'}")
        self.run(*common, f"--image={tmp_path / 'in.png'}", "--strength=0.5", f"--output={tmp_path / 'b'}")
        self.run(*common, f"--image={tmp_path / 'in.png'}", f"--mask={tmp_path / 'mask.png'}",
                 f"--output={tmp_path / 'c'}")  # fmt: skip
        first = (tmp_path / "a" / "0000_seed0.png").read_bytes()
        self.run(*common, "--prompt=a dog", "--height=32", "--width=40", f"--output={tmp_path / 'a'}")
        assert (tmp_path / "a" / "0000_seed0.png").read_bytes() == first  # nothing is replaced
        assert Image.open(tmp_path / "a" / "0002_seed0.png").text["prompt"] == "a dog"
        for name in "abc":
            assert Image.open(tmp_path / name / "0000_seed0.png").size == (40, 32)

    @pytest.mark.slow
    def test_ablate(self, folder, clip_folder, tmp_path):
        self.run("ablate", f"--pretrained={folder}", "--variant=fp16", "--prompt=a cat", "--prompt=a dog",
                 f"--clip={clip_folder}", "--guidance_scales=0,4", "--seeds=2", "--num_steps=2",
                 f"--output={tmp_path}")  # fmt: skip
        results = json.loads((tmp_path / "results.json").read_text())
        assert "clip_score" in json.dumps(results)

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--pretrained=nowhere/at/all"], "no such folder"),
            (["--pretrained={folder}", "--workdir=x"], "give --workdir"),
            (["--pretrained={folder}", "--image=nowhere.png"], "nowhere.png"),
            (["--pretrained={folder}", "--dtype=int8"], "dtype='int8'"),
        ],
    )
    def test_bad_input_is_one_line(self, folder, arguments, says, tmp_path):
        filled = [a.format(folder=folder) for a in arguments]
        status, _, errors = command("sample", *filled, "--prompt=a cat", f"--output={tmp_path / 'out'}")
        assert status == 2
        assert says in errors
        assert len(errors.strip().splitlines()) == 1
