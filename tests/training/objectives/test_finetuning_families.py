"""Fine-tuning of Stable Diffusion XL and 3: the loss against PyTorch diffusers, the numbers beside the text,
and whole runs. The networks are those of the fixtures; XL's transformers have fewer blocks.
"""

import difflax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import scipy.stats
from difflax.core import streams
from difflax.core.types import Conditioning, UserError
from difflax.diffusion.loss.time_samplers import sample_times
from difflax.pretrained.adapters.lora import LORA_FILE
from difflax.pretrained.components.t5 import SAME_TABLE
from difflax.pretrained.families.base import CLIPS, networks_of
from difflax.pretrained.format.torch_names import to_torch
from PIL import Image

from tests.fixtures import make_sdxl, make_stable_diffusion_3
from tests.training.objectives.test_finetuning import CAPTIONS, config_of, prepared, train

SIZES = np.array([[48, 60, 0, 6, 32, 32], [100, 80, 10, 0, 40, 24], [32, 32, 0, 0, 32, 32]], np.float32)
LENGTH = make_stable_diffusion_3.LENGTH


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    return make_sdxl.build("base", tmp_path_factory.mktemp("checkpoint") / "xl", depths=(1, 1, 1))


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    return make_stable_diffusion_3.build("sd3_medium", tmp_path_factory.mktemp("checkpoint") / "sd3")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    place = tmp_path_factory.mktemp("pictures")
    for i, size in enumerate([(48, 32), (60, 40), (32, 48), (40, 64)]):
        Image.effect_noise(size, 90).convert("RGB").save(place / f"{i}.png")
        (place / f"{i}.txt").write_text(CAPTIONS[i % 2])
    return place


def drawn(objective, key, shape):
    """Times, noise, and which captions are dropped, of a batch whose loss has this key."""
    keys, inner = streams.sample_keys(key, jnp.arange(shape[0])), objective.denoising
    t = sample_times(inner.time_sampler, streams.substream(keys, "time"), inner.schedule)
    noise = inner.noise(streams.substream(keys, "noise"), jnp.zeros(shape))
    share = inner.caption_dropout
    dropped = jax.vmap(lambda k: jax.random.bernoulli(k, share))(streams.substream(keys, "caption"))
    return np.array(t), np.array(noise), np.array(dropped)


def batch_of(checkpoint, channels):
    """Three captioned latents that the autoencoder is sure of, and their means."""
    mean = np.random.default_rng(0).standard_normal((3, 4, 4, channels)).astype(np.float32)
    moments = np.concatenate([mean, np.full_like(mean, -30)], -1)
    return {"moments": moments, "tokens": checkpoint.text_encoder.tokenize(CAPTIONS)}, mean


@pytest.mark.parity
def test_the_loss_of_xl_is_that_of_diffusers(xl):
    """Same weights, latents, offset noise, timesteps and sizes; dropped captions are zeros, as the pipeline
    has them for no prompt, and the empty caption is encoded.
    """
    torch = pytest.importorskip("torch")
    import diffusers

    config = config_of("finetune_sdxl", xl, loss={"caption_dropout": 0.4}, data={"height": 32, "width": 32})
    checkpoint, objective, params = prepared(config)
    batch, mean = batch_of(checkpoint, 4)
    key = jax.random.key(2)
    losses, _ = jax.jit(objective.loss)(params, {**batch, "beside": Conditioning(time_ids=SIZES)}, key)

    t, noise, dropped = drawn(objective, key, mean.shape)
    assert dropped.tolist() == [False, True, False]
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(
        xl, variant="fp16", torch_dtype=torch.float32, add_watermarker=False
    )
    scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    steps = torch.from_numpy((t * 1000).round().astype(np.int64) - 1)
    latents = mean * pipe.vae.config.scaling_factor
    x0, eps = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in (latents, noise))
    with torch.no_grad():
        context, _, pooled, _ = pipe.encode_prompt(CAPTIONS, device="cpu")
        kept = torch.from_numpy(~dropped).float()
        added = {"text_embeds": pooled * kept[:, None], "time_ids": torch.from_numpy(SIZES)}
        noisy = scheduler.add_noise(x0, eps, steps)
        out = pipe.unet(noisy, steps, context * kept[:, None, None], added_cond_kwargs=added).sample
        expected = (out - eps).square().mean((1, 2, 3))
    np.testing.assert_allclose(losses, expected.numpy(), rtol=2e-4)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("weighting", "scheme"),
    [
        ({"name": "constant", "loss_space": None}, "logit_normal"),
        pytest.param({"name": "flow", "scheme": "cosmap"}, "cosmap", marks=pytest.mark.slow),
    ],
)
def test_the_loss_of_sd3_is_that_of_diffusers(sd3, weighting, scheme):
    """Same weights, latents, noise and times; the autoencoder's shift, and diffusers' weights of the loss."""
    torch = pytest.importorskip("torch")
    import diffusers
    from diffusers.training_utils import compute_loss_weighting_for_sd3

    loss = {"caption_dropout": 0.4, "weighting": weighting}
    size = {"height": 32, "width": 32}
    config = config_of("finetune_sd3", sd3, loss=loss, data=size, model={"t5_length": LENGTH})
    checkpoint, objective, params = prepared(config)
    batch, mean = batch_of(checkpoint, 16)
    key = jax.random.key(2)
    losses, _ = jax.jit(objective.loss)(params, batch, key)

    t, noise, dropped = drawn(objective, key, mean.shape)
    assert dropped.tolist() == [False, True, False]
    pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(sd3, variant="fp16", torch_dtype=torch.float32)
    vae = pipe.vae.config
    latents = (mean - vae.shift_factor) * vae.scaling_factor
    x0, eps = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in (latents, noise))
    captions = ["" if gone else caption for caption, gone in zip(CAPTIONS, dropped, strict=True)]
    sigmas = torch.from_numpy(t)[:, None, None, None]
    with torch.no_grad():
        context, _, pooled, _ = pipe.encode_prompt(
            captions, None, None, do_classifier_free_guidance=False, max_sequence_length=LENGTH
        )
        noisy = (1 - sigmas) * x0 + sigmas * eps
        out = pipe.transformer(noisy, context, pooled, 1000 * sigmas.flatten(), return_dict=False)[0]
        weights = compute_loss_weighting_for_sd3(scheme, sigmas)
        expected = (weights * (out - (eps - x0)).square()).mean((1, 2, 3))
    np.testing.assert_allclose(losses, expected.numpy(), rtol=2e-4)


@pytest.mark.parity
@pytest.mark.parametrize(("time_shift", "shift"), [(0.0, 3.0), (1.0, 1.0)])
def test_times_of_sd3_are_those_that_diffusers_trains_at(sd3, time_shift, shift):
    """diffusers draws a number z, and takes the timestep at sigmoid(z) of its scheduler's thousand."""
    diffusers = pytest.importorskip("diffusers")

    model = {"t5_length": LENGTH, "time_shift": time_shift}
    config = config_of("finetune_sd3", sd3, data={"height": 32, "width": 32}, model=model)
    _, objective, _ = prepared(config)
    z = np.linspace(-4, 4, 81)
    t = objective.denoising.time_sampler.quantile(
        jnp.asarray(scipy.stats.norm.cdf(-z)), objective.denoising.schedule
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    expected = scheduler.sigmas.numpy()[(1000 / (1 + np.exp(-z))).astype(int)]
    np.testing.assert_allclose(t, expected, atol=shift * 1.1e-3)


@pytest.mark.parametrize(
    ("config", "more", "says"),
    [
        ("lora_sdxl.py", ["--config.tune.text_encoder=('qq_proj',)"], "did you mean 'q_proj'"),
        ("finetune_sdxl.py", ["--config.tune.text_encoder=True", "--config.cache.text=True"], "cache.text"),
        ("finetune_sdxl.py", ["--config.cache.latents=True", "--config.data.buckets=((32,48),)"], "buckets"),
        ("finetune_sdxl.py", ["--config.data.buckets=((32,36),)"], "32 × 36 pixels"),
        ("textual_inversion.py", ["--config.tune.initializer=a"], "only models with one text encoder"),
    ],
)
def test_bad_input_for_xl_is_one_line_and_writes_nothing(xl, pictures, tmp_path, config, more, says):
    refused(config, xl, pictures, tmp_path, more, says)


@pytest.mark.parametrize(
    ("config", "more", "says"),
    [
        ("lora_sd15.py", [], "has no unet but a transformer: give config.tune.transformer"),
        ("finetune_sd3.py", ["--config.data.height=40"], "patch_size = 2"),
        ("finetune_sd3.py", ["--config.model.t5_length=0"], "t5_length = 0 must be at least 1"),
        ("finetune_sd3.py", ["--config.model.time_shift=-1.0"], "time_shift must not be negative"),
    ],
)
def test_bad_input_for_sd3_is_one_line_and_writes_nothing(sd3, pictures, tmp_path, config, more, says):
    refused(config, sd3, pictures, tmp_path, more, says)


def refused(config, folder, pictures, tmp_path, more, says):
    status, _, errors = train(
        config, tmp_path / "run", folder, f"--config.data.path={pictures}", "--config.cache.text=False", *more
    )
    assert status == 2 and says in errors and len(errors.strip().splitlines()) == 1, errors
    assert not (tmp_path / "run").exists()


def test_what_is_of_another_family_is_refused(xl, pictures, tmp_path):
    refused("finetune_sd3.py", xl, pictures, tmp_path, [], "is no Stable Diffusion 3, which alone has a T5")
    with pytest.raises(UserError, match="is no flow, whose times alone are shifted"):
        prepared(config_of("finetune_sdxl", xl, model={"time_shift": 2.0}))


TEXT = ("--config.tune.text_encoder=('q_proj',)", "--config.cache.text=False")
SMALL = (f"--config.model.t5_length={LENGTH}", "--config.data.width=48")
CACHED = ("--config.cache.latents=True",)
BUCKETS = ("--config.data.buckets=((32,48),(48,32))",)
FULL_TEXT = ("--config.tune.text_encoder=True", "--config.cache.text=False")
CLASS = ("--config.data.class_images=2", "--config.sampler.num_steps=2")


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize(
    ("config", "more"),
    [
        ("finetune_sdxl.py", (*BUCKETS, *FULL_TEXT)),
        ("lora_sdxl.py", CACHED),
        ("dreambooth.py:lora_sdxl", (*TEXT, *CLASS)),
        ("finetune_sd3.py", (*SMALL, *CACHED, "--config.model.t5=False")),
        ("lora_sd3.py", (*SMALL, *TEXT)),
        ("dreambooth.py:sd3", (*SMALL, *CLASS)),
    ],
)
def test_a_run_leaves_what_diffusers_loads(xl, sd3, pictures, tmp_path, config, more):
    """A folder of all weights, or a LoRA: every weight in diffusers is then the one the workdir loads."""
    torch = pytest.importorskip("torch")
    import diffusers

    newer, workdir = "sd3" in config, tmp_path / "run"
    folder = sd3 if newer else xl
    status, _, errors = train(config, workdir, folder, f"--config.data.path={pictures}", *more)
    assert status == 0, errors
    loaded = difflax.load(str(workdir))
    kind = diffusers.StableDiffusion3Pipeline if newer else diffusers.StableDiffusionXLPipeline
    full = not (workdir / "trained" / LORA_FILE).exists()
    options = {} if full else {"variant": "fp16"}
    if newer and "--config.model.t5=False" in more:
        options |= {"text_encoder_3": None, "tokenizer_3": None}
    theirs = kind.from_pretrained(
        workdir / "trained" if full else folder, torch_dtype=torch.float32, **options
    )
    if not full:
        theirs.load_lora_weights(workdir / "trained")
        theirs.fuse_lora()
        theirs.unload_lora_weights()
    original = kind.from_pretrained(folder, torch_dtype=torch.float32, variant="fp16")
    moved = set()
    for name, params in networks_of(
        loaded.model.configs, loaded.model.params, loaded.model.text_encoder
    ).items():
        state, before = (getattr(made, name).state_dict() for made in (theirs, original))
        mine = {n if n in state else n.removeprefix("text_model."): t for n, t in to_torch(params).items()}
        # T5's table of tokens has two names there.
        assert mine.keys() == state.keys() - {SAME_TABLE}
        for key in mine:
            tensor = state[key]
            np.testing.assert_allclose(np.asarray(mine[key]), tensor.numpy(), atol=1e-6)
            if not torch.equal(tensor, before[key]):
                moved.add(name)
    trains_text = any("text_encoder" in flag for flag in more)
    assert moved == {loaded.model.configs.denoiser, *(CLIPS if trains_text else ())}
    assert ("size" in {kind.name for kind in loaded.model.conditions}) == (not newer)
    if "dreambooth" in config:
        assert len(list((workdir / "class_images").glob("*.png"))) == 2


@pytest.mark.slow
def test_an_xl_run_stopped_in_the_middle_of_its_buckets_goes_on_the_same(xl, pictures, tmp_path):
    more = (f"--config.data.path={pictures}", *BUCKETS)
    assert train("lora_sdxl.py", tmp_path / "whole", xl, *more, steps=3)[0] == 0
    assert train("lora_sdxl.py", tmp_path / "parts", xl, *more, "--stop_at=1", steps=3)[0] == 0
    assert train("lora_sdxl.py", tmp_path / "parts", xl, *more, steps=3)[0] == 0
    one, other = (
        safetensors.numpy.load_file(tmp_path / w / "trained" / LORA_FILE) for w in ("whole", "parts")
    )
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
