"""Laws of every family of checkpoints; a new one is tested by its line in `LINES`."""

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.generation.conditions import CONDITIONS
from difflax.pretrained.families import FAMILIES
from difflax.pretrained.families.family import denoiser_network
from difflax.pretrained.format.torch_names import check_names
from difflax.pretrained.open import open_checkpoint

from tests.fixtures import (
    full_width_sd3,
    make_sdxl,
    make_shapes,
    make_stable_diffusion,
    make_stable_diffusion_3,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """What a family is tested with.

    Attributes:
        build: puts a tiny random checkpoint into a folder, by its name.
        conditions: what the network of each of these checkpoints reads.
        options: of opening it.
        published: configs of the published networks, and the committed names and shapes of their tensors.
    """

    build: Callable[[str, Any], Any]
    conditions: Mapping[str, tuple[str, ...]]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    published: Callable[[], Mapping[str, tuple[Mapping, Mapping]]] = dict


LINES = {
    "stable_diffusion": Line(
        build=make_stable_diffusion.build,
        conditions={
            "sd15": ("text",),
            "sd15_inpainting": ("text", "mask"),
            "sd15_editing": ("text", "picture"),
            "sd21_v": ("text",),
        },
    ),
    "stable_diffusion_xl": Line(
        build=make_sdxl.build,
        conditions={"base": ("text", "size"), "refiner": ("text", "size_and_score")},
        published=lambda: {name: make_shapes.read(name) for name in ("sdxl_unet", "sdxl_refiner_unet")},
    ),
    "stable_diffusion_3": Line(
        build=make_stable_diffusion_3.build,
        conditions={"sd3_medium": ("text",), "sd35_medium": ("text",)},
        options={"t5_length": make_stable_diffusion_3.LENGTH},
        published=lambda: {
            name: (config, full_width_sd3.shapes(name)) for name, config in full_width_sd3.CONFIGS.items()
        },
    ),
}
CASES = [(family, name) for family, line in LINES.items() for name in line.conditions]


def test_every_family_has_its_line():
    assert LINES.keys() == FAMILIES.keys()


@pytest.fixture(params=CASES, ids=["-".join(case) for case in CASES])
def case(request, tmp_path):
    """A family, its line, the name of a checkpoint, its folder, and the checkpoint."""
    family, name = request.param
    line = LINES[family]
    folder = line.build(name, tmp_path / "given")
    return FAMILIES[family], line, name, folder, open_checkpoint(folder, variant="fp16", **line.options)


def test_what_is_saved_is_what_was_loaded(case, tmp_path):
    family, line, name, folder, checkpoint = case
    assert checkpoint.configs.family == family
    assert checkpoint.conditions == line.conditions[name]
    assert set(checkpoint.conditions) <= CONDITIONS.keys()
    checkpoint.save(tmp_path / "saved")
    again = open_checkpoint(tmp_path / "saved", **line.options)
    assert (again.conditions, again.image_size, again.zero_null, again.guidance) == (
        checkpoint.conditions,
        checkpoint.image_size,
        checkpoint.zero_null,
        checkpoint.guidance,
    )
    jax.tree.map(np.testing.assert_array_equal, again.networks, checkpoint.networks)
    jax.tree.map(np.testing.assert_array_equal, again.autoencoder_params, checkpoint.autoencoder_params)
    assert again.text_encoder.fingerprint() == checkpoint.text_encoder.fingerprint()
    for part in (family.denoiser, "vae", "scheduler"):
        [config] = (path.name for path in (folder / part).glob("*config.json"))
        before, after = ((place / part / config).read_text() for place in (folder, tmp_path / "saved"))
        assert json.loads(after) == json.loads(before)
    given, made = (
        json.loads((place / "model_index.json").read_text()) for place in (folder, tmp_path / "saved")
    )
    assert made["_class_name"] == given["_class_name"]
    there = {name for name, entry in made.items() if isinstance(entry, list) and entry[0]}
    assert there == {path.name for path in (tmp_path / "saved").iterdir() if path.is_dir()}


def test_its_networks_are_found_by_name_and_may_be_changed(case):
    *_, checkpoint = case
    there = {path for path in checkpoint.networks if path.startswith("text_encoder")}
    assert there <= {part.name for part in checkpoint.configs.family.text}
    doubled = jax.tree.map(lambda a: 2 * a, checkpoint.networks)
    changed = checkpoint.with_networks(doubled)
    jax.tree.map(np.testing.assert_array_equal, changed.networks, doubled)


def test_a_damaged_folder_is_one_line(case):
    family, line, _, folder, _ = case
    path = folder / family.denoiser / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "OtherModel"}))
    with pytest.raises(UserError, match=f"only '{family.network.__name__}'") as refused:
        open_checkpoint(folder, variant="fp16", **line.options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_published_tensor_has_its_place(name):
    for title, (config, shapes) in LINES[name].published().items():
        tensors = {key: jax.ShapeDtypeStruct(shape, np.float16) for key, shape in shapes.items()}
        network = denoiser_network(FAMILIES[name].network, json.dumps(config), "float32")
        check_names(tensors, network.abstract(), title)


@pytest.mark.parity
@pytest.mark.parametrize("name", FAMILIES)
def test_classes_and_defaults_are_those_of_diffusers(name):
    diffusers = pytest.importorskip("diffusers")
    family = FAMILIES[name]
    assert hasattr(diffusers, family.network.__name__) and hasattr(diffusers, family.autoencoder.name)
    plain = getattr(diffusers, family.pipelines[0].name)
    defaults = {key: p.default for key, p in inspect.signature(plain.__call__).parameters.items()}
    assert defaults["num_inference_steps"] == family.num_steps
    assert defaults["guidance_scale"] == family.guidance_scale
    components = inspect.signature(plain.__init__).parameters
    names = [family.denoiser, "vae", "scheduler"]
    names += [each for part in family.text for each in (part.name, part.tokenizer)]
    assert set(names) <= components.keys()
