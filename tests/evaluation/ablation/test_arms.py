"""Arms are known by their settings; designs hold each arm once; values are read as they are written."""

import itertools

import pytest
from difflax.core.types import UserError
from difflax.evaluation.ablation.arms import (
    Arm,
    Axis,
    arms_of_scales,
    axes_of,
    check_arms,
    grid,
    random_design,
)
from difflax.evaluation.ablation.values import read_values, words

SCALE = Axis(name="guidance.scale", values=(1.0, 2.0, 4.0))
INTERVAL = Axis(name="guidance.interval", values=(None, [0.28, 2.9, "sigma"]))
SAMPLER = Axis(name="sampler", values=("ddim", "heun", "ddpm"))


def keys(arms):
    return [arm.key for arm in arms]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1:4", [1, 2, 3, 4]),
        ("1:2:0.1", [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0]),
        ("0:1:0.4", [0.0, 0.4, 0.8]),
        ("3:1:-1", [3, 2, 1]),
        ("-1:1:1;5", [-1, 0, 1, 5]),
        ("none;(0.28,2.9)", [None, [0.28, 2.9]]),
        ("(1,4,step); [none, 1e3, log_snr]", [[1, 4, "step"], [None, 1000.0, "log_snr"]]),
        ("ddim; heun", ["ddim", "heun"]),
        ("true;False;1e3", [True, False, 1000.0]),
        ("{'name': 'apg', 'scale': 4}", [{"name": "apg", "scale": 4}]),
        ('[1, {"a": null}]', [[1, {"a": None}]]),
        ('"";blurry, dark;"a; b"', ["", "blurry, dark", "a; b"]),
        ("don't; it's", ["don't", "it's"]),
        ("{'a': 'x;y'};gs://bucket/a:0.5", [{"a": "x;y"}, "gs://bucket/a:0.5"]),
        ("runs/one;runs/two", ["runs/one", "runs/two"]),
    ],
)
def test_values_are_read_as_they_are_written(text, values):
    assert read_values(text, "--sweep.x") == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no value is given"),
        (" ", "no value"),
        ("1;;2", "a value is empty"),
        ("(1,2", "not closed"),
        ('"a', "not closed"),
        ("1:2:-0.1", "never gets there"),
        ("1:2:0", "never gets there"),
        ("0:1e9", "more than 100,000 values"),
        ("0:1e999999:1", "more than"),
        ("0:0:0", "never gets there"),
    ],
)
def test_texts_that_list_nothing_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        read_values(text, "--sweep.x")


def test_an_arm_is_its_settings_whatever_their_order():
    one = Arm(settings={"a": 1.0, "b": {"x": [1, None], "y": "é"}})
    other = Arm(settings={"b": {"y": "é", "x": (1, None)}, "a": 1.0})
    assert one.key == other.key
    assert one.key != Arm(settings={"a": 1.0}).key != Arm(settings={"a": 1.5}).key
    assert one.label == "a=1, b=(x (1, none), y é)"
    assert words("") == "(empty)" and words({"name": "apg", "scale": 4}) == "apg (scale 4)"


def test_a_grid_has_every_combination_once():
    arms = grid([SCALE, INTERVAL, SAMPLER])
    product = itertools.product(SCALE.values, INTERVAL.values, SAMPLER.values)
    assert [tuple(arm.settings.values()) for arm in arms] == list(product)
    assert len(set(keys(arms))) == 18


def test_a_random_design_is_a_part_of_the_grid_and_grows_by_adding():
    axes = [SCALE, INTERVAL, SAMPLER]
    few, more = random_design(axes, 5, seed=3), random_design(axes, 12, seed=3)
    assert keys(more)[:5] == keys(few)
    assert len(set(keys(more))) == 12 and set(keys(more)) < set(keys(grid(axes)))
    assert sorted(keys(random_design(axes, 18))) == sorted(keys(grid(axes)))
    assert keys(random_design(axes, 5, seed=4)) != keys(few)


def test_the_axes_of_arms_hold_what_occurs():
    arms = [Arm(settings={"a": 2, "b": "x"}), Arm(settings={"a": 1, "b": "y"}), Arm(settings={"a": 1})]
    axes = axes_of(arms, {"a": "the first"})
    assert [(axis.name, axis.values, axis.title, axis.numeric) for axis in axes] == [
        ("a", (1, 2), "the first", True),
        ("b", ("x", "y"), "b", False),
    ]
    assert axes[0].place(2) == 2.0 and axes[1].place("y") == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grid([]), "at least one"),
        (lambda: grid([SCALE, SCALE]), "each once"),
        (lambda: grid([Axis(name="x", values=())]), "x: the axis is empty"),
        (lambda: grid([Axis(name="x", values=(1, 2, 1))]), "x: 1 is there twice"),
        (
            lambda: grid([Axis(name=name, values=tuple(range(200))) for name in "abc"]),
            "8,000,000 arms",
        ),
        (lambda: random_design([SCALE], 4), "the grid has 3 arms"),
        (lambda: random_design([SCALE], 0), "arms=0"),
        (lambda: check_arms([]), "no arms"),
        (lambda: check_arms([Arm(settings={"a": 1}), Arm(settings={"a": 1})]), "'a=1' is there twice"),
        (lambda: arms_of_scales([1.0, float("inf")]), "finite"),
    ],
)
def test_designs_that_compare_nothing_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
