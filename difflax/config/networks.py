"""The networks that ``config.model.name`` chooses for a diffusion model, and what each asks of the rest."""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from difflax.config.build import called
from difflax.core.several import several
from difflax.core.types import Conditioning, UserError
from difflax.models.functional import Functional, functional
from difflax.models.mmdit import SD3Transformer2DModel, check_latent
from difflax.models.size_conditioning import pooled_width
from difflax.models.unet import UNet2DConditionModel, conditions_read, reads_pooled

Fields = Mapping[str, Any]

GIVEN = ("in_channels", "out_channels", "rngs")
"""Arguments of a network that a config does not set: the autoencoder's latents have so many channels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkKind:
    """A network that a diffusion model's config can name.

    Attributes:
        module: its class; the arguments of ``GIVEN`` are filled in.
        context_option, pooled_option: its options for the widths of the text's states and pooled vector.
        pooled_width: of the text's vector, where other numbers may be joined to it; with the last argument a
            score is one of them.
        reads_pooled: whether a network of these options is conditioned on a pooled vector.
        conditions: the kinds of condition that it reads beside a pooled vector of a width; the last argument
            says in errors whose they are.
        check_latent: refuses a latent of that height and width.
    """

    module: type[nnx.Module]
    context_option: str
    pooled_option: str
    pooled_width: Callable[[Fields, bool], int]
    reads_pooled: Callable[[Fields], bool]
    conditions: Callable[[Fields, int, str], tuple[str, ...]]
    check_latent: Callable[[Fields, int, int], None]


def _halves(model: Fields, height: int, width: int) -> None:
    labels = [name for name in ("class_embed_type", "num_class_embeds") if model.get(name) is not None]
    if labels and model.get("class_embed_type") != "projection":
        raise UserError(
            f"config.model.{labels[0]} = {model[labels[0]]!r} asks for class labels, which no data have:"
            " leave it None, or take class_embed_type = 'projection' for the text's pooled vector"
        )
    if model.get("sample_size") not in (None, height, (height, width)):
        raise UserError(
            f"config.model.sample_size = {model['sample_size']} is not the latent's, {height} × {width}:"
            " leave it None, any size can be given"
        )
    levels = len(model["block_out_channels"])
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise UserError(
            f"config.model.block_out_channels has {levels} levels, which halve {levels - 1} times, but the"
            f" latent is {height} × {width}: use fewer levels or a smaller config.autoencoder.patch_size"
        )


def _splits(model: Fields, height: int, width: int) -> None:
    try:
        check_latent(model, height, width)
    except UserError as error:
        raise UserError(f"config.model: {error}") from error


NETWORKS = {
    "unet2d_condition": NetworkKind(
        module=UNet2DConditionModel,
        context_option="cross_attention_dim",
        pooled_option="projection_class_embeddings_input_dim",
        reads_pooled=reads_pooled,
        conditions=conditions_read,
        pooled_width=lambda model, scored: pooled_width(model, scored=scored),
        check_latent=_halves,
    ),
    "mmdit": NetworkKind(
        module=SD3Transformer2DModel,
        context_option="joint_attention_dim",
        pooled_option="pooled_projection_dim",
        reads_pooled=lambda model: True,
        conditions=lambda model, width, where: ("text",),
        pooled_width=lambda model, scored: model["pooled_projection_dim"],
        check_latent=_splits,
    ),
}

MODULES = {name: kind.module for name, kind in NETWORKS.items()}
"""The class of each, whose arguments are the fields of ``config.model``."""


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """``config.model`` of a diffusion model: a network that is not built yet.

    Attributes:
        kind: which network.
        options: all its arguments but those of ``GIVEN``.
    """

    kind: NetworkKind
    options: Fields

    @classmethod
    def make(cls, module: type[nnx.Module], own: dict[str, Any], beside: dict[str, Any]) -> "NetworkOptions":
        """See `difflax.config.schema.Section`."""
        kinds = {kind.module: kind for kind in NETWORKS.values()}
        return cls(kinds[module], types.MappingProxyType(own))

    def network(self, channels: int, *, variance: bool = False) -> Functional:
        """The network for latents of ``channels``; with a ``variance`` twice as many come out."""
        outputs = 2 * channels if variance else channels
        given = {"in_channels": channels, "out_channels": outputs, **self.options}
        return functional(lambda rngs: called("config.model", self.kind.module, **given, rngs=rngs))

    def replace(self, **options: Any) -> "NetworkOptions":
        """The same network with other options."""
        return dataclasses.replace(self, options=types.MappingProxyType({**self.options, **options}))

    def check_latent(self, height: int, width: int) -> None:
        """Refuses a latent that the network cannot read."""
        self.kind.check_latent(self.options, height, width)

    @property
    def reads_pooled(self) -> bool:
        """Whether it is conditioned on a pooled vector of the text."""
        return self.kind.reads_pooled(self.options)

    @property
    def context_width(self) -> int:
        """Of the text's states that it reads."""
        return several(self.options[self.kind.context_option])[0]

    def pooled_width(self, *, scored: bool) -> int:
        """Of the text's vector that it reads; ``scored``: whether the data's images have scores."""
        return self.kind.pooled_width(self.options, scored)

    def conditions(self, condition: Conditioning) -> tuple[str, ...]:
        """The kinds of condition that it reads, beside a text's ``condition`` of these widths."""
        width = 0 if condition.pooled is None else condition.pooled.shape[-1]
        return self.kind.conditions(self.options, width, "config.model")

    def reading(self, condition: Conditioning) -> Conditioning:
        """What of a text's condition it reads."""
        return condition if self.reads_pooled else dataclasses.replace(condition, pooled=None)

    def check_widths(self, condition: Conditioning) -> None:
        """Refuses a condition of other widths than the network expects."""
        widths = {self.kind.context_option: condition.context.shape[-1]}
        if condition.pooled is not None and len(self.conditions(condition)) == 1:
            widths[self.kind.pooled_option] = condition.pooled.shape[-1]
        for name, width in widths.items():
            given = self.options[name]
            if given != width and given != (width,) * len(self.options.get("block_out_channels", ())):
                raise UserError(
                    f"config.model.{name} = {given}, but the states of config.text_encoder have width {width}"
                )
