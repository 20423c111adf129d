"""The text encoders in a checkpoint file in the original layout, and the tokenizers that no file holds.

Stable Diffusion 1.x has transformers' CLIP under ``cond_stage_model.``, 2.x OpenCLIP's with queries, keys and
values in one matrix; XL has both under ``conditioner.embedders.``, and 3 both with transformers' names, with
T5, under ``text_encoders.``.
"""

import dataclasses
from typing import Any

import numpy as np
from etils import epath

from difflax.core.types import UserError
from difflax.pretrained.components.clip import load_text_encoder_from
from difflax.pretrained.components.t5 import encoder_tensors, load_t5_encoder_from, t5_config
from difflax.pretrained.components.text_encoders import PENULTIMATE
from difflax.pretrained.format.safetensors import Tensors, read_json
from difflax.pretrained.single_file.inferred_configs import infer_t5_config, infer_text_config
from difflax.pretrained.single_file.original_names import open_clip_names
from difflax.text.encoders import TextEncoder
from difflax.text.t5_encoder import T5Encoder
from difflax.text.tokenizer import Tokenizer, load_tokenizer

TOKENIZER, T5_TOKENIZER = "openai/clip-vit-large-patch14", "google-t5/t5-base"
"""On the Hub. T5 of every size has one vocabulary; that of 1.1 XXL has no ``tokenizer.json`` there."""


@dataclasses.dataclass(frozen=True)
class Tower:
    """A CLIP text encoder in a file.

    Attributes:
        open_clip: it is OpenCLIP's.
        renamed: all the same it has transformers' names.
        whole: the state before the last layer is read, and the projected vector of OpenCLIP's (XL, 3).
        identity: its pooled vector is not projected where another's is: the projection is the identity,
            whatever the file has.
        number: of the text encoders in the pipeline.
    """

    prefix: str
    open_clip: bool
    renamed: bool = False
    whole: bool = False
    identity: bool = False
    number: int = 1

    @property
    def name(self) -> str:
        """Of its folder in a pipeline."""
        return f"text_encoder{self.suffix}"

    @property
    def suffix(self) -> str:
        """Of the folders in a pipeline."""
        return "" if self.number == 1 else f"_{self.number}"


TOWERS = (
    Tower("cond_stage_model.transformer.", open_clip=False),
    Tower("cond_stage_model.model.", open_clip=True),
    Tower("conditioner.embedders.0.transformer.", open_clip=False, whole=True),
    Tower("conditioner.embedders.1.model.", open_clip=True, whole=True, number=2),
    # The refiner's only one.
    Tower("conditioner.embedders.0.model.", open_clip=True, whole=True, number=2),
)
TOWERS_3 = (
    Tower("text_encoders.clip_l.transformer.", open_clip=False, whole=True, identity=True),
    Tower("text_encoders.clip_g.transformer.", open_clip=True, renamed=True, whole=True, number=2),
)
"""Stable Diffusion 3's; diffusers and Stability's code leave the first's pooled vector as it is, too."""

T5 = "text_encoders.t5xxl.transformer."


def load_tower(
    tower: Tower,
    tensors: Tensors,
    folder: epath.Path | None,
    tokenizer: epath.PathLike | None,
    where: str,
    dtype: Any,
) -> TextEncoder:
    """A CLIP text encoder.

    Args:
        tensors: the file's under its prefix.
        folder: a pipeline's, whose config and tokenizer are taken.
        tokenizer: a folder or Hub id in place of it; with neither, CLIP's own from the Hub.
        where: for errors.
        dtype: of the computation and of the parameters.

    Raises:
        UserError: tensors that do not fit, or no tokenizer.
    """
    tensors = dict(tensors)
    token = "text_model.embeddings.token_embedding.weight"
    if tower.identity and token in tensors:
        width = tensors[token].shape[-1] if tensors[token].shape else 0
        tensors["text_projection.weight"] = np.eye(width, dtype=np.float32)
    own = tower.open_clip and not tower.renamed
    if folder is None:
        config = infer_text_config(tensors, second=tower.open_clip, whole=tower.whole, renamed=tower.renamed)
    else:
        config = read_json(folder / tower.name / "config.json")
    if own:
        tensors = open_clip_names(tensors, config["num_hidden_layers"], projection=tower.whole)

    def made(length: int) -> Tokenizer:
        if folder is not None and tokenizer is None:
            return load_tokenizer(folder / f"tokenizer{tower.suffix}", max_length=length)
        source = TOKENIZER if tokenizer is None else tokenizer
        loaded = load_tokenizer(source, max_length=length)
        if tower.open_clip:
            # OpenCLIP pads with id 0; a special token, as in the tokenizers of pipeline folders.
            loaded.backend.add_special_tokens({"pad_token": "!"})
        return loaded

    return load_text_encoder_from(
        config,
        tensors,
        made,
        where,
        batch_size=8,
        dtype=dtype,
        param_dtype=dtype,
        **(PENULTIMATE if tower.whole else {}),
    )


def load_t5(tensors: Tensors, folder: epath.Path | None, where: str, *, length: int, dtype: Any) -> T5Encoder:
    """The T5 of a file; ``length``: tokens a prompt, other arguments as for `load_tower`.

    Raises:
        UserError: tensors that do not fit, or no tokenizer.
    """
    if folder is None:
        config = infer_t5_config(encoder_tensors(tensors))
    else:
        config = read_json(folder / "text_encoder_3" / "config.json")

    def made() -> Tokenizer:
        if folder is not None:
            return load_tokenizer(folder / "tokenizer_3", max_length=length)
        try:
            return load_tokenizer(T5_TOKENIZER, max_length=length)
        except UserError as error:
            raise UserError(
                f"{error}: as config=DIR a pipeline with a tokenizer_3, or leave T5 out with t5=False"
            ) from error

    return load_t5_encoder_from(
        t5_config(config, where), tensors, made, where, dtype=dtype, param_dtype=dtype
    )
