"""What the tests of meshes run in a process of its own, whose number of devices is fixed at its start.

    python mesh_run.py DEVICES train --config=… --workdir=…

Runs the command and prints, as JSON, the share of the state's bytes that each device holds of the newest
checkpoint, restored on the mesh of the config.
"""

import json
import sys

import jax

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    from difflax.cli.main import run
    from difflax.experiment import training
    from difflax.training.loop import fit
    from difflax.training.state import TrainState

    states: list[TrainState] = []

    def watched(*args, **kwargs):
        states.append(fit(*args, **kwargs))
        return states[-1]

    training.fit = watched
    status = run(sys.argv[2:])
    held = dict.fromkeys(map(str, jax.devices()), 0)
    arrays = [array for array in jax.tree.leaves(states[0]) if array.ndim]
    for array in arrays:
        for shard in array.addressable_shards:
            held[str(shard.device)] += shard.data.nbytes
    whole = sum(array.nbytes for array in arrays)
    sys.stdout.write(json.dumps({"held": [bytes_ / whole for bytes_ in held.values()], "status": status}))
