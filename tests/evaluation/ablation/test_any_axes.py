"""A sweep over several axes: the numbers of each arm are the formula's, arms fill batches together, and what
is stopped, grows or is damaged gives the same.
"""

import csv
import io
import json

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.evaluation.ablation import plots
from difflax.evaluation.ablation.arms import GUIDANCE_SCALE, Arm, Axis, grid
from difflax.evaluation.ablation.report import write_ablation
from difflax.evaluation.ablation.sweep import Painter, run_sweep
from difflax.evaluation.ablation.tables import records_csv, results_json, table_csv
from difflax.figures.style import render

from tests.evaluation.known_sweep import (
    DRAWN,
    SEEDS,
    SEEN,
    UNSEEN,
    draw,
    groups,
    instruments,
    provenance,
    right,
)

SCALES, METHODS = (0.0, 1.0, 2.0), ("plain", {"name": "weaker", "by": 0.5})
AXES = [Axis(name="guidance", values=METHODS), Axis(name=GUIDANCE_SCALE, values=SCALES)]
ARMS = grid(AXES)
PROMPTS = (*SEEN, *UNSEEN)
EACH = len(PROMPTS) * len(SEEDS)


def scale_of(arm):
    """What the known drawing is called with: the weaker method has a part of the scale."""
    return arm.settings[GUIDANCE_SCALE] * (1.0 if arm.settings["guidance"] == "plain" else 0.5)


class Studio:
    """Draws the arms, one family a method, and writes down what it was asked."""

    def __init__(self, stop_after=None):
        self.batches, self.stop_after = [], stop_after
        self.painter = Painter(
            draw=self.draw,
            family=lambda arm: str(arm.settings["guidance"]),
            labels={"guidance": "method"},
        )

    def draw(self, prompts, seeds, arms):
        if len(self.batches) == self.stop_after:
            raise KeyboardInterrupt
        assert len({str(arm.settings["guidance"]) for arm in arms}) == 1
        self.batches.append([(arm.key, p, int(s)) for arm, p, s in zip(arms, prompts, seeds, strict=True)])
        made = [
            draw([p], np.array([s]), scale_of(arm)) for p, s, arm in zip(prompts, seeds, arms, strict=True)
        ]
        return np.concatenate(made)


def sweep(directory, studio, arms=ARMS, batch_size=32, **changes):
    settings = {"provenance": provenance(), "instruments": instruments(), "seeds": SEEDS} | changes
    return run_sweep(
        studio.painter,
        groups(),
        arms=arms,
        directory=directory,
        batch_size=batch_size,
        show_progress=False,
        **settings,
    )


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """The whole sweep, run once, and who drew it."""
    studio = Studio()
    return sweep(tmp_path_factory.mktemp("axes"), studio), studio


def test_every_arm_has_the_formulas_numbers(several):
    result, _ = several
    for group, prompts in (("seen", SEEN), ("<unseen> & new", UNSEEN)):
        expected = [np.mean([right(p, s, scale_of(arm)) for p in prompts for s in DRAWN[p]]) for arm in ARMS]
        np.testing.assert_allclose([e.value for e in result.of(group, "accuracy").estimates], expected)


def test_arms_of_a_family_fill_batches_together(several):
    _, studio = several
    number = -(-3 * EACH // 32)
    assert len(studio.batches) == 2 * number and {len(batch) for batch in studio.batches} == {32}
    pairs = [(prompt, seed) for prompt in PROMPTS for seed in DRAWN[prompt]]
    for method in range(2):
        rows = [row for batch in studio.batches[method * number : (method + 1) * number] for row in batch]
        whole = [(arm.key, *pair) for arm in ARMS[3 * method : 3 * method + 3] for pair in pairs]
        assert rows[: len(whole)] == whole


def test_lines_along_either_axis(several):
    result, _ = several
    assert not result.over_scales and result.along.name == GUIDANCE_SCALE
    names = [
        f"{group}: guidance={method}"
        for group in ("seen", "<unseen> & new")
        for method in ("plain", "weaker (by 0.5)")
    ]
    assert result.lines() == names
    curve = result.curve(names[1], "accuracy")
    assert curve.scales == SCALES and curve.ticks == ("0", "1", "2")
    assert curve.estimates == result.of("seen", "accuracy").estimates[3:]
    across = result.curve("seen: scale=2", "accuracy", along="guidance")
    assert across.ticks == ("plain", "weaker (by 0.5)") and across.scales == (0.0, 1.0)
    assert across.estimates == result.of("seen", "accuracy").estimates[2::3]
    with pytest.raises(UserError, match="did you mean 'guidance'"):
        result.curves("guidence")


def test_tables_name_every_arm_by_its_key_and_its_axes(several):
    result, _ = several
    rows = list(csv.DictReader(io.StringIO(table_csv(result))))
    assert [row["arm"] for row in rows] == [arm.key for arm in ARMS] * 2
    assert [(row["guidance"], float(row[GUIDANCE_SCALE])) for row in rows[:2]] == [("plain", 0), ("plain", 1)]
    images = list(csv.DictReader(io.StringIO(records_csv(result))))
    for arm, row in zip(ARMS, rows, strict=False):
        own = [float(i["accuracy"]) for i in images if i["arm"] == arm.key and i["group"] == "seen"]
        assert len(own) == len(SEEN) * len(SEEDS)
        assert np.mean(own) == pytest.approx(float(row["accuracy"]), rel=1e-5)
    document = json.loads(results_json(result))
    assert {arm["key"]: arm["settings"] for arm in document["arms"]} == {
        arm.key: dict(arm.settings) for arm in ARMS
    }
    assert [axis["label"] for axis in document["axes"]] == ["method", ""]
    assert [e["arm"] for e in document["curves"][0]["estimates"]] == [arm.key for arm in ARMS]
    assert document["best"]["seen"]["arm"] in {arm.key for arm in ARMS}


def test_the_report_and_the_plots_take_any_axes(several, tmp_path):
    result, _ = several
    page = write_ablation(result, tmp_path).read_text()
    assert "weaker (by 0.5)" in page and "6 arms" in page
    panel = plots.metric_figure(result, "accuracy").axes[0]
    assert len([line for line in panel.lines if tuple(line.get_xdata()) == SCALES]) == 4
    words = sweep(tmp_path / "words", Studio(), arms=[ARMS[2], ARMS[5]])
    assert words.along.name == "guidance"
    figure = plots.metric_figure(words, "accuracy")
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["plain", "weaker (by 0.5)"]
    render(figure, "svg")


@pytest.mark.parametrize("stop_after", [0, 1, 5, 12])
def test_a_sweep_that_was_stopped_gives_the_same_bytes_and_the_same_batches(tmp_path, several, stop_after):
    whole, all_of_it = several
    first, second = Studio(stop_after), Studio()
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, first)
    again = sweep(tmp_path, second)
    for write in (table_csv, records_csv):
        assert write(again) == write(whole)
    drawn = {tuple(batch) for batch in all_of_it.batches}
    assert {tuple(batch) for batch in [*first.batches, *second.batches]} == drawn
    # What is finished is not drawn again but for the batch that it shares with the next arm.
    assert len(second.batches) <= len(all_of_it.batches) - stop_after + EACH // 32 + 1


def test_arms_that_are_added_later_are_the_only_ones_drawn(tmp_path, several):
    sweep(tmp_path, Studio(), arms=[ARMS[0], ARMS[2], ARMS[4]])
    later = Studio()
    result = sweep(tmp_path, later)
    new = {arm.key for arm in (ARMS[1], ARMS[3], ARMS[5])}
    assert {row[0] for batch in later.batches for row in batch} == new
    assert table_csv(result) == table_csv(several[0])
    none = Studio()
    assert sweep(tmp_path, none, arms=ARMS[::-1]).arms[0].key == ARMS[-1].key and not none.batches


def test_arms_may_leave_an_axis_to_the_model(tmp_path):
    arms = [Arm(settings={"guidance": "plain", GUIDANCE_SCALE: 1.0}), Arm(settings={GUIDANCE_SCALE: 2.0})]
    painter = Painter(
        draw=lambda prompts, seeds, arms: draw(prompts, seeds, arms[0].settings[GUIDANCE_SCALE]),
        family=lambda arm: arm.key,
    )
    result = run_sweep(
        painter,
        groups(),
        arms=arms,
        seeds=[0],
        provenance=provenance(),
        directory=tmp_path,
        instruments=instruments(),
        show_progress=False,
    )
    rows = list(csv.DictReader(io.StringIO(table_csv(result))))
    assert [row["guidance"] for row in rows] == ["plain", ""] * 2
    assert [curve.scales for curve in result.by_metric()["accuracy"]] == [(1.0,), (2.0,)] * 2


def test_an_arm_of_a_model_that_changed_is_refused(tmp_path):
    def painter(fingerprint):
        return Painter(
            draw=lambda prompts, seeds, arms: draw(prompts, seeds, 1.0),
            family=lambda arm: arm.key,
            fingerprint=lambda arm: fingerprint,
        )

    def run(fingerprint):
        return run_sweep(
            painter(fingerprint),
            groups(),
            arms=ARMS[:1],
            seeds=[0],
            provenance=provenance(),
            directory=tmp_path,
            instruments=instruments(),
            show_progress=False,
        )

    run("before")
    run("before")
    with pytest.raises(UserError, match="has changed since"):
        run("after")
