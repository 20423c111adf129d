"""Job scripts: the shells and the parser take them, and a local job really runs."""

import os
import shutil
import stat
import subprocess

import kubernetes_validate
import pytest
import yaml
from difflax.cli.job_scripts import JOB_SCHEDULERS, Job
from difflax.core.types import UserError

from tests.runs import command

TRAIN = ("--config=configs/shapes.py", "--workdir=runs/my shapes", "--config.mesh.fsdp=4")


def job(**options):
    needed = {"image": "registry/difflax:1", "accelerator": "v5litepod-16", "zone": "here", "topology": "4x4"}
    return Job(arguments=TRAIN, **{**needed, **options})


@pytest.mark.parametrize("name", ["slurm", "tpu", "local"])
def test_the_shell_reads_the_script(name, tmp_path):
    script = tmp_path / "job.sh"
    script.write_text(JOB_SCHEDULERS[name].script(job(nodes=3)))
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0
    assert "'--workdir=runs/my shapes'" in script.read_text().replace("'\"'\"'", "'")


@pytest.mark.skipif(shutil.which("sbatch") is None, reason="no SLURM here to ask")
def test_slurm_itself_takes_the_script(tmp_path):
    script = tmp_path / "job.sbatch"
    script.write_text(JOB_SCHEDULERS["slurm"].script(job()))
    assert subprocess.run(["sbatch", "--test-only", script]).returncode == 0


@pytest.mark.parametrize(("status", "queued"), [(75, True), (134, True), (0, False), (2, False)])
def test_an_interrupted_slurm_job_queues_again(status, queued, tmp_path):
    """The script under a shell, with srun and scontrol that say what they are asked."""
    for name, text in (("srun", f"exit {status}"), ("scontrol", f'echo "$@" > {tmp_path}/asked')):
        tool = tmp_path / name
        tool.write_text(f"#!/bin/bash\n{text}\n")
        tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    script = JOB_SCHEDULERS["slurm"].script(job())
    assert subprocess.run(["bash", "-c", script], env=environment).returncode == status
    asked = tmp_path / "asked"
    assert asked.exists() == queued
    if queued:
        assert asked.read_text() == "requeue 17\n"


def fields(tree, path=""):
    """Every path of a parsed file."""
    if isinstance(tree, dict):
        return set().union(*(fields(value, f"{path}/{key}") for key, value in tree.items()))
    if isinstance(tree, list):
        return set().union(*(fields(value, path) for value in tree))
    return {path}


def test_the_jobset_has_the_fields_of_its_interface():
    """https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2, with batch/v1's Job and Pod in it."""
    tree = yaml.safe_load(
        JOB_SCHEDULERS["k8s"].script(job(nodes=4, chips=4, accelerator="tpu-v5-lite-podslice"))
    )
    spec, container = "/spec", "/spec/replicatedJobs/template/spec/template/spec/containers"
    work = f"{spec}/replicatedJobs/template/spec"
    pod = f"{work}/template/spec"
    assert fields(tree) == {
        "/apiVersion",
        "/kind",
        "/metadata/name",
        f"{spec}/failurePolicy/maxRestarts",
        f"{spec}/failurePolicy/rules/action",
        f"{spec}/failurePolicy/rules/onJobFailureReasons",
        f"{spec}/replicatedJobs/name",
        f"{spec}/replicatedJobs/replicas",
        *(f"{work}/{name}" for name in ("parallelism", "completions", "completionMode", "backoffLimit")),
        f"{work}/podFailurePolicy/rules/action",
        f"{work}/podFailurePolicy/rules/onExitCodes/operator",
        f"{work}/podFailurePolicy/rules/onExitCodes/values",
        f"{pod}/restartPolicy",
        f"{pod}/terminationGracePeriodSeconds",
        f"{pod}/nodeSelector/cloud.google.com/gke-tpu-accelerator",
        f"{pod}/nodeSelector/cloud.google.com/gke-tpu-topology",
        *(f"{container}/{name}" for name in ("name", "image", "command")),
        f"{container}/ports/containerPort",
        *(f"{container}/env/{name}" for name in ("name", "value", "valueFrom/fieldRef/fieldPath")),
        f"{container}/resources/limits/google.com/tpu",
    }
    jobs = tree["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert jobs["parallelism"] == jobs["completions"] == 4
    (train,) = jobs["template"]["spec"]["containers"]
    assert train["command"] == ["difflax", "train", *TRAIN]
    environment = {item["name"]: item.get("value") for item in train["env"]}
    assert environment["DIFFLAX_COORDINATOR"] == "difflax-train-0-0.difflax:8476"
    assert all(isinstance(item.get("value", ""), str) for item in train["env"])  # Kubernetes takes no numbers


def test_kubernetes_schema_takes_the_jobset_s_job():
    """JobSet's own fields have no schema in the package; what they run is a batch/v1 Job, which has."""
    tree = yaml.safe_load(
        JOB_SCHEDULERS["k8s"].script(job(nodes=4, chips=4, accelerator="tpu-v5-lite-podslice"))
    )
    inner = tree["spec"]["replicatedJobs"][0]["template"]
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "workers"}, **inner}
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(whole, version, strict=True)
    (train,) = whole["spec"]["template"]["spec"]["containers"]
    train["env"][0]["value"] = 4  # Kubernetes takes no numbers
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(whole, version, strict=True)


def test_a_local_job_starts_its_processes_and_ends_with_their_highest_status(tmp_path):
    tool = tmp_path / "difflax"
    tool.write_text(
        f'#!/bin/bash\necho "$DIFFLAX_PROCESS of $DIFFLAX_PROCESSES $*" >> {tmp_path}/said\n'
        "exit $((DIFFLAX_PROCESS * 3))\n"
    )
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = JOB_SCHEDULERS["local"].script(job(per_node=3))
    assert subprocess.run(["bash", "-c", script], env=environment).returncode == 6
    said = sorted((tmp_path / "said").read_text().splitlines())
    assert said == [
        f"{i} of 3 train --config=configs/shapes.py --workdir=runs/my shapes --config.mesh.fsdp=4"
        for i in range(3)
    ]


def test_the_command_writes_the_script(tmp_path):
    path = tmp_path / "job.sbatch"
    status, out, err = command("launch", "slurm", "--nodes=2", f"--output={path}", "--", *TRAIN)
    assert status == 0, err
    assert f"sbatch {path}" in out and "#SBATCH --nodes=2" in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("launch",), "launch what?"),
        (("launch", "pbs"), "pbs"),
        (("launch", "slurm"), "--config=… is missing"),
        (("launch", "slurm", "--nodes=0", "--", *TRAIN), "--nodes must be at least 1"),
        (("launch", "k8s", "--", *TRAIN), "needs --image"),
        (("launch", "k8s", "--image=i", "--accelerator=tpu", "--", *TRAIN), "needs --topology"),
        (("launch", "slurm", "--name=My Job", "--", *TRAIN), "lower-case"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    status, _, err = command(*arguments)
    assert status == 2 and message in err and len(err.splitlines()) == 1


def test_a_job_needs_a_workdir():
    with pytest.raises(UserError, match="--workdir"):
        Job(arguments=TRAIN[:1])
