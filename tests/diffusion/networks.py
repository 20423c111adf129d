"""Networks that a perfectly trained one would be: they see only ``x`` and their time."""

from difflax.diffusion.predictions import target
from difflax.diffusion.schedules.base import noise_level


def as_network(oracle, schedule, prediction_type, time_scale=1000.0):
    """The ideal denoiser of ``oracle`` as a network of ``prediction_type`` trained under ``schedule``."""

    def network(x, time, conditioning):
        level = noise_level(schedule, time / time_scale)
        prediction = oracle.denoise(x, level)
        return target(prediction_type, prediction.x0, prediction.eps, level)

    return network
