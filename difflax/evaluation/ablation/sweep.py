"""The guidance ablation: the same prompts and seeds at every guidance scale, measured.

Every scale draws the same (prompt, seed) pairs, so curves of two scales differ by guidance alone.
``generate`` takes
the scale as a number that it traces, and always gets batches of one size: one compilation serves the sweep. A
finished scale is on disk before the next one starts, so a sweep that was stopped goes on where it was.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Int

from difflax.core.documents import read_json
from difflax.core.files import atomic_write
from difflax.core.types import UserError
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
from difflax.parallel.processes import first_process_first, same_everywhere

Generate = Callable[[list[str], Int[np.ndarray, " n"], float], Any]
"""``generate(prompts, seeds, guidance_scale) -> images``: float32 ``[n, h, w, c]`` in [0, 1]."""


SAID = {
    "fingerprint": "fingerprint (the weights, LoRA or learned words in them, their types, or the defaults)"
}
"""What parts of a sweep's identity are called in errors, where their names do not say it."""


def check(
    groups: Sequence[PromptGroup],
    scales: Sequence[float | int],
    seeds: Sequence[int],
    batch_size: int,
    grid_prompts: int,
) -> None:
    """Raises UserError for a sweep that cannot be run or would mislead."""
    if not scales or not np.all(np.isfinite(scales)) or len(set(scales)) < len(scales):
        raise UserError(f"guidance_scales={list(scales)}: give at least one scale, finite and each once")
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
    """Sweeps the guidance scale and measures; finished scales are stored under ``directory/scales`` and
    reused.

    Args:
        generate: makes the images of a batch; always called with ``batch_size`` prompts (the last batch is
            filled up with its last prompt and seed, and the surplus dropped). Of several processes all call
            it, measure, and get the result; the first one writes.
        scales: any distinct real numbers; 1 is guidance off, 0 is unconditional.
        seeds: the images of each prompt, the same at every scale (`Design.seed`); at least two are needed
            for diversity.
        provenance: stored with the result; a changed checkpoint, fingerprint, sampler, config or version
            makes stored scales unusable.
        grid_prompts: how many prompts of each group are shown in the image grid.
        show_progress: a progress bar, where standard error is a terminal.

    Returns:
        The result with its curves; nothing but the stored scales is written.

    Raises:
        UserError: scales, seeds or prompts that are empty or repeated, or a directory with another sweep.
        ValueError: images that are not finite, in [0, 1] and of the promised shape.
    """
    from tqdm import tqdm

    scales = sorted(float(scale) for scale in scales)
    check(groups, scales, seeds, batch_size, grid_prompts)
    design = Design(groups=tuple(groups), seeds=tuple(int(seed) for seed in seeds), grid_prompts=grid_prompts)
    store = ScaleStore(epath.Path(directory) / "scales", identity(design, instruments, provenance))
    store.check()
    texts = text_features(instruments, design.prompts, batch_size)
    measured: list[Measurement] = []
    total = len(scales) * len(design.captions)
    quiet = not show_progress or jax.process_index() != 0
    with tqdm(total=total, unit="image", desc="ablation", disable=True if quiet else None) as bar:
        for scale in scales:
            bar.set_postfix_str(f"guidance scale {scale:g}")
            found = store.load(scale)
            if not same_everywhere(found is not None):
                raise UserError(
                    f"{directory}: not all processes find scale {scale:g} there: give an --output that all"
                    " reach"
                )
            if found is None:
                batches = _progress(_generated(generate, design, scale, batch_size), bar)
                found = measure(batches, design, instruments, texts)
                store.save(scale, found)
            else:
                bar.update(len(design.captions))
            measured.append(found)
    real = [measure_real(group, instruments, batch_size) for group in groups]
    return summarize(design, tuple(scales), measured, real, instruments=instruments, provenance=provenance)


def _progress(batches: Iterator[Images], bar: Any) -> Iterator[Images]:
    for batch in batches:
        yield batch
        bar.update(len(batch))


def _generated(generate: Generate, design: Design, scale: float, batch_size: int) -> Iterator[Images]:
    captions, seeds = design.captions, design.seed
    for start in range(0, len(captions), batch_size):
        keep = min(batch_size, len(captions) - start)
        rows = np.minimum(np.arange(start, start + batch_size), len(captions) - 1)
        images = np.asarray(generate([captions[row] for row in rows], seeds[rows], scale), np.float32)
        if images.ndim != 4 or len(images) != batch_size:
            raise ValueError(f"generate gave images of shape {images.shape} for {batch_size} prompts")
        # A NaN fails both comparisons.
        bad = [n for n, image in enumerate(images[:keep]) if not (image.min() >= 0 and image.max() <= 1)]
        if bad:
            row = start + bad[0]
            raise ValueError(
                f"guidance scale {scale:g}, prompt {captions[row]!r}, seed {seeds[row]}: "
                "the image is not finite or not in [0, 1]"
            )
        yield images[:keep]


def identity(design: Design, instruments: Instruments, provenance: Provenance) -> dict[str, Any]:
    """What two runs must share for their scales to stand in one table, as JSON values."""
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


class ScaleStore:
    """The measured scales of one sweep on disk, each written whole or not at all."""

    def __init__(self, directory: epath.Path, identity: dict[str, Any]):
        self.directory = directory
        self.identity = identity

    def check(self) -> None:
        """Raises UserError if the folder holds another sweep; else writes what this one is."""
        path = self.directory / "sweep.json"
        with first_process_first():
            self._claim(path)

    def _claim(self, path: epath.Path) -> None:
        if path.exists():
            stored = read_json(path, hint="delete that folder, or give another --output")
            changed = [SAID.get(key, key) for key in self.identity if stored.get(key) != self.identity[key]]
            if changed:
                raise UserError(
                    f"{self.directory.parent} holds an ablation with another {', '.join(changed)}; "
                    "give another --output or delete that folder"
                )
        else:
            with atomic_write(path, "w") as file:
                file.write(json.dumps(self.identity, indent=2, ensure_ascii=False) + "\n")

    def path(self, scale: float) -> epath.Path:
        """The file of a scale; its name holds every digit, so that no two scales share one."""
        return self.directory / f"scale_{scale!r}.npz"

    def save(self, scale: float, measured: Measurement) -> None:
        """Of several processes the first one writes."""
        if jax.process_index() != 0:
            return
        columns = {f"column/{name}": values for name, values in measured.columns.items()}
        with atomic_write(self.path(scale)) as file:
            np.savez_compressed(
                file,
                features=measured.features,
                pixel_diversity=measured.pixel_diversity,
                samples=measured.samples,
                **columns,
            )

    def load(self, scale: float) -> Measurement | None:
        """The stored measurement; ``None`` if there is none, or (with a warning) if its file is damaged."""
        path = self.path(scale)
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except Exception as error:
            # zipfile, zlib and numpy each raise their own types for a damaged archive.
            logging.warning("%s cannot be read (%s); the scale is measured again", path, error)
            return None
        columns = {
            name.removeprefix("column/"): v for name, v in arrays.items() if name.startswith("column/")
        }
        return Measurement(
            columns=columns,
            features=arrays["features"],
            pixel_diversity=arrays["pixel_diversity"],
            samples=arrays["samples"],
        )
