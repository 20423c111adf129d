"""The text encoders in a file in the original layout, and where comes from what no file holds.

Each kind of encoder is one subclass of `Tower`; a family of checkpoints has a tuple of them, which may say
two ways in which one and the same encoder is held.
"""

import abc
import dataclasses

from etils import epath

from difflax.pretrained.components.text_encoders import EncoderOptions, TextPart
from difflax.pretrained.format.safetensors import Tensors
from difflax.text.prompts import PromptEncoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beside:
    """What is given beside a file.

    Attributes:
        folder: a pipeline's, whose configs and tokenizers are taken; ``None``: what the file's tensors imply,
            and the tokenizers of the Hub.
        tokenizer: a folder or Hub id, in place of the tokenizers of the CLIPs.
    """

    folder: epath.Path | None = None
    tokenizer: epath.PathLike | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tower(abc.ABC):
    """A text encoder in a file.

    Attributes:
        prefix: of its tensors' names.
        part: which of the pipeline's it is.
    """

    prefix: str
    part: TextPart

    @abc.abstractmethod
    def load(self, tensors: Tensors, beside: Beside, where: str, options: EncoderOptions) -> PromptEncoder:
        """The encoder.

        Args:
            tensors: the file's under the prefix, without it.
            where: for errors.

        Raises:
            UserError: tensors that do not fit, or no tokenizer.
        """
