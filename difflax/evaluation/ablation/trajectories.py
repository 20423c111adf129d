"""Trajectories of chosen cells: what the run takes the finished image to be, at evenly chosen steps, of a few
prompts in a few arms.

    trajectories/<group>_<arm>.npz   the group by its number, the arm by its key

They are drawn after the sweep, which says which arm is best, with the prompts and the noise of its own
images.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Float, Int, UInt8

from difflax.core.files import atomic_write
from difflax.evaluation.ablation.arms import GUIDANCE_SCALE, Arm
from difflax.evaluation.ablation.results import AblationResult, GroupInfo
from difflax.evaluation.ablation.values import is_number
from difflax.figures.png import to_uint8

TRAJECTORY_FOLDER = "trajectories"
STEPS_KEPT = 9
"""The most steps that are kept of a run, the first and the last among them."""

Follow = Callable[[list[str], Int[np.ndarray, " n"], Arm], tuple[Any, Any]]
"""``follow(prompts, seeds, arm)``: the estimate of x0 at every step, [steps, n, h, w, c] in [0, 1], and the
log-SNR that each step started from. Of several processes all call it.
"""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """The first prompts of a group in an arm.

    Attributes:
        group: its number.
        arm: its key.
        seeds: of the images.
        steps: which are shown, from 1.
        of: how many steps the run has.
        log_snr: that each of these started from.
    """

    group: int
    arm: str
    seeds: Int[np.ndarray, " p"]
    steps: Int[np.ndarray, " s"]
    of: int
    log_snr: Float[np.ndarray, " s"]
    images: UInt8[np.ndarray, "s p h w c"]


def chosen_arms(result: AblationResult, group: str) -> dict[int, str]:
    """The arms that are followed in a group, by their index, each with why: the best one, guidance off, the
    largest scale; of a sweep without scales the best one, the first and the last.
    """
    why: dict[int, list[str]] = {}
    primary = [each for each in result.measured if (each.group, each.metric.name) == (group, result.primary)]
    best = primary[0].best if primary else None
    if best is not None:
        why.setdefault(best, []).append("best")
    scales = {
        index: arm.settings[GUIDANCE_SCALE]
        for index, arm in enumerate(result.arms)
        if is_number(arm.settings.get(GUIDANCE_SCALE))
    }
    beside = result.arms[best or 0]
    off = [index for index, scale in scales.items() if scale == 1.0]
    largest = [index for index, scale in scales.items() if scale == max(scales.values())]
    for said, found in (("guidance off", off), ("largest scale", largest)):
        if found:
            why.setdefault(_most_alike(result.arms, found, beside), []).append(said)
    if not scales:
        why.setdefault(0, []).append("first")
        why.setdefault(len(result.arms) - 1, []).append("last")
    return {index: ", ".join(why[index]) for index in sorted(why)}


def _most_alike(arms: Sequence[Arm], among: Iterable[int], other: Arm) -> int:
    """Which shares the most settings with another arm; the first of equals."""
    return max(among, key=lambda i: sum(other.settings.get(k) == v for k, v in arms[i].settings.items()))


def follow_arms(follow: Follow, result: AblationResult, prompts: int, directory: epath.PathLike) -> None:
    """Draws the trajectories of the first ``prompts`` of each group and writes them into the sweep's
    folder.
    """
    folder = epath.Path(directory) / TRAJECTORY_FOLDER
    for number, group in enumerate(result.groups):
        asked = list(group.prompts[:prompts])
        seeds = first_seeds(result, group)[: len(asked)]
        for index in chosen_arms(result, group.name):
            arm = result.arms[index]
            estimates, log_snr = follow(asked, seeds, arm)
            if jax.process_index() == 0:
                _save(
                    folder / f"{number}_{arm.key}.npz", arm, seeds, np.asarray(estimates), np.asarray(log_snr)
                )


def first_seeds(result: AblationResult, group: GroupInfo) -> Int[np.ndarray, " p"]:
    """The seed of the first image of each prompt of a group."""
    each = len(result.records["seed"]) // len(result.arms)
    seeds, names = result.records["seed"][:each], result.records["group"][:each]
    return np.asarray(seeds[names == group.name][:: len(result.seeds)], np.int64)


def _save(
    path: epath.Path,
    arm: Arm,
    seeds: Int[np.ndarray, " p"],
    estimates: Float[np.ndarray, "s p h w c"],
    log_snr: Float[np.ndarray, " s"],
) -> None:
    shown = np.unique(np.linspace(0, len(estimates) - 1, min(STEPS_KEPT, len(estimates))).round().astype(int))
    with atomic_write(path) as file:
        np.savez_compressed(
            file,
            settings=np.array(json.dumps(dict(arm.settings), ensure_ascii=False)),
            seeds=seeds,
            steps=shown + 1,
            of=np.array(len(estimates)),
            log_snr=log_snr[shown].astype(np.float64),
            images=to_uint8(np.clip(estimates[shown], 0, 1)),
        )


def read_trajectories(directory: epath.PathLike, result: AblationResult) -> list[Trajectory]:
    """What a folder holds of the arms of a result, group by group in the order of the arms; a file that
    cannot be read is left out with a warning.
    """
    folder = epath.Path(directory) / TRAJECTORY_FOLDER
    found = []
    for number in range(len(result.groups)):
        for arm in result.arms:
            path = folder / f"{number}_{arm.key}.npz"
            if path.exists():
                found += _read(path, number, arm)
    return found


def _read(path: epath.Path, group: int, arm: Arm) -> list[Trajectory]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("seeds", "steps", "log_snr", "images")}
            return [Trajectory(group=group, arm=arm.key, of=int(stored["of"]), **arrays)]
    except Exception as error:
        # zipfile, zlib and numpy each raise their own types for a damaged archive.
        logging.warning("%s cannot be read (%s): give --trajectories again", path, error)
        return []
