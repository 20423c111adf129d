"""Numbers of a request that are none."""

import re

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.generation.rows import finite, whole


@pytest.mark.parametrize("value", ["7", None, True, float("nan"), -float("inf"), 1 + 0j])
def test_a_strength_is_a_finite_number(value):
    with pytest.raises(UserError, match=re.escape(f"guidance_scale={value!r}: give a finite number")):
        finite(value, "guidance_scale")


@pytest.mark.parametrize("value", [1.5, "3", True, None, -1, 2**32])
def test_a_seed_is_a_whole_number_of_32_bits(value):
    with pytest.raises(
        UserError, match=re.escape(f"seed={value!r} must be a whole number, from 0 to 4294967295")
    ):
        whole(value, "seed", 0, 2**32 - 1)


def test_numbers_of_numpy_are_numbers():
    assert finite(np.float32(0.5), "x") == 0.5 and whole(np.int64(3), "x", 1) == 3
