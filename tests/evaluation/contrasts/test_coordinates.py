"""The search along coordinates: it ends at optima that are known, and names no winner where there is none."""

import itertools

import numpy as np
import pytest
from difflax.evaluation.contrasts.coordinates import descend, lines_through

GRID = (1.0, 2.0, 3.0, 5.0)
PROMPTS = 40


def measured(function, noise=0.0, seed=0):
    """What measures a function of points; a prompt's own level is the same at every point."""
    levels = np.random.default_rng(seed).normal(size=PROMPTS)
    asked = []

    def measure(points):
        asked.extend(points)
        own = np.random.default_rng(len(asked)).normal(size=(len(points), PROMPTS)) * noise
        return np.array([function(np.array(point)) for point in points])[:, None] + levels + own

    return measure, asked


def separable(point):
    return -np.sum((point - np.array([1.0, 3.0, 5.0])) ** 2)


def coupled(point):
    """Every coordinate's best value depends on the others'."""
    return -((point[0] - 3) ** 2) - 0.3 * (point[1] - point[0] + 1) ** 2


def test_where_coordinates_are_apart_one_pass_ends_at_the_optimum():
    measure, _ = measured(separable)
    lines = lines_through(measure, (2.0, 2.0, 2.0), GRID)
    assert [line.values[line.best] for line in lines] == [1.0, 3.0, 5.0]
    path = descend(measure, (2.0, 2.0, 2.0), GRID, [2, 0, 1], 1)
    assert path[0] == (2.0, 2.0, 2.0) and path[-1] == (1.0, 3.0, 5.0)


def test_where_they_are_not_the_descent_reaches_the_optimum_of_the_grid_and_stops():
    measure, asked = measured(coupled)
    path = descend(measure, (5.0, 5.0), GRID, [0, 1], 50)
    best = max(itertools.product(GRID, repeat=2), key=lambda point: coupled(np.array(point)))
    assert path[-1] == best == (3.0, 2.0)
    scores = [coupled(np.array(point)) for point in path]
    assert scores == sorted(scores) and len(set(scores)) == len(scores)
    assert len(asked) < 8 * len(GRID) * 2  # a pass without a change is the last one


def test_the_points_of_all_lines_are_measured_together_and_once():
    measure, asked = measured(separable)
    lines = lines_through(measure, (2.5, 2.0, 2.0), GRID)
    assert len(asked) == len(set(asked)) == 1 + 4 + 3 + 3
    assert lines[0].values == (1.0, 2.0, 2.5, 3.0, 5.0) and lines[1].values == GRID
    assert [line.values[line.base] for line in lines] == [2.5, 2.0, 2.0]


def test_a_gain_is_taken_prompt_by_prompt_and_a_clear_one_is_decided():
    """Levels of prompts differ much more than the gain; they are the same at every value."""
    measure, _ = measured(lambda point: 0.2 * (point[0] == 3.0), noise=0.05)
    [line] = lines_through(measure, (1.0,), GRID)
    assert line.values[line.best] == 3.0 and line.decided
    assert line.gain.estimate.value == pytest.approx(0.2, abs=0.05)
    assert line.range == (3.0, 3.0)


def test_where_nothing_differs_but_noise_there_is_no_winner():
    decided, wide = 0, 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        [line] = lines_through(lambda points, rng=rng: rng.normal(size=(len(points), PROMPTS)), (1.0,), GRID)
        decided += line.decided
        wide += line.range[0] < line.range[1]
    assert decided <= 3 and wide >= 17


def test_of_equals_the_base_stays_and_a_prompt_without_a_value_is_left_out():
    def measure(points):
        values = np.ones((len(points), PROMPTS))
        values[:, 3] = np.nan
        return values

    [line] = lines_through(measure, (2.0,), GRID)
    assert line.best == line.base and not line.decided and line.gain.estimate.value == 0
    assert descend(measure, (2.0,), GRID, [0], 3) == [(2.0,)]
