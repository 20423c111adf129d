"""From a config or a checkpoint to something that runs: `train`, `load`, `from_pretrained`, `evaluation`.

`sections` and `networks` turn every section of a config into its object and are the only files that know
every concrete class by name; `checks` finds what is wrong with a config before anything is computed; one file
for each kind of run gives the common loop what that kind adds.
"""

from difflax.experiment.checks import check
from difflax.experiment.guiding import with_guidance
from difflax.experiment.loading import from_pretrained, load
from difflax.experiment.measuring import evaluation, evaluation_of_prompts
from difflax.experiment.sections import make_diffusion, make_settings
from difflax.experiment.training import train

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
