"""The measured arms of a sweep on disk: a file each, named by its settings alone.

So an arm that is added later finds the others there. In ``packs.json`` stands which arms fill batches
together. It is written before anything is drawn: an image may differ in its last bits with the place that it
has in a batch, and a sweep that was stopped goes on with the same batches.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from difflax.core.documents import read_json
from difflax.core.files import atomic_write
from difflax.core.types import UserError
from difflax.evaluation.ablation.arms import Arm
from difflax.evaluation.measurement import Measurement
from difflax.parallel.processes import first_process_first

SAID = {
    "fingerprint": "fingerprint (the weights, LoRA or learned words in them, their types, or the defaults)"
}
"""What parts of a sweep's identity are called in errors, where their names do not say it."""

HINT = "delete that folder, or give another --output"


class CellStore:
    """The measured arms of one sweep on disk, each written whole or not at all.

    Args:
        directory: of the cells.
        identity: what all arms share, JSON values.
    """

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
            stored = read_json(path, hint=HINT)
            changed = [SAID.get(key, key) for key in self.identity if stored.get(key) != self.identity[key]]
            if changed:
                raise UserError(
                    f"{self.directory.parent} holds an ablation with another {', '.join(changed)}; "
                    "give another --output or delete that folder"
                )
        else:
            with atomic_write(path, "w") as file:
                file.write(json.dumps(self.identity, indent=2, ensure_ascii=False) + "\n")

    def path(self, arm: Arm) -> epath.Path:
        """The file of an arm."""
        return self.directory / f"{arm.key}.npz"

    def packs(self, missing: Sequence[Arm], family: Callable[[Arm], str]) -> list[list[Arm]]:
        """The arms that fill batches together, of all packs that ``missing`` arms are in: those that an
        earlier run chose for them, else new ones, one for each family.
        """
        path = self.directory / "packs.json"
        with first_process_first():
            packs = _read_packs(path) if path.exists() else []
            known = {arm.key for pack in packs for arm in pack}
            new: dict[str, list[Arm]] = {}
            for arm in missing:
                if arm.key not in known:
                    new.setdefault(family(arm), []).append(arm)
            packs += new.values()
            if new and jax.process_index() == 0:
                document = {"packs": [[dict(arm.settings) for arm in pack] for pack in packs]}
                with atomic_write(path, "w") as file:
                    file.write(json.dumps(document, ensure_ascii=False) + "\n")
        wanted = {arm.key for arm in missing}
        return [pack for pack in packs if any(arm.key in wanted for arm in pack)]

    def save(self, arm: Arm, measured: Measurement, fingerprint: str = "") -> None:
        """Of several processes the first one writes.

        Args:
            fingerprint: of the arm's own model.
        """
        if jax.process_index() != 0:
            return
        columns = {f"column/{name}": values for name, values in measured.columns.items()}
        with atomic_write(self.path(arm)) as file:
            np.savez_compressed(
                file,
                settings=np.array(json.dumps(dict(arm.settings), ensure_ascii=False)),
                fingerprint=np.array(fingerprint),
                features=measured.features,
                pixel_diversity=measured.pixel_diversity,
                samples=measured.samples,
                **columns,
            )

    def load(self, arm: Arm, fingerprint: Callable[[Arm], str]) -> Measurement | None:
        """The stored measurement; ``None`` (with a warning) if its file is damaged.

        Args:
            fingerprint: of the arm's own model, as for `save`.

        Raises:
            UserError: it is of a model with another fingerprint.
        """
        path = self.path(arm)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except Exception as error:
            # zipfile, zlib and numpy each raise their own types for a damaged archive.
            logging.warning("%s cannot be read (%s); the arm is measured again", path, error)
            return None
        if str(arrays["fingerprint"]) != fingerprint(arm):
            raise UserError(
                f"{path}: measured of a model that has changed since ({arm.label}): delete that file to"
                " measure it again, or give another --output"
            )
        columns = {
            name.removeprefix("column/"): v for name, v in arrays.items() if name.startswith("column/")
        }
        return Measurement(
            columns=columns,
            features=arrays["features"],
            pixel_diversity=arrays["pixel_diversity"],
            samples=arrays["samples"],
        )


def _read_packs(path: epath.Path) -> list[list[Arm]]:
    stored = read_json(path, hint=HINT)
    try:
        return [[Arm(settings=dict(settings)) for settings in pack] for pack in stored["packs"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not hold what fills batches together: {HINT}") from error
