"""One value or several."""

import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.several import several


@pytest.mark.parametrize("value", ["a text", "", 3, 0.5, None, True, np.float32(1), np.array(2)])
def test_one_value_is_repeated(value):
    assert several(value) == (value,)
    assert several(value, 3) == (value, value, value)


@pytest.mark.parametrize("kind", [list, tuple, np.array, jnp.array])
@pytest.mark.parametrize("values", [[], [1], [1, 2]])
def test_several_stay_as_many_as_they_are(kind, values):
    assert several(kind(values)) == several(kind(values), 5) == tuple(values)


def test_nested_values_stay_whole():
    assert several([1, [2, 3]]) == (1, [2, 3])
