"""What a command's help says of its flags."""

import dataclasses
import importlib
import re

import pytest
from absl import flags
from difflax.cli import job_scripts, main
from difflax.cli.fields import define_fields, read_fields
from difflax.core.descriptions import describe

from tests.runs import command


@dataclasses.dataclass(frozen=True)
class Cake:
    """A cake.

    Attributes:
        eggs: how many, at least 1: whole ones,
            of hens.
        tin, oven: what it is baked in.
    """

    eggs: int = 3
    tin: str = ""
    oven: str = "hot"


def test_fields_become_flags():
    """Names, types and defaults by hand."""
    values = flags.FlagValues()
    define_fields(values, Cake, leave_out=["oven"])
    assert set(values) == {"eggs", "tin"}
    assert values["eggs"].help == "how many, at least 1: whole ones, of hens."
    values(["cake", "--eggs=5"])
    assert read_fields(values, Cake) == {"eggs": 5}
    with pytest.raises(flags.IllegalFlagValueError):
        values(["cake", "--eggs=many"])
    assert describe(Cake)["oven"] == "what it is baked in."


def test_every_field_of_a_job_is_described():
    said = describe(job_scripts.Job)
    assert set(said) == {field.name for field in dataclasses.fields(job_scripts.Job)}


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_says_something_of_every_flag(name):
    values = flags.FlagValues()
    importlib.import_module(f"difflax.cli.{name}").define_flags(values, [name])
    status, out, _ = command(name, "--help")
    assert status == 0
    for flag in values:
        assert re.search(rf"^  --(\[no\])?{flag}: \S", out, re.MULTILINE), flag
