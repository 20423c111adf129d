"""`measure`: anybody's images in, numbers out, a manifest beside every number."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from difflax.core.files import atomic_write, writable_file
from difflax.core.spelling import choose
from difflax.core.types import UserError
from difflax.core.version import __version__
from difflax.data.fingerprints import file_fingerprint
from difflax.data.image_sets import DECODING, ImageSet, open_images
from difflax.data.sources.base import data_directory
from difflax.data.texts import read_lines
from difflax.evaluation.ablation.manifests import digest
from difflax.evaluation.measuring.extraction import FeatureNetwork, read_images
from difflax.evaluation.measuring.measures import MEASURES, Compared, Measure, MeasureSettings
from difflax.evaluation.measuring.reference import read_reference
from difflax.runs.feature_networks import WEIGHTS_OF, Networks, Places, open_networks

REFERENCES = "references"
"""The folder below the data's where what was computed of references is kept."""


def measure(
    images: epath.PathLike | np.ndarray,
    reference: epath.PathLike | np.ndarray | None = None,
    metrics: str | Sequence[str] = ("fid",),
    *,
    resize: str = "clean",
    inception: epath.PathLike | None = None,
    clip: epath.PathLike | None = None,
    dino: epath.PathLike | None = None,
    siglip: epath.PathLike | None = None,
    aesthetic: epath.PathLike | None = None,
    prompts: epath.PathLike | Sequence[str] | None = None,
    output: epath.PathLike | None = None,
    settings: MeasureSettings | None = None,
) -> dict[str, Any]:
    """Measures images: a folder of pictures, a ``.npz`` or ``.npy`` file, or an array.

    Args:
        images: what is measured; an array is ``[n, h, w, 3]``, uint8 or float in [0, 1].
        reference: real images, or a ``.npz`` with statistics of them, for the metrics that compare.
        metrics: names of `MEASURES`, or one text with commas.
        resize: how Inception's input is made: ``"clean"`` as in clean-fid, ``"legacy"`` as in torch-fidelity.
        inception: file of FID's Inception, for the metrics that read with it.
        clip: folder or Hub id of a CLIP in transformers' layout.
        dino: folder or Hub id of a DINOv2 in transformers' layout.
        siglip: folder or Hub id of a SigLIP in transformers' layout.
        aesthetic: file of LAION's aesthetic predictor, which reads the features of its CLIP.
        prompts: a file with the prompt of each image on its line, or the prompts, in the images' order.
        output: JSON file for the result.
        settings: of the metrics.

    Returns:
        the numbers by name, and under ``"manifests"`` what each was computed of and how.

    Raises:
        UserError: what is missing, too little, or does not fit.
    """
    names = list(dict.fromkeys(metrics.split(",") if isinstance(metrics, str) else metrics))
    chosen = {name: choose(MEASURES, name, "metrics") for name in names}
    if not chosen:
        raise UserError(f"no metrics: choose from {', '.join(MEASURES)}")
    if output is not None:
        writable_file(output, f"--output={output}")
    places = Places(
        inception=_text(inception),
        clip=_text(clip),
        dino=_text(dino),
        siglip=_text(siglip),
        aesthetic=_text(aesthetic),
        resize=resize,
    )
    settings = settings or MeasureSettings()
    shown = open_images(images, "--images")
    asked = _prompts(prompts, len(shown), [name for name, one in chosen.items() if one.asks])
    comparing = [name for name, one in chosen.items() if one.compares]
    if comparing and reference is None:
        raise UserError(f"{', '.join(comparing)}: give --reference, real images or statistics of them")
    users: dict[str, list[str]] = {}
    for name, one in chosen.items():
        if one.network:
            users.setdefault(one.network, []).append(name)
    networks = open_networks(users, places)
    comparison = _read(shown, reference, chosen, networks, asked, settings, resize)
    asked_by = None if asked is None else _manifest_of_prompts(prompts, asked)
    result = _result(shown, chosen, networks.images, places, comparison, asked_by)
    if output is not None:
        with atomic_write(output, "w") as file:
            file.write(json.dumps(result, indent=2) + "\n")
    return result


def _text(place: epath.PathLike | None) -> str | None:
    return None if place is None else str(place)


def _manifest_of_prompts(prompts: epath.PathLike | Sequence[str], asked: list[str]) -> dict[str, str]:
    return {
        "where": str(prompts) if _is_file(prompts) else "--prompts",
        "fingerprint": digest(asked),
    }


def _is_file(prompts: epath.PathLike | Sequence[str]) -> bool:
    return isinstance(prompts, str) or hasattr(prompts, "__fspath__")


def _prompts(
    prompts: epath.PathLike | Sequence[str] | None, count: int, users: Sequence[str]
) -> list[str] | None:
    if not users:
        return None
    if prompts is None:
        raise UserError(
            f"{', '.join(users)}: give --prompts, a file with the prompt of each image on its line"
        )
    found = read_lines(prompts, f"--prompts={prompts}") if _is_file(prompts) else list(prompts)
    if not found:
        raise UserError(f"--prompts={prompts} holds no prompt")
    if len(found) != count:
        raise UserError(
            f"--prompts holds {len(found)} prompts, and there are {count} images: line i is the prompt of the"
            " i-th image in the order of their paths"
        )
    return found


def _read(
    images: ImageSet,
    reference: epath.PathLike | np.ndarray | None,
    chosen: Mapping[str, Measure],
    networks: Networks,
    prompts: list[str] | None,
    settings: MeasureSettings,
    resize: str,
) -> Compared:
    """Everything that the measures read."""
    comparing = [one for one in chosen.values() if one.compares]
    real = None
    if comparing:
        real = read_reference(
            reference,
            networks.images,
            gaussians={one.network for one in comparing if one.gaussian},
            features={one.network for one in comparing if not one.gaussian},
            batch_size=settings.batch_size,
            cache=data_directory(None) / REFERENCES,
        )
    made = read_images(
        images,
        networks.images,
        keep=sorted({one.network for one in chosen.values() if one.keeps}),
        pixels=[name for name, one in chosen.items() if not one.network],
        batch_size=settings.batch_size,
    )
    texts, numbers = {}, None
    if prompts is not None:
        unique, numbers = np.unique(prompts, return_inverse=True)
        for key in {one.network for one in chosen.values() if one.asks}:
            texts[key] = np.asarray(networks.texts[key].text_features(unique.tolist()))[numbers]
    return Compared(
        made=made,
        reference=real,
        settings=settings,
        clamp=resize == "clean",
        prompts=numbers,
        texts=texts,
        scales=networks.scales,
        heads=networks.heads,
    )


def _result(
    images: ImageSet,
    chosen: Mapping[str, Measure],
    networks: Mapping[str, FeatureNetwork],
    places: Places,
    comparison: Compared,
    prompts: Mapping[str, str] | None,
) -> dict[str, Any]:
    made, real = comparison.made, comparison.reference
    shared = {
        "difflax": __version__,
        "images": {"where": images.where, "count": made.count, "fingerprint": images.fingerprint()},
        "decoding": DECODING,
    }
    numbers: dict[str, Any] = {}
    manifests: dict[str, Any] = {}
    for name, one in chosen.items():
        found = one.compute(comparison, one.network)
        manifest = {"measure": name, **shared}
        if one.network:
            network = networks[one.network]
            where = getattr(places, WEIGHTS_OF[one.network])
            manifest["network"] = {
                "name": network.name,
                "where": where,
                "fingerprint": network.fingerprint,
            }
            manifest["resize"] = {"name": network.resize.name, "size": network.size}
        if one.compares:
            manifest["reference"] = {
                "where": real.where,
                "count": real.count or None,
                "fingerprint": real.fingerprint,
            }
        if one.asks:
            manifest["prompts"] = dict(prompts)
        if name in comparison.heads:
            manifest["head"] = {"where": places.aesthetic, "fingerprint": file_fingerprint(places.aesthetic)}
        manifest["settings"] = {name: getattr(comparison.settings, name) for name in one.settings}
        numbers |= found
        manifests |= dict.fromkeys(found, manifest)
    return numbers | {"manifests": manifests}
