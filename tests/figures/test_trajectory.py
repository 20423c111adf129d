"""The frequency split against sinusoids, Parseval, and decays of known length."""

import json

import numpy as np
import pytest
from difflax.figures import trajectory as t
from difflax.figures.png import read_metadata
from hypothesis import given, settings
from hypothesis import strategies as st


def wave(size, down, across, phase=0.3):
    """A sinusoid of ``down`` and ``across`` whole cycles."""
    y, x = np.mgrid[:size, :size] / size
    return np.cos(2 * np.pi * (down * y + across * x) + phase)[..., None]


@pytest.mark.parametrize(
    ("down", "across", "band"),
    [
        (0, 1, "low"),
        (2, 1, "low"),
        (0, 3, "middle"),
        (4, 4, "middle"),
        (0, 7, "high"),
        (-5, 5, "high"),
        (16, 16, "high"),
    ],
)
def test_sinusoids_fall_in_their_band(down, across, band):
    """For 32 pixels the bands end at 16^⅓ = 2.52 and 16^⅔ = 6.35 cycles."""
    energies = t.band_energies(wave(32, down, across)[None])[0]
    share = energies / energies.sum()
    assert share[t.BANDS.index(band)] == pytest.approx(1, abs=1e-12)


def test_a_constant_is_mean_colour_alone():
    energies = t.band_energies(np.full((1, 16, 16, 3), 0.5))[0]
    np.testing.assert_allclose(energies, [16 * 16 * 3 * 0.25, 0, 0, 0], atol=1e-20)


def test_cycles_count_across_the_shorter_side():
    """A wave of fixed pixel length stays in its band when the image is made wider."""
    square, wide = wave(16, 3, 0), np.tile(wave(16, 3, 0), (1, 3, 1))
    for image in (square, wide):
        energies = t.band_energies(image[None])[0]
        assert energies.argmax() == t.BANDS.index("middle")
        assert energies.max() == pytest.approx(energies.sum())


@given(st.integers(4, 33), st.integers(4, 33), st.integers(1, 4), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_bands_hold_all_the_energy(height, width, channels, seed):
    images = np.random.default_rng(seed).normal(size=(2, height, width, channels))
    np.testing.assert_allclose(t.band_energies(images).sum(-1), np.sum(images**2, axis=(1, 2, 3)))


@pytest.mark.parametrize("size", [8, 32, 64, 512])
def test_bands_are_equally_wide_in_octaves(size):
    low, middle = t.band_edges(size, 2 * size)
    np.testing.assert_allclose(np.diff(np.log2([1, low, middle, size / 2])), np.log2(size / 2) / 3)
    assert set(np.unique(t.band_of(size, size))) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("distance", "step"),
    [([1, 0.5, 0.1, 0.05, 0], 3), ([1, 0.05, 0.3, 0.05, 0], 4), ([0.1, 0, 0], 1), ([1, 1, 0.2], None)],
)
def test_settled_means_for_good(distance, step):
    assert t.first_settled(np.array(distance, float)) == step


def known_trajectory(steps=30, size=32):
    """Each band's amplitude is off by exp(-step / τ), so its energy is below 0.1 at step τ ln(10) / 2."""
    bands = [wave(size, 0, 1), wave(size, 3, 3), wave(size, 9, 2)]
    final = 0.5 + 0.1 * sum(bands)
    scales = np.array([2.0, 6.0, 12.0])
    decay = np.exp(-np.arange(steps)[:, None] / scales)
    estimates = np.stack([final - 0.1 * sum(d * b for d, b in zip(row, bands, strict=True)) for row in decay])
    return np.stack([estimates, estimates], axis=1), np.stack([final, final]), scales


def test_known_decays_settle_when_they_should():
    estimates, final, scales = known_trajectory()
    result = t.settling(estimates, np.linspace(-10, 10, 30), final)
    expected = [int(np.ceil(tau * np.log(10) / 2)) + 1 for tau in scales]
    assert result.steps == (1, *expected)
    np.testing.assert_allclose(result.distance[:, 1], np.exp(-np.arange(30)), rtol=1e-6)
    np.testing.assert_allclose(result.lower, result.distance, atol=1e-9)
    np.testing.assert_allclose(result.upper, result.distance, atol=1e-9)


def test_a_band_that_the_image_lacks_is_left_out():
    estimates = np.stack([np.full((1, 16, 16, 3), value) for value in (0.0, 0.4, 0.5)])
    result = t.settling(estimates, np.array([-np.inf, 0.0, 3.0]))
    assert result.steps[0] == 2 and result.steps[1:] == (None, None, None)
    assert np.isnan(result.distance[:, 1:]).all()


def test_files_are_written_and_the_json_is_strict(tmp_path):
    estimates, final, _ = known_trajectory()
    log_snr = np.linspace(-10, 10, 30)
    log_snr[0] = -np.inf
    metadata = {"prompt": "waves", "seed": 1}
    result = t.write_trajectory(
        estimates, log_snr, ["one", "two"], tmp_path / "new", metadata=metadata, final=final, columns=5
    )
    assert read_metadata(tmp_path / "new" / "trajectory.png") == metadata
    document = json.loads((tmp_path / "new" / "trajectory.json").read_text(), parse_constant=pytest.fail)
    assert tuple(document["settled_at_step"].values()) == result.steps
    assert document["log_snr"][0] is None and len(document["distance"]["low"]) == 30
    assert {"frequencies.png", "frequencies.svg"} <= {path.name for path in (tmp_path / "new").iterdir()}


@pytest.mark.parametrize(("value", "shown"), [(-9.52, "−9.5"), (3.0, "3.0"), (-np.inf, "−∞"), (np.inf, "∞")])
def test_log_snr_for_people(value, shown):
    assert t.show_log_snr(float(value)) == shown


@pytest.mark.parametrize(
    ("levels", "places"),
    [
        ([-np.inf, -3.0, -1.0], [-5.0, -3.0, -1.0]),
        ([-np.inf, -3.0], [-4.0, -3.0]),
        ([-6.0, -3.0], [-6.0, -3.0]),
        ([-np.inf], [0.0]),
        ([-2.0], [-2.0]),
    ],
)
def test_pure_noise_has_a_place_of_its_own(levels, places):
    """One gap before the next level, by hand."""
    assert t.log_snr_places(levels) == places
