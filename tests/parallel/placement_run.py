"""What the tests of placement run in a process of its own, whose number of devices is fixed at its start.

    python placement_run.py

Computes a small MM-DiT and a small UNet, each with its gradient, on one device and on each of `MESHES`, and
compiles a wider MM-DiT for one and for eight devices; prints, as JSON, how far outputs and gradients are from
those of one device, and the bytes and shapes of the compiled programs.
"""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from difflax.core.types import Conditioning
from difflax.models.functional import functional
from difflax.models.mmdit import SD3Transformer2DModel
from difflax.models.unet import UNet2DConditionModel
from difflax.parallel.sharding import MeshShape, batch_sharding, shardings
from jax.sharding import NamedSharding, PartitionSpec

MESHES = {
    "data": {"data": 2},
    "fsdp": {"data": 1, "fsdp": 2},
    "context": {"data": 1, "context": 2},
    "tensor": {"data": 1, "tensor": 2},
    "mixed": {"data": 1, "fsdp": 2, "context": 2, "tensor": 2},
}
SIZES = {"data": 1, "fsdp": 8, "context": 8}
WIDTH = 8


def mmdit(width=WIDTH, patch_size=2, **options):
    """The first two blocks are alike, the last only reads the text."""
    fields = {
        "sample_size": 4,
        "patch_size": patch_size,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 3,
        "attention_head_dim": width // 2,
        "num_attention_heads": 2,
        "joint_attention_dim": 8,
        "pooled_projection_dim": 8,
        "pos_embed_max_size": 16,
        "attention_implementation": "xla",
    }
    return functional(lambda rngs: SD3Transformer2DModel(**fields, **options, rngs=rngs))


def unet(**options):
    fields = {
        "block_out_channels": (WIDTH,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "mid_block_type": None,
        "up_block_types": ("UpBlock2D",),
        "transformer_layers_per_block": 2,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": 8,
        "attention_implementation": "xla",
    }
    return functional(lambda rngs: UNet2DConditionModel(**fields, **options, rngs=rngs))


KINDS = {"mmdit": mmdit, "unet": unet}


def inputs(batch, edge):
    rng = np.random.default_rng(1)
    shapes = ((batch, edge, edge, 4), (batch, 3, 8), (batch, 8))
    x, context, pooled = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    times = np.linspace(10, 900, batch, dtype=np.float32)
    return x, times, Conditioning(context=context, pooled=pooled)


def program(model, shape, batch, edge):
    """Output and gradient by parameters and input, as a program for the mesh of ``shape``; not compiled."""
    mesh = MeshShape(**shape).make(jax.devices()[: np.prod(list(shape.values()))])
    network = model.apply

    def loss(params, x, times, text):
        out = network(params, x, times, text)
        return jnp.mean(jnp.sin(out)), out

    def run(params, given):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            (_, out), gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, *given)
        return out, gradient

    places = shardings(model.abstract(), mesh)
    rows = batch_sharding(mesh)
    if batch % (mesh.shape["data"] * mesh.shape["fsdp"]):
        rows = NamedSharding(mesh, PartitionSpec())
    return jax.jit(run, in_shardings=(places, rows), out_shardings=(rows, (places, rows)))


def random_params(model):
    rng = np.random.default_rng(0)
    draw = lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(leaf.dtype)  # noqa: E731
    return jax.tree.map(draw, model.abstract())


def computed(kind, shape, batch=4, edge=4, **options):
    """Output and gradient of the network ``kind`` on the mesh of ``shape``."""
    model = KINDS[kind](**options)
    return jax.device_get(program(model, shape, batch, edge)(random_params(model), inputs(batch, edge)))


def errors(expected, found):
    """Largest difference of the output and of the gradient, each over its largest value."""

    def error(a, b):
        a, b = jax.tree.leaves(a), jax.tree.leaves(b)
        largest = max(np.abs(leaf).max() for leaf in a)
        return max(float(np.abs(p - q).max() / largest) for p, q in zip(a, b, strict=True))

    return [error(a, b) for a, b in zip(expected, found, strict=True)]


def size(shape, batch):
    """Bytes a device of the temporaries of a program whose activations are larger than all else, and the
    shapes of the arrays in it.
    """
    model = mmdit(width=16, patch_size=1, scan_layers=True)
    made = program(model, shape, batch, 16).lower(model.abstract(), inputs(batch, 16)).compile()
    shapes = sorted(set(re.findall(r"f32\[([\d,]+)\]", made.as_text())))
    return {"bytes": made.memory_analysis().temp_size_in_bytes, "shapes": shapes}


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    one = {kind: computed(kind, {"data": 1}) for kind in KINDS}
    ragged = {"batch": 3, "edge": 6}  # nine tokens an image
    facts = {
        "loops": {
            f"{kind} {name}": errors(one[kind], computed(kind, shape, scan_layers=True))
            for kind in KINDS
            for name, shape in MESHES.items()
        },
        "written out": {
            f"{kind} mixed": errors(one[kind], computed(kind, MESHES["mixed"])) for kind in KINDS
        },
        "ragged": errors(
            computed("mmdit", {"data": 1}, **ragged),
            computed("mmdit", {"data": 2, "context": 2}, **ragged, scan_layers=True),
        ),
        "sizes": {name: size({"data": 1, name: count}, 8) for name, count in SIZES.items()},
    }
    sys.stdout.write(json.dumps(facts))
