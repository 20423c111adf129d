"""The networks that ``config.model.name`` chooses, and what each asks of the rest of a config."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from difflax.config.build import construct
from difflax.core.types import UserError
from difflax.models.functional import Functional, functional
from difflax.models.mmdit import SD3Transformer2DModel
from difflax.models.size_conditioning import SCORED, SIZES
from difflax.models.unet import UNet2DConditionModel, reads_pooled

Fields = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkKind:
    """A network that a diffusion model's config can name.

    Attributes:
        module: its class; ``in_channels`` and ``out_channels`` are filled in.
        context_option, pooled_option: its options for the widths of the text's states and pooled vector.
        reads_pooled: whether a network of these options is conditioned on a pooled vector.
        check_latent: refuses a latent of that height and width.
    """

    module: type[nnx.Module]
    context_option: str
    pooled_option: str
    reads_pooled: Callable[[Fields], bool]
    check_latent: Callable[[Fields, int, int], None]


def _halves(model: Fields, height: int, width: int) -> None:
    levels = len(model["block_out_channels"])
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise UserError(
            f"config.model.block_out_channels has {levels} levels, which halve {levels - 1} times, but the"
            f" latent is {height} × {width}: use fewer levels or a smaller config.autoencoder.patch_size"
        )


def _splits(model: Fields, height: int, width: int) -> None:
    size, limit = model.get("patch_size", 2), model.get("pos_embed_max_size", 96)
    if height % size or width % size or max(height, width) > limit * size:
        raise UserError(
            f"config.model: patch_size = {size} and pos_embed_max_size = {limit} do not fit a latent of"
            f" {height} × {width}: its edges must be multiples of the one and at most the other's tokens"
        )


NETWORKS = {
    "unet2d_condition": NetworkKind(
        module=UNet2DConditionModel,
        context_option="cross_attention_dim",
        pooled_option="projection_class_embeddings_input_dim",
        reads_pooled=reads_pooled,
        check_latent=_halves,
    ),
    "mmdit": NetworkKind(
        module=SD3Transformer2DModel,
        context_option="joint_attention_dim",
        pooled_option="pooled_projection_dim",
        reads_pooled=lambda model: True,
        check_latent=_splits,
    ),
}


def check_scores(numbers: int, source: Any, reader: str) -> None:
    """Refuses data without scores for a network that reads so many numbers, one of them a score.

    Raises:
        UserError: ``reader`` says whose numbers they are.
    """
    if numbers == SCORED and not getattr(source, "score_key", ""):
        raise UserError(
            f"{reader} reads {SCORED} numbers, the last an aesthetic score, but config.data has no scores:"
            f" name their key (config.data.score_key) or take a network that reads {SIZES} numbers"
        )


def network_kind(config: ConfigDict) -> NetworkKind:
    """What ``config.model.name`` names."""
    return NETWORKS[config.model.name]


def network(config: ConfigDict, channels: int) -> Functional:
    """The network of ``config.model`` for latents of ``channels``; twice as many come out where
    ``config.loss.vlb_weight`` trains a variance as well.
    """
    outputs = channels * (2 if config.loss.get("vlb_weight") else 1)
    fields = {key: value for key, value in config.model.items() if key != "name"}
    kind = network_kind(config).module
    return functional(
        lambda rngs: construct(
            kind, fields, "config.model", in_channels=channels, out_channels=outputs, rngs=rngs
        )
    )
