"""From a config or a checkpoint to something that runs: `train`, `load`, `from_pretrained`, `evaluation`.

`difflax.config` makes a typed `Experiment` of a config; one file here for each kind of run gives the common
loop what that kind adds.
"""

from difflax.runs.decisions import factor_reader, restarts
from difflax.runs.evaluate import evaluation, evaluation_of_prompts
from difflax.runs.guidance import check_guidance_text, with_guidance
from difflax.runs.likelihood import likelihood
from difflax.runs.load import from_pretrained, load
from difflax.runs.measure import measure
from difflax.runs.train import train

__all__ = [
    "check_guidance_text",
    "evaluation",
    "evaluation_of_prompts",
    "factor_reader",
    "from_pretrained",
    "likelihood",
    "load",
    "measure",
    "restarts",
    "train",
    "with_guidance",
]
