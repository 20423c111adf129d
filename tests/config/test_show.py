"""``difflax train --show``: every field of every config of the repository, each as it is overridden."""

import contextlib
import typing

import pytest
from difflax.config.experiments import root
from difflax.config.files import read_config_file
from difflax.config.schema import DTYPE, fields_of
from difflax.config.show import first_sentence, show
from difflax.config.values import values_of
from difflax.core.descriptions import choices_of
from difflax.core.types import UserError
from difflax.models.unet import UNet2DConditionModel

from tests.config.fields import every_field
from tests.runs import ROOT, command

CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.py"))


def shown(text):
    """Keys and values of what ``--show`` prints."""
    rows = [line for line in text.splitlines() if line.startswith("config.")]
    pairs = [row.split(" = ", 1) for row in rows]
    return dict(pairs)


def leaves(section, values, where="config"):
    """Path, field and value of everything that holds a value and no section."""
    name = values.get("name") if section.names else None
    for key, field in section.fields(name, where).items():
        value = values[key]
        if field.section is not None and isinstance(value, dict):
            yield from leaves(field.section, value, f"{where}.{key}")
        elif field.section is None or field.section.value:
            yield f"{where}.{key}", field, value


def without_range(hint):
    """The type of an annotation that says its range too."""
    return hint.__origin__ if hasattr(hint, "__metadata__") else hint


def another(field, value):
    """The text of another value of the field's type, whether or not it would make sense."""
    options = [plain for option in choices_of(field.hint) for plain in choices_of(without_range(option))]
    for option in options:
        choices = getattr(option, "__args__", ()) if "Literal" in str(option) else ()
        for choice in choices:
            if choice != value:
                return str(choice)
    if bool in options:
        return str(not value)
    for option in options:
        if typing.get_origin(option) is tuple and ... not in typing.get_args(option):
            return str((17,) * len(typing.get_args(option)))
    for kind, texts in ((float, ("17.5", "0.75")), (int, ("17", "1", "0")), (str, ("another",))):
        for text in texts if kind in options else ():
            with contextlib.suppress(UserError):
                read = field.takes.read(kind(text), "")
                if read != value:
                    return text
    inner = str(field.hint)
    if "tuple[int, int], ..." in inner:
        return "((17, 17),)"
    if "Rule" in inner or "tuple[str, tuple" in inner:
        return "(('kernel$', ('tensor',)),)"
    if "str" in inner:
        return "('another',)"
    return "(0.17,)" if "Range" in inner and "float" in inner else "(17,)"


@pytest.mark.parametrize("file", CONFIGS)
def test_every_value_of_every_config_is_shown_as_it_is_overridden(file):
    path = str(ROOT / "configs" / file)
    values = values_of(read_config_file(path))
    fields = list(leaves(root(values["model"]["name"]), values))
    assert len(fields) > 50
    overrides = [(key, another(field, value)) for key, field, value in fields]
    # All of them at once: parsing them is one matter, whether they make sense together another.
    plain, changed = shown(show(values, 200)), shown(show(values_of(read_config_file(path, overrides)), 200))
    for (key, field, _), (_, text) in zip(fields, overrides, strict=True):
        value = changed[key]
        assert value != plain[key], key
        told = first_sentence(field.text)
        assert value.startswith((text, f"{text}.0", text.replace("'", '"'))), (key, text, value)
        assert told, f"{key} has no description"


def test_the_command_prints_and_trains_nothing(tmp_path):
    status, out, errors = command(
        "train", f"--config={ROOT / 'configs' / 'shapes.py'}", "--config.optimizer.b1=0.7", "--show"
    )
    assert status == 0, errors
    assert shown(out)["config.optimizer.b1"].split() == ["0.7", "Adam's"]
    assert "config.sampler.midpoint = True" in out


def test_every_field_has_a_description():
    bare = [found.key for found in every_field() if found.field is not None and not found.field.text]
    assert not bare


def test_descriptions_are_read_from_docstrings():
    fields = fields_of(UNet2DConditionModel)
    assert fields["dtype"].hint == DTYPE and fields["dtype"].default == "float32"
    assert fields["use_linear_projection"].text.startswith("linear layers around the transformers (SD 2, XL)")
    assert (
        first_sentence("The eyes of Ning et al. 2024, eq. 3. More.") == "The eyes of Ning et al. 2024, eq. 3"
    )
