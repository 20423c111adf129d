"""`experiment`: where a config file starts."""

from typing import Any

from ml_collections import ConfigDict

from difflax.config.experiments import root
from difflax.config.resolve import complete


def experiment(
    model: str,
    data: str,
    *,
    text_encoder: str | None = None,
    autoencoder: str | None = None,
    schedule: str | None = None,
    prediction: str | None = None,
    weighting: str | None = None,
    penalty: str | None = None,
    noise: str | None = None,
    uncertainty: str | None = None,
    time_sampler: str | None = None,
    optimizer: str | None = None,
    sampler: str | None = None,
    time_grid: str | None = None,
    guidance: str | None = None,
    evaluation: str | None = None,
    tune: str | None = None,
) -> ConfigDict:
    """A config with every field of every section of these choices, at its default.

    A file sets what differs: ``config.training.steps = 1000``. A section that is given anew, as in
    ``config.sampler = {"name": "ddim"}``, has that implementation's defaults. What must be given and is not
    (``config.data.path``) is an error where the config is used, not here.

    Args:
        model: the network, which decides the kind of run: ``"unet2d_condition"``, ``"mmdit"``, ``"clip"``,
            ``"autoencoder_kl"`` or ``"pretrained"``.
        data: the name of a source, see `difflax.data.sources`.
        text_encoder, autoencoder, schedule, prediction, optimizer, sampler, guidance, evaluation, tune: the
            name in the section of that name; ``None``: its default.
        weighting, penalty, noise, uncertainty, time_sampler: the same in ``config.loss``.
        time_grid: the same in ``config.sampler``.

    Raises:
        UserError: an unknown name, or one for a section that this kind of run has not.
    """
    outer = {
        "model": model,
        "data": data,
        "text_encoder": text_encoder,
        "autoencoder": autoencoder,
        "schedule": schedule,
        "prediction": prediction,
        "optimizer": optimizer,
        "sampler": sampler,
        "guidance": guidance,
        "evaluation": evaluation,
        "tune": tune,
    }
    loss = {
        "weighting": weighting,
        "penalty": penalty,
        "noise": noise,
        "uncertainty": uncertainty,
        "time_sampler": time_sampler,
    }
    values: dict[str, Any] = _named(outer)
    for section, names in (("loss", loss), ("sampler", {"time_grid": time_grid})):
        if inner := _named(names):
            values[section] = {**values.get(section, {}), **inner}
    made = complete(root(model), values, "config", placeholders=True)
    # Types are checked where the config is read, by the annotations of its fields.
    return ConfigDict(made, type_safe=False)


def _named(names: dict[str, str | None]) -> dict[str, Any]:
    return {section: {"name": name} for section, name in names.items() if name is not None}
