"""The guidance ablation: the same prompts and seeds in every arm, measured.

Every arm draws the same (prompt, seed) pairs, so curves of two arms differ by their settings alone. Images
are drawn in batches of one size, and arms that share a program fill them together: one compilation serves
each structurally different method. A finished arm is on disk before the next one is measured, so a sweep that
was stopped goes on where it was.
"""

import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Int

from difflax.core.ahead import made_ahead
from difflax.core.types import UserError
from difflax.evaluation.ablation.arms import GUIDANCE_SCALE, Arm, arms_of_scales, check_arms
from difflax.evaluation.ablation.cells import CellStore
from difflax.evaluation.ablation.pictures import Album
from difflax.evaluation.ablation.results import AblationResult, Provenance
from difflax.evaluation.ablation.summary import summarize
from difflax.evaluation.measurement import (
    Design,
    Images,
    Instruments,
    Measurement,
    PromptGroup,
    measure,
    measure_real,
    text_features,
)
from difflax.parallel.processes import same_everywhere

Generate = Callable[[list[str], Int[np.ndarray, " n"], float], Any]
"""``generate(prompts, seeds, guidance_scale) -> images``: float32 ``[n, h, w, c]`` in [0, 1]."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Painter:
    """What makes the images of a sweep.

    Attributes:
        draw: ``draw(prompts, seeds, arms) -> images``, float32 ``[n, h, w, c]`` in [0, 1], one arm an image,
            all of one family. Of several processes all call it.
        family: what the arms have in common that may stand in one batch; families are drawn one after the
            other.
        model: what names an arm's weights; arms of the same are drawn one after the other.
        fingerprint: of the model that an arm has instead of the sweep's own, "" where that is its own.
        labels: of the axes in words, by name.
    """

    draw: Callable[[list[str], Int[np.ndarray, " n"], list[Arm]], Any]
    family: Callable[[Arm], str]
    model: Callable[[Arm], str] = lambda arm: ""
    fingerprint: Callable[[Arm], str] = lambda arm: ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)


def by_scale(generate: Generate) -> Painter:
    """The painter of a sweep over guidance scales, one scale a batch."""

    def draw(prompts: list[str], seeds: Int[np.ndarray, " n"], arms: list[Arm]) -> Any:
        return generate(prompts, seeds, arms[0].settings[GUIDANCE_SCALE])

    return Painter(draw=draw, family=lambda arm: arm.key)


def check(groups: Sequence[PromptGroup], seeds: Sequence[int], batch_size: int, grid_prompts: int) -> None:
    """Raises UserError for a sweep that cannot be run or would mislead."""
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"seeds={list(seeds)}: give at least one seed, non-negative and each once")
    for name, value in (("batch_size", batch_size), ("grid_prompts", grid_prompts)):
        if value < 1:
            raise UserError(f"{name}={value}: must be at least 1")
    names = [group.name for group in groups]
    if not groups or len(set(names)) < len(names):
        raise UserError(f"prompt groups {names}: give at least one, each with its own name")
    for group in groups:
        if not group.prompts or len(set(group.prompts)) < len(group.prompts):
            raise UserError(f"prompt group {group.name!r}: give at least one prompt, each once")
        if group.real_prompts is not None and (
            group.real_images is None or len(group.real_prompts) != len(group.real_images)
        ):
            raise UserError(f"prompt group {group.name!r}: real_prompts and real_images differ in number")


def run_ablation(
    generate: Generate,
    groups: Sequence[PromptGroup],
    *,
    scales: Sequence[float | int],
    seeds: Sequence[int],
    provenance: Provenance,
    directory: str | os.PathLike[str],
    instruments: Instruments = Instruments(),
    batch_size: int = 64,
    grid_prompts: int = 6,
    show_progress: bool = True,
) -> AblationResult:
    """Sweeps the guidance scale alone, see `run_sweep`.

    Args:
        generate: makes the images of a batch at one scale.
        scales: any distinct real numbers; 1 is guidance off, 0 is unconditional.
    """
    return run_sweep(
        by_scale(generate),
        groups,
        arms=arms_of_scales(scales),
        seeds=seeds,
        provenance=provenance,
        directory=directory,
        instruments=instruments,
        batch_size=batch_size,
        grid_prompts=grid_prompts,
        show_progress=show_progress,
    )


def run_sweep(
    painter: Painter,
    groups: Sequence[PromptGroup],
    *,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    provenance: Provenance,
    directory: str | os.PathLike[str],
    instruments: Instruments = Instruments(),
    batch_size: int = 64,
    grid_prompts: int = 6,
    album: Album | None = None,
    show_progress: bool = True,
) -> AblationResult:
    """Draws and measures every arm; finished arms are stored under ``directory/cells`` and reused.

    Args:
        painter: makes the images of a batch; always called with ``batch_size`` prompts (the last batch of a
            family is filled up with its last prompt and seed, and the surplus dropped). Of several processes
            all measure and get the result; the first one writes.
        arms: what is compared, each once.
        seeds: the images of each prompt, the same in every arm (`Design.seed`); at least two are needed for
            diversity.
        provenance: stored with the result; a changed checkpoint, fingerprint, sampler, config or version
            makes stored arms unusable.
        grid_prompts: how many prompts of each group are shown in the image grid.
        album: keeps every image; a stored arm whose images it lacks is drawn again.
        show_progress: a progress bar, where standard error is a terminal.

    Returns:
        The result; nothing but the stored arms is written.

    Raises:
        UserError: arms, seeds or prompts that are empty or repeated, or a directory with another sweep.
        ValueError: images that are not finite, in [0, 1] and of the promised shape.
    """
    from tqdm import tqdm

    check_arms(arms)
    check(groups, seeds, batch_size, grid_prompts)
    design = Design(groups=tuple(groups), seeds=tuple(int(seed) for seed in seeds), grid_prompts=grid_prompts)
    store = CellStore(epath.Path(directory) / "cells", identity(design, instruments, provenance))
    store.check()
    texts = text_features(instruments, design.prompts, batch_size)
    found: dict[str, Measurement] = {}
    for arm in arms:
        stored = store.load(arm, painter.fingerprint) if store.path(arm).exists() else None
        if not same_everywhere(stored is not None):
            raise UserError(
                f"{directory}: not all processes find the arm {arm.label!r} there: give an --output that all"
                " reach"
            )
        if stored is not None and (album is None or not album.lacks(arm.key)):
            found[arm.key] = stored
    each = len(design.captions)
    quiet = not show_progress or jax.process_index() != 0
    with tqdm(
        total=len(arms) * each,
        initial=len(found) * each,
        unit="image",
        desc="ablation",
        disable=True if quiet else None,
    ) as bar:
        missing = [arm for arm in arms if arm.key not in found]
        models = list(dict.fromkeys(painter.model(arm) for arm in missing))
        missing.sort(key=lambda arm: models.index(painter.model(arm)))
        keys = {arm.key for arm in missing}
        for pack in store.packs(missing, painter.family) if missing else ():
            pieces = _drawn(painter, design, pack, keys, batch_size)
            # The next batch is drawn while this one is read. Several processes enter their common programs in
            # one order, which two threads could not promise.
            if jax.process_count() == 1:
                pieces = made_ahead(pieces)
            for arm, own in itertools.groupby(pieces, key=lambda piece: piece[0]):
                bar.set_postfix_str(arm.label)
                images = _progress((images for _, images in own), bar)
                kept = images if album is None else album.keeping(arm, images)
                found[arm.key] = measure(kept, design, instruments, texts)
                store.save(arm, found[arm.key], painter.fingerprint(arm))
    if album is not None:
        album.close(arms)
    real = [measure_real(group, instruments, batch_size) for group in groups]
    return summarize(
        design,
        arms,
        [found[arm.key] for arm in arms],
        real,
        instruments=instruments,
        provenance=provenance,
        labels=painter.labels,
    )


def _progress(batches: Iterator[Images], bar: Any) -> Iterator[Images]:
    for batch in batches:
        yield batch
        bar.update(len(batch))


def _drawn(
    painter: Painter, design: Design, pack: Sequence[Arm], wanted: Collection[str], batch_size: int
) -> Iterator[tuple[Arm, Images]]:
    """The images of the arms of a pack whose keys are ``wanted``, arm by arm in pieces of batches.

    What stands in a batch is the same whatever is wanted of it; batches of which nothing is are left out.
    """
    captions, seeds, each = design.captions, design.seed, len(design.captions)
    total = each * len(pack)
    for start in range(0, total, batch_size):
        stop = min(start + batch_size, total)
        here = [
            (arm, max(index * each, start), min((index + 1) * each, stop))
            for index, arm in enumerate(pack[start // each : (stop - 1) // each + 1], start // each)
            if arm.key in wanted
        ]
        if not here:
            continue
        rows = np.minimum(np.arange(start, start + batch_size), total - 1)
        drawn = painter.draw(
            [captions[row % each] for row in rows], seeds[rows % each], [pack[row // each] for row in rows]
        )
        images = np.asarray(drawn, np.float32)
        if images.ndim != 4 or len(images) != batch_size:
            raise ValueError(f"generate gave images of shape {images.shape} for {batch_size} prompts")
        for arm, first, last in here:
            for row in range(first, last):
                image = images[row - start]
                # A NaN fails both comparisons.
                if not (image.min() >= 0 and image.max() <= 1):
                    raise ValueError(
                        f"{arm.label}, prompt {captions[row % each]!r}, seed {seeds[row % each]}: "
                        "the image is not finite or not in [0, 1]"
                    )
            yield arm, images[first - start : last - start]


def identity(design: Design, instruments: Instruments, provenance: Provenance) -> dict[str, Any]:
    """What two runs must share for their arms to stand in one table, as JSON values."""
    space = instruments.features
    shared = dataclasses.asdict(provenance)
    del shared["command"]
    return json.loads(
        json.dumps(
            shared
            | {
                "groups": [[group.name, list(group.prompts)] for group in design.groups],
                "seeds": list(design.seeds),
                "noise": "of each image",
                "grid_prompts": design.grid_prompts,
                "features": None
                if space is None
                else [space.name, space.preprocessing, space.text is not None, space.fingerprint],
                "judged": None
                if instruments.judge is None
                else [each.name for each in instruments.judge.metrics],
            }
        )
    )
