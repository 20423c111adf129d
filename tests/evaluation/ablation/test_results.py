"""Tables and JSON hold the same numbers as the result, and everything needed to make it again."""

import csv
import io
import json

import difflax
import numpy as np
import pytest
from difflax.evaluation.ablation.results import best_index
from difflax.evaluation.ablation.tables import records_csv, results_json, table_csv, write_tables
from difflax.evaluation.metrics import CLIP_SCORE, FRECHET_DISTANCE, HSV_SATURATION

from tests.evaluation.known_sweep import DRAWN, SCALES, SEEDS, SEEN


def test_the_table_has_a_row_for_each_group_and_scale(result):
    rows = list(csv.DictReader(io.StringIO(table_csv(result))))
    assert [(row["group"], float(row["guidance_scale"])) for row in rows] == [
        (group.name, scale) for group in result.groups for scale in SCALES
    ]
    for row in rows:
        estimate = result.curve(row["group"], "accuracy").estimates[
            SCALES.index(float(row["guidance_scale"]))
        ]
        read = [float(row[name]) for name in ("accuracy", "accuracy_low", "accuracy_high")]
        np.testing.assert_allclose(read, [estimate.value, estimate.low, estimate.high], rtol=1e-5)
    assert rows[-1]["corners"] == "" and rows[-1]["frechet_distance"] == ""


def test_the_records_average_to_the_table(result):
    rows = list(csv.DictReader(io.StringIO(records_csv(result))))
    assert len(rows) == len(SCALES) * 9 * len(SEEDS)
    mine = [row for row in rows if row["group"] == "seen" and float(row["guidance_scale"]) == 2]
    assert {(row["prompt"], int(row["seed"])) for row in mine} == {(p, s) for p in SEEN for s in DRAWN[p]}
    for name in ("accuracy", "clip_score", "hsv_saturation", "corners"):
        values = [float(row[name]) for row in mine if row[name]]
        assert np.mean(values) == pytest.approx(result.curve("seen", name).estimates[2].value, rel=1e-5)


def test_the_json_states_provenance_subsets_and_definitions(result):
    def no_constants(name):
        raise AssertionError(f"{name} is not JSON")

    document = json.loads(results_json(result), parse_constant=no_constants)
    assert document["provenance"]["command"] == result.provenance.command
    assert document["provenance"]["config"] == {"seed": 0}
    assert document["provenance"]["versions"]["difflax"] == difflax.__version__
    assert document["guidance_scales"] == list(SCALES) and document["seeds"] == list(SEEDS)
    assert document["groups"][0] == {"name": "seen", "prompts": list(SEEN), "count": 72, "real": 144}
    assert "144 real images" in document["method"]["subsets"] and "none" in document["method"]["features"]
    assert set(document["metrics"]) == {curve["metric"] for curve in document["curves"]}
    assert all(metric["source"] for metric in document["metrics"].values())
    best = result.curve("seen", "accuracy")
    assert document["best"]["seen"]["guidance_scale"] == best.scales[best.best]


def test_the_best_is_in_the_metrics_own_direction():
    values = np.array([np.nan, 3.0, 1.0, 3.0])
    assert best_index(CLIP_SCORE, values) == 1
    assert best_index(FRECHET_DISTANCE, values) == 2
    assert best_index(HSV_SATURATION, values) is None
    assert best_index(CLIP_SCORE, np.full(2, np.nan)) is None


def test_four_files_are_written(result, tmp_path):
    write_tables(result, tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "table.csv",
        "prompts.csv",
        "records.csv",
        "results.json",
    }


def test_the_whole_prompt_comes_before_its_attributes(result):
    assert list(result.by_metric())[:2] == ["accuracy", "corners"]
