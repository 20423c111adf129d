"""What a chip can do at most, by the name that JAX gives it: makers' data sheets."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """Attributes:
    flops: dense bfloat16 FLOPs a second.
    memory: bytes.
    bandwidth: of the memory, bytes a second.
    links: between chips, bytes a second in one direction, all links of a chip together.
    """

    flops: float
    memory: float
    bandwidth: float
    links: float


GiB = 2.0**30

CHIPS = {
    # https://cloud.google.com/tpu/docs/v4, v5e, v5p, v6e: peak compute, HBM, bandwidth, interchip links.
    "v4": Chip(275e12, 32 * GiB, 1228e9, 300e9),
    "v5e": Chip(197e12, 16 * GiB, 819e9, 200e9),
    "v5p": Chip(459e12, 95 * GiB, 2765e9, 600e9),
    "v6e": Chip(918e12, 32 * GiB, 1640e9, 400e9),
    # NVIDIA's data sheets: SXM boards, NVLink in one direction.
    "a100": Chip(312e12, 80e9, 2039e9, 300e9),
    "h100": Chip(989e12, 80e9, 3350e9, 450e9),
    "h200": Chip(989e12, 141e9, 4800e9, 450e9),
}

_NAMES = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5p": "v5p",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}


def chip(device_kind: str) -> Chip | None:
    """The chip of ``jax.Device.device_kind``; ``None`` where it is not known (a CPU)."""
    if device_kind in _NAMES:
        return CHIPS[_NAMES[device_kind]]
    for name in ("a100", "h200", "h100"):
        if device_kind.lower().startswith("nvidia") and name in device_kind.lower():
            return CHIPS[name]
    return None
