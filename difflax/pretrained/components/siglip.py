"""SigLIP from its folder in the Hub's layout."""

from typing import Any

from etils import epath

from difflax.core.documents import read_json
from difflax.core.types import UserError
from difflax.pretrained.format.layout import CONFIG, TRANSFORMERS, check_model
from difflax.pretrained.format.safetensors import open_weights
from difflax.pretrained.format.torch_names import from_torch
from difflax.text.siglip import SigLIP, siglip_network
from difflax.text.siglip_config import SigLIPConfig


def load_siglip(directory: epath.PathLike) -> SigLIP:
    """A whole SigLIP from a folder such as that of ``google/siglip-so400m-patch14-384``.

    Raises:
        UserError: the folder is no SigLIP's, or its weights do not fit its config.
    """
    path = epath.Path(directory)
    if not (path / CONFIG).is_file():
        raise UserError(f"no {CONFIG} in {path}: give a SigLIP's folder in the Hub's layout")
    fields = read_json(path / CONFIG)
    check_model(fields, SigLIPConfig.model_type, f"in {path}", "give the folder of a SigLIP (not SigLIP 2)")
    config = SigLIPConfig.from_config(fields)
    tensors = {
        name: tensor
        for name, tensor in open_weights(path, TRANSFORMERS).items()
        if not name.endswith(".position_ids")
    }
    params = from_torch(tensors, siglip_network(config).abstract(), f"the SigLIP in {path}")
    return SigLIP(params=params, config=config, tokenizer=_tokenizer(path))


def _tokenizer(path: epath.Path) -> Any:
    # Imported late: it takes a while.
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(str(path))
    except (OSError, ValueError, ImportError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} has no tokenizer that can be read ({why}): fetch its tokenizer.json, or pip install"
            " sentencepiece"
        ) from error
