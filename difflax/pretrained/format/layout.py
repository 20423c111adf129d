"""How the Hub's libraries name files and folders: pipelines of diffusers, models of transformers."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from difflax.core.types import UserError
from difflax.pretrained.format.safetensors import write_file, write_json

INDEX = "model_index.json"
"""Of a pipeline folder: its class, and the class of each component, which has a folder under its name."""

CONFIG, SCHEDULER_CONFIG = "config.json", "scheduler_config.json"
DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"
"""What the two libraries call a model's weights."""

AUTOENCODER, SCHEDULER = "vae", "scheduler"
TEXT_ENCODER, TOKENIZER = "text_encoder", "tokenizer"
"""Of components; the second text encoder is ``text_encoder_2``, and so on."""

MISSING = [None, None]
"""In the index: a component that the pipeline's class has, but not this folder."""


def class_name(config: Mapping[str, Any]) -> str:
    """The class of diffusers that an index or a config names, its Flax form too; ``""``: none."""
    return str(config.get("_class_name", "")).removeprefix("Flax")


def numbered(name: str, number: int) -> str:
    """A component's name where a pipeline has several, from 1."""
    return name if number == 1 else f"{name}_{number}"


def components(index: Mapping[str, Any]) -> list[str]:
    """The components that a ``model_index.json`` has a line for, the missing ones too."""
    return [name for name, entry in index.items() if isinstance(entry, list)]


def has_component(index: Mapping[str, Any], name: str) -> bool:
    """Whether a ``model_index.json`` names a component."""
    entry = index.get(name)
    return isinstance(entry, list) and bool(entry) and entry[0] is not None


def check_model(config: Mapping[str, Any], kind: str, where: str, needed: str) -> None:
    """Refuses a ``config.json`` of a model of transformers that is not of ``kind``.

    Args:
        where: it is, and ``needed``: what, for the error.
    """
    given = config.get("model_type")
    if given != kind:
        raise UserError(f"{CONFIG} {where} is of a {given!r} model: {needed}")


def check_class(config: Mapping[str, Any], name: str, where: Any) -> None:
    """Refuses a ``config.json`` of a class of diffusers that is neither ``name`` nor its Flax form."""
    if "_class_name" in config and class_name(config) != name:
        raise UserError(f"{where}: _class_name = {config['_class_name']!r} is not supported, only {name!r}")


def write_model(
    folder: epath.PathLike, stem: str, config: Mapping[str, Any], tensors: Mapping[str, Any]
) -> None:
    """Writes a model's folder: ``STEM.safetensors`` and the config."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / f"{stem}.safetensors", tensors)
    # Last, so that a folder with a config is whole.
    write_json(folder / CONFIG, config)
