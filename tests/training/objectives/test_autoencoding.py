"""The autoencoder's loss against its formula in PyTorch's words, and a run end to end."""

import json

import difflax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.data.sources import Shapes
from difflax.models.autoencoder_kl import AutoencoderKLConfig, KLAutoencoder, autoencoder_network
from difflax.pretrained.components.autoencoder import load_autoencoder, save_autoencoder
from difflax.pretrained.components.clip import load_clip
from difflax.runs.autoencoder import reconstruct
from difflax.training.objectives.autoencoding import Autoencoding, FeatureDistance

from tests.runs import PIXELS, ROOT, command, small_run

# On one worker, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("autoencoding")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of the config, with its workdir."""
    workdir = tmp_path_factory.mktemp("autoencoder") / "run"
    status, _, errors = command(
        "train",
        f"--config={ROOT / 'configs' / 'autoencoder.py'}",
        f"--workdir={workdir}",
        *("--config.data.train=64", "--config.data.test=16", "--config.data.held_out=16"),
        *("--config.model.block_out_channels=(8,8,8)", "--config.model.norm_num_groups=4"),
        *("--config.training.steps=40", "--config.training.batch_size=8", "--config.training.log_every=10"),
        *("--config.optimizer.warmup_steps=2", "--config.optimizer.learning_rate=5e-3"),
        "--config.training.sample_every=40",
    )
    assert status == 0, errors
    return workdir


def latent_run(clip_folder, workdir, autoencoder, **how):
    """The command line of a small run on the latents of a trained autoencoder."""
    small = (word for word in small_run(clip_folder, workdir, **how) if word not in PIXELS)
    return (*small, f"--config.autoencoder.path={autoencoder}")


def test_it_learns_and_draws_what_it_sees(run):
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["absolute_error"] < 0.6 * rows[0]["absolute_error"]
    assert (run / "samples" / "step_0000040.png").stat().st_size > 1000


def test_its_files_are_an_autoencoder_of_unit_latents(run):
    autoencoder, params = load_autoencoder(run / "vae")
    split = Shapes(train=64, test=16, held_out=16).split("train")
    images = np.stack([split[i].image for i in range(64)]).astype(np.float32) / 127.5 - 1
    latents = np.asarray(jax.jit(lambda x: autoencoder.encode(params, x))(images))
    assert latents.shape == (64, 8, 8, 16)
    np.testing.assert_allclose([latents.mean(), latents.std()], [0, 1], atol=1e-4)
    assert np.abs(reconstruct(autoencoder, params, images) - images).mean() < 0.3


@pytest.mark.parity
def test_diffusers_reads_them_and_reconstructs_alike(run):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    theirs = diffusers.AutoencoderKL.from_pretrained(run / "vae")
    autoencoder, params = load_autoencoder(run / "vae")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        given = torch.from_numpy(images).permute(0, 3, 1, 2)
        made = theirs.decode(theirs.encode(given).latent_dist.mode()).sample.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(reconstruct(autoencoder, params, images), made, atol=1e-4)


@pytest.mark.slow
def test_latent_diffusion_trains_on_it_and_its_workdir_is_enough(run, clip_folder, tmp_path):
    workdir = tmp_path / "latent"
    status, _, errors = command(*latent_run(clip_folder, workdir, run, steps=3))
    assert status == 0, errors
    autoencoder, params = load_autoencoder(run / "vae")
    split = Shapes(train=96, test=64, held_out=64).split("train")
    images = np.stack([split[i].image for i in range(4)]).astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(
        np.load(workdir / "latents.npy")[:4], autoencoder.encode(params, jnp.asarray(images)), atol=1e-4
    )
    pipeline = difflax.load(workdir)
    jax.tree.map(np.testing.assert_array_equal, pipeline.model.autoencoder_params, params)
    assert pipeline("a red circle", num_steps=2).shape == (1, 32, 32, 3)


@pytest.fixture(scope="module")
def model():
    return autoencoder_network(AutoencoderKLConfig(block_out_channels=(8,), norm_num_groups=4))


def test_the_loss_is_the_published_sum_over_the_values(model, clip_folder):
    clip = load_clip(clip_folder)
    distance = FeatureDistance(model=clip.network, params=clip.params, pixels=clip.pixels)
    objective = Autoencoding(model=model, kl_weight=0.1, feature_weight=0.5, distance=distance)
    params = model.init(jax.random.key(0))
    image = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    losses, metrics = jax.jit(objective.loss)(params, {"image": image}, jax.random.key(1))
    assert losses.shape == (3,)
    # Laplace and normal densities, whose constants do not depend on the weights.
    posterior = model.apply(params, jnp.asarray(image, jnp.float32) / 127.5 - 1, method="encode")
    mean, log_variance = (np.asarray(a, np.float64) for a in (posterior.mean, posterior.log_variance))
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum()
    np.testing.assert_allclose(metrics["kl"] * 3, kl, rtol=1e-5)
    total = metrics["absolute_error"] + 0.1 * metrics["kl"] / (8 * 8 * 3) + 0.5 * metrics["feature_distance"]
    np.testing.assert_allclose(losses.mean(), total, rtol=1e-5)


def test_feature_distance_is_none_to_itself_and_grows_with_the_change(clip_folder):
    clip = load_clip(clip_folder)
    distance = FeatureDistance(model=clip.network, params=clip.params, pixels=clip.pixels)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(-0.5, 0.5, (2, 32, 32, 3)).astype(np.float32))
    noise = rng.standard_normal((2, 32, 32, 3)).astype(np.float32)
    near, far = (distance(images, images + size * noise) for size in (0.05, 0.4))
    np.testing.assert_allclose(distance(images, images), 0, atol=1e-6)
    assert np.all((near > 0) & (near < far) & (far < 4))


def test_an_example_draws_its_own_noise(model):
    objective = Autoencoding(model=model)
    params = model.init(jax.random.key(0))
    image = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    loss = jax.jit(objective.loss)
    all_four = loss(params, {"image": image}, jax.random.key(1))[0]
    np.testing.assert_allclose(
        loss(params, {"image": image[:2]}, jax.random.key(1))[0], all_four[:2], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.kl_weight=-1.0", "kl_weight must not be negative"),
        ("loss.feature_weight=0.5", "feature_weight and features go together"),
        ("model.block_out_channels=(8,8,8,8,8,8,8)", "use fewer levels"),
        ("model.latent_channel=3", "latent_channels"),
    ],
)
def test_bad_values_are_one_line(override, message, tmp_path):
    status, _, errors = command(
        "train",
        f"--config={ROOT / 'configs' / 'autoencoder.py'}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.{override}",
    )
    assert status == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_autoencoder_that_is_not_there_is_one_line(tmp_path, clip_folder):
    status, _, errors = command(*latent_run(clip_folder, tmp_path / "run", "nowhere"))
    assert status == 2
    assert "config.autoencoder.path = 'nowhere': no such folder" in errors
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_refused(tmp_path, model):
    with pytest.raises(UserError, match=r"no config\.json"):
        load_autoencoder(tmp_path)
    config = AutoencoderKLConfig(block_out_channels=(8,), norm_num_groups=4)
    save_autoencoder(KLAutoencoder(config=config), model.init(jax.random.key(0)), tmp_path)
    assert load_autoencoder(tmp_path)[0].config == config
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"_class_name": "VQModel"}))
    with pytest.raises(UserError, match="VQModel"):
        load_autoencoder(tmp_path)
