"""Loading holds one tensor beside what is on the devices (which on the CPU is the host's memory too)."""

import os
import subprocess
import sys

import numpy as np
import pytest
from difflax.pretrained.format.safetensors import write_file

CODE = """
import sys, threading, time
import jax, jax.numpy as jnp, numpy as np
from difflax.pretrained.format.torch_names import from_torch
from difflax.pretrained.format.safetensors import open_file

def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) * 1024

kernel = jax.ShapeDtypeStruct((3, 3, 256, 512), jnp.float32)
abstract = {"layers": {str(i): {"kernel": kernel} for i in range(int(sys.argv[2]))}}
jnp.zeros(8).block_until_ready()
before = memory("VmRSS")
params = from_torch(open_file(sys.argv[1]), abstract, "the case", dtype=sys.argv[3])
jax.block_until_ready(params)
size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
print((memory("VmHWM") - before) / size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("stored", "wanted"), [("float32", "float32"), ("float16", "float32"), ("float32", "bfloat16")]
)
def test_peak_is_below_six_fifths_of_the_component(tmp_path, stored, wanted):
    count = 48  # 226 MB in float32, 4.7 MB a tensor
    one = np.ones((512, 256, 3, 3), stored)
    write_file(tmp_path / "a.safetensors", {f"layers.{i}.weight": one for i in range(count)})
    arguments = [sys.executable, "-c", CODE, tmp_path / "a.safetensors", str(count), wanted]
    # What is freed goes back to the system at once, so that the peak is of memory in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment)
    assert 0.9 < float(done.stdout) < 1.2
