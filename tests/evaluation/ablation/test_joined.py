"""Several results: alike ones become one, others stand side by side under a warning."""

import dataclasses

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.evaluation.ablation.joined import join, side_by_side, warning_of
from difflax.evaluation.ablation.manifests import differing

from tests.evaluation.known_sweep import provenance, sweep
from tests.evaluation.test_report import parse


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The known sweep in two runs that share a scale."""
    folder = tmp_path_factory.mktemp("parts")
    return {
        "low": sweep(folder / "low", scales=(0.0, 1.0, 2.0)),
        "high": sweep(folder / "high", scales=(2.0, 4.0)),
    }


def test_two_runs_are_the_one_that_asks_for_all(parts, result):
    joined = join(parts)
    assert [arm.key for arm in joined.arms] == [arm.key for arm in result.arms]
    assert joined.axes == result.axes
    assert [(e.group, e.metric) for e in joined.measured] == [(e.group, e.metric) for e in result.measured]
    for found, expected in zip(joined.measured, result.measured, strict=True):
        np.testing.assert_equal([e.value for e in found.estimates], [e.value for e in expected.estimates])
        assert found.best == expected.best
        assert found.near_best == expected.near_best
    for name, column in result.records.items():
        np.testing.assert_array_equal(joined.records[name], column)
    for name, images in result.samples.items():
        np.testing.assert_array_equal(joined.samples[name], images)
    assert warning_of(parts) == []


def test_other_models_are_an_axis_and_are_compared_in_pairs(parts, tmp_path):
    other = sweep(tmp_path, scales=(1.0,), provenance=provenance(checkpoint="runs/other, step 1"))
    results = {"mine": parts["low"], "theirs": other}
    joined = join(results)
    assert [axis.name for axis in joined.axes] == ["result", "guidance.scale"]
    assert len(joined.arms) == 4
    theirs = joined.of("seen", "accuracy").estimates[3]
    assert theirs.value == parts["low"].of("seen", "accuracy").estimates[1].value
    page = "".join(parse(warning_of(results)[0]).text)
    assert "alike" in page and "runs/other" in page and "Warning" not in page


def test_what_was_measured_differently_is_not_joined(parts, tmp_path):
    fewer = sweep(tmp_path, scales=(1.0, 2.0), seeds=range(3, 6))
    results = {"twelve": parts["low"], "three": fewer}
    assert "seeds" in differing(list(results.values()))
    with pytest.raises(UserError, match="seeds"):
        join(results)
    page, files = side_by_side(results)
    checked = parse(page)
    text = "".join(checked.text)
    assert "Warning" in text and text.index("Warning") < text.index("Numbers of twelve")
    assert set(files) == {"plots/side_by_side.svg", "plots/side_by_side.pdf"}
    assert files["plots/side_by_side.pdf"].startswith(b"%PDF")
    sources = [value for name, value in checked.attributes if name == "src"]
    assert sources and all(value.startswith("data:image/") for value in sources)


def test_one_arm_with_two_numbers_is_refused(parts):
    changed = parts["high"]
    estimates = changed.measured[0].estimates
    wrong = dataclasses.replace(
        changed.measured[0], estimates=(dataclasses.replace(estimates[0], value=0.123), *estimates[1:])
    )
    broken = dataclasses.replace(changed, measured=(wrong, *changed.measured[1:]))
    with pytest.raises(UserError, match="disagree"):
        join({"low": parts["low"], "high": broken})
