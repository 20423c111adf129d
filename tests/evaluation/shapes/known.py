"""How much of what is known of scenes was read."""

import itertools

import numpy as np
from difflax.data.shapes import factors

DISCRETE = ("shape", "colour", "texture", "size")


def shares_right(scenes, reading):
    """The share of right readings of each factor; objects are matched by their places."""
    read = reading.scenes
    out = {
        name: np.mean(getattr(read, name) == getattr(scenes, name))
        for name in ("count", "background", "gradient")
    }
    out["light"] = np.mean(read.light == scenes.light)
    turned = scenes.gradient == 1
    off = abs((read.direction - scenes.direction + np.pi) % (2 * np.pi) - np.pi)[turned]
    out["direction"] = np.mean(off < np.radians(5))
    found = {name: [] for name in (*DISCRETE, "place", "rotation", "radius")}
    for i in range(len(scenes)):
        for row, k in zip(range(scenes.count[i]), matched(scenes, read, i), strict=True):
            there = k < read.count[i]
            for name in DISCRETE:
                found[name].append(there and getattr(read, name)[i, k] == getattr(scenes, name)[i, row])
            distance = 32 * np.hypot(read.x[i, k] - scenes.x[i, row], read.y[i, k] - scenes.y[i, row])
            found["place"].append(there and distance < 0.5)
            found["radius"].append(there and 32 * abs(read.radius[i, k] - scenes.radius[i, row]) < 0.5)
            if period := factors.ROTATION_PERIODS[scenes.shape[i, row]]:
                off = abs((read.rotation[i, k] - scenes.rotation[i, row] + period / 2) % period - period / 2)
                found["rotation"].append(there and off < np.radians(5))
    return out | {name: np.mean(values) for name, values in found.items()}


def matched(scenes, read, i):
    """The read rows that lie nearest to the true objects of picture ``i``, each used once."""
    count = scenes.count[i]

    def distance(rows):
        away = np.hypot(
            read.x[i, list(rows)] - scenes.x[i, :count], read.y[i, list(rows)] - scenes.y[i, :count]
        )
        return np.sum(np.where(np.array(rows) < read.count[i], away, 9))

    return min(itertools.permutations(range(3), int(count)), key=distance)
