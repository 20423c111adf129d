"""Job scripts: the training command for SLURM, Kubernetes, a Cloud TPU pod, or some processes here.

Every script starts one JAX process a task, all with the same command, and starts it again when it ends with
`REQUEUE`, which is what training does when the machine is wanted back.
"""

import dataclasses
import shlex
import signal
from collections.abc import Callable

from difflax.core.types import REQUEUE, UserError

ABORTED = 128 + signal.SIGABRT
PORT = 8476  # of the first process
GRACE_SECONDS = 120  # for the last checkpoint
RUNTIME = "v2-alpha-tpuv5-lite"  # of TPU hosts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained, and on what; what a scheduler does not ask for is not read.

    Attributes:
        arguments: what ``difflax train`` is given.
        name: the job's, of lower-case letters, digits and dashes.
        nodes: how many machines, at least 1; slurm and k8s.
        per_node: how many processes on each machine, at least 1: one for each of its GPUs; slurm and local.
        hours: the longest time that the job may take, in whole hours; slurm.
        image: a container image with difflax installed; must be given for k8s.
        accelerator: the kind of TPU, "tpu-v5-lite-podslice" for k8s, "v5litepod-16" for tpu, for which it
            must be given; without it: a k8s job asks for GPUs.
        topology: how the chips of the TPU are arranged, "4x4"; k8s, for which it must be given
            with an accelerator.
        chips: how many GPUs or TPU chips each machine has, at least 1; k8s.
        zone: Google Cloud's, "us-west4-a"; must be given for tpu.
    """

    arguments: tuple[str, ...]
    name: str = "difflax"
    nodes: int = 1
    per_node: int = 1
    hours: int = 24
    image: str = ""
    accelerator: str = ""
    topology: str = ""
    chips: int = 1
    zone: str = ""

    def __post_init__(self):
        if not self.name.replace("-", "").isalnum() or self.name != self.name.lower():
            raise UserError(f"--name={self.name}: only lower-case letters, digits and dashes")
        for field in ("nodes", "per_node", "hours", "chips"):
            if getattr(self, field) < 1:
                raise UserError(f"--{field} must be at least 1, got {getattr(self, field)}")
        given = {argument.partition("=")[0] for argument in self.arguments}
        for flag in ("--config", "--workdir"):
            if flag not in given:
                raise UserError(f"after -- stands what is trained: {flag}=… is missing there")

    @property
    def command(self) -> str:
        """The command line, quoted for a shell."""
        return shlex.join(["difflax", "train", *self.arguments])


def slurm(job: Job) -> str:
    """An sbatch script: one task a GPU; SLURM's warning before the end of its time, or before a preemption,
    makes a last checkpoint, and the job queues again.
    """
    return f"""#!/bin/bash
#SBATCH --job-name={job.name}
#SBATCH --nodes={job.nodes}
#SBATCH --ntasks-per-node={job.per_node}
#SBATCH --gpus-per-node={job.per_node}
#SBATCH --time={job.hours}:00:00
#SBATCH --signal=TERM@{GRACE_SECONDS}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={job.name}-%j.log

# Every task finds the others by itself (jax.distributed under SLURM).
srun --kill-on-bad-exit=0 {job.command}
status=$?
# {ABORTED}: how JAX ends a process when it has lost another.
if [ "$status" -eq {REQUEUE} ] || [ "$status" -eq {ABORTED} ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


def k8s(job: Job) -> str:
    """A JobSet (https://jobset.sigs.k8s.io): an indexed job, a pod a node; evicted or interrupted pods start
    the set again, bad input (exit status 2) does not.
    """
    import yaml

    if not job.image:
        raise UserError("launch k8s needs --image, a container with difflax in it")
    if job.accelerator and not job.topology:
        raise UserError("launch k8s needs --topology with --accelerator, how its chips are arranged: 4x4")
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    resource = "google.com/tpu" if job.accelerator else "nvidia.com/gpu"
    pod: dict = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [
            {
                "name": "train",
                "image": job.image,
                # As the first process of the container, so that it gets the signals.
                "command": ["difflax", "train", *job.arguments],
                "ports": [{"containerPort": PORT}],
                "env": [
                    {"name": "DIFFLAX_COORDINATOR", "value": f"{job.name}-train-0-0.{job.name}:{PORT}"},
                    {"name": "DIFFLAX_PROCESSES", "value": str(job.nodes)},
                    {"name": "DIFFLAX_PROCESS", "valueFrom": {"fieldRef": {"fieldPath": index}}},
                ],
                "resources": {"limits": {resource: job.chips}},
            }
        ],
    }
    if job.accelerator:
        pod["nodeSelector"] = {
            "cloud.google.com/gke-tpu-accelerator": job.accelerator,
            "cloud.google.com/gke-tpu-topology": job.topology,
        }
    failed = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}
    work = {
        "parallelism": job.nodes,
        "completions": job.nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [failed]},
        "template": {"spec": pod},
    }
    final = {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    return yaml.safe_dump(
        {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": {"name": job.name},
            "spec": {
                "failurePolicy": {"maxRestarts": 1000, "rules": [final]},
                "replicatedJobs": [{"name": "train", "replicas": 1, "template": {"spec": work}}],
            },
        },
        sort_keys=False,
    )


def tpu(job: Job) -> str:
    """A shell script around gcloud: makes a queued TPU pod slice, and runs the command on all of its hosts
    until it ends; interrupted or preempted, it makes the slice again and goes on.
    """
    if not (job.accelerator and job.zone):
        raise UserError("launch tpu needs --accelerator (v5litepod-16 for example) and --zone")
    name, zone = job.name, job.zone
    queued, where = "gcloud compute tpus queued-resources", f"{name} --zone={shlex.quote(zone)}"
    create = (
        f"{queued} create {where} --node-id={name} --accelerator-type={shlex.quote(job.accelerator)}"
        f" --runtime-version={RUNTIME} --spot"
    )
    describe = f"{queued} describe {where} --format='value(state.state)'"
    delete = f"{queued} delete {where} --force --quiet"
    ssh = f"gcloud compute tpus tpu-vm ssh {where} --worker=all --command={shlex.quote(job.command)}"
    return f"""#!/bin/bash
# The workdir must be a bucket (gs://…) that every host can write to, and difflax be installed on the hosts.
set -u
while true; do
  {create} || exit
  until [ "$({describe})" = ACTIVE ]; do sleep 30; done
  {ssh}
  status=$?
  {delete}
  # 2: bad input; anything else but success is a lost or interrupted machine.
  if [ "$status" -eq 0 ] || [ "$status" -eq 2 ]; then exit "$status"; fi
done
"""


def local(job: Job) -> str:
    """A shell script for ``per_node`` processes here; it passes signals on and ends with their highest
    status.
    """
    return f"""#!/bin/bash
set -u
export DIFFLAX_COORDINATOR=127.0.0.1:{PORT}
export DIFFLAX_PROCESSES={job.per_node}
processes=()
for ((i = 0; i < DIFFLAX_PROCESSES; i++)); do
  DIFFLAX_PROCESS=$i {job.command} &
  processes+=($!)
done
trap 'kill -TERM "${{processes[@]}}"' TERM INT
highest=0
for process in "${{processes[@]}}"; do
  wait "$process"
  status=$?
  # A signal ends the wait, not the process.
  while kill -0 "$process" 2>/dev/null; do
    wait "$process"
    status=$?
  done
  if [ "$status" -gt "$highest" ]; then highest=$status; fi
done
exit "$highest"
"""


@dataclasses.dataclass(frozen=True)
class Scheduler:
    """Attributes:
    script: the file that starts a job.
    suffix: of its name.
    submit: the command that takes the file.
    """

    script: Callable[[Job], str]
    suffix: str
    submit: tuple[str, ...]


JOB_SCHEDULERS = {
    "slurm": Scheduler(slurm, ".sbatch", ("sbatch",)),
    "k8s": Scheduler(k8s, ".yaml", ("kubectl", "apply", "-f")),
    "tpu": Scheduler(tpu, ".sh", ("bash",)),
    "local": Scheduler(local, ".sh", ("bash",)),
}
