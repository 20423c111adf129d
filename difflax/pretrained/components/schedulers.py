"""diffusers' ``scheduler_config.json`` as schedule, prediction type, sampler and time grid.

An option of a class (`difflax.pretrained.components.scheduler_classes`) is read as diffusers reads it or is
an error; one that only other classes have is of no effect, as in diffusers, and one that no class has is an
error.
"""

import dataclasses

from difflax.core.spelling import choose
from difflax.core.types import UserError
from difflax.pretrained.components.scheduler_classes import SCHEDULER_CLASSES
from difflax.pretrained.components.scheduler_options import Config, read_options
from difflax.pretrained.components.scheduler_reading import Sampling
from difflax.pretrained.format.layout import class_name


def read_scheduler(config: Config, *, patch_size: int = 2) -> Sampling:
    """The parts of difflax that do what the scheduler of a ``scheduler_config.json`` does.

    Args:
        patch_size: of the network, for a shift that depends on the number of its tokens.

    Raises:
        UserError: in one line, a class, an option or a value that is none, or has no counterpart here.
    """
    name = class_name(config)
    kind = choose(SCHEDULER_CLASSES, name, "scheduler config: _class_name")
    values = read_options(name, config, kind.defaults, kind.only)
    try:
        sampling = kind.read(values, patch_size)
        options = dataclasses.replace(sampling.options, known_noise="start")
        return dataclasses.replace(sampling, options=options)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"scheduler config of {name}: {error}") from error
