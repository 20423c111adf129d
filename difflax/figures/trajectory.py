"""How noise becomes an image: what the estimate of x0 holds at each step, and which frequencies settle when.

The spectrum of an image is cut into its mean colour and three bands of equal width in octaves, from one cycle
across the shorter side up to the Nyquist frequency: with ``N`` pixels the bands end at ``(N/2)^⅓``,
``(N/2)^⅔`` and beyond (2.5 and 6.3 cycles for 32 pixels). With the orthonormal Fourier transform the energies
of the bands add up to the sum of the squared pixels (Parseval).

A band of the estimate is settled from the first step after which the energy of its difference to the final
image stays within a tenth of the final image's own energy in that band.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, Int
from PIL import Image

from difflax.figures.grids import GridStyle, labelled_grid
from difflax.figures.png import save_png
from difflax.figures.style import LIGHT, Theme, dress, legend, look, new_figure, render, title

BANDS = ("mean colour", "low", "middle", "high")
SETTLED = 0.1


def band_edges(height: int, width: int) -> tuple[float, float]:
    """Where the low and the middle band end, in cycles across the shorter side."""
    nyquist = min(height, width) / 2
    return nyquist ** (1 / 3), nyquist ** (2 / 3)


def band_of(height: int, width: int) -> Int[np.ndarray, "h w"]:
    """The band (index into ``BANDS``) of every frequency of ``numpy.fft.fft2``."""
    cycles = min(height, width) * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    # The tolerance keeps a frequency that lies exactly on an edge below it, whatever the rounding.
    return np.searchsorted(np.array([0.0, *band_edges(height, width)]) * (1 + 1e-9), cycles)


def band_energies(images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n 4"]:
    """The energy of each image in each band, summed over channels; the row sums are the sums of squares."""
    spectrum = np.fft.fft2(images.astype(np.float64), axes=(1, 2), norm="ortho")
    power = np.sum(np.abs(spectrum) ** 2, axis=-1).reshape(len(images), -1)
    member = band_of(*images.shape[1:3]).reshape(-1)[:, None] == np.arange(len(BANDS))
    return power @ member


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Settling:
    """How far each band of the estimate is from the final image, step by step.

    Attributes:
        distance: energy of the difference over the final energy, over all images together; NaN for a band
            that the final images do not have.
        lower, upper: the quartiles of the single images' ratios.
        log_snr: of the noisy input of each step; may be infinite at the ends.
        steps: for each band, the first step (from 1) from which it stays settled, or ``None``.
        edges: where the low and the middle band end, in cycles across the shorter side.
    """

    distance: Float[np.ndarray, "steps 4"]
    lower: Float[np.ndarray, "steps 4"]
    upper: Float[np.ndarray, "steps 4"]
    log_snr: Float[np.ndarray, " steps"]
    steps: tuple[int | None, ...]
    edges: tuple[float, float]


def settling(
    estimates: Float[np.ndarray, "steps b h w c"],
    log_snr: Float[np.ndarray, " steps"],
    final: Float[np.ndarray, "b h w c"] | None = None,
) -> Settling:
    """Measures when the bands settle.

    Args:
        estimates: the decoded estimate of x0 at each step, in any fixed range (only the mean colour's own
            energy depends on where 0 lies).
        log_snr: ``log(α²/σ²)`` of each step's noisy input.
        final: the finished images; the last estimate by default.
    """
    final = estimates[-1] if final is None else final
    reference = band_energies(final)
    difference = np.stack([band_energies(estimate - final) for estimate in estimates])
    # Rounding leaves a trace in bands that a constant or band-limited image does not have.
    reference = np.where(reference > 1e-9 * reference.sum(-1, keepdims=True), reference, np.nan)
    single = difference / reference
    pooled = np.nansum(reference, axis=0)
    absent = np.isnan(reference)
    distance = np.where(absent, 0.0, difference).sum(1) / np.where(pooled > 0, pooled, np.nan)
    present = ~absent.all(0)
    lower, upper = np.full_like(distance, np.nan), np.full_like(distance, np.nan)
    lower[:, present], upper[:, present] = np.nanquantile(single[:, :, present], [0.25, 0.75], axis=1)
    return Settling(
        distance=distance,
        lower=lower,
        upper=upper,
        log_snr=np.asarray(log_snr, np.float64),
        steps=tuple(first_settled(distance[:, band]) for band in range(len(BANDS))),
        edges=band_edges(*final.shape[1:3]),
    )


def first_settled(distance: Float[np.ndarray, " steps"]) -> int | None:
    """The first step, from 1, from which ``distance`` never again exceeds 0.1; ``None`` if it ends above."""
    inside = distance <= SETTLED
    if not inside[-1]:
        return None
    outside = np.flatnonzero(~inside)
    return 1 if outside.size == 0 else int(outside[-1]) + 2


def show_log_snr(value: float) -> str:
    """A log-SNR for people: one decimal, a true minus sign, ±∞."""
    size = "∞" if math.isinf(value) else f"{abs(value):.1f}"
    return f"−{size}" if value < 0 else size


def log_snr_places(log_snr: Sequence[float]) -> list[float]:
    """Where noise levels stand on an axis: pure noise, which has no place, one gap before the next level.

    Args:
        log_snr: rising; the first may be -inf.
    """
    if len(log_snr) == 1 or math.isfinite(log_snr[0]):
        # Alone, pure noise may stand anywhere.
        return [level if math.isfinite(level) else 0.0 for level in log_snr]
    gap = log_snr[2] - log_snr[1] if len(log_snr) > 2 else 1.0
    return [log_snr[1] - gap, *log_snr[1:]]


def strip(
    estimates: Float[np.ndarray, "steps b h w c"],
    log_snr: Float[np.ndarray, " steps"],
    captions: Sequence[str],
    *,
    columns: int = 9,
    style: GridStyle = GridStyle(tile=96),
) -> Image.Image:
    """The estimates in [0, 1] at evenly chosen steps from the first to the last: a row an image."""
    chosen = np.unique(np.linspace(0, len(estimates) - 1, min(columns, len(estimates))).round().astype(int))
    heads = [f"step {step + 1}\n{show_log_snr(float(log_snr[step]))}" for step in chosen]
    rows = [[estimates[step, row] for step in chosen] for row in range(estimates.shape[1])]
    return labelled_grid(rows, list(captions), heads, corner="step and log-SNR", style=style)


def settling_figure(result: Settling, theme: Theme = LIGHT) -> Any:
    """A ``Figure`` of each band's distance to the final image against the step and its log-SNR."""
    figure = new_figure(theme, 7.0, 4.4)
    axes = figure.subplots()
    dress(axes, theme)
    number = np.arange(1, len(result.log_snr) + 1)
    low, middle = result.edges
    ranges = ("", f", up to {low:.2g} cycles", f", up to {middle:.2g} cycles", f", above {middle:.2g} cycles")
    handles = []
    for band, name in enumerate(BANDS):
        if np.isnan(result.distance[:, band]).all():
            continue
        style = look(theme, band - 1) if band else {"color": theme.quiet, "linestyle": "-", "marker": ""}
        axes.fill_between(
            number,
            result.lower[:, band],
            result.upper[:, band],
            color=style["color"],
            alpha=0.13,
            linewidth=0,
        )
        width = 1.9 if band else 1.3
        shape = {"linewidth": width, "markersize": 3.5, "markeredgewidth": 0}
        handles += axes.plot(number, result.distance[:, band], **style, **shape, label=name + ranges[band])
        settled = result.steps[band]
        if band and settled is not None:
            mark = {"marker": "o", "markersize": 10, "markerfacecolor": "none", "markeredgewidth": 1.6}
            axes.plot(settled, SETTLED, markeredgecolor=style["color"], zorder=4, **mark)
    axes.axhline(SETTLED, color=theme.quiet, linewidth=1, linestyle=(0, (1, 2)))
    axes.annotate(
        "settled",
        (1, SETTLED),
        (-2, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        color=theme.quiet,
        fontsize=8,
    )
    axes.set_ylim(0, min(max(1.05, 1.05 * float(np.nanmax(result.distance))), 2.0))
    axes.set_xlim(0.5, len(number) + 0.5)
    spots = np.unique(np.linspace(1, len(number), min(len(number), 8)).round().astype(int))
    axes.set_xticks(spots, [f"{spot}\n{show_log_snr(float(result.log_snr[spot - 1]))}" for spot in spots])
    axes.set_xlabel("sampling step, and under it the log-SNR of its input")
    title(
        axes,
        theme,
        "When each frequency settles",
        "distance to the final image, share of its energy; shaded: the middle half of the images",
    )
    legend(figure, handles, theme, columns=2)
    return figure


def settling_json(result: Settling) -> str:
    """The settling steps and curves, with the definition, as JSON (infinite log-SNR as null)."""

    def clean(values: Float[np.ndarray, " n"]) -> list[float | None]:
        return [float(value) if np.isfinite(value) else None for value in values]

    low, middle = result.edges
    document = {
        "definition": (
            "distance: energy of (x0 estimate - final image) over the final image's energy, by radial band "
            f"of the orthonormal 2-D Fourier transform; settled: from this step on within {SETTLED}"
        ),
        "band_ends_in_cycles_across_the_shorter_side": {"low": low, "middle": middle},
        "steps": len(result.log_snr),
        "log_snr": clean(result.log_snr),
        "settled_at_step": dict(zip(BANDS, result.steps, strict=True)),
        "settled_at_log_snr": {
            band: None if step is None else clean(result.log_snr)[step - 1]
            for band, step in zip(BANDS, result.steps, strict=True)
        },
        "distance": {band: clean(result.distance[:, index]) for index, band in enumerate(BANDS)},
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_trajectory(
    estimates: Float[np.ndarray, "steps b h w c"],
    log_snr: Float[np.ndarray, " steps"],
    captions: Sequence[str],
    directory: str | os.PathLike[str],
    *,
    metadata: Mapping[str, Any],
    final: Float[np.ndarray, "b h w c"] | None = None,
    columns: int = 9,
) -> Settling:
    """Writes ``trajectory.png`` (the strip), ``frequencies.png``, ``frequencies.svg`` and
    ``trajectory.json``.

    Args:
        estimates: decoded estimates of x0 in [0, 1] at every step, first to last.
        log_snr: of each step's noisy input.
        captions: one for each image.
        metadata: for the PNG text of the strip.
        final: the finished images in [0, 1]; the last estimate by default.
        columns: how many steps the strip shows.
    """
    directory = epath.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    result = settling(estimates, log_snr, final)
    save_png(directory / "trajectory.png", strip(estimates, log_snr, captions, columns=columns), metadata)
    drawn = settling_figure(result)
    (directory / "frequencies.svg").write_bytes(render(drawn, "svg"))
    (directory / "frequencies.png").write_bytes(render(drawn, "png"))
    (directory / "trajectory.json").write_text(settling_json(result))
    return result
