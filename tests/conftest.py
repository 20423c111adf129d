"""Run-time checks of every public signature's shapes and types, in tests only."""

import ctypes
import gc
import os
import pathlib
import shutil
import tempfile

import jaxlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the time is compilation of programs that then run for milliseconds; without the newer emitters it is
# half as much. XLA ends a process at a flag that it does not know, so this one is for a jaxlib that has it.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + (" --xla_cpu_use_fusion_emitters=false" if jaxlib.__version__.startswith("0.10.") else ""),
)
# What one test, worker or command has compiled, no other of this run compiles again; nothing is read from
# another run. Workers inherit the folder.
os.environ["JAX_COMPILATION_CACHE_DIR"] = (
    os.environ["JAX_COMPILATION_CACHE_DIR"]
    if "PYTEST_XDIST_WORKER" in os.environ
    else tempfile.mkdtemp(prefix="difflax-tests-")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("difflax", "beartype.beartype")

compile_as_told = jax.jit


def compile_judges_well(*function, **options):
    """`jax.jit`, and for the judges, whose programs run longer than they compile, with optimisation."""
    if function and getattr(function[0], "__module__", "").startswith("difflax.evaluation.judges"):
        options["compiler_options"] = {"xla_backend_optimization_level": 1}
    return compile_as_told(*function, **options)


jax.jit = compile_judges_well


def pytest_sessionfinish():
    """Removes what was compiled, once no worker reads it any more."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def programs():
    """Lets go of compiled programs once the workers hold more than half of the machine's memory."""
    yield
    held = pathlib.Path("/proc/self/statm")  # Linux has it
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if held.exists() and int(held.read_text().split()[1]) * workers > 0.5 * os.sysconf("SC_PHYS_PAGES"):
        jax.clear_caches()
        gc.collect()
        # What is free goes back to the machine, so that the next module does not find as much again.
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)


@pytest.fixture(scope="session", autouse=True)
def own_data_dir(tmp_path_factory):
    """Tests build their data in a folder of their own."""
    before = os.environ.get("DIFFLAX_DATA_DIR")
    os.environ["DIFFLAX_DATA_DIR"] = str(tmp_path_factory.mktemp("data"))
    yield
    if before is None:
        del os.environ["DIFFLAX_DATA_DIR"]
    else:
        os.environ["DIFFLAX_DATA_DIR"] = before


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A CLIP folder with random weights."""
    from tests.runs import random_clip

    return random_clip(tmp_path_factory.mktemp("clip"))
