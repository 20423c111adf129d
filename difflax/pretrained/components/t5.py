"""T5 encoders in and out, in the Hub's layout: ``config.json``, ``model.safetensors`` (or shards with an
index), and a folder of tokenizer files.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from etils import epath

from difflax.core.documents import read_json
from difflax.pretrained.components.text_encoders import EncoderOptions, TextPart
from difflax.pretrained.format.layout import CONFIG, TRANSFORMERS, check_model, write_model
from difflax.pretrained.format.safetensors import Tensors, open_weights
from difflax.pretrained.format.torch_names import from_torch, to_torch
from difflax.text.t5 import T5Config, t5_network
from difflax.text.t5_encoder import T5Encoder
from difflax.text.tokenizer import Tokenizer, load_tokenizer

TOKEN_TABLE, SAME_TABLE = "shared.weight", "encoder.embed_tokens.weight"
"""The token table's names, of which files have one or both."""


def load_t5_encoder(
    directory: epath.PathLike,
    tokenizer: epath.PathLike,
    *,
    max_length: int,
    batch_size: int = 8,
    dtype: Any = jnp.float32,
    param_dtype: Any = None,
    variant: str | None = None,
) -> T5Encoder:
    """The encoder of a T5 folder, of a whole T5 too; other arguments as for `T5Encoder`.

    Args:
        tokenizer: the folder of its tokenizer.
        max_length: tokens a prompt.
        param_dtype: of the parameters; ``None``: float32.
        variant: of the weights, see `open_weights`.

    Raises:
        UserError: the folder has no T5, or its weights do not fit its config.
    """
    path = epath.Path(directory)
    return load_t5_encoder_from(
        t5_config(read_json(path / CONFIG), f"in {path}"),
        open_weights(path, TRANSFORMERS, variant=variant),
        lambda: load_tokenizer(tokenizer, max_length=max_length),
        f"in {path}",
        batch_size=batch_size,
        dtype=dtype,
        param_dtype=param_dtype,
    )


def t5_config(fields: Mapping[str, Any], where: str) -> T5Config:
    """The config of the fields of a ``config.json``.

    Raises:
        UserError: they are of another model, or name what is not supported.
    """
    check_model(fields, T5Config.model_type, where, "a T5 is needed")
    return T5Config.from_config(fields)


def load_t5_encoder_from(
    config: T5Config,
    tensors: Tensors,
    tokenizer: Callable[[], Tokenizer],
    where: str,
    *,
    batch_size: int = 8,
    dtype: Any = jnp.float32,
    param_dtype: Any = None,
) -> T5Encoder:
    """The encoder of a config and of a T5's tensors.

    Args:
        tokenizer: makes it.
        where: for errors, of which there are those of `load_t5_encoder`.
    """
    made = tokenizer()
    abstract = t5_network(config).abstract()
    return T5Encoder(
        params=from_torch(encoder_tensors(tensors), abstract, f"the T5 encoder {where}", dtype=param_dtype),
        config=config,
        tokenizer=made,
        batch_size=batch_size,
        dtype=dtype,
    )


def encoder_tensors(tensors: Tensors) -> dict[str, Any]:
    """The encoder's of a T5's tensors, its token table under one name."""
    kept = {n: tensor for n, tensor in tensors.items() if not n.startswith(("decoder.", "lm_head."))}
    again = kept.pop(SAME_TABLE, None)
    return kept if again is None else {TOKEN_TABLE: again} | kept


def save_t5_encoder(encoder: T5Encoder, directory: epath.PathLike, tokenizer: epath.PathLike) -> None:
    """Writes both folders, as transformers reads them."""
    config = {"architectures": ["T5EncoderModel"], **encoder.config.to_config()}
    write_model(directory, TRANSFORMERS, config, to_torch(encoder.params))
    encoder.tokenizer.save(tokenizer)


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Part(TextPart):
    """A T5 encoder of a pipeline, of which the largest part of a checkpoint may be made.

    Attributes:
        length: tokens that it gives a prompt unless it is told otherwise.
    """

    own_options: ClassVar[tuple[str, ...]] = ("t5", "t5_length")

    length: int = 256

    def tokens(self, options: EncoderOptions) -> int:
        """How many it gives a prompt, or zeros that stand in its place."""
        return self.length if options.t5_length is None else options.t5_length

    def left_out(self, options: EncoderOptions) -> bool:
        return options.t5 is False

    def load(self, folder: epath.Path, options: EncoderOptions) -> T5Encoder:
        return load_t5_encoder(
            folder / self.name,
            folder / self.tokenizer,
            max_length=self.tokens(options),
            variant=options.variant,
            **options.loading,
        )

    def save(self, encoder: T5Encoder, folder: epath.Path) -> None:
        save_t5_encoder(encoder, folder / self.name, folder / self.tokenizer)

    def classes(self, encoder: T5Encoder) -> tuple[str, str]:
        return "T5EncoderModel", "T5Tokenizer"
