"""A T5 in a file in the original layout."""

import dataclasses
import re
from typing import Any

from difflax.core.documents import read_json
from difflax.core.types import UserError
from difflax.pretrained.components.t5 import (
    TOKEN_TABLE,
    T5Part,
    encoder_tensors,
    load_t5_encoder_from,
    t5_config,
)
from difflax.pretrained.components.text_encoders import EncoderOptions
from difflax.pretrained.format.layout import CONFIG
from difflax.pretrained.format.safetensors import Tensors
from difflax.pretrained.single_file.tensors import count_of, shapes_of
from difflax.pretrained.single_file.text import Beside, Tower
from difflax.text.t5 import T5Config
from difflax.text.t5_encoder import T5Encoder
from difflax.text.tokenizer import Tokenizer, load_tokenizer

T5_TOKENIZER = "google-t5/t5-base"
"""On the Hub. T5 of every size has one vocabulary; that of 1.1 XXL has no ``tokenizer.json`` there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Tower(Tower):
    """A T5 encoder."""

    part: T5Part

    def load(self, tensors: Tensors, beside: Beside, where: str, options: EncoderOptions) -> T5Encoder:
        if beside.folder is None:
            config = infer_t5_config(encoder_tensors(tensors))
        else:
            config = read_json(beside.folder / self.part.name / CONFIG)
        length = self.part.tokens(options)
        return load_t5_encoder_from(
            t5_config(config, where),
            tensors,
            lambda: self._tokenizer(beside, length),
            where,
            **options.loading,
        )

    def _tokenizer(self, beside: Beside, length: int) -> Tokenizer:
        if beside.folder is not None:
            return load_tokenizer(beside.folder / self.part.tokenizer, max_length=length)
        try:
            return load_tokenizer(T5_TOKENIZER, max_length=length)
        except UserError as error:
            raise UserError(
                f"{error}: as config=DIR a pipeline with a {self.part.tokenizer}, or leave T5 out with"
                " t5=False"
            ) from error


def infer_t5_config(tensors: Tensors) -> dict[str, Any]:
    """The config of a T5 encoder of version 1.0 or 1.1; distances beyond 128 share a bucket, as in all.

    Raises:
        UserError: tensors that tell the structure are missing or have another number of axes.
    """
    what, block = "the T5 encoder in the file", "encoder.block.0.layer"
    bias = f"{block}.0.SelfAttention.relative_attention_bias.weight"
    query = f"{block}.0.SelfAttention.q.weight"
    gated = f"{block}.1.DenseReluDense.wi_0.weight"
    inner = gated if gated in tensors else f"{block}.1.DenseReluDense.wi.weight"
    shapes = shapes_of(tensors, dict.fromkeys((TOKEN_TABLE, bias, query, inner), 2), what)
    numbers = (m[1] for n in tensors if (m := re.match(r"encoder\.block\.(\d+)\.", n)))
    buckets, heads = shapes[bias]
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": T5Config.model_type,
        "vocab_size": shapes[TOKEN_TABLE][0],
        "d_model": shapes[TOKEN_TABLE][1],
        "d_kv": shapes[query][0] // heads,
        "d_ff": shapes[inner][0],
        "num_layers": count_of(numbers, f"the blocks of {what}"),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu" if inner == gated else "relu",
    }
