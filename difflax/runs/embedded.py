"""Makes the model that comes with difflax (`difflax.config.embedded`) from the workdir of a trained run.

What is made is a small workdir, which every door that reads one opens: the config, the averaged parameters
(`difflax.training.runtime.averages`), the text encoder and what else of weights the run has, all in bfloat16,
a part of the training record, and a manifest of all of it.
"""

import dataclasses
import json
import pathlib
import shutil

import ml_dtypes
import numpy as np
from etils import epath

from difflax.config.embedded import EMBEDDED
from difflax.config.files import read_workdir
from difflax.core.files import atomic_folder
from difflax.core.types import UserError
from difflax.pretrained.format.layout import AUTOENCODER, TEXT_ENCODER, TOKENIZER
from difflax.pretrained.format.safetensors import open_file, read_metadata, write_file, write_json
from difflax.training.runtime import manifest
from difflax.training.runtime.averages import trained_weights, write_averages

MOST_BYTES = 11_800_000
"""Of weights and files, so that with the results and the manifest a shipped model has at most 12 MB. What
does not fit may still fit without the CLIP that evaluation takes its features from.
"""

RECORD_LINES = 200
"""Of the training record, evenly chosen, the last one among them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """What became of a run.

    Attributes:
        size: of all files, in bytes.
        features: whether the CLIP whose features evaluation measures in is there.
        hours: that training took.
    """

    size: int
    features: bool
    hours: float


def make_embedded(
    workdir: epath.PathLike, folder: epath.PathLike, *, command: str, early: int | None = None
) -> Made:
    """Writes the folder of a shipped model.

    Args:
        workdir: of the trained run of a diffusion model; its newest checkpoint is taken.
        folder: that is to be; nothing may be there yet.
        command: how it was trained, for its README.
        early: the step of an earlier checkpoint to take along, for autoguidance
            (``config.guidance.weak.step``).

    Raises:
        UserError: there is something in its place, no such run or checkpoint, or it would be too large.
    """
    workdir, folder = epath.Path(workdir), epath.Path(folder)
    if folder.exists():
        raise UserError(f"{folder} is there already: move it away")
    read_workdir(workdir).from_scratch(f"{workdir} is no run of a diffusion model from scratch")
    record = _record(workdir)
    with atomic_folder(folder) as made:
        _write_config(workdir, made)
        steps = _write_averages(workdir, made, early)
        for name in (TEXT_ENCODER, TOKENIZER, AUTOENCODER):
            if (workdir / name).is_dir():
                _copy_rounded(workdir / name, made / name)
        hours = _hours(record)
        _write_record(record, made)
        (made / "README.md").write_text(_readme(command, hours, steps))
        if (workdir / "clip").is_dir():
            _copy_rounded(workdir / "clip", made / "clip")
            if _size(made) > MOST_BYTES:
                (made / "clip").rmtree()
        if (size := _size(made)) > MOST_BYTES:
            raise UserError(
                f"{workdir}: the model would have {size:,} bytes, {MOST_BYTES:,} are the most: make the"
                " network smaller" + ("" if early is None else ", or leave the early checkpoint out")
            )
        manifest.write_manifest(made, {"step": steps[-1]})
    return Made(size=size, features=(folder / "clip").is_dir(), hours=hours)


def store_results(folder: epath.PathLike, results: epath.PathLike) -> None:
    """Puts the numbers of an evaluation (``results.json``) beside the model that they are of."""
    folder = epath.Path(folder)
    shutil.copyfile(results, folder / "results.json")
    facts = manifest.read_facts(folder)
    manifest.write_manifest(folder, facts)


def _write_config(workdir: epath.Path, made: epath.Path) -> None:
    config = json.loads((workdir / "config.json").read_text())
    # Text encoder and autoencoder came from folders of another machine; they lie beside this config.
    config["text_encoder"]["path"] = EMBEDDED
    if "path" in config["autoencoder"]:
        config["autoencoder"]["path"] = EMBEDDED
    write_json(made / "config.json", config)


def _write_averages(workdir: epath.Path, made: epath.Path, early: int | None) -> list[int]:
    """The steps that were written, the newest one last."""
    experiment = read_workdir(workdir)
    weights = trained_weights(workdir)
    newest, constants = weights.latest, weights.restore_constants()
    if early is not None and newest is not None and early >= newest:
        raise UserError(f"step {early} is no early checkpoint: the newest is of step {newest}")
    steps = [newest] if early is None else [early, newest]
    for step in steps:
        params = weights.restore_params(experiment.network.abstract(), step)
        write_averages(made, step, params, constants, ml_dtypes.bfloat16)
    weights.close()
    return steps


def _copy_rounded(source: epath.Path, target: epath.Path) -> None:
    """A folder of weights in the Hub's layout, with its float32 tensors in bfloat16."""
    manifest.check_copy(source)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(manifest.NAME))
    for path in target.glob("*.safetensors"):
        tensors = {name: np.asarray(tensor) for name, tensor in open_file(path).items()}
        write_file(path, {name: _rounded(array) for name, array in tensors.items()}, read_metadata(path))


def _rounded(array: np.ndarray) -> np.ndarray:
    return array.astype(ml_dtypes.bfloat16) if array.dtype == np.float32 else array


def _record(workdir: epath.Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    if not lines:
        raise UserError(f"{workdir} has no training record (metrics.jsonl): train it there")
    return [json.loads(line) for line in lines]


def _write_record(record: list[dict], made: epath.Path) -> None:
    chosen = np.unique(np.linspace(0, len(record) - 1, min(len(record), RECORD_LINES)).round().astype(int))
    (made / "metrics.jsonl").write_text("".join(f"{json.dumps(record[i])}\n" for i in chosen))


def _hours(record: list[dict]) -> float:
    """The time of all steps, from the mean of each line's."""
    steps = np.diff([0, *(row["step"] for row in record)])
    return float(np.sum(steps * [row["step_seconds"] for row in record])) / 3600


def _readme(command: str, hours: float, steps: list[int]) -> str:
    early = f" Step {steps[0]} is there too, for autoguidance." if len(steps) > 1 else ""
    return (
        f"The model that difflax opens as `{EMBEDDED}`: the averaged parameters of step {steps[-1]} of"
        f" `{command}`, in bfloat16; {hours:.2g} hours of training.{early} Made by"
        " scripts/make_embedded.py.\n"
    )


def _size(folder: epath.Path) -> int:
    return sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())
