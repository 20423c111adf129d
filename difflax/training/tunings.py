"""What of a pretrained model is trained, and how it meets the rest: one frozen dataclass a way.

The model is a mapping of its networks' parameters by diffusers' names, ``{"unet": …, "text_encoder": …}`` or
``{"transformer": …, "text_encoder": …, "text_encoder_2": …}``, see `difflax.pretrained.families.base`. A
tuning says which tree is trained, and joins it with the arrays that stay as they are; everything else (loop,
loss, checkpoints, sharding) is the same for all.
"""

import dataclasses
from typing import Annotated, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from etils import epath
from flax import traverse_util
from jaxtyping import Key

from difflax.core.bounds import Range, Width
from difflax.core.types import Params, UserError
from difflax.models.lora import add_factors, init_factors, matching_layers
from difflax.pretrained.adapters import textual_inversion
from difflax.pretrained.adapters.lora import LORA_FILE, save_lora
from difflax.pretrained.adapters.textual_inversion import (
    TABLE,
    add_token,
    embedding_table,
    with_embedding_table,
)
from difflax.pretrained.families.base import CLIPS, DENOISERS, Checkpoint, Networks


@runtime_checkable
class Tuning(Protocol):
    """A way to train a pretrained model."""

    @property
    def trains_text(self) -> bool:
        """Whether a text encoder changes, so that its states cannot be kept."""
        ...

    def prepare(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint before the first step.

        Raises:
            UserError: the tuning does not fit it.
        """
        ...

    def init(self, key: Key[jax.Array, ""], networks: Networks) -> Params:
        """What is trained, before the first step; ``networks``: arrays or shapes of the prepared
        checkpoint's. Where `start` gives values, these count for their shapes alone.
        """
        ...

    def start(self, networks: Networks) -> Params | None:
        """What is trained, where it starts from the checkpoint's own values."""
        ...

    def frozen(self, networks: Networks) -> Networks:
        """What is read and not trained."""
        ...

    def merge(self, frozen: Networks, trained: Params) -> Networks:
        """The networks that the trained parameters make."""
        ...

    def save(self, folder: epath.Path, checkpoint: Checkpoint, trained: Params) -> None:
        """What was trained, in diffusers' own format; ``checkpoint`` holds the merged networks."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Full:
    """Every parameter of the UNet or transformer, and of the CLIP text encoders if it is told so.

    Attributes:
        text_encoder: whether the CLIP text encoders are trained as well.
    """

    text_encoder: bool = False

    @property
    def trains_text(self) -> bool:
        return self.text_encoder

    def prepare(self, checkpoint: Checkpoint) -> Checkpoint:
        return checkpoint

    def init(self, key: Key[jax.Array, ""], networks: Networks) -> Params:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.start(networks))

    def start(self, networks: Networks) -> Params | None:
        return {name: networks[name] for name in networks if self._trains(name)}

    def frozen(self, networks: Networks) -> Networks:
        return {name: params for name, params in networks.items() if not self._trains(name)}

    def merge(self, frozen: Networks, trained: Params) -> Networks:
        return {**frozen, **trained}

    def save(self, folder: epath.Path, checkpoint: Checkpoint, trained: Params) -> None:
        checkpoint.save(folder)

    def _trains(self, name: str) -> bool:
        return name in DENOISERS or (self.text_encoder and name in CLIPS)


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The layers of a UNet's or a transformer's attention over the image, which LoRA changes by default."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank factors of chosen layers, see `difflax.models.lora`.

    Attributes:
        rank: of the change of a layer.
        alpha: the change counts ``alpha / rank``.
        unet, transformer: which layers of the denoising network, whichever the checkpoint has: the ends of
            their names; ``None``: those of its attention.
        text_encoder: which layers of the CLIP text encoders.
    """

    rank: Width = 4
    alpha: float = 4.0
    unet: tuple[str, ...] | None = None
    transformer: tuple[str, ...] | None = None
    text_encoder: tuple[str, ...] = ()

    def __post_init__(self):
        if self.rank < 1:
            raise UserError(f"rank = {self.rank} must be at least 1")

    def targets(self, networks: Networks) -> dict[str, tuple[str, ...]]:
        """The targets of the networks that have some.

        Raises:
            UserError: targets of a network that there is not.
        """
        chosen = {}
        for name in DENOISERS:
            given = getattr(self, name)
            if name in networks:
                chosen[name] = ATTENTION if given is None else given
            elif given is not None:
                has = next(other for other in DENOISERS if other in networks)
                raise UserError(
                    f"config.tune.{name}: this checkpoint has no {name} but a {has}: give config.tune.{has}"
                )
        chosen |= {name: self.text_encoder for name in CLIPS if name in networks}
        return {name: ends for name, ends in chosen.items() if ends}

    @property
    def trains_text(self) -> bool:
        return bool(self.text_encoder)

    def prepare(self, checkpoint: Checkpoint) -> Checkpoint:
        targets = self.targets(checkpoint.networks)
        if not targets:
            raise UserError("config.tune (lora) names no layers, so there is nothing to train")
        for name, ends in targets.items():
            matching_layers(checkpoint.networks[name], ends, _field(name))
        return checkpoint

    def init(self, key: Key[jax.Array, ""], networks: Networks) -> Params:
        factors = {}
        for number, (name, targets) in enumerate(self.targets(networks).items()):
            layers = matching_layers(networks[name], targets, _field(name))
            factors[name] = init_factors(jax.random.fold_in(key, number), layers, self.rank)
        return factors

    def start(self, networks: Networks) -> Params | None:
        return None

    def frozen(self, networks: Networks) -> Networks:
        return networks

    def merge(self, frozen: Networks, trained: Params) -> Networks:
        changed = {
            name: add_factors(frozen[name], factors, self.alpha / self.rank)
            for name, factors in trained.items()
        }
        return {**frozen, **changed}

    def save(self, folder: epath.Path, checkpoint: Checkpoint, trained: Params) -> None:
        targets = self.targets(checkpoint.networks)
        save_lora(folder / LORA_FILE, trained, alpha=self.alpha, targets=targets)


def _field(network: str) -> str:
    """Which field of a `Lora` has the targets of a network."""
    return f"config.tune.{'text_encoder' if network in CLIPS else network}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextualInversion:
    """The embeddings of one new token, see `difflax.pretrained.adapters.textual_inversion`.

    Attributes:
        token: how prompts name it.
        initializer: the known word whose embedding it starts from; it must be one token.
        vectors: how many embeddings stand for it.
    """

    token: str
    initializer: str
    vectors: Annotated[int, Range(1, 1_000)] = 1

    def __post_init__(self):
        if self.vectors < 1:
            raise UserError(f"vectors = {self.vectors} must be at least 1")
        if not self.token.strip() or self.token != self.token.strip() or " " in self.token:
            raise UserError(f"token = {self.token!r} must be a word without spaces, such as '<cat>'")

    @property
    def trains_text(self) -> bool:
        return True

    def prepare(self, checkpoint: Checkpoint) -> Checkpoint:
        encoder = textual_inversion.single_encoder(checkpoint.text_encoder)
        ids = encoder.tokenizer.backend(self.initializer, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise UserError(
                f"config.tune.initializer = {self.initializer!r} is {len(ids)} tokens: take a word of one"
            )
        row = embedding_table(encoder.params)[ids[0]]
        try:
            extended = add_token(encoder, self.token, jnp.tile(row, (self.vectors, 1)))
        except UserError as error:
            raise UserError(f"config.tune.token: {error}") from error
        return dataclasses.replace(checkpoint, text_encoder=extended)

    def init(self, key: Key[jax.Array, ""], networks: Networks) -> Params:
        table = embedding_table(networks["text_encoder"])
        return self._tree(jnp.zeros((self.vectors, table.shape[-1]), table.dtype))

    def start(self, networks: Networks) -> Params | None:
        return self._tree(embedding_table(networks["text_encoder"])[-self.vectors :])

    def frozen(self, networks: Networks) -> Networks:
        return networks

    def merge(self, frozen: Networks, trained: Params) -> Networks:
        encoder = frozen["text_encoder"]
        rows = embedding_table(trained["text_encoder"])
        table = jnp.concatenate([embedding_table(encoder)[: -self.vectors], rows])
        return {**frozen, "text_encoder": with_embedding_table(encoder, table)}

    def save(self, folder: epath.Path, checkpoint: Checkpoint, trained: Params) -> None:
        rows = embedding_table(trained["text_encoder"])
        textual_inversion.save_embeddings(folder / textual_inversion.FILE, self.token, rows)

    def _tree(self, rows: jax.Array) -> Params:
        return {"text_encoder": traverse_util.unflatten_dict({TABLE: rows})}


TUNINGS = {"full": Full, "lora": Lora, "textual_inversion": TextualInversion}
