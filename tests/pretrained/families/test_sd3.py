"""Stable Diffusion 3-medium, 3.5-medium and 3.5-large, at small width with the true structure, against what
PyTorch diffusers and transformers computed from the same weights (tests/fixtures/make_stable_diffusion_3.py).
"""

import functools
import json
import math
import re
import shutil

import difflax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from difflax.core.types import Conditioning, UserError
from difflax.diffusion.guidance import Bounds, PerturbationGuidance
from difflax.generation.pipeline import WeakModel
from difflax.generation.settings import run_levels
from difflax.models.perturbation import Perturbation
from difflax.pretrained.components.schedulers import read_scheduler

from tests.fixtures import make_stable_diffusion_3 as reference

SETTINGS = {
    "negative_prompt": reference.NEGATIVE,
    "guidance_scale": reference.SCALE,
    "num_steps": reference.STEPS,
    "height": reference.HEIGHT,
    "width": reference.WIDTH,
}
SMALL = {"num_steps": 2, "height": 32, "width": 48}


@pytest.fixture(scope="module")
def tensors():
    return reference.references()


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    @functools.cache
    def build(name):
        return reference.build(name, tmp_path_factory.mktemp("checkpoints") / name)

    return build


@pytest.fixture(scope="module")
def pipeline_of(folder_of):
    @functools.cache
    def load(name, **options):
        options = {"t5_length": reference.LENGTH, "batch_size": 1, "variant": "fp16", **options}
        return difflax.from_pretrained(str(folder_of(name)), **options)

    return load


def relative_error(ours, theirs):
    """The largest error over the largest value."""
    assert np.asarray(ours).shape == theirs.shape
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n == "sd35_large" else []) for n in reference.CASES],
)
def test_transformer_and_a_whole_run_of_twenty_steps(name, pipeline_of, tensors):
    pipeline, noise = pipeline_of(name), tensors["inputs.noise"]
    text = Conditioning(context=tensors["sd3_medium.context"][:1], pooled=tensors["sd3_medium.pooled"][:1])
    out = jax.jit(pipeline.model.network.apply)(
        pipeline.model.params, noise, np.asarray([640.0], np.float32), text
    )
    assert relative_error(out, tensors[f"{name}.transformer"]) < 1e-4
    levels = run_levels(pipeline.model, pipeline.defaults, reference.STEPS, noise.shape[1:3])
    np.testing.assert_allclose(levels.t[:-1] * 1000, tensors[f"{name}.timesteps"], rtol=1e-5)
    made = pipeline(reference.PROMPT, latents=noise, **SETTINGS)
    expected = tensors[f"{name}.image"]
    assert expected.std() > 0.05
    assert np.abs(made - expected).max() < 2e-3


def test_three_text_encoders_and_the_autoencoder(pipeline_of, tensors):
    pipeline = pipeline_of("sd3_medium")
    encoded = pipeline.model.text_encoder.encode([reference.PROMPT, reference.NEGATIVE])
    assert encoded.context.shape[1] == 77 + reference.LENGTH
    assert relative_error(encoded.context, tensors["sd3_medium.context"]) < 1e-4
    assert relative_error(encoded.pooled, tensors["sd3_medium.pooled"]) < 1e-4
    network, config = pipeline.model.autoencoder.network, pipeline.model.autoencoder.config
    decode = jax.jit(lambda p, x: network.apply(p, x, method="decode"))
    noise = jnp.asarray(tensors["inputs.noise"])
    assert (
        relative_error(decode(pipeline.model.autoencoder_params, noise), tensors["sd3_medium.decoded"]) < 1e-4
    )
    assert (config.scaling_factor, config.shift_factor) == (1.5305, 0.0609)
    moved = (noise - config.shift_factor) * config.scaling_factor
    again = pipeline.model.autoencoder.decode(pipeline.model.autoencoder_params, moved)
    assert relative_error(again, tensors["sd3_medium.decoded"]) < 1e-4


def test_without_t5_its_tokens_are_zeros(pipeline_of, tensors):
    pipeline = pipeline_of("sd3_medium", t5=False)
    made = pipeline(reference.PROMPT, latents=tensors["inputs.noise"], **SETTINGS)
    expected = tensors["sd3_medium.image_without_t5"]
    assert np.abs(made - expected).max() < 2e-3
    assert np.abs(expected - tensors["sd3_medium.image"]).max() > 0.01


def test_skipped_layers_guide_a_part_of_the_run(pipeline_of, tensors):
    """diffusers skips after the step ``start n`` and before the step ``stop n``."""
    skip, steps = reference.SKIP, reference.STEPS
    guidance = PerturbationGuidance(
        perturbation_scale=skip["scale"],
        within=Bounds(
            low=math.floor(steps * skip["start"]) + 1,
            high=math.ceil(steps * skip["stop"]) - 1,
            unit="step",
        ),
    )
    layers = "|".join(map(str, skip["layers"]))
    weak = WeakModel(perturbation=Perturbation(kind="skip", layers=f"transformer_blocks/({layers})$"))
    pipeline = pipeline_of("sd35_medium").with_guidance(guidance, weak)
    made = pipeline(reference.PROMPT, latents=tensors["inputs.noise"], **SETTINGS)
    expected = tensors["sd35_medium.image_with_skipped_layers"]
    assert np.abs(made - expected).max() < 2e-3
    assert np.abs(expected - tensors["sd35_medium.image"]).max() > 0.01


def test_defaults_and_samplers_of_the_project(pipeline_of):
    pipeline = pipeline_of("sd3_medium")
    assert (pipeline.defaults.height, pipeline.defaults.width, pipeline.defaults.num_steps) == (64, 64, 28)
    assert (pipeline.defaults.guidance.scale, type(pipeline.defaults.sampler).__name__) == (7.0, "Euler")
    euler, ddim = (pipeline("a cat", sampler=name, **SMALL) for name in ("euler", "ddim"))
    np.testing.assert_allclose(euler, ddim, atol=1e-3)  # on a straight path the same map
    with pytest.raises(UserError, match="multiples of patch_size = 2"):
        pipeline("a cat", num_steps=2, height=40, width=48)


def test_what_changes_between_calls_compiles_nothing(pipeline_of):
    from difflax.generation import program as sampling

    pipeline = pipeline_of("sd35_large")
    pipeline("a cat", "blurry", guidance_scale=4.0, **SMALL)
    before = sampling.sample_batch._cache_size()
    pipeline("two dogs in the rain", guidance_scale=0.0, seed=2, **(SMALL | {"num_steps": 5}))
    assert sampling.sample_batch._cache_size() == before


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("latent", [(64, 64), (128, 96)])
def test_the_shift_follows_the_size_as_in_diffusers(kind, latent):
    diffusers = pytest.importorskip("diffusers")
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

    config = {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "use_dynamic_shifting": True,
        "time_shift_type": kind,
        "base_shift": 0.6,
    }
    theirs = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
    tokens = latent[0] * latent[1] // 4
    theirs.set_timesteps(9, mu=calculate_shift(tokens, 256, 4096, 0.6, theirs.config.max_shift))
    sampling = read_scheduler(config, patch_size=2)
    grid = sampling.time_grid.of_latent(latent)
    np.testing.assert_allclose(grid.times(sampling.schedule, 9), theirs.sigmas[:-1], rtol=1e-5)


class TestSaving:
    @pytest.fixture(scope="class")
    def saved(self, pipeline_of, tmp_path_factory):
        place = tmp_path_factory.mktemp("saved") / "out"
        pipeline_of("sd35_medium").save_pretrained(place)
        return place

    def test_every_tensor_and_config_comes_back(self, folder_of, saved):
        folder = folder_of("sd35_medium")
        for part, stem in (("transformer", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"),
                           ("text_encoder", "model"), ("text_encoder_2", "model"),
                           ("text_encoder_3", "model")):  # fmt: skip
            before = safetensors.numpy.load_file(folder / part / f"{stem}.fp16.safetensors")
            after = safetensors.numpy.load_file(saved / part / f"{stem}.safetensors")
            assert len(after) == len(before)
            for key, tensor in before.items():
                key = key if key in after else f"text_model.{key}"
                np.testing.assert_array_equal(after[key], tensor.astype(np.float32))
        for file in ("transformer/config.json", "scheduler/scheduler_config.json", "model_index.json"):
            assert json.loads((saved / file).read_text()) == json.loads((folder / file).read_text())

    def test_and_makes_the_same_image(self, pipeline_of, saved):
        again = difflax.from_pretrained(str(saved), t5_length=reference.LENGTH, batch_size=1)
        expected = pipeline_of("sd35_medium")("a cat", **SMALL)
        np.testing.assert_array_equal(again("a cat", **SMALL), expected)

    def test_without_t5(self, pipeline_of, tmp_path):
        pipeline_of("sd3_medium", t5=False).save_pretrained(tmp_path)
        assert json.loads((tmp_path / "model_index.json").read_text())["text_encoder_3"] == [None, None]
        again = difflax.from_pretrained(str(tmp_path), t5_length=reference.LENGTH)
        encoded = again.model.text_encoder.encode(["a cat"]).context
        np.testing.assert_array_equal(encoded[:, 77:], np.zeros((1, reference.LENGTH, 40)))

    @pytest.mark.parity
    def test_diffusers_loads_the_same_tensors_and_renders_the_same(self, folder_of, saved):
        torch = pytest.importorskip("torch")
        import diffusers

        first, second = (
            diffusers.StableDiffusion3Pipeline.from_pretrained(p, torch_dtype=torch.float32, **more)
            for p, more in ((folder_of("sd35_medium"), {"variant": "fp16"}), (saved, {}))
        )
        for name in ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
            before, after = (getattr(p, name).state_dict() for p in (first, second))
            assert before.keys() == after.keys()
            assert all(torch.equal(before[key], after[key]) for key in before), name
        assert first.scheduler.config == second.scheduler.config
        made = []
        for p in (first, second):
            p.set_progress_bar_config(disable=True)
            generator = torch.Generator().manual_seed(0)
            size = {"height": 32, "width": 32, "max_sequence_length": reference.LENGTH}
            images = p("a cat", num_inference_steps=2, generator=generator, output_type="np", **size).images
            made.append(images)
        # Equal weights at other addresses: PyTorch's kernels then add in another order.
        np.testing.assert_allclose(*made, atol=1e-4)


class TestBadInput:
    def load(self, folder_of, tmp_path, change, **options):
        folder = tmp_path / "broken"
        shutil.copytree(folder_of("sd3_medium"), folder)
        change(folder)
        with pytest.raises(UserError) as refused:
            difflax.from_pretrained(str(folder), variant="fp16", **options)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    @pytest.mark.parametrize(
        ("part", "says"),
        [
            ("text_encoder_3", "no text_encoder_3 in .*leave it out with t5=False"),
            ("tokenizer_3", "no tokenizer_3 in .*leave it out with t5=False"),
            ("text_encoder_2", "no text_encoder_2 in .*fetch it again$"),
            ("tokenizer", "no tokenizer in .*fetch it again$"),
        ],
    )
    def test_a_missing_encoder(self, folder_of, tmp_path, part, says):
        line = self.load(folder_of, tmp_path, lambda folder: shutil.rmtree(folder / part))
        assert re.search(says, line), line

    @pytest.mark.parametrize(
        ("file", "fields", "says"),
        [
            ("transformer/config.json", {"_class_name": "FluxTransformer2DModel"}, "only 'SD3Transformer2D"),
            ("transformer/config.json", {"in_channels": 17}, "in_channels = 17 is not supported"),
            ("transformer/config.json", {"num_layers": 4}, "missing transformer_blocks."),
            ("text_encoder_3/config.json", {"model_type": "bert"}, "a T5 is needed"),
            ("scheduler/scheduler_config.json", {"invert_sigmas": True}, "invert_sigmas = True"),
            ("scheduler/scheduler_config.json", {"shift_terminal": 2}, "shift_terminal = 2"),
            ("model_index.json", {"_class_name": "StableDiffusion4Pipeline"}, "StableDiffusion4Pipeline"),
        ],
    )
    def test_configs(self, folder_of, tmp_path, file, fields, says):
        def change(folder):
            path = folder / file
            path.write_text(json.dumps(json.loads(path.read_text()) | fields))

        assert says in self.load(folder_of, tmp_path, change)

    def test_options(self, folder_of, tmp_path):
        line = self.load(folder_of, tmp_path, lambda folder: None, t5_length=0)
        assert line == "t5_length = 0 must be at least 1"
