"""Items are made ahead, in order, and lose no error."""

import itertools
import threading

import pytest
from difflax.core.ahead import made_ahead


def test_the_items_and_their_order_stay():
    assert list(made_ahead(iter(range(100)))) == list(range(100))
    assert list(made_ahead(iter([]))) == []
    assert list(made_ahead(iter([None, None]))) == [None, None]


def test_the_next_item_is_made_while_one_is_used():
    begun = [threading.Event() for _ in range(4)]

    def items():
        for number, event in enumerate(begun):
            event.set()
            yield number

    for number in made_ahead(items()):
        if number + 1 < len(begun):
            assert begun[number + 1].wait(10)


def test_an_error_comes_in_the_place_of_its_item():
    def items():
        yield 1
        yield 2
        raise ValueError("the third one")

    got = []
    with pytest.raises(ValueError, match="the third one"):
        for item in made_ahead(items()):
            got.append(item)
    assert got == [1, 2]


def test_who_stops_early_has_no_more_made():
    made = []
    ahead = made_ahead(item for item in itertools.count() if not made.append(item))
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    ahead.close()
    assert len(made) <= 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
