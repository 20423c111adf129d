"""What is read back from a folder is what was written."""

import dataclasses

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.evaluation.ablation.report import write_ablation
from difflax.evaluation.ablation.scores import scores
from difflax.evaluation.ablation.stored import read_result
from difflax.evaluation.ablation.tables import results_json

from tests.evaluation.known_sweep import SEEDS, SEEN, sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stored")
    write_ablation(sweep(directory), directory)
    return directory


def test_the_same_result_comes_back(folder, result):
    found = read_result(folder)
    assert results_json(found) == results_json(result)
    for name, column in result.records.items():
        if np.issubdtype(column.dtype, np.floating):
            np.testing.assert_allclose(found.records[name], column, rtol=1e-5)
        else:
            np.testing.assert_array_equal(found.records[name], column)
    for name, values in result.by_prompt.items():
        np.testing.assert_array_equal(found.by_prompt[name], values)
    for name, images in result.samples.items():
        np.testing.assert_array_equal(found.samples[name], images)


@pytest.mark.parametrize("metric", ["accuracy", "corners", "pixel_diversity", "feature_diversity"])
def test_means_of_the_values_are_the_estimates(result, metric):
    for each in result.measured:
        if each.metric.name == metric:
            found = scores(result, each.group, metric)
            expected = [estimate.value for estimate in each.estimates]
            np.testing.assert_allclose(np.nanmean(found.values, axis=1), expected)
            clusters = {estimate.clusters for estimate in each.estimates}
            asked = ~np.isnan(found.values).all(0)
            assert clusters == {len(np.unique(found.prompts[asked]))}


def test_a_metric_of_the_whole_set_has_no_values(result):
    assert scores(result, "seen", "frechet_distance") is None
    assert scores(result, "seen", "accuracy").values.shape == (4, len(SEEN) * len(SEEDS))
    with pytest.raises(KeyError):
        scores(result, "seen", "beauty")


def test_without_cells_there_are_no_images(folder, tmp_path):
    for name in ("results.json", "records.csv", "prompts.csv"):
        (tmp_path / name).write_text((folder / name).read_text())
    assert read_result(tmp_path).samples == {}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("results.json", "{}", "no result of a sweep"),
        ("results.json", '{"format": "difflax-ablation-2"}', "damaged"),
        ("records.csv", "seed\n", "damaged"),
        ("records.csv", "seed,accuracy\n1\n", "another length"),
    ],
)
def test_damage_is_one_line(folder, tmp_path, name, text, said):
    for each in ("results.json", "records.csv", "prompts.csv"):
        (tmp_path / each).write_text((folder / each).read_text())
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said) as error:
        read_result(tmp_path)
    assert "\n" not in str(error.value)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match=r"no results\.json"):
        read_result(tmp_path)


def test_a_result_without_prompt_metrics(result):
    bare = dataclasses.replace(result, by_prompt={})
    assert scores(bare, "seen", "pixel_diversity") is None
