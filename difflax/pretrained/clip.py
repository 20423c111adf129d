"""CLIP's weights in and out, in the layouts of the Hub.

Two layouts hold a text encoder: a CLIP folder (``config.json``, ``model.safetensors``, tokenizer files,
``preprocessor_config.json``; what transformers' ``CLIPModel`` reads) and a pipeline folder with the
subfolders ``text_encoder/`` and ``tokenizer/`` (what diffusers reads).
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from difflax.pretrained.names import from_torch, to_torch
from difflax.text.clip_config import CLIPConfig, CLIPTextConfig
from difflax.text.encoders import TextEncoder, text_network
from difflax.text.joint import CLIP, clip_network
from difflax.text.pixels import PixelConfig
from difflax.text.tokenizer import load_tokenizer
from difflax.types import UserError

CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"


def load_clip(directory: epath.PathLike, *, batch_size: int = 64, dtype: Any = jnp.float32) -> CLIP:
    """A whole CLIP from its folder; arguments as for `CLIP`.

    Raises:
        UserError: the folder is no CLIP's, or its weights do not fit its config.
    """
    path = epath.Path(directory)
    fields = _read_config(path)
    if fields.get("model_type") != "clip":
        raise UserError(
            f"{path / CONFIG} is of a {fields.get('model_type')!r} model: give the folder of a whole CLIP"
        )
    config = CLIPConfig.from_config(fields)
    length = config.text_config.max_position_embeddings
    return CLIP(
        params=jax.device_put(
            from_torch(_read_weights(path), clip_network(config).abstract(), f"the CLIP in {path}")
        ),
        config=config,
        tokenizer=load_tokenizer(path, max_length=length),
        pixels=PixelConfig.from_config(_read_json(path / PREPROCESSOR)),
        batch_size=batch_size,
        dtype=dtype,
    )


def save_clip(clip: CLIP, directory: epath.PathLike) -> None:
    """Writes a CLIP folder, which `load_clip` and transformers' ``CLIPModel`` and ``CLIPProcessor`` read."""
    path = epath.Path(directory)
    _write_model(path, clip.config.to_config(), to_torch(clip.params))
    _write_json(path / PREPROCESSOR, clip.pixels.to_config())
    clip.tokenizer.save(path)


def load_text_encoder(
    directory: epath.PathLike,
    *,
    layer: int = -1,
    final_norm: bool = True,
    batch_size: int = 64,
    dtype: Any = jnp.float32,
) -> TextEncoder:
    """The text tower of a pipeline folder or of a CLIP folder; arguments as for `TextEncoder`.

    Raises:
        UserError: the folder has no CLIP text tower, or its weights do not fit its config.
    """
    path = epath.Path(directory)
    in_pipeline = (path / "text_encoder").is_dir()
    model_path = path / "text_encoder" if in_pipeline else path
    fields, tensors = _read_config(model_path), _read_weights(model_path)
    match fields.get("model_type"):
        case "clip":
            config = CLIPConfig.from_config(fields).text_config
            tensors = {n: t for n, t in tensors.items() if n.startswith(("text_model.", "text_projection."))}
        case "clip_text_model":
            config = CLIPTextConfig.from_config(fields)
            tensors = _with_prefix(tensors)
        case other:
            raise UserError(f"{model_path / CONFIG} is of a {other!r} model: a CLIP text encoder is needed")
    abstract = text_network(config, "text_projection.weight" in tensors).abstract()
    return TextEncoder(
        params=jax.device_put(from_torch(tensors, abstract, f"the text encoder in {model_path}")),
        config=config,
        tokenizer=load_tokenizer(
            path / "tokenizer" if in_pipeline else path, max_length=config.max_position_embeddings
        ),
        layer=layer,
        final_norm=final_norm,
        batch_size=batch_size,
        dtype=dtype,
    )


def save_text_encoder(encoder: TextEncoder, directory: epath.PathLike) -> None:
    """Writes ``text_encoder/`` and ``tokenizer/`` as diffusers and transformers read them.

    ``layer`` and ``final_norm`` have no place in these files; they belong to the diffusion model's config.
    """
    path = epath.Path(directory)
    kind = "CLIPTextModelWithProjection" if "text_projection" in encoder.params else "CLIPTextModel"
    fields = {"architectures": [kind], **encoder.config.to_config()}
    _write_model(path / "text_encoder", fields, to_torch(encoder.params))
    encoder.tokenizer.save(path / "tokenizer")


def _with_prefix(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """transformers 5 saves a bare text tower without the ``text_model.`` that all older files have."""
    bare = ("embeddings.", "encoder.", "final_layer_norm.")
    return {f"text_model.{name}" if name.startswith(bare) else name: t for name, t in tensors.items()}


def _read_config(directory: epath.Path) -> dict[str, Any]:
    if not (directory / CONFIG).is_file():
        raise UserError(f"no {CONFIG} in {directory}: give a folder in the Hub's layout")
    return _read_json(directory / CONFIG)


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"no {path.name} in {path.parent}: the folder is incomplete") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): restore the file") from error


def _read_weights(directory: epath.Path) -> dict[str, np.ndarray]:
    """All tensors of the folder, less the position indices that old files store among them."""
    path = directory / WEIGHTS
    if not path.is_file():
        raise UserError(f"no {WEIGHTS} in {directory}: only safetensors are read; convert other files first")
    try:
        tensors = safetensors.numpy.load(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}): fetch it again") from error
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(".position_ids")}


def _write_model(directory: epath.Path, config: Mapping[str, Any], tensors: dict[str, np.ndarray]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / CONFIG, config)
    # transformers asks for the format that the tensors were written for.
    (directory / WEIGHTS).write_bytes(safetensors.numpy.save(tensors, metadata={"format": "pt"}))


def _write_json(path: epath.Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
