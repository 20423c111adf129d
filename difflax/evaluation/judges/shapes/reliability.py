"""How far the judge of the shapes world can be trusted: its readings of pictures whose scenes are known.

Of true renders, and of the same ones after what generated pictures suffer from: noise, blur, too much
saturation.
"""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from difflax.data.shapes import factors
from difflax.data.shapes.factors import Scenes
from difflax.data.shapes.render import pictures
from difflax.data.shapes.splits import COMBINATIONS
from difflax.evaluation.judges.shapes.reading import Reading, judge
from difflax.evaluation.judges.shapes.segment import SIZE

OF_OBJECTS = ("shape", "colour", "texture", "size")
NEAR = 0.5  # pixels of 32 that a place or a radius may be off
TURNED = np.radians(5)  # that a rotation or a gradient's direction may be off

Pictures = Float[np.ndarray, "n h w 3"]


def noisy(pictures: Pictures, strength: float) -> Pictures:
    """With white noise of this standard deviation."""
    return pictures + np.random.default_rng(0).normal(0, strength, pictures.shape)


def blurred(pictures: Pictures, strength: float) -> Pictures:
    """Under a Gaussian of this standard deviation in pixels."""
    return ndimage.gaussian_filter(pictures, (0, strength, strength, 0))


def saturated(pictures: Pictures, strength: float) -> Pictures:
    """With so many times the distance from grey."""
    grey = pictures.mean(-1, keepdims=True)
    return grey + strength * (pictures - grey)


SPOILED: tuple[tuple[Callable[[Pictures, float], Pictures], float], ...] = (
    (noisy, 0.03),
    (noisy, 0.1),
    (blurred, 0.4),
    (blurred, 0.8),
    (saturated, 1.3),
    (saturated, 2.0),
)
"""Ways to spoil pictures, with their strengths."""


def reliability(number: int = 1024, seed: int = 12) -> dict[str, Mapping[str, float]]:
    """The shares of right readings (`shares_right`) of true renders, and of each way to spoil them.

    Args:
        number: of scenes, drawn from the prior with all combinations of shape, colour and texture.
        seed: of the scenes.
    """
    every = np.concatenate([COMBINATIONS[split] for split in ("train", "held_out", "held_out_2")])
    scenes = factors.draw_scenes(np.random.default_rng(seed), number, every)
    true = pictures(scenes, SIZE)
    out = {"true renders": shares_right(scenes, judge(true))}
    for spoil, strength in SPOILED:
        spoiled = spoil(true / 255, strength).clip(0, 1).astype(np.float32)
        out[f"{spoil.__name__}, {strength:g}"] = shares_right(scenes, judge(spoiled))
    return out


def reliability_markdown(table: Mapping[str, Mapping[str, float]]) -> str:
    """What `reliability` returns, a row a kind of pictures, in percent."""
    names = list(next(iter(table.values())))
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    lines += [
        f"| {kind} | {' | '.join(f'{100 * row[n]:.2f}' for n in names)} |" for kind, row in table.items()
    ]
    return "\n".join(lines) + "\n"


def shares_right(scenes: Scenes, reading: Reading) -> dict[str, float]:
    """The share of right readings of each factor; objects are matched by their places.

    A picture that is not readable has nothing right. Places and radii may be `NEAR` off, rotations (where the
    shape has one) and the directions of gradients `TURNED`.
    """
    read, readable = reading.scenes, reading.readable
    out = {
        name: np.mean(readable & (getattr(read, name) == getattr(scenes, name)))
        for name in ("count", "background", "gradient", "light")
    }
    turned = scenes.gradient == 1
    off = abs((read.direction - scenes.direction + np.pi) % (2 * np.pi) - np.pi)
    out["direction"] = np.mean((readable & (off < TURNED))[turned])
    found = {name: [] for name in (*OF_OBJECTS, "place", "radius", "rotation")}
    for i in range(len(scenes)):
        for row, k in zip(range(scenes.count[i]), _matched(scenes, read, i), strict=True):
            there = readable[i] and k < read.count[i]
            for name in OF_OBJECTS:
                found[name].append(there and getattr(read, name)[i, k] == getattr(scenes, name)[i, row])
            distance = SIZE * np.hypot(read.x[i, k] - scenes.x[i, row], read.y[i, k] - scenes.y[i, row])
            found["place"].append(there and distance < NEAR)
            found["radius"].append(there and SIZE * abs(read.radius[i, k] - scenes.radius[i, row]) < NEAR)
            if period := factors.ROTATION_PERIODS[scenes.shape[i, row]]:
                away = read.rotation[i, k] - scenes.rotation[i, row]
                found["rotation"].append(there and abs((away + period / 2) % period - period / 2) < TURNED)
    return {name: float(value) for name, value in out.items()} | {
        name: float(np.mean(values)) for name, values in found.items()
    }


def _matched(scenes: Scenes, read: Scenes, i: int) -> tuple[int, ...]:
    """The read rows that lie nearest to the true objects of picture ``i``, each used once."""
    count = int(scenes.count[i])

    def distance(rows):
        at = list(rows)
        away = np.hypot(read.x[i, at] - scenes.x[i, :count], read.y[i, at] - scenes.y[i, :count])
        return np.sum(np.where(np.array(rows) < read.count[i], away, 9))

    return min(itertools.permutations(range(factors.MAX_OBJECTS), count), key=distance)
