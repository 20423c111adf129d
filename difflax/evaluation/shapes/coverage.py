"""Coverage: do pictures of one caption show everything that it leaves open, as often as the truth does?

For every open factor of a caption the distribution in N pictures is held against the true one,
p(factor | caption) of `difflax.data.shapes.truth`:

- discrete factors by total variation ``½ Σ |p̂ − p|``;
- continuous ones by the Wasserstein-1 distance: places and radii in shares of the side, rotations in shares
  of the 20° that they are drawn from, and directions in turns, on the circle (Rabin, Delon and Gousseau 2011:
  the L1 distance of the distribution functions less their median difference);
- both by the entropy kept, ``H(p̂) / E[H(p̂ of N true pictures)]``: 1 is all, 0 one single value. A continuous
  factor is cut into eight parts of equal true probability for it;
- pairs of discrete factors by both, jointly: marginals can be right where every picture is one of two.

N true pictures are not at distance 0 either. Their mean distance is the ``floor``, and ``excess`` is what
lies above it, as a share of the room above. Floors and entropies of N true pictures are exact: how many of
them have one value is binomial, so ``E|k/N − p|`` and ``E[−k/N log k/N]`` are sums over k, and

    E[TV] = ½ Σ_v E|k_v/N − p_v|,    E[W1] = ∫ E|k(x)/N − F(x)| dx,    E[H] = Σ_v E[−k_v/N log(k_v/N)].

Directions are uniform in the truth whatever the caption says; their floor alone, with its median, is drawn.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from difflax.data.shapes import factors, truth
from difflax.data.shapes.captions import Caption
from difflax.data.shapes.factors import Scenes
from difflax.data.shapes.splits import COMBINATIONS
from difflax.evaluation.judges.shapes.reading import Reading
from difflax.evaluation.shapes.alignment import match

TRUE_SCENES, LEAST_SCENES = 4096, 32  # drawn of a caption, the fewer the rarer its places come together
QUANTILES = 512  # that a continuous factor's true distribution is kept by
REPEATS = 200  # sets of N true angles
BINS = 8  # of a continuous factor
JOINED = " × "

DISCRETE = {
    "shape": len(factors.SHAPES),
    "colour": len(factors.COLOURS),
    "texture": len(factors.TEXTURES),
    "size": len(factors.SIZES),
}
MEASURES_OF_PLACE = ("x", "y", "radius")
SCENE_DISCRETE = {
    "background": len(factors.BACKGROUNDS),
    "gradient": len(factors.GRADIENTS),
    "light": len(factors.LIGHTS),
}
FACTORS = (*DISCRETE, *MEASURES_OF_PLACE, "rotation", *SCENE_DISCRETE, "direction", "count")
"""Everything that a caption may leave open."""


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

    @property
    def kind(self) -> str:
        """Its name in `FACTORS`, whichever object it is of; "pairs" of a pair."""
        return "pairs" if JOINED in self.name else self.name.rpartition("'s ")[2]


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


# --- what N true pictures give


def _binomial(number: int, p: Float[np.ndarray, " v"]) -> Float[np.ndarray, "k v"]:
    """The probability that k = 0 … ``number`` of so many true pictures have each value."""
    from scipy.special import gammaln, xlog1py, xlogy

    k = np.arange(number + 1)[:, None]
    ways = gammaln(number + 1) - gammaln(k + 1) - gammaln(number - k + 1)
    return np.exp(ways + xlogy(k, p) + xlog1py(number - k, -p))


def mean_deviation(number: int, p: Float[np.ndarray, " v"]) -> Float[np.ndarray, " v"]:
    """``E|k/N − p|`` of the frequency of each value in N true pictures."""
    share = np.arange(number + 1)[:, None] / number
    return np.sum(_binomial(number, p) * abs(share - p), 0)


def expected_entropy(number: int, p: Float[np.ndarray, " v"]) -> float:
    """``E[H(p̂)]`` of N true pictures, in nats."""
    from scipy.special import entr

    share = np.arange(number + 1)[:, None] / number
    return float(np.sum(_binomial(number, p) * entr(share)))


@functools.lru_cache(1024)
def _circle_floor(number: int) -> float:
    """The mean Wasserstein-1 distance of so many uniform angles from the uniform distribution."""
    true = _middles(QUANTILES)
    draws = np.random.default_rng(0).random((REPEATS, number))
    return float(np.mean([wasserstein(some, true, circle=True) for some in draws]))


def _middles(number: int) -> Float[np.ndarray, " n"]:
    return (np.arange(number) + 0.5) / number


def _ratio(counts: Int[np.ndarray, " v"], full: float) -> float:
    return float(entropy(counts) / full) if full > 1e-12 else 1.0


@dataclasses.dataclass(frozen=True)
class _Discrete:
    """The true distribution of a discrete factor; floor and entropy by the number of pictures."""

    p: Float[np.ndarray, " v"]
    known: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def compare(self, name: str, values: Int[np.ndarray, " n"]) -> Factor:
        number = len(values)
        if number not in self.known:
            floor = mean_deviation(number, self.p).sum() / 2
            self.known[number] = float(floor), expected_entropy(number, self.p)
        floor, full = self.known[number]
        counts = np.bincount(values, minlength=len(self.p))
        distance = float(total_variation(counts, self.p))
        return Factor(name=name, distance=distance, floor=floor, kept=_ratio(counts, full), count=number)


@dataclasses.dataclass(frozen=True)
class _Continuous:
    """The same of a continuous factor, its true distribution by its quantiles."""

    quantiles: Float[np.ndarray, " q"]
    circle: bool
    known: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def compare(self, name: str, values: Float[np.ndarray, " n"]) -> Factor:
        number, true = len(values), self.quantiles
        if number not in self.known:
            full = expected_entropy(number, np.full(BINS, 1 / BINS))
            self.known[number] = self._floor(number), full
        floor, full = self.known[number]
        borders = true[len(true) // BINS :: len(true) // BINS][: BINS - 1]
        counts = np.bincount(np.searchsorted(borders, values), minlength=BINS)
        distance = wasserstein(values, true, circle=self.circle)
        return Factor(name=name, distance=distance, floor=floor, kept=_ratio(counts, full), count=number)

    def _floor(self, number: int) -> float:
        if self.circle:
            return _circle_floor(number)
        between = np.arange(1, len(self.quantiles)) / len(self.quantiles)
        return float(np.sum(np.diff(self.quantiles) * mean_deviation(number, between)))


class Coverage:
    """What is true of a caption, drawn once, and how pictures of it compare: see the module's docstring.

    Args:
        caption: what was asked for.
        rng: of the true scenes.
        combinations: objects that the caption does not fix are of these (shape, colour, texture).

    Raises:
        UserError: practically no scene is like this.
    """

    def __init__(
        self,
        caption: Caption,
        rng: np.random.Generator,
        combinations: Int[np.ndarray, "k 3"] = COMBINATIONS["train"],
    ):
        self.caption = caption
        self.scenes = truth.draw(rng, caption, TRUE_SCENES, combinations, LEAST_SCENES).scenes
        # True scenes are matched like read ones, since a caption may fit several objects of a scene.
        true = _open_values(caption, self.scenes, _matched(Reading.of_truth(self.scenes), caption))
        self._true: dict[str, _Discrete | _Continuous] = {}
        for name, (values, size) in true.discrete.items():
            self._true[name] = _Discrete(np.bincount(values, minlength=size) / len(values))
        for name, (values, circle) in true.continuous.items():
            middles = _middles(QUANTILES)
            self._true[name] = _Continuous(middles if circle else np.quantile(values, middles), circle)

    def __call__(self, reading: Reading) -> list[Factor]:
        """Every open factor of the caption in pictures of it, then all pairs of discrete ones.

        Pictures that cannot be read, or show fewer objects than are named, are left out: they are a matter of
        alignment. Of none left, the list is empty.
        """
        rows = _matched(reading, self.caption)
        used = reading.readable & (rows < reading.scenes.count[:, None]).all(-1)
        if not used.any():
            return []
        seen = _open_values(self.caption, reading.scenes[used], rows[used])
        open_ = {name: values for name, (values, _) in (seen.discrete | seen.continuous).items()}
        return [self._true[name].compare(name, values) for name, values in open_.items() if len(values)]


def summary(found: list[Factor]) -> Mapping[str, float]:
    """Means of one caption by name: "coverage_kept" and "coverage_excess" over all open factors,
    "pairs_kept", "pairs_excess", and "colour_kept", "colour_excess" and the like of each of `FACTORS` that is
    open.
    """
    out = {}
    for what in ("kept", "excess"):
        of_kind: dict[str, list[float]] = {}
        for factor in found:
            of_kind.setdefault(factor.kind, []).append(getattr(factor, what))
        single = [value for kind, values in of_kind.items() if kind != "pairs" for value in values]
        out |= {f"coverage_{what}": float(np.mean(single))} if single else {}
        out |= {f"{kind}_{what}": float(np.mean(values)) for kind, values in of_kind.items()}
    return out


def _matched(reading: Reading, caption: Caption) -> Int[np.ndarray, "n m"]:
    number = len(reading.error)
    return np.array(match(reading, [caption] * number), int).reshape(number, len(caption.objects))


@dataclasses.dataclass(frozen=True)
class _Values:
    """The open factors by name: discrete ones and pairs of them with how many values there are, continuous
    ones with whether they lie on a circle.
    """

    discrete: dict[str, tuple[Int[np.ndarray, " n"], int]]
    continuous: dict[str, tuple[Float[np.ndarray, " n"], bool]]


def _open_values(caption: Caption, scenes: Scenes, slots: Int[np.ndarray, "n m"]) -> _Values:
    discrete: dict[str, tuple[np.ndarray, int]] = {}
    continuous: dict[str, tuple[np.ndarray, bool]] = {}
    for k, named in enumerate(caption.objects):
        whose = f"object {k + 1}'s " if len(caption.objects) > 1 else ""
        each = np.arange(len(slots)), slots[:, k]
        for name, size in DISCRETE.items():
            if getattr(named, name) is None:
                discrete[whose + name] = np.asarray(getattr(scenes, name))[each], size
        continuous |= {whose + name: (getattr(scenes, name)[each], False) for name in MEASURES_OF_PLACE}
        turning = factors.ROTATION_PERIODS[scenes.shape[each]] > 0
        if named.shape is None or factors.ROTATION_PERIODS[named.shape] > 0:
            turned = scenes.rotation[each][turning] / (2 * factors.MOST_TURNED)
            continuous[whose + "rotation"] = (turned, False)
    for name, size in SCENE_DISCRETE.items():
        if getattr(caption, name, None) is None:
            discrete[name] = np.asarray(getattr(scenes, name)), size
    continuous["direction"] = (scenes.direction[scenes.gradient == 1] / (2 * np.pi) % 1, True)
    if caption.more:
        discrete["count"] = np.asarray(scenes.count), factors.MAX_OBJECTS + 1
    for (first, (v, n)), (second, (w, m)) in itertools.combinations(list(discrete.items()), 2):
        discrete[first + JOINED + second] = v * m + w, n * m
    return _Values(discrete, continuous)
