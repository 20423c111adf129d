"""Writes a script that trains with several processes: under SLURM (slurm), on Kubernetes (k8s), on a Cloud
TPU pod (tpu), or on this machine (local). --submit starts it as well.

    difflax launch slurm --nodes=4 --per_node=8 -- --config=configs/shapes.py --workdir=/shared/runs/shapes
    difflax launch k8s --nodes=4 --chips=4 --image=I --accelerator=tpu-v5-lite-podslice --topology=4x4 -- …
    difflax launch tpu --accelerator=v5litepod-16 --zone=ZONE -- --config=… --workdir=gs://…
    difflax launch local --per_node=2 --submit -- …

After -- stand the flags of `difflax train`. All processes must reach the workdir.
"""

import pathlib
import shutil
import subprocess
from collections.abc import Sequence

from absl import flags

from difflax.cli.fields import define_fields, read_fields
from difflax.core.files import atomic_write, writable_file
from difflax.core.types import REQUEUE, Interrupted, UserError


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command; those of the job are named as its fields."""
    from difflax.cli.job_scripts import JOB_SCHEDULERS, Job

    who = "who starts the job, usually given as the word after launch; must be given"
    flags.DEFINE_enum("scheduler", None, list(JOB_SCHEDULERS), who, flag_values=values)
    define_fields(values, Job, leave_out=["arguments"])
    output = "file that is written; without it: the job's name with .sbatch, .yaml or .sh"
    flags.DEFINE_string("output", None, output, flag_values=values)
    flags.DEFINE_bool("submit", False, "also start the job", flag_values=values)


def run(values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the command."""
    from difflax.cli.job_scripts import JOB_SCHEDULERS, Job

    if values.scheduler is None:
        raise UserError(f"launch what? difflax launch {'|'.join(JOB_SCHEDULERS)} -- --config=… --workdir=…")
    scheduler = JOB_SCHEDULERS[values.scheduler]
    job = Job(arguments=tuple(arguments), **read_fields(values, Job))
    path = pathlib.Path(values.output or f"{job.name}{scheduler.suffix}")
    writable_file(path, f"--output={path}")
    script = scheduler.script(job)
    if path.exists() and path.read_bytes() != script.encode():
        raise UserError(f"{path} is there already, with other contents: delete it, or give another --output")
    with atomic_write(path, "w") as file:
        file.write(script)
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
