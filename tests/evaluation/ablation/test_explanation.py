"""A planted gap of three causes: what each has to do with it is known."""

import json

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.evaluation.ablation import explanation as ex
from difflax.evaluation.ablation.sweep import Painter, run_sweep
from difflax.evaluation.ablation.waterfall import explanation_page, steps, table_rows
from difflax.evaluation.measurement import Instruments, Judge, PromptGroup
from difflax.evaluation.metrics import Metric

from tests.evaluation.known_sweep import SEEN, provenance
from tests.evaluation.test_report import parse

LEVEL = Metric(name="level", label="Level", better="higher", definition="The red of an image.", source="here")
READERS = {"judge": "judge", "feature weights": "none"}
EFFECTS = {"guidance.scale": 0.02, "num_steps": 0.01, "sampler": {"ddim": 0.0, "heun": 0.05}}


def level(settings):
    """Additive, but for what sampler and steps do together."""
    sampler = EFFECTS["sampler"][settings.get("sampler", "ddim")]
    steps = settings.get("num_steps", 4)
    together = 0.03 if sampler and steps > 4 else 0.0
    return 0.1 + 0.02 * settings["guidance.scale"] + 0.01 * steps + sampler + together


def draw(prompts, seeds, arms):
    images = np.zeros((len(prompts), 4, 4, 3), np.float32)
    for image, prompt, seed, arm in zip(images, prompts, seeds, arms, strict=True):
        luck = np.random.default_rng([int(seed), *prompt.encode()]).random()
        image[..., 0] = level(arm.settings) + 0.2 * luck
    return images


def measure_in(folder):
    judge = Judge(read=lambda images, prompts: {"level": images[..., 0].mean((1, 2))}, metrics=(LEVEL,))

    def measure(arms, side):
        return run_sweep(
            Painter(draw=draw, family=lambda arm: ""),
            [PromptGroup(name="seen", prompts=SEEN)],
            arms=arms,
            seeds=side.seeds,
            provenance=provenance(),
            directory=folder / "_".join(map(str, side.seeds)),
            instruments=Instruments(judge=judge),
            batch_size=16,
            show_progress=False,
        )

    return measure


FIRST = ex.Side(settings={"guidance.scale": 1.0, "num_steps": 4}, seeds=(0, 1), readers=READERS)
SECOND = ex.Side(
    settings={"guidance.scale": 4.0, "num_steps": 8, "sampler": "heun"}, seeds=(0, 1), readers=READERS
)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The two ends as they are stored, 0.004 apart from what is measured here, and the explanation."""
    stored = ({"seen": 0.3}, {"seen": 0.484})
    return ex.explain(FIRST, SECOND, stored, "level", measure_in(tmp_path_factory.mktemp("three")))


def test_each_cause_has_its_share(three):
    found, [each] = three
    assert [cause.name for cause in found] == ["guidance.scale", "num_steps", "sampler"]
    assert (found[2].first, found[2].second) == (ex.AS_IT_IS, "heun")
    # What two causes do together is shared by both.
    expected = [0.06, 0.04 + 0.015, 0.05 + 0.015]
    np.testing.assert_allclose([share.value for share in each.attribution.shares], expected, atol=1e-6)
    assert each.attribution.gap.value == pytest.approx(0.18, abs=1e-6)
    assert each.second - each.first == pytest.approx(0.18, abs=1e-6)
    assert each.rest == pytest.approx(0.004, abs=1e-6)
    assert "all 6 orders" in each.attribution.orders


def test_equal_noise_leaves_no_luck_in_the_bands(three):
    for share in three[1][0].attribution.shares:
        assert share.high - share.low < 1e-6


def test_other_seeds_are_a_cause_with_a_band(tmp_path):
    other = ex.Side(settings=FIRST.settings, seeds=(5, 6), readers=READERS)
    found, [each] = ex.explain(FIRST, other, ({"seen": 0.3}, {"seen": 0.3}), "level", measure_in(tmp_path))
    assert [cause.name for cause in found] == ["seeds"]
    share = each.attribution.shares[0]
    assert share.low < 0 < share.high and share.value == pytest.approx(each.second - each.first)


def test_page_and_table_say_every_step(three, tmp_path):
    found, explained = three
    said = ex.ExplainedGap(
        names=("a", "<b>"),
        sources=("difflax ablate a", "difflax ablate b"),
        causes=found,
        explained=explained,
        untouched=[ex.Cause(name="code", first="1.0", second="<i>")],
    )
    page, files = explanation_page(said)
    checked = parse(page)
    text = " ".join(checked.text)
    assert (
        not {"b", "i"} & set(checked.tags)
        and "Not swapped" in text
        and "unexplained" in text
        and "+0.060" in text
        and "Shapley" in text
    )
    assert set(files) == {"waterfall_0.svg", "waterfall_0.pdf"}
    names = [name for name, *_ in steps(found, explained[0])]
    assert names == ["guidance.scale", "num_steps", "sampler", "unexplained"]
    ends = table_rows(found, explained[0])
    assert float(ends[-1][3]) == 0.184 and float(ends[-2][3]) == 0.18
    document = json.loads(ex.explanation_json(said))
    shares = {share["cause"]: share["value"] for share in document["explained"][0]["shares"]}
    assert shares["guidance.scale"] == pytest.approx(0.06, abs=1e-6)


def test_nothing_to_swap_is_said(tmp_path):
    with pytest.raises(UserError, match="nothing can be swapped"):
        ex.explain(FIRST, FIRST, ({}, {}), "level", measure_in(tmp_path))
    with pytest.raises(UserError, match="--metric=beauty"):
        ex.explain(FIRST, SECOND, ({}, {}), "beauty", measure_in(tmp_path))


def test_judge_and_feature_weights_are_swapped_apart():
    other = ex.Side(
        settings=FIRST.settings, seeds=(0, 1), readers={"judge": "another", "feature weights": "CLIP"}
    )
    found = ex.causes(FIRST, other)
    assert [cause.name for cause in found] == ["judge", "feature weights"]
    half = ex.mixed(FIRST, other, found, frozenset({1}))
    assert half.readers == {"judge": "judge", "feature weights": "CLIP"}


def test_what_means_nothing_alone_goes_with_its_leader():
    def side(**settings):
        return ex.Side(settings=settings, seeds=(0,), readers=READERS)

    one, other = side(lora="a", lora_scale=0.5, step=1), side(lora=None, lora_scale=1.0, step=2)
    found = ex.causes(one, other)
    assert [(cause.name, cause.first) for cause in found] == [("lora", "a, lora_scale 0.5"), ("step", "1")]
    swapped = ex.mixed(one, other, found, frozenset({0})).settings
    assert swapped == {"lora": None, "lora_scale": 1.0, "step": 1}
    # Of the same LoRA its weight is a cause.
    assert [cause.name for cause in ex.causes(one, side(lora="a", lora_scale=2.0, step=1))] == ["lora_scale"]
