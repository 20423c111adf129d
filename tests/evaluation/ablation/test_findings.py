"""What a report claims: no more than the paired bands hold, and the same as the values say."""

import csv
import dataclasses
import io

import numpy as np
import pytest
import scipy.stats
from difflax.diffusion.guidance import GUIDANCES
from difflax.diffusion.samplers import SAMPLERS
from difflax.evaluation.ablation import bibliography, exports, manifests
from difflax.evaluation.ablation.ballots import Vote, with_votes
from difflax.evaluation.ablation.findings import Front, findings, fronts
from difflax.evaluation.ablation.front_plot import LARGEST_MARK, SMALLEST_MARK, front_figure
from difflax.evaluation.ablation.heatmaps import heatmap, map_axes
from difflax.evaluation.ablation.sections.found import sentence
from difflax.evaluation.ablation.sections.tiles import tiles

from tests.evaluation.ablation.test_any_axes import ARMS, Studio
from tests.evaluation.ablation.test_any_axes import sweep as sweep_of_two
from tests.evaluation.known_sweep import instruments


@pytest.fixture(scope="module")
def two_axes(tmp_path_factory):
    """Method × scale, with three aspects."""
    known = instruments()
    aspects = {"alignment": "accuracy", "fidelity": "clip_score", "coverage": "pixel_diversity"}
    judge = dataclasses.replace(known.judge, aspects=aspects)
    folder = tmp_path_factory.mktemp("two")
    return sweep_of_two(folder, Studio(), instruments=dataclasses.replace(known, judge=judge))


def test_the_lead_is_the_best_mean_and_is_named_only_where_it_is_decided(two_axes):
    for found in findings(two_axes):
        means = found.scores.metric.sign * np.nanmean(found.scores.values, axis=1)
        assert means[found.lead] == means.max()
        said = sentence(two_axes, found)
        assert ("no winner is named" in said) == (not found.named)
        undecided = [pair for pair in found.pairs if not pair.decided]
        assert not (found.named and undecided)
        assert found.shares.sum() == pytest.approx(1)


def test_three_prompts_name_no_winner(two_axes):
    """The group of three prompts cannot, whatever it measures."""
    small = [found for found in findings(two_axes) if found.scores.group == "<unseen> & new"]
    assert small and not any(found.named for found in small)


def test_the_smallest_difference_is_that_of_the_paired_t_test(two_axes):
    """A difference as large as is said to be detectable has 80% power by scipy's noncentral t."""
    found = next(f for f in findings(two_axes) if f.scores.group == "seen")
    sizes = []
    for pair in found.pairs:
        by_prompt = found.scores.values[pair.second] - found.scores.values[pair.first]
        error = scipy.stats.sem(by_prompt.reshape(6, -1).mean(1))
        if error:
            reach = scipy.stats.t.ppf(0.975, 5)
            law = lambda shift, reach=reach: scipy.stats.nct(5, shift).sf(reach) - 0.8  # noqa: E731
            sizes.append(error * scipy.optimize.brentq(law, 0.1, 20))
        else:
            sizes.append(0.0)
    assert found.detectable == pytest.approx(np.median(sizes), rel=1e-3)


def test_the_front_is_that_of_the_means(two_axes):
    for front in fronts(two_axes):
        measured = [two_axes.of(front.group, name) for name in front.metrics]
        points = np.array(
            [[each.metric.sign * e.value for e in each.estimates] for each in measured if each.metric.sign]
        ).T
        beaten = [any((o >= p).all() and (o > p).any() for o in points) for p in points]
        assert front.on.tolist() == [not b for b in beaten]
        assert np.all(front.shares[front.on] > 0)


def test_the_plot_of_a_front_has_every_arm_with_its_bands_and_its_share(two_axes):
    front = next(each for each in fronts(two_axes) if each.group == "seen")
    up, *across = (two_axes.of(front.group, name) for name in front.metrics)
    for axes, each in zip(front_figure(two_axes, front).axes, across, strict=True):
        points = np.array([[e.value for e in each.estimates], [e.value for e in up.estimates]]).T
        marks = [line for line in axes.lines if line.get_marker() == "o"]
        np.testing.assert_allclose([[*m.get_xdata(), *m.get_ydata()] for m in marks], points)
        np.testing.assert_allclose([m.get_markerfacecolor()[3] for m in marks], front.shares)
        sizes = [(m.get_markersize() - SMALLEST_MARK) / (LARGEST_MARK - SMALLEST_MARK) for m in marks]
        np.testing.assert_allclose(sizes, front.shares)
        beaten = [any((o >= p).all() and (o > p).any() for o in points) for p in points]
        joined = next(line for line in axes.lines if line.get_linewidth() == 1.4)
        assert set(map(tuple, joined.get_xydata())) == set(map(tuple, points[~np.array(beaten)]))
        spans = sorted(abs(np.diff(s, axis=0)).max() for c in axes.collections for s in c.get_segments())
        bands = [e.high - e.low for m in (each, up) for e in m.estimates]
        np.testing.assert_allclose(spans, sorted(bands), atol=1e-12)


def test_an_axis_of_low_values_runs_backwards(two_axes):
    arms = len(two_axes.arms)
    metrics = ("accuracy", "frechet_distance")
    front = Front(group="seen", metrics=metrics, on=np.ones(arms, bool), shares=np.ones(arms))
    axes = front_figure(two_axes, front).axes[0]
    assert axes.xaxis_inverted() and not axes.yaxis_inverted()


def test_every_pair_is_in_the_file(two_axes):
    found = findings(two_axes)
    rows = list(csv.DictReader(io.StringIO(exports.differences_csv(two_axes, found))))
    assert len(rows) == len(found) * len(ARMS) * (len(ARMS) - 1) // 2
    first = rows[0]
    of = two_axes.of(first["group"], first["metric"])
    expected = of.estimates[1].value - of.estimates[0].value
    assert float(first["difference"]) == pytest.approx(expected, abs=1e-6)


def test_parquet_is_the_records_with_the_axes(two_axes, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    exports.write_parquet(two_axes, tmp_path)
    records = parquet.read_table(tmp_path / "records.parquet").to_pydict()
    np.testing.assert_array_equal(records["accuracy"], two_axes.records["accuracy"])
    assert set(records["guidance.scale"]) == {0.0, 1.0, 2.0}
    table = parquet.read_table(tmp_path / "table.parquet").to_pydict()
    assert len(table["value"]) == sum(len(each.estimates) for each in two_axes.measured)


def test_a_map_has_a_cell_for_each_arm(two_axes):
    across, up = map_axes(two_axes)
    assert (across.name, up.name) == ("guidance.scale", "guidance")
    axes = heatmap(two_axes, "seen", "accuracy").axes[0]
    shown = np.asarray(axes.images[0].get_array())
    estimates = [e.value for e in two_axes.of("seen", "accuracy").estimates]
    np.testing.assert_allclose(shown.ravel(), estimates)
    assert {text.get_text() for text in axes.texts} >= {f"{value:.2f}" for value in estimates}


def test_one_axis_has_no_map(result):
    assert map_axes(result) is None
    with pytest.raises(ValueError, match="two axes"):
        heatmap(result, "seen", "accuracy")


def test_every_tile_says_its_settings(two_axes):
    group = two_axes.groups[0]
    shown = tiles(two_axes, group, None)
    assert shown.count("<img") == len(ARMS) * two_axes.samples["seen"].shape[1]
    assert "guidance.scale: 2" in shown and f"prompt: {group.prompts[0]}" in shown


def test_votes_become_a_metric_of_the_group_of_their_prompt(two_axes):
    first, second = sorted(arm.key for arm in two_axes.arms[:2])
    votes = [Vote(first=first, second=second, prompt=n, seed=0, choice="first") for n in (0, 1, 5)]
    voted = with_votes(two_axes, votes)
    shares = {
        arm.key: e.value for arm, e in zip(voted.arms, voted.of("seen", "preferred").estimates, strict=True)
    }
    assert shares[first] == 1 and shares[second] == 0 and np.isnan(shares[voted.arms[2].key])
    with pytest.raises(KeyError):
        voted.of("<unseen> & new", "preferred")
    assert len(with_votes(voted, votes).measured) == len(voted.measured)
    assert with_votes(two_axes, []) is two_axes


def test_a_manifest_tells_results_apart(two_axes):
    assert manifests.differing([two_axes, two_axes]) == {}
    fewer = dataclasses.replace(two_axes, seeds=two_axes.seeds[:2])
    other = dataclasses.replace(
        fewer, provenance=dataclasses.replace(two_axes.provenance, checkpoint="other", versions={"jax": "0"})
    )
    found = manifests.differing([two_axes, other])
    assert set(found) == {"seeds", "checkpoint", "code"}
    assert manifests.measured_differently(found) == ["seeds", "code"]


def test_every_method_has_its_paper(two_axes):
    assert set(GUIDANCES) - {"none"} | set(SAMPLERS) <= set(bibliography.CITED)
    assert {key for keys in bibliography.CITED.values() for key in keys} == set(bibliography.PAPERS)
    names = bibliography.methods(two_axes)
    assert {"ddim", "cfg", "clip_score"} <= set(names) and "heun" not in names
    text = bibliography.bibtex(names)
    assert text.count("@misc{") == text.count("eprint") and "2010.02502" in text
    assert text.count("{") == text.count("}")
