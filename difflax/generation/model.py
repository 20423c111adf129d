"""Weights and mathematics of a model that makes images."""

import dataclasses
import functools

import jax
import numpy as np
from etils import epath

from difflax.core.types import Conditioning, Params, UserError
from difflax.diffusion.denoisers import NetworkInput
from difflax.diffusion.predictions import PredictionType
from difflax.diffusion.schedules import NoiseSchedule
from difflax.generation.conditions import Condition, Text
from difflax.models.autoencoder import Autoencoder
from difflax.models.functional import Functional
from difflax.models.perturbation import Perturbation
from difflax.pretrained.components.text_encoders import tower_names
from difflax.pretrained.families.family import Configs
from difflax.text.prompts import PromptEncoder


@dataclasses.dataclass(frozen=True)
class WeakModel:
    """The worse model of autoguidance and perturbation guidance.

    Attributes:
        network: another network, ``None`` for the model's own.
        perturbation: of that network.
        params: of that network, ``None`` for the model's own.
    """

    network: Functional | None = None
    perturbation: Perturbation | None = None
    params: Params | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A trained model; nothing in it is a setting of a call.

    Attributes:
        network, params: what denoises.
        autoencoder, autoencoder_params: images to latents and back.
        text_encoder: prompts to `Conditioning`.
        null: the condition that training put in place of dropped captions, one row: the negative where no
            negative prompt is given.
        conditions: the kinds of condition that the network reads, text first.
        unit_start: whether a run starts from noise of unit variance at any level, see
            `difflax.pretrained.components.scheduler_reading.Sampling`.
        weak: the worse model for guidances that need one.
        step: of training that the parameters come from.
        configs: the files of the checkpoint that it was loaded from, for saving.
    """

    network: Functional
    params: Params
    autoencoder: Autoencoder
    autoencoder_params: Params = dataclasses.field(default_factory=dict)
    schedule: NoiseSchedule
    prediction_type: PredictionType
    network_input: NetworkInput
    text_encoder: PromptEncoder
    null: Conditioning
    conditions: tuple[Condition, ...] = (Text(),)
    unit_start: bool = False
    weak: WeakModel | None = None
    step: int = 0
    configs: Configs | None = None

    @functools.cached_property
    def null_is_zero(self) -> bool:
        """Whether no negative prompt is the zero condition, and not that of an empty prompt."""
        return not any(np.any(leaf) for leaf in jax.tree.leaves(self.null))

    @property
    def weak_params(self) -> Params | None:
        """The worse model's parameters, the model's own where it has none; ``None`` without a worse model."""
        if self.weak is None:
            return None
        return self.params if self.weak.params is None else self.weak.params

    @property
    def text_encoders(self) -> list[str]:
        """The names of the encoders that ``text_encoder`` is made of, in their order."""
        return tower_names(self.text_encoder, () if self.configs is None else self.configs.family.text)

    def save(self, directory: epath.PathLike) -> None:
        """Writes a folder in diffusers' layout.

        Raises:
            UserError: the model has no form that diffusers knows.
        """
        if self.configs is None:
            raise UserError(
                f"save_pretrained({str(directory)!r}): only a model that came from a checkpoint in diffusers'"
                " layout can be saved in it"
            )
        self.configs.save(
            directory,
            params=self.params,
            autoencoder_params=self.autoencoder_params,
            text_encoder=self.text_encoder,
        )

    def with_text_encoder(self, encoder: PromptEncoder) -> "Model":
        """The model with another text encoder, and what it says of no prompt."""
        null = self.null
        if not self.null_is_zero:
            null = encoder.encode([""])
            null = dataclasses.replace(null, pooled=None) if self.null.pooled is None else null
        return dataclasses.replace(self, text_encoder=encoder, null=null)
