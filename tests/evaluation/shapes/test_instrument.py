"""A sweep whose pictures are known: true at scale 1, of one colour at scale 4, noisy at scale 8."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.data.shapes import truth
from difflax.data.shapes.captions import parse
from difflax.data.shapes.factors import concatenate
from difflax.data.shapes.render import render
from difflax.data.shapes.splits import COMBINATIONS
from difflax.data.sources import Shapes
from difflax.evaluation.ablation.report import write_ablation
from difflax.evaluation.ablation.tables import records_csv
from difflax.evaluation.judges.shapes.reading import Reading, judge
from difflax.evaluation.measurement import Instruments, PromptGroup
from difflax.evaluation.protocols import ShapesProtocol
from difflax.evaluation.shapes.alignment import alignment
from difflax.evaluation.shapes.columns import from_columns, to_columns
from difflax.evaluation.shapes.coverage import Coverage
from difflax.evaluation.shapes.instrument import shapes_judge
from difflax.evaluation.spot import spot_check

from tests.evaluation.known_sweep import sweep

# On one worker, so that the judge's programs are compiled once.
pytestmark = pytest.mark.xdist_group("shapes_judge")

PROMPTS = ("a heart", "a solid star")
SCALES = (1.0, 4.0, 8.0)
SEEDS = range(6)
ORANGE, NOISE = 1, 0.03


def pictures(prompts, seeds, scale):
    """The picture of a prompt and a seed is the same true scene at every scale, but for the planted fault."""
    scenes = [
        truth.draw(np.random.default_rng([*prompt.encode(), int(seed)]), parse(prompt), 1).scenes
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    scenes = concatenate(scenes)
    if scale == 4:
        scenes = scenes.replace(colour=np.full_like(scenes.colour, ORANGE))
    made = render(scenes)
    if scale == 8:
        made = made + np.random.default_rng(0).normal(0, NOISE, made.shape)
    return made.clip(0, 1).astype(np.float32)


def group():
    real = pictures(PROMPTS * 3, np.arange(100, 106), 1)
    return PromptGroup(name="one object", prompts=PROMPTS, real_images=real, real_prompts=PROMPTS * 3)


def run(directory, generate):
    return sweep(
        directory,
        generate,
        groups=[group()],
        scales=SCALES,
        seeds=SEEDS,
        instruments=Instruments(judge=shapes_judge()),
        batch_size=12,
    )


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """The sweep and its folder."""
    folder = tmp_path_factory.mktemp("sweep")
    return run(folder, pictures), folder


def estimates(result, metric):
    return dict(zip(SCALES, result.curve("one object", metric).estimates, strict=True))


def test_alignment_sees_neither_collapse_nor_noise(known):
    for name in ("accuracy", "shape", "count"):
        found = estimates(known[0], name)
        assert all(e.value > 0.95 for e in found.values()), name
        assert found[1].low < 1
    assert known[0].curve("one object", "accuracy").references["real images"] > 0.9
    assert {c.metric.name for c in known[0].measured} & {"accuracy_1_named", "accuracy_2_named"}
    with pytest.raises(KeyError):
        known[0].curve("one object", "relation")  # no prompt names one


def test_coverage_sees_the_collapsed_colour_and_nothing_else(known):
    kept, colour = estimates(known[0], "coverage_kept"), estimates(known[0], "colour_kept")
    assert colour[4].value == 0 and colour[1].value > 0.7
    assert estimates(known[0], "colour_excess")[4].low > 0.4
    # One of the eleven factors that are open.
    assert kept[4].value == pytest.approx(kept[1].value - colour[1].value / 11, abs=0.03)
    assert kept[8].value == pytest.approx(kept[1].value, abs=0.03)
    assert abs(kept[1].value - 1) < 0.15
    excess = estimates(known[0], "coverage_excess")
    assert abs(excess[1].value) < 0.1 and excess[4].value > excess[1].value + 0.03
    for name in ("size_kept", "background_kept", "x_kept", "direction_excess"):
        found = estimates(known[0], name)
        assert found[4].value == pytest.approx(found[1].value, abs=0.05), name


def test_fidelity_sees_the_noise_alone(known):
    psnr = estimates(known[0], "residual_psnr")
    assert psnr[1].value > 38 and psnr[4].value > 38
    # White noise of σ leaves a residual of about σ², whatever is read.
    assert psnr[8].value == pytest.approx(-20 * np.log10(NOISE), abs=1)
    saturation = estimates(known[0], "saturation_excess")
    assert abs(saturation[1].value) < 0.15
    assert abs(estimates(known[0], "clipped_excess")[1].value) < 0.02


def test_the_truth_is_a_line_of_every_exact_metric(known):
    lines = {
        name: known[0].curve("one object", name).references.get("truth")
        for name in ("coverage_kept", "coverage_excess", "saturation_excess", "clipped_excess", "size_kept")
    }
    assert list(lines.values()) == [1.0, 0.0, 0.0, 0.0, 1.0]


DRAWN = ("accuracy", "coverage_kept", "colour_kept", "colour_excess", "coverage_excess", "pairs_kept",
         "residual_psnr", "saturation_excess")  # fmt: skip


def test_everything_is_written(known, tmp_path):
    """Of a few metrics, since a plot takes its time."""
    result, folder = known[0], tmp_path
    few = [curve for curve in result.measured if curve.metric.name in DRAWN]
    write_ablation(dataclasses.replace(result, measured=tuple(few)), folder)
    rows = list(csv.DictReader(io.StringIO(records_csv(result))))
    collapsed = [row for row in rows if row["guidance_scale"] == "4"]
    assert {row["read_colour_1"] for row in collapsed} == {str(ORANGE)}
    assert not [curve for curve in result.measured if curve.metric.name.startswith("read_")]
    for name in ("triangle.png", "triangle_dark.png", "triangle.svg", "coverage_kept_parts.svg"):
        assert (folder / "plots" / name).stat().st_size > 0
    assert (folder / "plots" / "accuracy_against_coverage_kept.svg").exists()
    document = json.loads((folder / "results.json").read_text())
    assert document["aspects"] == {
        "alignment": "accuracy",
        "coverage": "coverage_kept",
        "fidelity": "residual_psnr",
    }
    page = (folder / "report.html").read_text()
    assert page.index("alignment, coverage, fidelity against") < page.index("Against the guidance scale")
    table = next(csv.DictReader((folder / "table.csv").open()))
    for metric in DRAWN:
        assert float(table[f"{metric}_low"]) <= float(table[metric]) <= float(table[f"{metric}_high"])


def test_a_resumed_sweep_needs_no_pictures(known):
    def none(prompts, seeds, scale):
        raise AssertionError("a picture was asked for")

    again = run(known[1], none)
    for ours, theirs in zip(known[0].measured, again.measured, strict=True):
        assert ours == theirs


def test_a_spot_check_says_the_same_and_survives_a_model_that_gives_nothing(known):
    found = spot_check(lambda p, s: pictures(p, s, 4), group(), len(SEEDS), shapes_judge())
    for aspect, name in known[0].aspects.items():
        assert found[aspect] == pytest.approx(estimates(known[0], name)[4].value)
    assert found["alignment_count"] == found["fidelity_count"] == 12 and found["coverage_count"] == 2
    broken = lambda p, s: np.full((len(p), 32, 32, 3), np.nan)  # noqa: E731
    found = spot_check(broken, group(), len(SEEDS), shapes_judge())
    assert found["alignment"] == 0 and found["coverage"] is None and found["coverage_count"] == 0


def test_columns_hold_all_that_was_read():
    made = np.concatenate([pictures(PROMPTS, range(2), 1), np.full((1, 32, 32, 3), 0.5, np.float32)])
    said = [parse(text) for text in (*PROMPTS, "two hearts")]
    reading = judge(made)
    columns = to_columns(reading)
    back = from_columns(columns)
    before, after = alignment(reading, said), alignment(back, said)
    for name, column in before.items():
        np.testing.assert_array_equal(column, after[name], err_msg=name)
    np.testing.assert_array_equal(back.readable, [True] * 2 + [False])
    again = to_columns(back)
    for name, column in columns.items():
        np.testing.assert_array_equal(column, again[name], err_msg=name)


# --- without pictures


def test_with_one_seed_there_is_no_coverage():
    compare = shapes_judge().compare
    scenes = truth.draw(np.random.default_rng(0), parse("a heart"), 8).scenes
    columns = to_columns(Reading.of_truth(scenes)) | {
        name: np.full(8, value)
        for name, value in (("hsv_saturation", 0.5), ("clipped_fraction", 0.0), ("residual_psnr", 60.0))
    }
    assert compare(group(), "a heart", columns)["coverage_kept"] > 0.5
    one = compare(group(), "a heart", {name: column[:1] for name, column in columns.items()})
    assert set(one) == {"saturation_excess", "clipped_excess"}


def test_each_split_has_its_own_truth():
    """ "a circle" is of any trained colour, and of the untrained one alone in the held-out split."""
    text = parse("a circle")
    held_out = truth.draw(np.random.default_rng(1), text, 24, COMBINATIONS["held_out"]).scenes
    found = {}
    for split in ("test", "held_out"):
        covered = Coverage(text, np.random.default_rng(0), COMBINATIONS[split])
        found[split] = {f.name: f for f in covered(Reading.of_truth(held_out))}
    assert abs(found["held_out"]["colour"].excess) < 0.1
    assert found["test"]["colour"].excess > 0.5


def test_a_run_on_scenes_of_one_object_is_asked_for_one():
    protocol, source = ShapesProtocol(prompts=4, real_images=4), Shapes(one_object=True)
    groups = protocol.groups(source)
    assert [g.name for g in groups] == ["one object, seen", "one object, held out", "captions as trained"]
    asked = [*protocol.open_prompts(source), *(prompt for g in groups for prompt in g.prompts)]
    assert all(parse(prompt).counts == (1,) for prompt in asked)
    with pytest.raises(UserError, match="one_object"):
        protocol.group(source, "two objects", "two objects")


def test_groups_are_of_their_split_and_real_images_of_their_prompts():
    groups = ShapesProtocol(prompts=3, real_images=4).groups(Shapes())
    assert groups[0].split == "test" and {g.split for g in groups} == {"test", "held_out"}
    for found in groups:
        assert len(found.prompts) == 3 and len(found.real_images) == len(found.real_prompts) == 4
        assert set(found.real_prompts) <= set(found.prompts)
    assert all(parse(prompt).named == 3 for prompt in groups[0].prompts)
