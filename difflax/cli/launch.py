"""Writes a job script for SLURM, Kubernetes, a Cloud TPU pod or some processes here; --submit starts it.

    difflax launch slurm --nodes=4 --per_node=8 -- --config=configs/shapes.py --workdir=runs/shapes
    difflax launch k8s --nodes=4 --chips=4 --image=IMAGE --accelerator=tpu-v5-lite-podslice … -- …
    difflax launch tpu --accelerator=v5litepod-16 --zone=ZONE -- …
    difflax launch local --per_node=2 --submit -- …

After -- stands what `difflax train` gets.
"""

import pathlib
import shutil
import subprocess
from collections.abc import Sequence

from absl import flags

from difflax.core.types import REQUEUE, Interrupted, UserError

POSITIONAL = "scheduler"


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command; those of the job are named as its fields."""
    import dataclasses

    from difflax.cli.job_scripts import SCHEDULERS, Job

    flags.DEFINE_enum("scheduler", None, list(SCHEDULERS), "who starts the job", flag_values=values)
    for field in dataclasses.fields(Job):
        if field.name == "arguments":
            continue
        define = flags.DEFINE_integer if isinstance(field.default, int) else flags.DEFINE_string
        define(
            field.name,
            field.default,
            f"default {field.default!r}; see difflax.cli.job_scripts",
            flag_values=values,
        )
    flags.DEFINE_string("output", None, "the script; default: the job's name", flag_values=values)
    flags.DEFINE_bool("submit", False, "start it, too", flag_values=values)


def run(values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the command."""
    import dataclasses

    from difflax.cli.job_scripts import SCHEDULERS, Job

    if values.scheduler is None:
        raise UserError(f"launch what? difflax launch {'|'.join(SCHEDULERS)} -- --config=… --workdir=…")
    scheduler = SCHEDULERS[values.scheduler]
    names = [field.name for field in dataclasses.fields(Job) if field.name != "arguments"]
    job = Job(arguments=tuple(arguments), **{name: values[name].value for name in names})
    path = pathlib.Path(values.output or f"{job.name}{scheduler.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(scheduler.script(job))
    command = [*scheduler.submit, str(path)]
    if not values.submit:
        print(f"written: {path}; start it with: {' '.join(command)}")
        return
    if shutil.which(command[0]) is None:
        raise UserError(f"--submit: there is no {command[0]} here; {path} is written")
    status = subprocess.run(command).returncode
    if status == REQUEUE:
        raise Interrupted("the job was interrupted with a checkpoint: the same command goes on")
    if status:
        raise UserError(f"{' '.join(command)} ended with status {status}")
