"""CLIP's weights in and out, in the layouts of the Hub.

Two layouts hold a text encoder: a CLIP folder (``config.json``, ``model.safetensors``, tokenizer files,
``preprocessor_config.json``; what transformers' ``CLIPModel`` reads) and a pipeline folder with the
subfolders ``text_encoder/`` and ``tokenizer/`` (what diffusers reads).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from etils import epath

from difflax.core.documents import read_json
from difflax.core.spelling import shown
from difflax.core.types import UserError
from difflax.pretrained.components.text_encoders import EncoderOptions, TextPart
from difflax.pretrained.format.layout import (
    CONFIG,
    INDEX,
    TEXT_ENCODER,
    TOKENIZER,
    TRANSFORMERS,
    check_model,
    numbered,
    write_model,
)
from difflax.pretrained.format.safetensors import Tensors, open_weights, write_json
from difflax.pretrained.format.torch_names import from_torch, to_torch
from difflax.text.clip_config import CLIPConfig, CLIPTextConfig
from difflax.text.encoders import TextEncoder, text_network
from difflax.text.joint import CLIP, clip_network
from difflax.text.pixels import PixelConfig
from difflax.text.tokenizer import Tokenizer, load_tokenizer

PREPROCESSOR = "preprocessor_config.json"


def load_clip(directory: epath.PathLike, *, batch_size: int = 64, dtype: Any = jnp.float32) -> CLIP:
    """A whole CLIP from its folder; arguments as for `CLIP`.

    Raises:
        UserError: the folder is no CLIP's, or its weights do not fit its config.
    """
    path = epath.Path(directory)
    fields = _read_config(path)
    check_model(fields, CLIPConfig.model_type, f"in {path}", "give the folder of a whole CLIP")
    config = CLIPConfig.from_config(fields)
    length = config.text_config.max_position_embeddings
    return CLIP(
        params=from_torch(_open_weights(path), clip_network(config).abstract(), f"the CLIP in {path}"),
        config=config,
        tokenizer=load_tokenizer(path, max_length=length),
        pixels=PixelConfig.from_config(read_json(path / PREPROCESSOR)),
        batch_size=batch_size,
        dtype=dtype,
    )


def save_clip(clip: CLIP, directory: epath.PathLike) -> None:
    """Writes a CLIP folder, which `load_clip` and transformers' ``CLIPModel`` and ``CLIPProcessor`` read."""
    path = epath.Path(directory)
    write_model(path, TRANSFORMERS, clip.config.to_config(), to_torch(clip.params))
    write_json(path / PREPROCESSOR, clip.pixels.to_config())
    clip.tokenizer.save(path)


def load_text_encoder(
    directory: epath.PathLike,
    *,
    number: int = 1,
    layer: int = -1,
    final_norm: bool = True,
    batch_size: int = 64,
    dtype: Any = jnp.float32,
    param_dtype: Any = None,
    variant: str | None = None,
) -> TextEncoder:
    """The text tower of a pipeline folder or of a CLIP folder; arguments as for `TextEncoder`.

    Args:
        number: of a pipeline's text encoders, from 1: 2 is ``text_encoder_2/`` and ``tokenizer_2/``.
        param_dtype: of the parameters; ``None``: float32.
        variant: of the weights, see `open_weights`.

    Raises:
        UserError: the folder has no CLIP text tower, or its weights do not fit its config.
    """
    path = epath.Path(directory)
    in_pipeline = number > 1 or (path / TEXT_ENCODER).is_dir() or (path / INDEX).is_file()
    model_path = path / numbered(TEXT_ENCODER, number) if in_pipeline else path
    tokenizer_path = path / numbered(TOKENIZER, number) if in_pipeline else path

    def tokenizer(length: int) -> Tokenizer:
        if not tokenizer_path.is_dir():
            raise UserError(f"no {tokenizer_path.name} in {path}: a pipeline folder needs its tokenizer")
        return load_tokenizer(tokenizer_path, max_length=length)

    return load_text_encoder_from(
        _read_config(model_path),
        _open_weights(model_path, variant),
        tokenizer,
        f"in {model_path}",
        layer=layer,
        final_norm=final_norm,
        batch_size=batch_size,
        dtype=dtype,
        param_dtype=param_dtype,
    )


def load_text_encoder_from(
    fields: Mapping[str, Any],
    tensors: Tensors,
    tokenizer: Callable[[int], Tokenizer],
    where: str,
    *,
    layer: int = -1,
    final_norm: bool = True,
    batch_size: int = 64,
    dtype: Any = jnp.float32,
    param_dtype: Any = None,
) -> TextEncoder:
    """The text tower of a config and tensors by transformers' names.

    Args:
        fields: of a ``config.json``.
        tokenizer: makes one whose rows have the given length.
        where: for errors.
    """
    kind = fields.get("model_type")
    if kind not in tuple(_TEXT_TOWERS):
        raise UserError(f"{CONFIG} {where} is of a {shown(kind)} model: a CLIP text encoder is needed")
    config, tensors = _TEXT_TOWERS[kind](fields, tensors)
    projection = "text_projection.weight" in tensors or _is(fields, "CLIPTextModelWithProjection")
    made = tokenizer(config.max_position_embeddings)
    abstract = text_network(config, projection).abstract()
    return TextEncoder(
        params=from_torch(tensors, abstract, f"the text encoder {where}", dtype=param_dtype),
        config=config,
        tokenizer=made,
        layer=layer,
        final_norm=final_norm,
        batch_size=batch_size,
        dtype=dtype,
    )


def _of_whole(fields: Mapping[str, Any], tensors: Tensors) -> tuple[CLIPTextConfig, Tensors]:
    kept = {n: t for n, t in tensors.items() if n.startswith(("text_model.", "text_projection."))}
    return CLIPConfig.from_config(fields).text_config, kept


def _of_tower(fields: Mapping[str, Any], tensors: Tensors) -> tuple[CLIPTextConfig, Tensors]:
    return CLIPTextConfig.from_config(fields), _with_prefix(tensors, "text_model.")


_TEXT_TOWERS = {CLIPConfig.model_type: _of_whole, CLIPTextConfig.model_type: _of_tower}
"""By what a config is of: the text tower's own, and its tensors."""


def save_text_encoder(encoder: TextEncoder, directory: epath.PathLike, *, number: int = 1) -> None:
    """Writes ``text_encoder/`` and ``tokenizer/`` (of the second encoder ``text_encoder_2/`` and
    ``tokenizer_2/``) as diffusers and transformers read them.

    ``layer`` and ``final_norm`` have no place in these files; they belong to the diffusion model's config.
    """
    path = epath.Path(directory)
    kind = "CLIPTextModelWithProjection" if "text_projection" in encoder.params else "CLIPTextModel"
    fields = {"architectures": [kind], **encoder.config.to_config()}
    write_model(path / numbered(TEXT_ENCODER, number), TRANSFORMERS, fields, to_torch(encoder.params))
    encoder.tokenizer.save(path / numbered(TOKENIZER, number))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipPart(TextPart):
    """A CLIP text tower of a pipeline.

    Attributes:
        layer, final_norm: which of its states are read, see `TextEncoder`.
        projects: its pooled vector is read, and goes through a projection.
    """

    layer: int = -1
    final_norm: bool = True
    projects: bool = False

    @property
    def states(self) -> dict[str, Any]:
        """Which states are read, as arguments of the loaders."""
        return {"layer": self.layer, "final_norm": self.final_norm}

    def load(self, folder: epath.Path, options: EncoderOptions) -> TextEncoder:
        return load_text_encoder(
            folder, number=self.number, variant=options.variant, **self.states, **options.loading
        )

    def problem(self, encoder: TextEncoder, reader: str) -> str:
        if not self.projects or "text_projection" in encoder.params:
            return ""
        return (
            f"has no text_projection, which {reader}'s pooled vector goes through: a"
            " CLIPTextModelWithProjection is needed"
        )

    def save(self, encoder: TextEncoder, folder: epath.Path) -> None:
        save_text_encoder(encoder, folder, number=self.number)

    def classes(self, encoder: TextEncoder) -> tuple[str, str]:
        projects = "text_projection" in encoder.params
        return f"CLIPTextModel{'WithProjection' * projects}", "CLIPTokenizer"


def _is(config: Mapping[str, Any], architecture: str) -> bool:
    given = config.get("architectures")
    return type(given) is list and architecture in given


def _with_prefix(tensors: Tensors, prefix: str) -> Tensors:
    """transformers 5 saves a bare tower without the ``text_model.`` that all older files have."""
    bare = ("embeddings.", "encoder.", "final_layer_norm.", "pre_layrnorm.", "post_layernorm.")
    return {f"{prefix}{name}" if name.startswith(bare) else name: t for name, t in tensors.items()}


def _read_config(directory: epath.Path) -> dict[str, Any]:
    if not (directory / CONFIG).is_file():
        raise UserError(f"no {CONFIG} in {directory}: give a folder in the Hub's layout")
    return read_json(directory / CONFIG)


def _open_weights(directory: epath.Path, variant: str | None = None) -> Tensors:
    """All tensors of the folder, less the position indices that old files store among them."""
    tensors = open_weights(directory, TRANSFORMERS, variant=variant)
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(".position_ids")}
