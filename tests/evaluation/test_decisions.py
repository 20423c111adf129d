"""When factors are decided: planted spreads, and a model whose posterior is known in closed form."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.diffusion.denoisers import NetworkInput
from difflax.diffusion.guidance import NoGuidance
from difflax.diffusion.predictions import X0
from difflax.diffusion.samplers import DDIM
from difflax.diffusion.schedules import ContinuousCosine, noise_level
from difflax.diffusion.time_grids import UniformLogSNR
from difflax.diffusion.verification.oracles import Mixture
from difflax.evaluation import statistics
from difflax.evaluation.decision_files import write_decisions
from difflax.evaluation.decisions import apart, decide, half_decided
from difflax.generation.devices import Devices
from difflax.generation.model import Model
from difflax.generation.pipeline import Pipeline
from difflax.generation.request import Defaults
from difflax.models.autoencoder import Identity
from difflax.models.functional import Functional
from difflax.pretrained.components.clip import load_text_encoder
from difflax.runs import restarts
from scipy.special import expit

COARSE, FINE, WIDTH = 0.6, 0.12, 0.04
SCHEDULE = ContinuousCosine()
ORACLE = Mixture(
    means=tuple((a * COARSE, b * FINE) for a in (-1, 1) for b in (-1, 1)), weights=(0.25,) * 4, std=WIDTH
)


# --- spreads


def test_pairs_of_different_ones():
    """Of values 0, 0, 1 one pair of three is the same; unknown ones are left out."""
    values = np.array([[0, 0, 1], [0, np.nan, 1], [np.nan, np.nan, 1]])
    distances = np.where(
        np.isnan(values[:, :, None] - values[:, None]), np.nan, values[:, :, None] != values[:, None]
    )
    np.testing.assert_allclose(apart(distances), [2 / 3, 1, np.nan])


def test_the_mean_over_pairs_has_no_bias():
    """For four draws of three values, against 1 - Σ p²."""
    p, rng = np.array([0.6, 0.3, 0.1]), np.random.default_rng(0)
    drawn = rng.choice(3, (20_000, 4), p=p)
    spread = apart((drawn[:, :, None] != drawn[:, None]).astype(float))
    assert spread.mean() == pytest.approx(1 - np.sum(p**2), abs=4 * spread.std() / np.sqrt(20_000))


@pytest.mark.parametrize(
    ("curve", "place"),
    [([1, 0.75, 0.25, 0], 1.0), ([1, 0, 0, 0], -1.0), ([1, 1, 0.5, 0], 2.0), ([1, 0.4, 0.6, 0.4], 3.0),
     ([1, 1, 1, 1], 4.0), ([np.nan, 1, 1, 0], np.nan)],
)  # fmt: skip
def test_where_a_curve_last_passes_one_half(curve, place):
    """By hand, on levels of log-SNR -2, 0, 2 and 4."""
    found = half_decided(np.array([curve], float), np.array([-2.0, 0.0, 2.0, 4.0]))
    np.testing.assert_allclose(found, [place], atol=1e-12)


def test_pure_noise_has_no_place():
    """Between it and the next level the level that has one is taken."""
    assert half_decided(np.array([[1, 0.2, 0]]), np.array([-np.inf, -3.0, 0.0])) == -3.0


def planted(fall, clusters, seed, groups=3):
    """Spreads of a factor that falls as ``fall``, of prompts of different height."""
    rng = np.random.default_rng(seed)
    height = np.repeat(rng.uniform(0.5, 1, clusters), groups)
    return height * np.array(fall)[:, None] * rng.uniform(0.9, 1.1, (len(fall), len(height)))


def test_curves_order_and_bands():
    levels, prompts = np.array([-4.0, -2.0, 0.0, 2.0]), np.repeat(np.arange(20), 3)
    falls = {"late": [1, 0.9, 0.6, 0.1], "early": [1, 0.3, 0.1, 0.0], "named": [0, 0, 0, 0]}
    spreads = {name: planted(fall, 20, i) for i, (name, fall) in enumerate(falls.items())}
    found = decide({**spreads, "unread": np.full((4, 60), np.nan)}, levels, prompts)
    assert [decision.name for decision in found] == ["early", "late"]
    for decision in found:
        for estimate, true in zip(decision.undecided, falls[decision.name], strict=True):
            assert estimate.low <= estimate.value <= estimate.high
            assert estimate.value == pytest.approx(true, abs=0.03) and estimate.high - estimate.low < 0.1
        assert decision.half.low <= decision.half.value <= decision.half.high
    assert found[0].undecided[0].low == found[0].undecided[0].high == 1
    assert found[0].half.value == pytest.approx(-4 + 2 * 0.5 / 0.7, abs=0.1)
    assert found[1].half.value == pytest.approx(0.4, abs=0.15)


def test_prompts_that_leave_a_factor_closed_do_not_count():
    levels, open_ones = np.array([-4.0, 0.0]), planted([1, 0.5], 6, 0)
    closed = np.full((2, 18), np.nan)
    found = decide({"x": np.concatenate([open_ones, closed], 1)}, levels, np.repeat(np.arange(12), 3))
    alone = decide({"x": open_ones}, levels, np.repeat(np.arange(6), 3))
    assert found[0].undecided[1].value == pytest.approx(alone[0].undecided[1].value)
    assert found[0].undecided[1].clusters == 6


def test_one_prompt_has_no_band():
    (found,) = decide({"x": planted([1, 0.2], 1, 0)}, np.array([-4.0, 0.0]), np.zeros(3, int))
    assert np.isnan(found.half.low) and np.isnan(found.undecided[1].high)


def test_bands_hold_the_truth_as_often_as_they_say():
    """The interval of the half, over many sets of prompts; 95% are asked for."""
    levels, held = np.array([-4.0, 0.0, 4.0]), 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        middle = rng.beta(2, 2, 12)  # of each prompt, with mean one half: half decided at 0
        spread = np.stack([np.ones(12), middle, np.zeros(12)])
        (found,) = decide({"x": spread}, levels, np.arange(12))
        held += found.half.low <= 0 <= found.half.high
    low, high = statistics.wilson_interval(held / 200, 200, 0.999)
    assert low <= 0.96 and high >= 0.93, held


def test_files(tmp_path):
    levels = np.array([-np.inf, -2.0, 1.0])
    found = decide(
        {"a": planted([1, 0.6, 0], 5, 0), "b": planted([1, 0.2, 0], 5, 1)}, levels, np.repeat(np.arange(5), 3)
    )
    write_decisions(found, [0, 3, 7], levels.tolist(), tmp_path, {"sampler": "ddpm"})
    document = json.loads((tmp_path / "decisions.json").read_text())
    assert document["log_snr"] == [None, -2.0, 1.0] and document["sampler"] == "ddpm"
    assert list(document["factors"]) == ["b", "a"]
    rows = list(csv.DictReader((tmp_path / "decisions.csv").open()))
    assert len(rows) == 6 and {row["factor"] for row in rows} == {"a", "b"}
    by_hand = [float(row["undecided"]) for row in rows if row["factor"] == "a"]
    assert by_hand == [one["value"] for one in document["factors"]["a"]["undecided"]]
    assert (tmp_path / "decisions.svg").read_bytes().startswith(b"<?xml")
    assert (tmp_path / "decisions.png").read_bytes().startswith(b"\x89PNG")


# --- a model whose posterior is known


def _no_module(rngs):
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Exact(Functional):
    """The exact denoiser of `ORACLE` in place of a network, on pictures of two pixels."""

    def module(self, params, perturbation=None):
        def network(x, time, conditioning):
            level = noise_level(SCHEDULE, time / 1000)
            return ORACLE.denoise(x.reshape(len(x), 2), level).x0.reshape(x.shape)

        return network


@pytest.fixture(scope="module")
def pipeline(clip_folder):
    encoder = load_text_encoder(clip_folder)
    model = Model(
        network=Exact(_no_module), params={}, autoencoder=Identity(channels=1), schedule=SCHEDULE,
        prediction_type=X0(), network_input=NetworkInput(), text_encoder=encoder,
        null=dataclasses.replace(encoder.encode([""]), pooled=None),
    )  # fmt: skip
    defaults = Defaults(
        sampler=DDIM(), time_grid=UniformLogSNR(sigma_max=50.0, sigma_min=0.01), num_steps=10,
        guidance=NoGuidance(), height=1, width=2,
    )  # fmt: skip
    return Pipeline(model=model, defaults=defaults, devices=Devices(batch_size=512))


def exact_spread(log_snr, mean):
    """``E[2 p (1 - p)]`` of the sign of one coordinate given its noisy value: two Gaussians at ±mean."""
    alpha2 = expit(log_snr)
    variance = alpha2 * WIDTH**2 + 1 - alpha2
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    x = np.sqrt(alpha2) * mean + np.sqrt(variance) * nodes
    p = expit(2 * np.sqrt(alpha2) * mean * x / variance)
    return np.sum(weights * 2 * p * (1 - p)) / weights.sum()


def test_restarts_are_draws_of_the_posterior(pipeline):
    """Each coordinate's sign is as undecided as Bayes' rule says, the coarse one's decided first."""
    prompts = [f"prompt {i}" for i in range(64)]
    call = {"num_steps": 200, "sampler": "ddpm"}
    levels, spreads = [], {"coarse": [], "fine": []}
    for made in restarts(pipeline, prompts, seeds=4, number=6, points=9, **call):
        assert made.images.shape == (256, 6, 1, 2, 1)
        levels.append(made.log_snr)
        for name, pixel in (("coarse", 0), ("fine", 1)):
            right = made.images[:, :, 0, pixel, 0] > 0.5
            spreads[name].append(apart((right[:, :, None] != right[:, None]).astype(float)))
    clusters = np.repeat(np.arange(64), 4)
    found = decide({name: np.stack(s) for name, s in spreads.items()}, np.array(levels), clusters)
    assert [decision.name for decision in found] == ["coarse", "fine"]
    for decision, mean in zip(found, (COARSE, FINE), strict=True):
        true = np.array([exact_spread(level, mean) / 0.5 for level in levels])
        measured = np.array([estimate.value for estimate in decision.undecided])
        np.testing.assert_allclose(measured, true, atol=0.07)
        assert true.min() < 0.1 and np.any((true > 0.2) & (true < 0.9))
    assert found[0].half.high < found[1].half.low


def test_ends_differ_and_are_the_same_again(pipeline):
    call = {"seeds": 2, "number": 3, "points": 3, "num_steps": 12, "sampler": "ddpm"}
    one, again = (list(restarts(pipeline, ["a", "b"], **call)) for _ in range(2))
    assert [made.step for made in one] == [made.step for made in again] and one[0].step == 0
    for first, second in zip(one, again, strict=True):
        np.testing.assert_array_equal(first.images, second.images)
    assert len(np.unique(one[1].images.reshape(12, -1), axis=0)) == 12
    levels = [made.log_snr for made in one]
    assert levels == sorted(levels)


def test_a_sampler_without_noise_is_refused(pipeline):
    with pytest.raises(UserError, match="adds no noise"):
        list(restarts(pipeline, ["a"], seeds=1, number=2, points=3, num_steps=12, sampler="ddim"))
