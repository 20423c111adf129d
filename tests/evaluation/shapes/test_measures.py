"""Alignment, coverage and fidelity of true scenes, whose values are known, and of planted faults."""

import numpy as np
import pytest
from difflax.data.shapes import factors, truth
from difflax.data.shapes.captions import parse
from difflax.data.shapes.render import render
from difflax.evaluation import metrics
from difflax.evaluation.judges.shapes.reading import Reading, judge
from difflax.evaluation.shapes import alignment, coverage, fidelity
from scipy.stats import ttest_1samp, wasserstein_distance

# On one worker, so that the judge's programs are compiled once.
pytestmark = pytest.mark.xdist_group("shapes_judge")

PAIR = "a red circle and a large blue star"
TEXTS = (PAIR, "a circle", "three triangles",
         "a small striped pink ring in the top left on a dark background, lit from above",
         "a green triangle left of a pink square", "a star among other shapes", "two hearts")  # fmt: skip


def true_scenes(text, number=64, seed=0):
    return truth.draw(np.random.default_rng(seed), parse(text), number).scenes


def columns_of(scenes, text):
    return alignment.alignment(Reading.of_truth(scenes), [parse(text)] * len(scenes))


def changed(scenes, name, function):
    return scenes.replace(**{name: function(np.array(getattr(scenes, name)))})


# --- alignment


@pytest.mark.parametrize("text", TEXTS)
def test_true_scenes_are_all_right(text):
    for name, column in columns_of(true_scenes(text), text).items():
        assert np.all(np.isnan(column) | (column == 1)), name


def test_pictures_of_true_scenes_are_all_right():
    """The same through the renderer and the judge."""
    texts = TEXTS[:4]
    pictures = np.concatenate([render(true_scenes(text, 8)) for text in texts]).astype(np.float32)
    said = [parse(text) for text in texts for _ in range(8)]
    reading = judge(pictures)
    columns = alignment.alignment(reading, said)
    assert columns["accuracy"].mean() > 0.95
    assert fidelity.residual_psnr(reading).min() > 30


def test_swapped_attributes_are_a_fault_of_binding_alone():
    scenes = true_scenes(PAIR)
    swapped = changed(scenes, "colour", lambda c: c[:, [1, 0, 2]])
    columns = columns_of(swapped, PAIR)
    assert not columns["binding"].any() and not columns["accuracy"].any()
    assert columns["count"].all()
    assert columns_of(scenes, PAIR)["binding"].all()


def test_a_missing_object_is_a_fault_of_counting():
    columns = columns_of(true_scenes(PAIR).replace(count=np.ones(64, int)), PAIR)
    assert not columns["count"].any() and not columns["accuracy"].any()
    assert np.isnan(columns["binding"]).all()


def test_a_wrong_colour_is_found_in_its_column():
    text = "a small yellow star"
    scenes = true_scenes(text, 40)
    half = changed(scenes, "colour", lambda c: np.where(np.arange(40)[:, None] % 2, 0, c))
    columns = columns_of(half, text)
    assert columns["colour"].mean() == columns["accuracy"].mean() == 0.5
    assert columns["shape"].all() and columns["size"].all()
    assert np.isnan(columns["texture"]).all()


def test_mirrored_pictures_break_relations():
    text = "a green triangle left of a pink square"
    scenes = true_scenes(text)
    columns = columns_of(changed(scenes, "x", lambda x: 1 - x), text)
    assert not columns["relation"].any() and columns["shape"].all() and columns["binding"].all()


def test_unreadable_pictures_show_nothing():
    grey = judge(np.full((4, 32, 32, 3), 0.5, np.float32))
    columns = alignment.alignment(grey, [parse(PAIR)] * 4)
    for name in ("accuracy", "shape", "colour", "count"):
        assert not columns[name].any()


def test_chance_is_that_of_the_prior():
    """A scene of the prior is "a circle" if it has one object and that is a circle: 0.5 times P(circle)."""
    rng = np.random.default_rng(5)
    scenes = true_scenes(
        "a picture of a solid shape among other shapes", 8
    )  # any scenes: only their number counts
    scenes = factors.draw_scenes(rng, 4000, truth.COMBINATIONS["train"])
    accuracy = columns_of(scenes, "a circle")["accuracy"].mean()
    everything = parse("a shape")
    p = 0.5 * truth.table(everything, "shape")[0]
    assert accuracy == pytest.approx(p, abs=4 * np.sqrt(p / 4000))


def test_accuracy_by_the_number_of_named_factors():
    scenes = factors.concatenate([true_scenes("a circle", 20), true_scenes("a small red circle", 20)])
    said = [parse("a circle")] * 20 + [parse("a small red circle")] * 20
    wrong = changed(scenes, "size", lambda s: np.where(np.arange(40)[:, None] >= 30, 1, s))
    columns = alignment.alignment(Reading.of_truth(wrong), said)
    found = {k: columns[f"accuracy_{k}_named"] for k in alignment.NAMED}
    means = {k: np.nanmean(v) for k, v in found.items() if not np.isnan(v).all()}
    assert means == {"1": 1.0, "3": 0.5}


# --- coverage


def coverage_of(scenes, text, seed=1):
    found = coverage.Coverage(parse(text), np.random.default_rng(seed))(Reading.of_truth(scenes))
    return {f.name: f for f in found}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("two hearts", 5),
        pytest.param("two hearts", 20, marks=pytest.mark.slow),
        pytest.param("a star among other shapes", 20, marks=pytest.mark.slow),
    ],
)
def test_true_scenes_cover_everything(text, number):
    """Averaged over many sets, the distance of N true scenes is the floor and all entropy is kept."""
    sets = [coverage_of(true_scenes(text, 16, seed), text) for seed in range(number)]
    for name in sets[0]:
        for what, expected, slack in (("kept", 1, 0.02), ("excess", 0, 0.01)):
            found = np.array([getattr(s[name], what) for s in sets if name in s])
            # At a level that chance misses in none of the hundreds of pairs.
            assert abs(found.mean() - expected) < slack or ttest_1samp(found, expected).pvalue > 1e-6, name


def test_a_collapsed_colour_keeps_no_entropy():
    scenes = true_scenes("a ring", 64)
    found = coverage_of(changed(scenes, "colour", lambda c: np.full_like(c, 1)), "a ring")
    p = truth.table(parse("a ring"), "colour")
    assert found["colour"].kept == 0
    assert found["colour"].distance == pytest.approx(1 - p[1], abs=0.02)
    before = coverage_of(scenes, "a ring")
    for name in ("texture", "background", "x"):
        assert found[name].kept == pytest.approx(before[name].kept, abs=0.02)
    collapsed, whole = (coverage.summary(list(f.values())) for f in (found, before))
    assert collapsed["coverage_kept"] < whole["coverage_kept"] - 0.05
    assert collapsed["colour_kept"] == 0 and collapsed["pairs_kept"] < whole["pairs_kept"] - 0.05


def test_joint_collapse_hides_from_single_factors():
    """Light and gradient each stay uniform, but one tells the other."""
    scenes = true_scenes("a ring", 64)
    tied = scenes.replace(light=np.arange(64) % 4, gradient=np.arange(64) % 2)
    found = coverage_of(tied, "a ring")
    assert found["light"].excess < 0.02 and found["gradient"].excess < 0.02
    pair = found["gradient × light"]
    assert pair.distance == pytest.approx(0.5, abs=0.03)
    assert pair.kept == pytest.approx(np.log(4) / np.log(8), abs=0.05)


def test_half_of_the_places_is_a_distance_of_a_quarter_of_them():
    """x over the left half of its range only, against SciPy's Wasserstein-1."""
    scenes = true_scenes("a small ring", 2000)
    left = changed(scenes, "x", lambda x: 0.2 + (x - 0.2) / 2)
    found, true = coverage_of(left, "a small ring")["x"], coverage_of(scenes, "a small ring")["x"]
    expected = wasserstein_distance(left.x[:, 0], true_scenes("a small ring", 8000, seed=9).x[:, 0])
    assert found.distance == pytest.approx(expected, rel=0.05)
    assert true.distance < 0.02 < found.distance


@pytest.mark.parametrize("number", [2, 7])
def test_floors_are_the_means_of_true_samples(number):
    """Against many multinomial draws, and many uniform samples with SciPy's distance."""
    rng = np.random.default_rng(0)
    p = np.array([0.5, 0.3, 0.2, 0.0])
    counts = rng.multinomial(number, p, 20_000)
    floor = coverage.mean_deviation(number, p).sum() / 2
    assert floor == pytest.approx(coverage.total_variation(counts, p).mean(), abs=0.005)
    assert coverage.expected_entropy(number, p) == pytest.approx(coverage.entropy(counts).mean(), abs=0.005)
    true = Reading.of_truth(true_scenes("a small ring", 4 * number))
    found = {f.name: f for f in coverage.Coverage(parse("a small ring"), rng)(true)}
    many = true_scenes("a small ring", 8000, seed=9).x[:, 0]
    sets = rng.choice(many, (400, 4 * number))
    expected = np.mean([wasserstein_distance(some, many) for some in sets])
    assert found["x"].floor == pytest.approx(expected, rel=0.08)


def test_wasserstein_distances():
    rng = np.random.default_rng(0)
    first, second = rng.random(40), rng.beta(2, 5, 70)
    line = coverage.wasserstein(first, second, circle=False)
    assert line == pytest.approx(wasserstein_distance(first, second))
    # On the circle a turn of all points changes nothing, and no way is longer than half of it.
    circle = coverage.wasserstein(first, second, circle=True)
    turned = coverage.wasserstein((first + 0.37) % 1, (second + 0.37) % 1, circle=True)
    assert circle == pytest.approx(turned) and circle <= line + 1e-12
    assert coverage.wasserstein(np.full(3, 0.95), np.full(5, 0.05), circle=True) == pytest.approx(0.1)
    shift = coverage.wasserstein(first, (first + 0.02) % 1, circle=True)
    assert shift == pytest.approx(0.02, abs=1e-9) or shift < 0.02


def test_pictures_that_miss_objects_are_left_out():
    scenes = true_scenes(PAIR, 10)
    assert coverage_of(scenes.replace(count=np.ones(10, int)), PAIR) == {}


# --- fidelity


@pytest.mark.slow
def test_oversaturation_and_noise_cost_fidelity():
    text = "a circle"
    pictures = render(true_scenes(text, 16)).astype(np.float32)
    grey = pictures.mean(-1, keepdims=True)
    strong = (grey + 1.6 * (pictures - grey)).clip(0, 1)
    noisy = (
        (pictures + np.random.default_rng(0).normal(0, 0.03, pictures.shape)).clip(0, 1).astype(np.float32)
    )
    look = fidelity.TrueLook.of_scenes(true_scenes(text, 16), 32)
    true, over, noise = (fidelity.residual_psnr(judge(p)) for p in (pictures, strong, noisy))

    def excess(pictures):
        return look.excess(metrics.hsv_saturation(pictures), metrics.clipped_fraction(pictures))

    assert excess(pictures) == pytest.approx({"saturation_excess": 0, "clipped_excess": 0}, abs=1e-6)
    added = metrics.hsv_saturation(strong).mean() - metrics.hsv_saturation(pictures).mean()
    assert added > 0.05
    assert excess(strong)["saturation_excess"] == pytest.approx(added, abs=1e-6)
    assert excess(strong)["clipped_excess"] > 0.02
    assert np.median(over) < 35 < np.median(true)
    # White noise of σ leaves a residual of about σ², whatever is read.
    assert np.median(noise) == pytest.approx(-20 * np.log10(0.03), abs=1.0)
