"""Stable Diffusion XL, base and refiner, at small width with the true structure, against what PyTorch
diffusers and transformers computed from the same weights (tests/fixtures/make_sdxl.py).
"""

import dataclasses
import json
import shutil

import difflax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from difflax.core.types import Conditioning, UserError
from difflax.generation.ensemble import Ensemble
from difflax.models.size_conditioning import MicroConditioning
from PIL import Image

from tests.fixtures import make_sdxl as reference
from tests.fixtures.make_stable_diffusion import references as given_inputs
from tests.pretrained.families.test_sd import relative_error
from tests.runs import command

SIZE = {"height": reference.HEIGHT, "width": reference.WIDTH}
RUN = {"guidance_scale": reference.SCALE, "num_steps": reference.STEPS}
PROMPTS = [reference.PROMPT, reference.NEGATIVE, ""]


@pytest.fixture(scope="module")
def tensors():
    return reference.references()


@pytest.fixture(scope="module")
def noise():
    return given_inputs()["inputs.noise"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("sdxl")
    return {name: reference.build(name, place / name) for name in reference.INDICES}


@pytest.fixture(scope="module")
def pipelines(folders):
    return {
        name: difflax.from_pretrained(str(folder), variant="fp16", batch_size=1)
        for name, folder in folders.items()
    }


@pytest.mark.parametrize("name", ["base", "refiner"])
class TestComponents:
    def test_text(self, pipelines, tensors, name):
        made = pipelines[name].model.text_encoder.encode(PROMPTS)
        assert relative_error(made.context, tensors[f"{name}.context"]) < 1e-5
        assert relative_error(made.pooled, tensors[f"{name}.pooled"]) < 1e-5

    @pytest.mark.slow
    def test_unet(self, pipelines, tensors, noise, name):
        pipeline = pipelines[name]
        # Operation by operation: a program of all these blocks takes longer to compile than to run once.
        made = pipeline.model.network.apply(
            pipeline.model.params,
            jnp.asarray(noise),
            jnp.asarray([981.0]),
            Conditioning(
                context=tensors[f"{name}.context"][:1],
                pooled=tensors[f"{name}.pooled"][:1],
                time_ids=tensors[f"{name}.time_ids"],
            ),
        )
        assert relative_error(made, tensors[f"{name}.unet"]) < 2e-5

    def test_no_negative_prompt(self, pipelines, tensors, name):
        """Zeros in the base; an empty prompt in the refiner, which does not force them."""
        null = pipelines[name].model.null
        if name == "base":
            assert not null.context.any() and not null.pooled.any()
        else:
            assert relative_error(null.context, tensors["refiner.context"][2:]) < 1e-5
            assert relative_error(null.pooled, tensors["refiner.pooled"][2:]) < 1e-5


class TestRuns:
    """One compiled program for the base, one for the refiner's part."""

    def test_sizes_and_a_negative_prompt(self, pipelines, tensors, noise):
        micro = MicroConditioning(**reference.MICRO)
        made, plain = (
            pipelines["base"](reference.PROMPT, reference.NEGATIVE, latents=noise, micro=sizes, **RUN, **SIZE)
            for sizes in (micro, MicroConditioning())
        )
        assert np.abs(made - tensors["base.image"]).max() < 2e-4
        assert np.abs(plain - tensors["base.image"]).max() > 0.05

    def test_no_negative_prompt_is_zeros_and_not_an_empty_prompt(self, pipelines, tensors, noise):
        """At a scale where the run is not chaotic, as the maker of the references checks."""
        run = RUN | {"guidance_scale": reference.LOW_SCALE}
        made, empty = (
            pipelines["base"](reference.PROMPT, negative, latents=noise, **run, **SIZE)
            for negative in (None, "")
        )
        theirs = tensors["base.no_negative"]
        assert np.abs(made - theirs).max() < 2e-4
        assert np.abs(empty - theirs).max() > 0.3

    @pytest.mark.slow
    def test_base_and_refiner(self, pipelines, tensors, noise):
        both = Ensemble(pipelines["base"], pipelines["refiner"], handover=reference.HANDOVER)
        micro = MicroConditioning(**reference.SCORES)
        made = both(reference.PROMPT, reference.NEGATIVE, latents=noise, micro=micro, **RUN, **SIZE)
        assert np.abs(made - tensors["both.image"]).max() < 2e-4

    @pytest.mark.slow
    def test_the_refiners_noise_is_each_images_own_too(self, pipelines):
        both = Ensemble(pipelines["base"], pipelines["refiner"], handover=reference.HANDOVER)
        run = RUN | {"sampler": "euler_ancestral"}
        first, second = both(reference.PROMPT, seed=3, num_images=2, **run, **SIZE)
        for seed, image in ((3, first), (4, second)):
            np.testing.assert_allclose(both(reference.PROMPT, seed=seed, **run, **SIZE)[0], image, atol=2e-3)

    @pytest.mark.slow
    def test_the_refiner_from_an_image(self, pipelines, tensors):
        made = pipelines["refiner"](
            reference.PROMPT,
            reference.NEGATIVE,
            image=given_inputs()["inputs.image"],
            latents=tensors["refiner.noise"],
            **RUN,
            **SIZE,
        )
        assert pipelines["refiner"].defaults.strength == reference.STRENGTH
        assert np.abs(made - tensors["refiner.image"]).max() < 2e-4

    @pytest.mark.slow
    def test_the_parts_of_a_run_are_the_run(self, pipelines, noise):
        base = pipelines["base"]
        whole = base(reference.PROMPT, latents=noise, **RUN, **SIZE)
        part = base(reference.PROMPT, latents=noise, denoising_end=0.35, **RUN, **SIZE)
        assert part.shape == noise.shape
        again = base(reference.PROMPT, latents=part, denoising_start=0.35, **RUN, **SIZE)
        np.testing.assert_allclose(again, whole, atol=1e-4)

    @pytest.mark.slow
    def test_long_and_weighted_prompts(self, pipelines, noise):
        base = pipelines["base"]
        run = {"latents": noise, "num_steps": 2, **SIZE}
        plain = base("a red cat", **run)
        np.testing.assert_allclose(base("a red cat", chunked=True, **run), plain, atol=1e-5)
        assert np.abs(base("a (red:1.8) cat", weighted=True, **run) - plain).max() > 1e-3
        long = "two dogs and three birds in the rain " * 12
        assert np.isfinite(base(long, chunked=True, **run)).all()


class TestSaving:
    @pytest.fixture(scope="class")
    def saved(self, pipelines, tmp_path_factory):
        place = tmp_path_factory.mktemp("saved")
        for name, pipeline in pipelines.items():
            pipeline.save_pretrained(place / name)
        return {name: place / name for name in pipelines}

    def test_every_tensor_comes_back_bit_for_bit(self, folders, saved):
        for name, parts in (("base", ("unet", "vae", "text_encoder", "text_encoder_2")),
                            ("refiner", ("unet", "vae", "text_encoder_2"))):  # fmt: skip
            for part in parts:
                [before] = map(safetensors.numpy.load_file, (folders[name] / part).glob("*.safetensors"))
                [after] = map(safetensors.numpy.load_file, (saved[name] / part).glob("*.safetensors"))
                assert len(before) == len(after)
                for key, tensor in before.items():
                    key = key if key in after else f"text_model.{key}"
                    np.testing.assert_array_equal(after[key], tensor.astype(np.float32))
        assert not (saved["refiner"] / "text_encoder").exists()

    def test_the_index_keeps_its_rules(self, saved):
        for name, index in reference.INDICES.items():
            made = json.loads((saved[name] / "model_index.json").read_text())
            for key, value in index.items():
                assert made[key] == value or key == "_diffusers_version", key

    @pytest.mark.parity
    def test_diffusers_loads_it_and_renders_the_same(self, folders, saved):
        torch = pytest.importorskip("torch")

        first = reference.load(folders["base"], folders["refiner"], variant="fp16")
        second = reference.load(saved["base"], saved["refiner"])
        for before, after in zip(first, second, strict=True):
            for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
                model = getattr(before, name)
                if model is not None:
                    mine, theirs = model.state_dict(), getattr(after, name).state_dict()
                    assert mine.keys() == theirs.keys()
                    assert all(torch.equal(mine[key], theirs[key]) for key in mine), name
            assert before.scheduler.config == after.scheduler.config
        images = []
        for base, refiner in (first, second):
            generator = torch.Generator().manual_seed(0)
            run = {"prompt": "a cat", "num_inference_steps": 4}
            latents = base(**run, generator=generator, denoising_end=0.5, output_type="latent", height=32,
                           width=32).images  # fmt: skip
            images.append(refiner(**run, image=latents, denoising_start=0.5, output_type="np").images)
        # Equal weights at other addresses: PyTorch's kernels then add in another order.
        np.testing.assert_allclose(*images, atol=1e-4)


def test_half_precision_keeps_the_autoencoder_out_of_float16(folders):
    half = difflax.from_pretrained(str(folders["base"]), variant="fp16", dtype="float16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.model.params)} == {"float16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.model.autoencoder_params)} == {"float32"}


class TestBadInput:
    @pytest.fixture
    def broken(self, folders, tmp_path):
        """A copy of a folder that may be damaged."""

        def copy(name, **index):
            place = shutil.copytree(folders[name], tmp_path / name)
            fields = json.loads((place / "model_index.json").read_text()) | index
            (place / "model_index.json").write_text(json.dumps(fields))
            return place

        return copy

    def refused(self, folder, says):
        with pytest.raises(UserError, match=says) as caught:
            difflax.from_pretrained(str(folder), variant="fp16")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("lost", ["text_encoder_2", "tokenizer_2"])
    def test_a_missing_second_encoder(self, broken, lost):
        folder = broken("base")
        shutil.rmtree(folder / lost)
        self.refused(folder, f"no {lost} in .*two text encoders")

    def test_an_encoder_without_a_projection(self, broken):
        folder = broken("base")
        shutil.rmtree(folder / "text_encoder_2")
        shutil.copytree(folder / "text_encoder", folder / "text_encoder_2")
        self.refused(folder, "has no text_projection")

    def test_a_base_without_its_first_encoder(self, broken):
        self.refused(broken("base", text_encoder=[None, None]), "reads text of width 56.* gives 32")

    def test_the_unet_of_a_refiner_in_a_base_and_the_reverse(self, broken, folders):
        mixed = {"requires_aesthetics_score": False}
        self.refused(broken("refiner", **mixed), "is of a refiner, but .* = false")
        base = broken("base", requires_aesthetics_score=True)
        self.refused(base, "is of a base model, but .* = true")

    def test_a_refiner_in_place_of_a_base_and_the_reverse(self, pipelines):
        with pytest.raises(UserError, match=r"this checkpoint is a refiner.*give image"):
            pipelines["refiner"]("a cat", num_steps=1)
        with pytest.raises(UserError, match="refiner is given as the base"):
            Ensemble(pipelines["refiner"], pipelines["refiner"])
        with pytest.raises(UserError, match="base model is given as the refiner"):
            Ensemble(pipelines["base"], pipelines["base"])

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"denoising_end": 1.0}, r"denoising_end=1.0 must lie in \(0, 1\)"),
            ({"denoising_start": 0.5}, "give latents"),
            ({"height": 30}, "multiples of 8"),
            ({"num_steps": 1, "denoising_end": 0.5}, "no step of the run of 1"),
        ],
    )
    def test_calls(self, pipelines, given, says):
        with pytest.raises(UserError, match=says):
            pipelines["base"]("a cat", **given)

    def test_different_noise_levels_at_the_handover(self, pipelines):
        refiner = pipelines["refiner"]
        grid = dataclasses.replace(refiner.defaults.time_grid, steps_offset=7)
        other = dataclasses.replace(refiner, defaults=dataclasses.replace(refiner.defaults, time_grid=grid))
        with pytest.raises(UserError, match="give both the same scheduler"):
            Ensemble(pipelines["base"], other)("a cat", num_steps=10)

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"original_size": (64,)}, "original_size"),
            ({"target_size": (0, 64)}, "target_size"),
            ({"crops_coords_top_left": (-1, 0)}, "crops_coords_top_left"),
            ({"aesthetic_score": float("nan")}, "aesthetic_score"),
        ],
    )
    def test_sizes(self, fields, says):
        with pytest.raises(UserError, match=says):
            MicroConditioning(**fields)


@pytest.mark.slow
def test_commands(folders, tmp_path):
    common = ("sample", "--variant=fp16", "--prompt=a cat", "--num_steps=4", "--height=32", "--width=32")

    def run(*arguments):
        status, _, errors = command(*common, *arguments)
        assert status == 0, errors

    base, refiner = f"--pretrained={folders['base']}", f"--refiner={folders['refiner']}"
    run(base, "--original_size=24,24", "--negative_original_size=8,8", f"--output={tmp_path / 'a'}")
    run(base, refiner, "--aesthetic_score=7", "--handover=0.5", f"--output={tmp_path / 'b'}")
    status, _, errors = command(*common, base, "--target_size=24", f"--output={tmp_path / 'c'}")
    assert status == 2 and "target_size" in errors
    assert Image.open(tmp_path / "b" / "0000_seed0.png").size == (32, 32)
