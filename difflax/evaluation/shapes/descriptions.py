"""The metrics of the shapes world: what each number means, and what it is for the truth."""

from difflax.evaluation.metrics import ACCURACY, Metric, share_read
from difflax.evaluation.shapes.alignment import NAMED
from difflax.evaluation.shapes.coverage import FACTORS
from difflax.evaluation.shapes.fidelity import HIGHEST_PSNR

EXACT = "exact: the world renders its own pictures, see difflax/evaluation/shapes"
OPEN_NOTE = (
    "Over every factor that the prompt leaves open, then over prompts; with one seed there is none. Images "
    "that show too few objects are left out."
)
KEPT, EXCESS, PSNR = "coverage_kept", "coverage_excess", "residual_psnr"

_PARTS = {
    "shape": "every named shape",
    "colour": "every named colour",
    "texture": "every named texture",
    "size": "every named size",
    "place": "every named place",
    "background": "the named background",
    "tone": "whether the background is light or dark",
    "light": "where the light comes from",
    "relation": "how two objects stand to each other",
    "count": "the number of objects",
    "binding": "which attribute belongs to which object, where all named ones are shown,",
}
ALIGNMENT = (
    ACCURACY,
    *(share_read(name, f"{name.capitalize()} right", what, ACCURACY.name) for name, what in _PARTS.items()),
    *(
        share_read(
            f"accuracy_{name}_named",
            f"All right, {name.replace('_', ' ')} named",
            f"everything right that a prompt of {name.replace('_', ' ')} factors names",
            ACCURACY.name,
        )
        for name in NAMED
    ),
)


def _kept(name: str, label: str, of: str, part_of: str = "") -> Metric:
    return Metric(
        name=name,
        label=label,
        unit="share of the truth's entropy",
        better="higher",
        definition=f"Entropy of {of} in the images of one prompt, over that of as many true images.",
        source=EXACT,
        note=f"1 is as varied as the truth, 0 is always the same. {OPEN_NOTE}",
        bounds=(0.0, None),
        truth=1.0,
        part_of=part_of,
    )


def _excess(name: str, label: str, of: str, part_of: str = "") -> Metric:
    return Metric(
        name=name,
        label=label,
        unit="share of the room above as many true images",
        better="lower",
        definition=(
            f"Distance of the distribution of {of} in the images of one prompt from the true one (total "
            "variation, or Wasserstein-1 in shares of the side or turn), above that of as many true images."
        ),
        source=EXACT,
        note=f"0 is as good as true images, 1 as wrong as can be. {OPEN_NOTE}",
        truth=0.0,
        part_of=part_of,
    )


COVERAGE = (
    _kept(KEPT, "Coverage: entropy kept", "what is left open"),
    _excess(EXCESS, "Coverage: distance above the truth's", "what is left open"),
    *(_kept(f"{name}_kept", f"Entropy kept: {name}", f"the {name}", KEPT) for name in FACTORS),
    _kept("pairs_kept", "Entropy kept: pairs", "two open factors jointly", KEPT),
    *(_excess(f"{name}_excess", f"Distance: {name}", f"the {name}", EXCESS) for name in FACTORS),
    _excess("pairs_excess", "Distance: pairs", "two open factors jointly", EXCESS),
)

FIDELITY = (
    Metric(
        name=PSNR,
        label="Fidelity: residual PSNR",
        unit="dB",
        better="higher",
        definition="PSNR between an image and the render of what was read off it.",
        source=EXACT,
        note=f"At most {HIGHEST_PSNR:g} dB; real images show how well the judge explains true ones.",
        bounds=(None, HIGHEST_PSNR),
    ),
    Metric(
        name="saturation_excess",
        label="Saturation above the truth's",
        unit="mean HSV saturation",
        definition="Mean HSV saturation of the images of a prompt less that of true images of it.",
        source=EXACT,
        bounds=(-1.0, 1.0),
        truth=0.0,
    ),
    Metric(
        name="clipped_excess",
        label="Clipped values above the truth's",
        unit="share of channel values",
        definition="Share of clipped values in the images of a prompt less that in true images of it.",
        source=EXACT,
        bounds=(-1.0, 1.0),
        truth=0.0,
    ),
)
