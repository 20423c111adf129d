"""The door for anybody's images: what is read, kept, written and refused."""

import json
import os
import subprocess
import sys

import difflax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.evaluation import metrics as m
from difflax.evaluation.measuring import resizing
from difflax.pretrained.components.clip import load_clip

from tests.fixtures.inception import pictures, write_pictures
from tests.runs import command

PROMPTS = ["a red circle", "a blue square", "a large circle"] * 4
SMALL = difflax.MeasureSettings(batch_size=5)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    write_pictures(folder / "made", pictures(0, 12, (20, 60)))
    write_pictures(folder / "real", [image // 2 for image in pictures(1, 15, (20, 60))])
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    return folder


@pytest.fixture(scope="module")
def clip(clip_folder):
    return load_clip(clip_folder)


def of_set(clip, seed, count, scale, resize):
    """Features of pictures by the tower itself, all at once."""
    images = [image // scale for image in pictures(seed, count, (20, 60))]
    inputs = np.stack([resize(image, clip.pixels.size) for image in images]) / 255
    pixels = jnp.asarray((inputs - np.array(clip.pixels.mean)) / np.array(clip.pixels.std), jnp.float32)
    return np.asarray(clip.network.apply(clip.params, pixels, method="get_image_features"))


def test_numbers_are_those_of_the_features_at_once(place, clip_folder, clip):
    """Batches of 5 of 12 images, through files, threads and the cache."""
    found = difflax.measure(
        place / "made",
        place / "real",
        "cmmd,fd_clip,clip_score,diversity,pick_score,hps_v2,contrast",
        clip=clip_folder,
        prompts=place / "prompts.txt",
        output=place / "result.json",
        settings=SMALL,
    )
    made, real = (of_set(clip, *one, resizing.centre_square) for one in [(0, 12, 1), (1, 15, 2)])
    assert found["cmmd"] == pytest.approx(m.cmmd(made, real), rel=1e-4)
    made, real = (of_set(clip, *one, resizing.shorter_edge) for one in [(0, 12, 1), (1, 15, 2)])
    expected = m.frechet_distance(m.fit_gaussian(made), m.fit_gaussian(real))
    assert found["fd_clip"] == pytest.approx(expected, rel=1e-4)
    texts = np.asarray(clip.text_features(PROMPTS))
    cosines = np.sum(made * texts, axis=1)
    assert found["clip_score"] == pytest.approx(100 * np.maximum(cosines, 0).mean(), rel=1e-4)
    assert found["hps_v2"] == pytest.approx(cosines.mean(), rel=1e-4)
    scale = np.exp(np.asarray(clip.params["logit_scale"]))
    assert found["pick_score"] == pytest.approx(scale * cosines.mean(), rel=1e-4)
    assert found["diversity"] == pytest.approx(m.feature_diversity(made, np.arange(12) % 3).mean(), rel=1e-4)
    contrasts = [m.contrast(image[None] / 255.0) for image in pictures(0, 12, (20, 60))]
    assert found["contrast"] == pytest.approx(np.mean(contrasts), rel=1e-5)
    assert json.loads((place / "result.json").read_text()) == found


def test_every_number_has_its_manifest(place, clip_folder):
    found = difflax.measure(
        place / "made", place / "real", ["cmmd", "fd_clip"], clip=clip_folder, settings=SMALL
    )
    manifests = found.pop("manifests")
    assert set(manifests) == set(found)
    one, other = manifests["cmmd"], manifests["fd_clip"]
    assert one["images"]["count"] == 12 and one["reference"]["count"] == 15
    assert one["difflax"] == difflax.__version__
    assert one["resize"] != other["resize"]
    assert one["network"]["fingerprint"] != other["network"]["fingerprint"]
    assert other["settings"] == {"trace": "factors"} and one["settings"] == {}


def test_statistics_of_others_are_read(place, clip_folder, clip, tmp_path):
    """clean-fid's names; ADM's, where the Gaussian counts for the distance and the images for the rest."""
    real = of_set(clip, 1, 15, 2, resizing.shorter_edge)
    made = of_set(clip, 0, 12, 1, resizing.shorter_edge)
    stats = {"mu": real.mean(0), "sigma": np.cov(real.T)}
    expected = m.frechet_distance(m.fit_gaussian(made), m.fit_gaussian(real))
    square = np.stack([resizing.square(image, 24).astype(np.uint8) for image in pictures(2, 9)])
    np.savez(tmp_path / "clean.npz", **stats)
    np.savez(tmp_path / "adm.npz", arr_0=square, mu_s=np.zeros(7), sigma_s=np.eye(7), **stats)
    for name, metrics in [("clean", "fd_clip"), ("adm", "fd_clip,cmmd")]:
        found = difflax.measure(
            place / "made", tmp_path / f"{name}.npz", metrics, clip=clip_folder, settings=SMALL
        )
        assert found["fd_clip"] == pytest.approx(expected, rel=1e-4)
    by_array = difflax.measure(place / "made", square, "cmmd", clip=clip_folder, settings=SMALL)
    assert by_array["cmmd"] == pytest.approx(found["cmmd"], rel=1e-6)


def test_a_reference_is_computed_once(place, clip_folder, monkeypatch):
    """What was kept is read: with other numbers in the file, other numbers come out."""
    monkeypatch.setenv("DIFFLAX_DATA_DIR", str(place / "own"))
    first = difflax.measure(place / "made", place / "real", "fd_clip", clip=clip_folder, settings=SMALL)
    (kept,) = (place / "own" / "references").iterdir()
    arrays = dict(np.load(kept))
    np.savez(kept, **(arrays | {"mu": arrays["mu"] + 1}))
    second = difflax.measure(place / "made", place / "real", "fd_clip", clip=clip_folder, settings=SMALL)
    assert second["fd_clip"] > first["fd_clip"] + 1
    kept.write_bytes(b"damaged")
    third = difflax.measure(place / "made", place / "real", "fd_clip", clip=clip_folder, settings=SMALL)
    assert third["fd_clip"] == pytest.approx(first["fd_clip"], rel=1e-6)


SHARDED = """
import sys, jax
jax.config.update("jax_num_cpu_devices", 2)
import difflax
assert jax.local_device_count() == 2
made, real, clip, output = sys.argv[1:]
settings = difflax.MeasureSettings(batch_size=5)
difflax.measure(made, real, "fd_clip,cmmd", clip=clip, output=output, settings=settings)
"""


def test_two_devices_measure_what_one_does(place, clip_folder, tmp_path):
    arguments = [place / "made", place / "real", clip_folder, tmp_path / "result.json"]
    environment = os.environ | {"DIFFLAX_DATA_DIR": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", SHARDED, *map(str, arguments)], check=True, env=environment)
    sharded = json.loads((tmp_path / "result.json").read_text())
    single = difflax.measure(place / "made", place / "real", "fd_clip,cmmd", clip=clip_folder, settings=SMALL)
    for name in ("fd_clip", "cmmd"):
        assert sharded[name] == pytest.approx(single[name], rel=1e-5)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--metrics=fid,kit"], "did you mean 'kid'"),
        (["--metrics=fid", "--reference={real}"], "give --inception"),
        (["--metrics=fid", "--reference={real}", "--inception=nowhere.pth"], "no nowhere.pth"),
        (
            ["--metrics=fid", "--reference={real}", "--inception=nowhere.safetensors"],
            "no nowhere.safetensors",
        ),
        (["--metrics=cmmd", "--clip={clip}"], "give --reference"),
        (["--metrics=cmmd", "--clip={clip}", "--reference=nowhere"], "--reference=nowhere"),
        (["--metrics=cmmd", "--clip={clip}", "--reference={stats}"], "give a folder of images"),
        (["--metrics=fd_clip", "--clip={clip}", "--reference={stats}"], "give a folder of images"),
        (["--metrics=clip_score", "--clip={clip}"], "give --prompts"),
        (["--metrics=clip_score", "--clip={clip}", "--prompts={few}"], "2 prompts"),
        (["--metrics=clip_score", "--clip={clip}", "--prompts={empty}"], "no prompt"),
        (["--metrics=contrast", "--resize=cleen"], "did you mean 'clean'"),
        (["--metrics=contrast", "--kid_subsets=0"], "kid_subsets"),
        (["--metrics=contrast", "--trace=root"], "trace"),
        (["--metrics=contrast", "--output=nowhere.txt/a.json"], "nowhere.txt"),
    ],
)
def test_bad_input_is_one_line(place, clip_folder, tmp_path, monkeypatch, flags, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.txt").write_text("a\nb")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "nowhere.txt").write_text("")
    np.savez(tmp_path / "stats.npz", mu=np.zeros(3), sigma=np.eye(3))
    names = {"few": "few.txt", "empty": "empty.txt", "stats": "stats.npz"}
    names |= {"real": place / "real", "clip": clip_folder}
    given = [flag.format(**names) for flag in flags]
    status, _, errors = command("measure", f"--images={place / 'made'}", *given)
    assert status == 2
    assert says in errors and len(errors.strip().splitlines()) == 1, errors


def test_images_that_cannot_be_measured_are_one_line(place):
    dark = np.zeros((3, 8, 8, 3))
    dark[2, 0, 0] = np.nan
    with pytest.raises(UserError, match="image 2"):
        difflax.measure(dark, metrics="contrast")
    status, _, errors = command("measure", "--images=nowhere", "--metrics=contrast")
    assert status == 2 and "no such folder" in errors
    status, out, _ = command("measure", f"--images={place / 'made'}", "--metrics=contrast,saturation,clipped")
    assert status == 0 and set(json.loads(out)) == {"contrast", "saturation", "clipped"}
