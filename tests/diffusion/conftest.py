"""Shared by the tests of the mathematics: float64 on request."""

import jax
import pytest


@pytest.fixture
def x64():
    """Runs one test in float64."""
    with jax.enable_x64(True):
        yield
