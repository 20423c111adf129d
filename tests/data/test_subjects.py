"""Pictures of one thing, with prompts and with pictures of its class."""

import numpy as np
import pytest
from difflax.config.resolve import read_section
from difflax.config.schema import Section
from difflax.core.types import UserError
from difflax.data.sources import SOURCES
from PIL import Image


def pictures(folder, count, value):
    folder.mkdir(exist_ok=True)
    for i in range(count):
        Image.new("RGB", (8, 8), (value, i, 0)).save(folder / f"{i}.png")
    return str(folder)


def subject(path, **fields):
    section = {"name": "subject", "path": path, "prompts": ("a sks",), "height": 8, "width": 8, **fields}
    return read_section(Section(of=SOURCES), section, "config.data")


def test_every_picture_has_every_prompt(tmp_path):
    records = subject(pictures(tmp_path / "own", 3, 9), prompts=("a <x>", "the <x>")).split("train")
    assert sorted(records.captions) == ["a <x>"] * 3 + ["the <x>"] * 3
    assert sorted(int(records[i].image[0, 0, 1]) for i in range(6)) == [0, 0, 1, 1, 2, 2]
    assert records.weights is None


def test_the_class_takes_turns_and_counts_its_weight(tmp_path):
    own, others = pictures(tmp_path / "own", 2, 9), pictures(tmp_path / "class", 5, 200)
    source = subject(own, class_path=others, class_prompt="a dog", class_images=4, prior_weight=0.5)
    records = source.split("train")
    assert records.captions == ["a sks", "a dog"] * 4
    assert [int(records[i].image[0, 0, 0]) for i in range(8)] == [9, 200] * 4
    assert {int(records[i].image[0, 0, 1]) for i in range(1, 8, 2)} == {0, 1, 2, 3}
    np.testing.assert_array_equal(records.weights, [1.0, 0.5] * 4)


def test_how_many_of_the_class_are_missing(tmp_path):
    own = pictures(tmp_path / "own", 1, 9)
    source = subject(own, class_path=pictures(tmp_path / "class", 3, 0), class_prompt="a dog", class_images=5)
    assert source.missing_class_images() == 2


def test_one_picture_is_a_subject_too(tmp_path):
    pictures(tmp_path / "own", 2, 9)
    assert len(subject(str(tmp_path / "own" / "1.png")).split("train")) == 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prompts": ()}, "prompts must be one or more"),
        ({"class_path": "x"}, "class_path needs a class_prompt"),
        ({"class_images": 0}, "at least 1"),
        ({"class_images": 10**9}, "at most 100,000"),
        ({"prior_weight": float("nan")}, "finite"),
        ({"height": 10**9}, "at most 32,768"),
        ({"prior_weight": -1.0}, "negative"),
    ],
)
def test_what_a_subject_cannot_be(tmp_path, fields, says):
    with pytest.raises(UserError, match=says):
        subject(str(tmp_path), **fields)


def test_pictures_in_subfolders_count_but_for_those_of_the_class(tmp_path):
    pictures(tmp_path, 2, 9)
    pictures(tmp_path / "10_sks dog", 3, 9)
    others = pictures(tmp_path / "class", 4, 200)
    records = subject(str(tmp_path), class_path=others, class_prompt="a dog", class_images=4).split("train")
    assert [int(records[i].image[0, 0, 0]) for i in range(0, len(records), 2)] == [9] * 5
    assert [int(records[i].image[0, 0, 0]) for i in range(1, len(records), 2)] == [200] * 5


def test_where_there_is_nothing(tmp_path):
    with pytest.raises(UserError, match="no such folder or picture"):
        subject(str(tmp_path / "none")).split("train")
    with pytest.raises(UserError, match="no image there"):
        subject(str(tmp_path)).split("train")
