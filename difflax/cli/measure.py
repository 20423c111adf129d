"""Measures images, also of models that were trained elsewhere: FID, KID, precision, recall and more, with a
manifest beside every number (docs/measuring.md).

difflax measure --images=DIR --reference=DIR_OR_NPZ --metrics=fid,kid,prdc \
  --inception=weights-inception-2015-12-05-6726825d.pth --output=result.json
"""

from collections.abc import Sequence

from absl import flags

from difflax.cli.fields import define_fields, read_fields
from difflax.core.types import UserError


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    from difflax.evaluation.measuring.measures import MEASURES, MeasureSettings
    from difflax.evaluation.measuring.resizing import RESIZES

    texts = {
        "images": "what is measured: a folder of pictures, or a .npz or .npy file of images; must be given",
        "reference": "what it is compared with: the same, or a .npz of clean-fid, torch-fidelity or ADM with"
        " statistics; without it: only metrics that compare with nothing",
        "inception": "file of FID's Inception, .safetensors or the .pth of torch-fidelity or pytorch-fid;"
        " without it: no metric that needs it",
        "clip": "folder or Hub id of a CLIP in transformers' layout; without it: no metric that needs one",
        "dino": "folder or Hub id of a DINOv2 in transformers' layout; without it: no metric that needs one",
        "siglip": "folder or Hub id of a SigLIP in the same layout; without it: no metric that needs one",
        "aesthetic": "file of LAION's aesthetic predictor; without it: no metric aesthetic",
        "prompts": "text file with the prompt of each image on its line; without it: no metric of prompts",
        "output": "JSON file for the result, which is printed in any case; without it: none",
    }
    for name, text in texts.items():
        flags.DEFINE_string(name, None, text, flag_values=values)
    flags.DEFINE_list(
        "metrics", ["fid"], f"with commas between them, of {', '.join(MEASURES)}", flag_values=values
    )
    flags.DEFINE_string(
        "resize",
        "clean",
        f"how Inception's input is made, one of {', '.join(RESIZES)}: clean-fid's or torch-fidelity's",
        flag_values=values,
    )
    define_fields(values, MeasureSettings)


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    import json

    from difflax.core.kinds import read_own_fields
    from difflax.evaluation.measuring.measures import MeasureSettings
    from difflax.runs.measure import measure

    if values.images is None:
        raise UserError("give --images, a folder of pictures or a .npz file")
    given = read_own_fields(MeasureSettings, read_fields(values, MeasureSettings))
    result = measure(
        values.images,
        values.reference,
        values.metrics,
        resize=values.resize,
        inception=values.inception,
        clip=values.clip,
        dino=values.dino,
        siglip=values.siglip,
        aesthetic=values.aesthetic,
        prompts=values.prompts,
        output=values.output,
        settings=MeasureSettings(**given),
    )
    print(json.dumps({name: value for name, value in result.items() if name != "manifests"}, indent=2))
