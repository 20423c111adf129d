"""Plots hold the numbers, keep a group's look, and can be read in either theme."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from difflax.evaluation.ablation import plots
from difflax.figures.style import DARK, LIGHT, adaptive, look, render
from hypothesis import given
from hypothesis import strategies as st

CLEAN = r"""
import sys
from difflax.evaluation import measurement, metrics, statistics
from difflax.evaluation.ablation import plots, report, results, summary, sweep, tables
from difflax.figures import grids, html, png, style, trajectory
heavy = {"matplotlib", "scipy", "torch", "tensorflow", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""


def luminance(colour):
    """Relative luminance, WCAG 2.2."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(first, second):
    bright, dark = sorted([luminance(first), luminance(second)], reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_text_and_lines_stand_out_from_the_paper(theme):
    """WCAG 2.2: 4.5 for text (1.4.3), 3 for graphics (1.4.11)."""
    assert min(contrast(theme.ink, theme.paper), contrast(theme.quiet, theme.paper)) >= 4.5
    assert min(contrast(colour, theme.paper) for colour in theme.series) >= 3


def test_no_two_of_many_series_look_the_same():
    looks = [tuple(map(str, look(LIGHT, index).values())) for index in range(18)]
    assert len(set(looks)) == 18


@given(st.floats(-100, 100))
def test_the_scale_axis_is_monotone_and_invertible(scale):
    position = plots.signed_sqrt(np.array(scale))
    assert plots.signed_square(position) == pytest.approx(scale, rel=1e-9, abs=1e-12)
    assert plots.signed_sqrt(np.array(scale + 1)) > position


def test_ticks_keep_the_special_scales_and_do_not_crowd():
    scales = [0.0, 0.9, 1.0, 1.1, 2.0, 3.0, 5.0, 8.0, 12.0, 12.1, 20.0]
    ticks = plots.tick_scales(scales)
    assert {0.0, 1.0, 20.0} <= set(ticks) <= set(scales)
    assert np.diff(plots.signed_sqrt(np.array(ticks))).min() >= 0.045 * np.sqrt(20) - 1e-9


def test_a_metric_plot_holds_its_curves_and_rings_the_best(result):
    axes = plots.metric_figure(result, "accuracy").axes[0]
    curves = result.by_metric()["accuracy"]
    drawn = [line for line in axes.lines if len(line.get_xdata()) == len(result.scales)]
    for line, curve in zip(drawn, curves, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), result.scales)
        np.testing.assert_array_equal(line.get_ydata(), [e.value for e in curve.estimates])
    rings = [line for line in axes.lines if line.get_markersize() == 11]
    assert [float(ring.get_xdata()[0]) for ring in rings] == [c.scales[c.best] for c in curves]
    low, high = axes.get_ylim()
    assert all(low <= e.low and e.high <= high for c in curves for e in c.estimates)


def test_a_group_keeps_its_colour_where_another_is_missing(result):
    """ "corners" is measured for the first group only, so compare a sweep's second group alone."""
    whole = plots.metric_figure(result, "accuracy").axes[0]
    unseen = [curve for curve in result.curves() if curve.group != "seen" and curve.metric.name == "accuracy"]
    from matplotlib.figure import Figure

    alone = Figure().subplots()
    plots.draw_metric(alone, unseen, [group.name for group in result.groups], LIGHT)
    second = [line for line in whole.lines if len(line.get_xdata()) == len(result.scales)][1]
    assert alone.lines[0].get_color() == second.get_color()
    assert alone.lines[0].get_marker() == second.get_marker()


@pytest.mark.parametrize("scales", [(2.0,), (-1.0, 0.0, 1.0)])
def test_single_and_negative_scales_can_be_plotted(tmp_path, scales):
    from tests.evaluation.known_sweep import sweep

    render(plots.overview_figure(sweep(tmp_path, scales=scales)), "png", dpi=30)


def test_the_same_figure_gives_the_same_bytes_and_leaves_no_state(result):
    first, second = (render(plots.metric_figure(result, "accuracy"), "svg") for _ in range(2))
    assert first == second
    assert "matplotlib.pyplot" not in sys.modules


def test_an_adaptive_svg_is_well_formed_and_has_both_themes(result):
    text = adaptive(render(plots.tradeoff_figure(result, "frechet_distance", "accuracy"), "svg")).decode()
    ElementTree.fromstring(text)
    style = text[text.index("<style>") : text.index("</style>")]
    assert LIGHT.paper in style and DARK.paper in style
    body = text.replace(style, "")
    assert not [colour for colour in (LIGHT.paper, LIGHT.ink, *LIGHT.series) if colour in body]
    assert set(re.findall(r"var\((--c\d+)\)", body)) <= set(re.findall(r"(--c\d+):", style))


def test_importing_evaluation_is_cheap():
    subprocess.run([sys.executable, "-c", CLEAN], check=True)
