"""Sweeps side by side: every line and place is in the tables, with the numbers of its own sweep."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from difflax.evaluation.ablation.comparison import (
    Comparison,
    comparison_csv,
    comparison_figure,
    comparison_json,
    comparison_markdown,
    line,
    line_across,
    step_axis,
    write_comparison,
)
from difflax.evaluation.ablation.plots import scale_axis
from PIL import Image

from tests.evaluation import known_sweep
from tests.evaluation.known_sweep import DRAWN, SCALES, SEEDS, SEEN, right

SHARES = (0.0, 0.25, 0.5, 1.0)
ASPECTS = {"alignment": "accuracy", "corners": "corners"}


def sweep(directory, scales=SCALES, blind=False):
    """Of the known sweep's seen prompts; a blind judge reads no corners."""
    own = known_sweep.instruments()

    def read(images, prompts):
        found = known_sweep.read(images, prompts)
        return {**found, "corners": np.full(len(images), np.nan)} if blind else found

    judge = dataclasses.replace(own.judge, read=read, aspects=ASPECTS)
    instruments = dataclasses.replace(own, judge=judge)
    group = known_sweep.groups()[0]
    return known_sweep.sweep(directory, groups=[group], scales=scales, instruments=instruments)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    return {"one": sweep(folder / "one"), "other": sweep(folder / "other", SHARES)}


@pytest.fixture(scope="module")
def comparison(results):
    curves = [curve for name, result in results.items() for curve in line(name, result)]
    return Comparison(
        title="Two ways",
        of="method",
        along="guidance scale",
        axis=scale_axis,
        curves=tuple(curves),
        trade_off=("accuracy", "corners"),
        facts={"seeds": len(SEEDS)},
    )


def truth(scale, prompts=SEEN):
    return np.mean([right(prompt, seed, scale) for prompt in prompts for seed in DRAWN[prompt]])


def test_the_csv_has_the_formulas_numbers_of_every_line_at_its_own_places(comparison):
    rows = list(csv.DictReader(io.StringIO(comparison_csv(comparison))))
    places = [("one", scale) for scale in SCALES] + [("other", scale) for scale in SHARES]
    assert [(row["method"], float(row["guidance_scale"])) for row in rows] == places
    for row in rows:
        scale = float(row["guidance_scale"])
        assert float(row["accuracy"]) == pytest.approx(truth(scale), abs=1e-5)
        boxes = [prompt for prompt in SEEN if "box" in prompt]
        assert float(row["corners"]) == pytest.approx(truth(scale, boxes), abs=1e-5)
        low, high = float(row["accuracy_low"]), float(row["accuracy_high"])
        assert low <= float(row["accuracy"]) <= high and low < high
        assert int(row["images"]) == len(SEEN) * len(SEEDS) and int(row["prompts"]) == len(SEEN)


def test_markdown_and_json_hold_the_same(comparison):
    rows = list(csv.DictReader(io.StringIO(comparison_csv(comparison))))
    table = [text.split(" | ") for text in comparison_markdown(comparison).splitlines() if "–" in text]
    assert len(table) >= len(rows)
    for row, cells in zip(rows, table, strict=False):
        assert cells[0] == f"| {row['method']}" and cells[1] == row["guidance_scale"]
        shown = cells[2].split(" ")[0].strip("*")
        assert float(shown) == pytest.approx(float(row["accuracy"]), abs=0.005)
    bold = [cells[:3] for cells in table if cells[2].startswith("**")]
    assert [(cells[0], float(cells[1])) for cells in bold] == [("| one", 2.0), ("| other", 1.0)]
    document = json.loads(comparison_json(comparison))
    assert document["facts"] == {"seeds": len(SEEDS)}
    found = {(curve["method"], curve["metric"]): curve for curve in document["curves"]}
    assert found["other", "accuracy"]["best"] == 1.0
    values = [estimate["value"] for estimate in found["one", "accuracy"]["estimates"]]
    np.testing.assert_allclose(values, [truth(scale) for scale in SCALES])


def test_the_figure_draws_every_line_in_every_panel(comparison, tmp_path):
    figure = comparison_figure(comparison)
    accuracy, corners, trade_off = figure.axes
    for panel, metric in ((accuracy, "accuracy"), (corners, "corners")):
        curves = comparison.by_metric()[metric]
        drawn = {len(curve.scales): curve for curve in curves}
        assert drawn
        for curve in curves:
            lines = [made for made in panel.lines if tuple(made.get_xdata()) == curve.scales]
            assert lines, curve.group
            np.testing.assert_array_equal(lines[0].get_ydata(), [e.value for e in curve.estimates])
        low, high = panel.get_xlim()
        assert low < min(SCALES) and max(SCALES) < high
    assert [made.get_label() for made in trade_off.lines] == ["one", "other"]
    x = [estimate.value for estimate in comparison.by_metric()["accuracy"][1].estimates]
    np.testing.assert_array_equal(trade_off.lines[1].get_xdata(), x)
    write_comparison(comparison, tmp_path)
    width, height = figure.get_size_inches()
    assert Image.open(tmp_path / "plot.png").size == (round(160 * width), round(160 * height))
    names = {"table.md", "table.csv", "results.json", "plot.svg", "plot.png", "plot_dark.png"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_line_across_sweeps_has_the_point_of_each_and_a_gap_where_nothing_was_measured(tmp_path, results):
    blind = sweep(tmp_path / "blind", (1.0,), blind=True)
    across = line_across("steps", {1: blind, 8: results["one"]}, 1.0)
    assert [curve.metric.name for curve in across] == ["accuracy", "corners"]
    accuracy, corners = across
    assert accuracy.scales == (1.0, 8.0) and accuracy.group == "steps"
    own = results["one"].curve("seen", "accuracy").estimates[SCALES.index(1.0)]
    assert accuracy.estimates[1] == own and accuracy.estimates[0].value == own.value
    assert np.isnan(corners.estimates[0].value) and corners.estimates[1].count > 0
    comparison = Comparison(
        title="Steps", of="sampler", along="steps", axis=step_axis, curves=tuple(across), facts={}
    )
    rows = list(csv.DictReader(io.StringIO(comparison_csv(comparison))))
    assert rows[0]["corners"] == "" and float(rows[1]["corners"]) > 0
    panel = comparison_figure(comparison).axes[0]
    assert [float(label.get_text()) for label in panel.get_xticklabels()] == [1, 8]
