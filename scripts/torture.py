"""Kills a command at random moments and holds what comes of it against one that was left alone, bit by bit.

    python scripts/torture.py --kills=20 [--output=torture.md] [-- train --config=FILE.py --config.…]
    python scripts/torture.py --kinds="any moment,inside a cache" -- train --config=configs/lora_sd15.py …
    python scripts/torture.py --kinds="any moment,inside a scale" -- ablate --workdir=DIR --seeds=2

Kinds of kill (SIGKILL) take turns: at any moment, start and compilation included; while a checkpoint, a cache
of latents or a scale of an ablation is being written; one process of two, at any moment. What was killed is
started again, by the same command, until it ends. Then parameters, optimizer, average and every other number
of its last checkpoint, the rows of every batch that it trained on, and every file but those that tell of
times (`TELL_OF_TIMES`), tables and pictures of an ablation among them, must be those of the one left alone.

After ``--`` stands the command, without ``--workdir``, or of an ablation ``--output``; by default it trains a
small CLIP on the embedded digits.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

KINDS = ("any moment", "inside a save", "one of two")
"""The kinds of kill of a training run."""

WRITTEN = {
    "inside a save": ("checkpoints/*.orbax-checkpoint-tmp*", 6),
    "inside a cache": (".latents*-*", 1),
    "inside a scale": ("cells/.*.npz*", 2),
}
"""What is being written then, under its hidden name, and how many of these there are at least."""

TELL_OF_TIMES = ("checkpoints", "tensorboard", "profile", "events.jsonl", "metrics.jsonl", "order.*", ".*")
"""What is not held against each other file by file: it tells of times, or is read number by number."""

SMALL = (
    "train",
    f"--config={ROOT / 'configs' / 'clip.py'}:digits",
    "--config.training.steps=60",
    "--config.training.batch_size=16",
    "--config.training.log_every=10",
    "--config.training.checkpoint_every=5",
    "--config.training.record_order=True",
    "--config.optimizer.warmup_steps=5",
)

PROGRAM = "import sys; from difflax.cli.main import run; sys.exit(run(sys.argv[1:]))"


def start(command, workdir, processes):
    """The processes of one run, which write what they say to ``workdir.log``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for index in range(processes):
        environment = os.environ | {"DIFFLAX_HEARTBEAT_SECONDS": "10"}
        environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        if processes > 1:
            environment |= {
                "DIFFLAX_COORDINATOR": f"127.0.0.1:{port}",
                "DIFFLAX_PROCESSES": str(processes),
                "DIFFLAX_PROCESS": str(index),
            }
        with open(f"{workdir}.log", "a") as log:
            arguments = [part.replace("{workdir}", str(workdir)) for part in command]
            running.append(subprocess.Popen(arguments, env=environment, stdout=log, stderr=log))
    return running


def finished(running, timeout=600):
    """Waits for all of them; whether all ended well."""
    return {process.wait(timeout) for process in running} == {0}


def kill(kind, command, workdir, duration, rng):
    """Starts a run and kills it (or one of its processes); how far it was, or ``None`` if it ended before."""
    running = start(command, workdir, 2 if kind == "one of two" else 1)
    began, moment = time.monotonic(), rng.uniform(0.02, 0.98) * duration
    pattern, most = WRITTEN.get(kind, ("", 1))
    saves, seen = rng.randint(1, most), set()
    victim = rng.choice(running)
    while victim.poll() is None:
        if kind in WRITTEN:
            seen |= set(pathlib.Path(workdir).glob(pattern))
            due = len(seen) >= saves
            if due:
                time.sleep(rng.uniform(0, 0.05))
        else:
            due = time.monotonic() - began >= moment
        if due:
            victim.kill()
            break
        time.sleep(0.001)
    ended = [process.wait(600) for process in running]
    if all(status == 0 for status in ended):
        return None
    return f"file {saves}" if kind in WRITTEN else f"{moment:.1f} s of {duration:.1f} s"


def state(workdir):
    """Every number of the newest checkpoint, by path, as bytes; and its position in the data."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    folder = max(pathlib.Path(workdir).glob("checkpoints/step_*"), key=lambda p: int(p.name[5:]))
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(folder / "state").item_metadata.tree
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        arrays = reader.restore(folder / "state", restore_args=how)
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    numbers = {
        jax.tree_util.keystr(path): (np.asarray(leaf).dtype.name, np.asarray(leaf).tobytes())
        for path, leaf in leaves
    }
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        position = reader.restore(folder / "data")
    return folder.name, numbers, position


def order(workdir):
    """The rows of every step on every process; where a step was done again, its last time counts."""
    found = {}
    for path in sorted(pathlib.Path(workdir).glob("order.*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # a kill cut the line short; the step was done again
            found[path.name, row["step"]] = row["rows"]
    return found


def files(folder):
    """Every file that tells of no times, by path, as bytes, in which the folder has no name."""
    folder = pathlib.Path(folder)
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(name.parts[0] == t or name.match(t) for t in TELL_OF_TIMES):
            contents = picture(path) if path.suffix == ".png" else path.read_bytes()
            found[str(name)] = contents.replace(str(folder).encode(), b"{workdir}")
    return found


def picture(path):
    """The pixels and texts of a PNG file, whose checksums would tell the name of the folder."""
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        return repr((image.mode, image.size, sorted(image.text.items()))).encode() + image.tobytes()


def differences(workdir, reference):
    """What is not the same, in words; empty if nothing."""
    mine, other = files(workdir), files(reference)
    found = [
        f"{name} differs" for name in sorted(mine.keys() | other.keys()) if mine.get(name) != other.get(name)
    ]
    if (pathlib.Path(reference) / "checkpoints").exists():
        found += numbers_that_differ(workdir, reference)
    return found


def numbers_that_differ(workdir, reference):
    """What is not the same in the last checkpoint and the order of the examples, in words."""
    (step, mine, position), (other_step, other, other_position) = state(workdir), state(reference)
    found = [] if step == other_step else [f"ends at {step}, not {other_step}"]
    paths = sorted(mine.keys() | other.keys())
    found += [f"{path} differs" for path in paths if mine.get(path) != other.get(path)]
    if position != other_position:
        found.append("the position in the data differs")
    rows, other_rows = order(workdir), order(reference)
    if not rows or rows != other_rows:
        found.append("the order of the examples differs")
    return found


def torture(command, kills, folder, kinds=KINDS, seed=0):
    """Runs and kills; a row ``(kind, where, differences)`` a kill."""
    rng = random.Random(seed)
    references, durations = {}, {}
    for processes in sorted({2 if kind == "one of two" else 1 for kind in kinds}):
        references[processes] = folder / f"left_alone_{processes}"
        for _ in range(2):  # the first one fills caches, the second one tells how long a run takes
            shutil.rmtree(references[processes], ignore_errors=True)
            began = time.monotonic()
            if not finished(start(command, references[processes], processes)):
                raise SystemExit(f"the run that is left alone fails: see {references[processes]}.log")
            durations[processes] = time.monotonic() - began
    rows = []
    for number in range(kills):
        kind = kinds[number % len(kinds)]
        processes = 2 if kind == "one of two" else 1
        workdir, where = folder / f"killed_{number}", None
        while where is None:
            shutil.rmtree(workdir, ignore_errors=True)
            where = kill(kind, command, workdir, durations[processes], rng)
        for _ in range(3):
            if finished(start(command, workdir, processes)):
                found = differences(workdir, references[processes])
                break
        else:
            found = [f"does not go on: see {workdir}.log"]
        rows.append((kind, where, found))
        print(f"{number + 1:3} {kind}, {where}: {'; '.join(found[:3]) or 'the same'}", flush=True)
    return rows


def table(rows):
    """Markdown."""
    lines = ["| kill | where | after the restart |", "|---|---|---|"]
    for kind, where, found in rows:
        lines.append(f"| {kind} | {where} | {'; '.join(found[:3]) or 'the same, bit by bit'} |")
    good = sum(not found for *_, found in rows)
    return "\n".join([*lines, "", f"{good} of {len(rows)} the same, bit by bit"]) + "\n"


def main(argv):
    """The command line."""
    split = argv.index("--") if "--" in argv else len(argv)
    own, trained = argv[:split], argv[split + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kinds", default=",".join(KINDS), help="of kills, with commas between")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", help="a Markdown file for the table")
    options = parser.parse_args(own)
    arguments = trained or SMALL
    place = "--workdir={workdir}" if arguments[0] == "train" else "--output={workdir}"
    command = [sys.executable, "-c", PROGRAM, *arguments, place]
    kinds = options.kinds.split(",")
    if unknown := set(kinds) - {*KINDS, *WRITTEN}:
        parser.error(f"--kinds: no {', '.join(sorted(unknown))}; there are {', '.join({*KINDS, *WRITTEN})}")
    with tempfile.TemporaryDirectory() as folder:
        rows = torture(command, options.kills, pathlib.Path(folder), kinds, seed=options.seed)
    text = table(rows)
    print(text)
    if options.output:
        pathlib.Path(options.output).write_text(text)
    return int(any(found for *_, found in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
