"""Every field of every section, from the schema itself, so that a new one is in every test over them."""

import dataclasses

from difflax.config.experiments import KINDS, root
from difflax.config.schema import Field


@dataclasses.dataclass(frozen=True)
class Key:
    """A field that holds a value, or the name of a section that chooses.

    Attributes:
        key: ``sampler.ddim.eta``, ``sampler.num_steps``, ``loss.denoising.weighting.p2.gamma``: below the
            name of an implementation where it is its own.
        path: the same on the command line, ``sampler.eta``.
        names: overrides that choose the implementations on the way.
        model: a model whose config has it.
        field: ``None`` for a name.
    """

    key: str
    path: str
    names: tuple[str, ...]
    model: str
    field: Field | None


def every_field():
    """All of them, each once."""
    seen = {}
    for model in KINDS:
        for found in _walk(root(model), "", "", (), model):
            seen.setdefault(found.key, found)
    return list(seen.values())


def _walk(section, key, path, names, model):
    if len(section.names) > 1:
        yield Key(f"{key}name", f"{path}name", names, model, None)
    for name in section.names or (None,):
        # The model is chosen with the kind of run, not by an override.
        if path == "model." and model in section.names and name != model:
            continue
        chosen = names if name is None or path == "model." else (*names, f"{path}name={name}")
        inside = key if name is None else f"{key}{name}."
        for field in section.own(name, "").values():
            yield from _field(field, inside, path, chosen, model)
    for field in section.around().values():
        yield from _field(field, key, path, names, model)


def _field(field, key, path, names, model):
    if field.section is None or field.section.value:
        yield Key(f"{key}{field.name}", f"{path}{field.name}", names, model, field)
    if field.section is not None and not field.section.many:
        yield from _walk(field.section, f"{key}{field.name}.", f"{path}{field.name}.", names, model)
    if field.section is not None and field.section.many:
        yield Key(f"{key}{field.name}", f"{path}{field.name}", names, model, field)
