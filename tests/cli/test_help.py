"""What a command's help says of its flags."""

import dataclasses
import importlib
import re

import pytest
from absl import flags
from difflax.cli import job_scripts, main
from difflax.cli.fields import define_fields, read_fields
from difflax.cli.help import flag_help
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


def flags_of(name):
    values = flags.FlagValues()
    importlib.import_module(f"difflax.cli.{name}").define_flags(values, [name])
    return values


def said_of_flags(name):
    """What a command's help says of each flag, on one line."""
    status, out, _ = command(name, "--help")
    assert status == 0
    entries = re.split(r"^  --", out, flags=re.MULTILINE)[1:]
    named = (" ".join(entry.split()).partition(": ") for entry in entries)
    return {flag.removeprefix("[no]"): text for flag, _, text in named}


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_says_something_of_every_flag(name):
    values = flags_of(name)
    status, out, _ = command(name, "--help")
    assert status == 0
    for flag in values:
        assert re.search(rf"^  --(\[no\])?{flag}: \S", out, re.MULTILINE), flag


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_is_of_the_command_alone(name):
    """No module's name as a heading, none of absl's own flags, and no value of Python."""
    _, out, _ = command(name, "--help")
    assert set(said_of_flags(name)) == set(flags_of(name))
    assert not re.search(r"^\S+:$|--flagfile|--undefok|\bNone\b|``|\[\]", out, re.MULTILINE)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_says_what_happens_without_a_flag(name):
    values, said = flags_of(name), said_of_flags(name)
    for flag in values:
        if values[flag].default in (None, []):
            assert re.search("without it:? [^ (]|must be given", said[flag]), flag
        else:
            assert re.search(r"default: \S+.*\)$", said[flag]), flag


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_says_what_a_flag_takes(name):
    """The kind of every number and list, and all choices where there are few."""
    values, said = flags_of(name), said_of_flags(name)
    for flag in values:
        assert values[flag].parser.syntactic_help in said[flag], flag
        assert all(choice in said[flag] for choice in getattr(values[flag].parser, "enum_values", ())), flag


def test_full_help_lists_everything():
    status, out, _ = command("sample", "--helpfull")
    assert status == 0
    assert all(f"{flag}:" in out for flag in (*flags_of("sample"), "flagfile", "undefok"))


def test_a_default_is_what_a_reader_would_write():
    values = flags.FlagValues()
    flags.DEFINE_list("edges", ["1", "2"], "in pixels", flag_values=values)
    flags.DEFINE_bool("quiet", True, "says ``little``.", flag_values=values)
    flags.DEFINE_float("share", None, "of it; ``None`` for all", lower_bound=0.0, flag_values=values)
    assert flag_help(values["edges"]) == "  --edges: in pixels (a comma separated list; default: 1,2)"
    assert flag_help(values["quiet"]) == "  --[no]quiet: says little (default: yes)"
    assert flag_help(values["share"]) == "  --share: of it; without it: all (a non-negative number)"
