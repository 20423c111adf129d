"""JSON that others wrote."""

import pytest
from difflax.core.documents import json_object


@pytest.mark.parametrize("text", ['{"a": [1, {}]}', b'{"a": [1, {}]}'])
def test_an_object_is_read(text):
    assert json_object(text) == {"a": [1, {}]}


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", b"\0", b"\xff\xfe", "[" * 100_000])
def test_what_is_no_json_is_one_line(text):
    with pytest.raises(ValueError, match=r"^is not valid JSON") as caught:
        json_object(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "1", "null", '"{}"'])
def test_other_values_are_no_mapping(text):
    with pytest.raises(ValueError, match="holds no mapping"):
        json_object(text)
