"""Coverage: do pictures of one caption show everything that it leaves open, as often as the truth does?

For every open factor of a caption the distribution in N pictures is held against the true one,
p(factor | caption) of `difflax.data.shapes.truth`:

- discrete factors by total variation ``½ Σ |p̂ − p|``;
- continuous ones by the Wasserstein-1 distance, on the circle for angles (Rabin, Delon and Gousseau 2011:
  the L1 distance of the distribution functions less their median difference), in shares of the side or turn;
- both by the entropy kept, ``H(p̂) / E[H(p̂ of N true pictures)]``: 1 is all, 0 one single value. A continuous
  factor is cut into eight parts of equal true probability for it;
- pairs of discrete factors by both, jointly: marginals can be right where every picture is one of two.

N true pictures are not at distance 0 either. What they give is drawn from the truth many times: its mean is
``floor``, and ``excess`` is what lies above it, as a share of the room above.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from difflax.data.shapes import factors, truth
from difflax.data.shapes.captions import Caption
from difflax.data.shapes.factors import Scenes
from difflax.data.shapes.splits import COMBINATIONS
from difflax.evaluation import statistics
from difflax.evaluation.judges.shapes.reading import Reading
from difflax.evaluation.shapes.alignment import match
from difflax.evaluation.statistics import Estimate

TRUE_SCENES = 8192  # drawn of a caption
REPEATS = 200  # sets of N true scenes
BINS = 8  # of a continuous factor

DISCRETE = {
    "shape": len(factors.SHAPES),
    "colour": len(factors.COLOURS),
    "texture": len(factors.TEXTURES),
    "size": len(factors.SIZES),
}
SCENE_DISCRETE = {
    "background": len(factors.BACKGROUNDS),
    "gradient": len(factors.GRADIENTS),
    "light": len(factors.LIGHTS),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Factor:
    """One open factor of a caption, or a pair of them, in N pictures and in the truth.

    Attributes:
        name: "colour", or "object 2's colour", or two names joined by "×".
        distance: from the truth: total variation or Wasserstein-1.
        floor: the mean distance of as many true pictures.
        kept: the share of the entropy of as many true pictures.
        count: of the pictures that show it.
    """

    name: str
    distance: float
    floor: float
    kept: float
    count: int

    @property
    def excess(self) -> float:
        """How far the distance lies above that of true pictures: 0 as true, about 1 as wrong as can be."""
        return (self.distance - self.floor) / (1 - self.floor)


def total_variation(counts: Int[np.ndarray, "*b v"], p: Float[np.ndarray, " v"]) -> Float[np.ndarray, "*b"]:
    """``½ Σ |p̂ − p|`` of the frequencies of ``counts``, in [0, 1]."""
    return np.asarray(abs(counts / counts.sum(-1, keepdims=True) - p).sum(-1) / 2)


def entropy(counts: Int[np.ndarray, "*b v"]) -> Float[np.ndarray, "*b"]:
    """``−Σ p̂ log p̂`` in nats, of the frequencies themselves, without correction for their number."""
    p = counts / counts.sum(-1, keepdims=True)
    return np.asarray(-np.sum(p * np.log(np.where(p > 0, p, 1)), -1))


def wasserstein(values: Float[np.ndarray, " n"], true: Float[np.ndarray, " m"], *, circle: bool) -> float:
    """The Wasserstein-1 distance of two samples; with ``circle`` of points on a circle of length 1."""
    points = np.sort(np.concatenate([values, true, [0.0, 1.0] if circle else []]))
    widths = np.diff(points)
    first, second = (np.searchsorted(np.sort(v), points[:-1], "right") / len(v) for v in (values, true))
    difference = first - second
    if circle:
        order = np.argsort(difference)
        middle = np.searchsorted(np.cumsum(widths[order]), widths.sum() / 2)
        difference = difference - difference[order][middle]
    return float(np.sum(widths * abs(difference)))


def coverage(
    reading: Reading,
    caption: Caption,
    rng: np.random.Generator,
    combinations: Int[np.ndarray, "k 3"] = COMBINATIONS["train"],
) -> list[Factor]:
    """Every open factor of a caption in pictures of it, then all pairs of discrete ones.

    Pictures that cannot be read, or show fewer objects than are named, are left out: they are a matter of
    alignment. Of none left, the list is empty.
    """
    rows = _matched(reading, caption)
    used = reading.readable & (rows < reading.scenes.count[:, None]).all(-1)
    if not used.any():
        return []
    # True scenes are matched like read ones, since a caption may fit several objects of a scene.
    true_scenes = truth.draw(rng, caption, TRUE_SCENES, combinations).scenes
    true_rows = _matched(Reading.of_truth(true_scenes), caption)
    images, true = (
        _open_values(caption, scenes, slots)
        for scenes, slots in ((reading.scenes[used], rows[used]), (true_scenes, true_rows))
    )
    out = [_discrete(name, images.discrete[name], true.discrete[name], rng) for name in true.discrete]
    for name, (values, circle) in images.continuous.items():
        if len(values):
            out.append(_continuous(name, values, true.continuous[name][0], circle, rng))
    for first, second in itertools.combinations(true.discrete, 2):
        size = int(max(v[second].max() for v in (images.discrete, true.discrete))) + 1
        pair = [v[first] * size + v[second] for v in (images.discrete, true.discrete)]
        out.append(_discrete(f"{first} × {second}", *pair, rng))
    return out


def _matched(reading: Reading, caption: Caption) -> Int[np.ndarray, "n m"]:
    number = len(reading.error)
    return np.array(match(reading, [caption] * number), int).reshape(number, len(caption.objects))


@dataclasses.dataclass(frozen=True)
class _Values:
    """The open factors by name; continuous ones with whether they lie on a circle."""

    discrete: dict[str, Int[np.ndarray, " n"]]
    continuous: dict[str, tuple[Float[np.ndarray, " n"], bool]]


def _open_values(caption: Caption, scenes: Scenes, slots: Int[np.ndarray, "n m"]) -> _Values:
    discrete: dict[str, np.ndarray] = {}
    continuous: dict[str, tuple[np.ndarray, bool]] = {}
    for k, named in enumerate(caption.objects):
        whose = f"object {k + 1}'s " if len(caption.objects) > 1 else ""
        each = np.arange(len(slots)), slots[:, k]
        for name in DISCRETE:
            if getattr(named, name) is None:
                discrete[whose + name] = np.asarray(getattr(scenes, name))[each]
        continuous |= {whose + name: (getattr(scenes, name)[each], False) for name in ("x", "y", "radius")}
        period = factors.ROTATION_PERIODS[scenes.shape[each]]
        turns = scenes.rotation[each][period > 0] / period[period > 0]
        if named.shape is None or factors.ROTATION_PERIODS[named.shape] > 0:
            continuous[whose + "rotation"] = (turns % 1, True)
    for name in SCENE_DISCRETE:
        if getattr(caption, name, None) is None:
            discrete[name] = np.asarray(getattr(scenes, name))
    continuous["direction"] = (scenes.direction[scenes.gradient == 1] / (2 * np.pi) % 1, True)
    if caption.more:
        discrete["count"] = np.asarray(scenes.count)
    return _Values(discrete, continuous)


def _discrete(name: str, values: np.ndarray, true: np.ndarray, rng: np.random.Generator) -> Factor:
    size = int(max(values.max(), true.max())) + 1
    p = np.bincount(true, minlength=size) / len(true)
    counts = np.bincount(values, minlength=size)
    of_truth = rng.multinomial(len(values), p, REPEATS)
    return Factor(
        name=name,
        distance=float(total_variation(counts, p)),
        floor=float(total_variation(of_truth, p).mean()),
        kept=_kept(counts, of_truth),
        count=len(values),
    )


def _continuous(name: str, values: np.ndarray, true: np.ndarray, circle: bool, rng) -> Factor:
    sets = rng.choice(true, (REPEATS // 4, len(values)))
    borders = np.quantile(true, np.arange(1, BINS) / BINS)
    count: Callable = lambda v: np.bincount(np.searchsorted(borders, v), minlength=BINS)  # noqa: E731
    return Factor(
        name=name,
        distance=wasserstein(values, true, circle=circle),
        floor=float(np.mean([wasserstein(some, true, circle=circle) for some in sets])),
        kept=_kept(count(values), np.stack([count(some) for some in sets])),
        count=len(values),
    )


def _kept(counts: np.ndarray, of_truth: np.ndarray) -> float:
    full = entropy(of_truth).mean()
    return float(entropy(counts) / full) if full > 0 else 1.0


def estimates(of_captions: Sequence[Sequence[Factor]]) -> dict[str, Estimate]:
    """Means over captions with bands: "kept", "excess", and both of pairs alone."""
    out = {}
    groups = {"": lambda f: "×" not in f.name, "pairs ": lambda f: "×" in f.name}
    for group, belongs in groups.items():
        for what in ("kept", "excess"):
            means = [[getattr(f, what) for f in some if belongs(f)] for some in of_captions]
            values = np.array([np.mean(m) for m in means if m])
            if len(values):
                out[group + what] = statistics.mean(values, np.arange(len(values)))
    return out
