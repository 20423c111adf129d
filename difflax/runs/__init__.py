"""From a config or a checkpoint to something that runs: `train`, `load`, `from_pretrained`, `evaluation`.

`difflax.config` turns every section of a config into its object; here one file for each kind of run gives the
common loop what that kind adds.
"""

from difflax.config.checks import check
from difflax.runs.guidance import with_guidance
from difflax.runs.load import from_pretrained, load
from difflax.runs.evaluate import evaluation, evaluation_of_prompts
from difflax.config.sections import make_diffusion, make_settings
from difflax.runs.train import train

__all__ = [
    "check",
    "evaluation",
    "evaluation_of_prompts",
    "from_pretrained",
    "load",
    "make_diffusion",
    "make_settings",
    "train",
    "with_guidance",
]
