"""The known sweep, run once for all tests."""

import pytest

from tests.evaluation import known_sweep


@pytest.fixture(scope="session")
def result(tmp_path_factory):
    """The whole known sweep, run once."""
    return known_sweep.sweep(tmp_path_factory.mktemp("sweep"))
