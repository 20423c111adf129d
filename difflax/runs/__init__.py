"""From a config or a checkpoint to something that runs: `train`, `load`, `from_pretrained`, `evaluation`.

`sections` and `networks` turn every section of a config into its object and are the only files that know
every concrete class by name; `checks` finds what is wrong with a config before anything is computed; one file
for each kind of run gives the common loop what that kind adds.
"""

from difflax.config.checks import check
from difflax.runs.guidance import with_guidance
from difflax.runs.load import from_pretrained, load
from difflax.runs.likelihood import likelihood
from difflax.runs.evaluate import evaluation, evaluation_of_prompts
from difflax.config.sections import make_diffusion, make_settings
from difflax.runs.train import train

__all__ = [
    "check",
    "evaluation",
    "evaluation_of_prompts",
    "from_pretrained",
    "likelihood",
    "load",
    "make_diffusion",
    "make_settings",
    "train",
    "with_guidance",
]
