"""What the tests of meshes run in a process of its own, whose number of devices is fixed at its start.

    python mesh_run.py WORKDIR MESH…

Trains a small UNet for some steps on each of the named `MESHES`, and a linear model from one mesh to the next
by its checkpoints in WORKDIR; prints, as JSON, the losses, the share of the state's bytes on each device, and
what of parameters and optimizer each device holds.
"""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from difflax.core.types import Conditioning
from difflax.diffusion.denoisers import NetworkInput
from difflax.diffusion.loss.losses import MeanSquared
from difflax.diffusion.loss.time_samplers import Uniform
from difflax.diffusion.loss.weightings import Constant
from difflax.diffusion.predictions import V
from difflax.diffusion.schedules import ContinuousCosine
from difflax.models.autoencoder import AUTOENCODERS
from difflax.models.functional import functional
from difflax.models.unet import UNet2DConditionModel
from difflax.parallel.sharding import MeshShape, put_local_batch
from difflax.training.ema import EMA
from difflax.training.objectives.denoising import Denoising
from difflax.training.runtime.compiled import CompiledStep
from difflax.training.step import abstract_state, init_sharded, make_train_step
from difflax.training.validation import Validation

from tests.training import toy

ROWS, STEPS = 16, 4

MESHES = {
    "one": {"data": 1},
    "data": {"data": 8},
    "fsdp": {"data": 1, "fsdp": 8},
    "tensor": {"data": 4, "tensor": 2},
    "context": {"data": 2, "context": 4},
    "mixed": {"data": 2, "fsdp": 2, "tensor": 2},
}

MODEL = functional(
    lambda rngs: UNet2DConditionModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=4,
        rngs=rngs,
    )
)


def objective():
    return Denoising(
        model=MODEL,
        autoencoder=AUTOENCODERS["identity"](channels=3),
        schedule=ContinuousCosine(),
        prediction_type=V(),
        time_sampler=Uniform(),
        weighting=Constant(),
        penalty=MeanSquared(),
        network_input=NetworkInput(),
        caption_dropout=0.1,
        null=Conditioning(context=jnp.zeros((1, 4, 32))),
    )


def batch(step):
    rng = np.random.default_rng(step)
    images = rng.integers(0, 256, (ROWS, 8, 8, 3), np.uint8)
    context = rng.normal(size=(ROWS, 4, 32)).astype(np.float32)
    return {"image": images, "conditioning": Conditioning(context=context)}


def unet(shape):
    """Losses, the last a validation's, and the share of the state on every device, on a mesh."""
    mesh = MeshShape(**shape).make(jax.devices()[: np.prod(list(shape.values()))])
    made, optimizer = objective(), optax.adam(3e-3)
    abstract = abstract_state(made, optimizer, mesh)
    state = init_sharded(made, optimizer, 0, abstract)
    step = CompiledStep(make_train_step(made, optimizer, EMA(decay=0.9), 0), abstract, mesh)
    losses = []
    for number in range(STEPS):
        rows = put_local_batch(batch(number), mesh)
        if not step.ready(rows):
            step.compile(rows)
        state, metrics = step(state, rows)
        losses.append(float(metrics["loss"]))
    validation, order = Validation(times=(0.25, 0.75)), np.arange(ROWS, dtype=np.int32)
    found = validation.losses(made, mesh)(state.ema_params, put_local_batch(batch(0), mesh), order, None)
    losses.append(validation.means([(np.asarray(found), order)])["validation_loss"])
    arrays = [array for array in jax.tree.leaves(state) if array.ndim]
    whole = sum(array.nbytes for array in arrays)
    held = [count / whole for count in held_bytes(arrays, mesh)]
    return {"losses": losses, "held": held, "bytes": own_bytes(state, mesh)}


def held_bytes(arrays, mesh):
    """How many of the arrays' bytes each device of a mesh holds."""
    held = dict.fromkeys(mesh.devices.flat, 0)
    for array in arrays:
        for shard in array.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return list(held.values())


def own_bytes(state, mesh):
    """Bytes of parameters and optimizer on each device; of each array, whole, with its shape."""
    arrays = jax.tree.leaves((state.params, state.opt_state))
    return {
        "held": held_bytes(arrays, mesh),
        "whole": [(array.nbytes, array.shape) for array in arrays],
    }


def placed_bytes(fsdp):
    """`own_bytes` of zeros that lie where a run's state would, which compiles nothing."""
    mesh = MeshShape(data=1, fsdp=fsdp).make(jax.devices()[:fsdp])
    abstract = abstract_state(objective(), optax.adam(3e-3), mesh)
    return own_bytes(
        jax.tree.map(lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding), abstract),
        mesh,
    )


def moved(workdir):
    """Losses of a run that goes from mesh to mesh, and of one that does not."""
    rules = (("proj/kernel$", (None, "tensor")),)
    whole = MeshShape(data=8)
    toy.train(workdir / "whole", toy.options(6), mesh=whole)
    for stop, shape in (
        (2, {"data": 1, "fsdp": 8}),
        (4, {"data": 2, "fsdp": 2, "tensor": 2}),
        (6, {"data": 8}),
    ):
        toy.train(workdir / "moved", toy.options(6), mesh=MeshShape(**shape, rules=rules), stop_at=stop)
    return {
        name: [json.loads(row)["loss"] for row in (workdir / name / "metrics.jsonl").open()]
        for name in ("whole", "moved")
    }


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    place, *names = sys.argv[1:]
    facts = {name: unet(MESHES[name]) for name in names}
    facts["bytes"] = {fsdp: placed_bytes(fsdp) for fsdp in (1, 2, 4, 8)}
    facts["checkpoints"] = moved(pathlib.Path(place))
    sys.stdout.write(json.dumps(facts))
