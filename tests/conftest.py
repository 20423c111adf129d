"""Run-time checks of every public signature's shapes and types, in tests only."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the tests' time is compilation of programs that then run for milliseconds.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import pytest
from jaxtyping import install_import_hook

install_import_hook("difflax", "beartype.beartype")


@pytest.fixture(scope="session", autouse=True)
def own_data_dir(tmp_path_factory):
    """Tests build their data in a folder of their own, and read no cache of compiled programs."""
    before = {name: os.environ.get(name) for name in ("DIFFLAX_DATA_DIR", "JAX_COMPILATION_CACHE_DIR")}
    os.environ["DIFFLAX_DATA_DIR"] = str(tmp_path_factory.mktemp("data"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("compiled"))
    yield
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A CLIP folder with random weights."""
    from tests.runs import random_clip

    return random_clip(tmp_path_factory.mktemp("clip"))
