"""Planted gaps between two results of `difflax measure`: what each cause has to do with them is known."""

import itertools
import json
import math
import shutil

import difflax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from difflax.core.types import UserError
from difflax.data.fingerprints import arrays_fingerprint
from difflax.data.image_sets import open_images
from difflax.evaluation import metrics as m
from difflax.evaluation.contrasts.attribution import attribute_sets
from difflax.evaluation.measuring.extraction import FeatureNetwork
from difflax.evaluation.measuring.numbers import MeasuredNumber, read_numbers
from difflax.evaluation.measuring.resizing import RESIZES
from difflax.runs import explain_measured as ex
from difflax.runs.feature_networks import Networks
from difflax.runs.remeasured import Remeasured
from etils import epath

from tests.fixtures.inception import pictures, write_pictures
from tests.runs import command
from tests.substitutes import make_inception

SIZE, WIDTH = 12, 5
COUNTS = {"made": 14, "more": 21, "real": 12, "darker": 12}


def run(params, pixels):
    """A small network with what decides here: weights, and an input of one size."""
    return jnp.tanh(pixels.reshape(len(pixels), -1) / 255 @ params)


def opened(users, places):
    """In the place of Inception, of which one image costs as much as all of these."""
    params, resize = np.load(places.inception), RESIZES[places.resize]
    network = FeatureNetwork(
        name="small",
        resize=resize,
        size=SIZE,
        run=run,
        params=params,
        width=WIDTH,
        fingerprint=arrays_fingerprint(params, resize.name),
    )
    return Networks(images={"inception": network}, texts={}, scales={}, heads={})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Sets of pictures, and two files of weights."""
    folder = tmp_path_factory.mktemp("planted")
    for seed, (name, count) in enumerate(COUNTS.items()):
        scale = 2 if name == "darker" else 1
        write_pictures(folder / name, [image // scale for image in pictures(seed, count)])
    for seed in (0, 1):
        weights = np.random.default_rng(seed).normal(0, 0.2, (SIZE * SIZE * 3, WIDTH)).astype(np.float32)
        np.save(folder / f"{seed}.npy", weights)
    return folder


@pytest.fixture(autouse=True)
def own_references(tmp_path, monkeypatch):
    """What other tests kept of the same pictures is not read."""
    monkeypatch.setenv("DIFFLAX_DATA_DIR", str(tmp_path / "data"))


def number(place, images, reference, weights, resize):
    """What `difflax measure` would say, but for the value."""
    sets = {
        part: open_images(place / name, part) for part, name in [("images", images), ("reference", reference)]
    }
    manifest = {
        part: {"where": found.where, "count": len(found), "fingerprint": found.fingerprint()}
        for part, found in sets.items()
    }
    file = place / f"{weights}.npy"
    manifest |= {
        "measure": "fid",
        "network": {
            "where": str(file),
            "fingerprint": arrays_fingerprint(np.load(file), RESIZES[resize].name),
        },
        "resize": {"name": RESIZES[resize].name},
        "settings": {"trace": "factors"},
    }
    return MeasuredNumber(file=f"{images}.json", name="fid", value=0.0, manifest=manifest)


def distance(place, images, reference, weights, resize):
    """The same number of the definition: all features at once."""

    def fit(name):
        shown = [RESIZES[resize].apply(image, SIZE) for image in read(place / name)]
        return m.fit_gaussian(
            np.asarray(run(np.load(place / f"{weights}.npy"), jnp.asarray(np.stack(shown))))
        )

    def read(folder):
        images = open_images(folder, "images")
        return [images.pixels(item) for item in images]

    return m.frechet_distance(fit(images), fit(reference))


def explained(place, tmp_path, first, second, **more):
    pair = Remeasured(
        sides=(number(place, *first), number(place, *second)), cache=epath.Path(tmp_path), open=opened, **more
    )
    comparison = ex.explain_pair(pair, ("one", "other"))
    shares = dict(
        zip(
            [cause.name for cause in comparison.causes],
            comparison.explained[0].attribution.shares,
            strict=True,
        )
    )
    return comparison, shares


FIRST, SECOND = ("made", "real", 0, "clean"), ("made", "darker", 1, "legacy")


def test_three_planted_causes_have_their_shares(place, tmp_path):
    """Reference, resize and weights, each share by Shapley's formula on distances of the definition."""
    comparison, shares = explained(place, tmp_path, FIRST, SECOND)
    places = {"reference": 1, "feature weights": 2, "resize": 3}
    assert set(shares) == set(places)

    def value(swapped):
        chosen = [SECOND[p] if p in swapped else FIRST[p] for p in range(4)]
        return distance(place, *chosen)

    table = {s: value(s) for n in range(4) for s in itertools.combinations((1, 2, 3), n)}
    for name, own in places.items():
        others = [p for p in (1, 2, 3) if p != own]
        expected = 0.0
        for size in range(3):
            weight = math.factorial(size) * math.factorial(2 - size) / 6
            for chosen in itertools.combinations(others, size):
                expected += weight * (table[tuple(sorted((*chosen, own)))] - table[chosen])
        assert shares[name].value == pytest.approx(expected, rel=1e-4, abs=1e-5), name
        assert shares[name].low < shares[name].value < shares[name].high
    [each] = comparison.explained
    gap = table[1, 2, 3] - table[()]
    assert each.second - each.first == pytest.approx(gap, rel=1e-4)
    assert sum(share.value for share in shares.values()) == pytest.approx(each.second - each.first)
    # The values that were stored are 0 here, so that the whole gap is what nothing explains.
    assert each.rest == pytest.approx(-gap, rel=1e-4)


def test_null_causes_have_bands_with_zero(place, tmp_path):
    """A resize of pictures that have the network's size already does exactly nothing; other images of one
    kind do nothing beyond luck.
    """
    first, second = ("small", "square", 0, "clean"), ("again", "square", 1, "legacy")
    for seed, name in enumerate(["small", "again", "square"], 20):
        write_pictures(place / name, pictures(seed, 20, (SIZE, SIZE + 1)))
    _, shares = explained(place, tmp_path, first, second)
    assert list(shares) == ["images", "resize", "feature weights"]
    assert shares["images"].low < 0 < shares["images"].high
    resize = shares["resize"]
    np.testing.assert_allclose([resize.value, resize.low, resize.high], 0, atol=1e-9)


def test_features_are_extracted_once(place, tmp_path, monkeypatch):
    """Of eight mixtures, one set of images and two weights: two times, and not again by the next command."""
    from difflax.evaluation.measuring import reference

    read, extracted = reference.read_images, []

    def counted(images, *arguments, **more):
        extracted.append(images.where)
        return read(images, *arguments, **more)

    monkeypatch.setattr(reference, "read_images", counted)
    second = ("made", "darker", 1, "clean")
    explained(place, tmp_path, FIRST, second)
    assert sorted(extracted) == sorted(
        str(place / name) for name in ("made", "real", "darker") for _ in range(2)
    )
    explained(place, tmp_path, FIRST, second)
    assert len(extracted) == 6


def test_fewer_images_are_a_cause_of_their_own(place, tmp_path):
    """Only the larger set can be cut, so that of two orders one can be."""
    comparison, shares = explained(place, tmp_path, ("more", *FIRST[1:]), FIRST)
    assert list(shares) == ["images", "number of images"]
    orders = comparison.explained[0].attribution.orders
    assert orders == "mean over the 1 orders that can be (Shapley)"
    gap = distance(place, *FIRST) - distance(place, "more", *FIRST[1:])
    assert sum(share.value for share in shares.values()) == pytest.approx(gap, rel=1e-4)


def test_bands_of_a_null_cause_hold_zero():
    """Two sets of images of one distribution, with a true cause beside them: in 60 repetitions the band of
    the null holds 0 about 57 times, and fewer than 50 of the right band once in a million times.
    """
    rng = np.random.default_rng(0)
    real = m.fit_gaussian(rng.normal(size=(400, 4)))
    held = 0
    for _ in range(60):
        sets = rng.normal(0.3, 1.2, (2, 80, 4))

        def values(images, weights, sets=sets):
            features = sets[images] * (1.0 + 0.5 * weights)
            groups = np.arange(80) % 10
            parts = [features, *(features[groups != group] for group in range(10))]
            return np.array([m.frechet_distance(m.fit_gaussian(part), real) for part in parts])

        mixtures = {frozenset(s): values(int(0 in s), int(1 in s)) for s in [(), (0,), (1,), (0, 1)]}
        null, true = attribute_sets(mixtures, 2, count=80, clusters=80).shares
        held += null.low <= 0 <= null.high
        assert true.low > 0
    assert held >= 50


@pytest.fixture(scope="module")
def measured(place, clip_folder, tmp_path_factory):
    """Two files of the real command, read with two random CLIPs."""
    folder = tmp_path_factory.mktemp("clips")
    other = shutil.copytree(clip_folder, folder / "clip")
    file = next(other.glob("*.safetensors"))
    rng = np.random.default_rng(1)
    tensors = {
        name: np.asarray(tensor + rng.normal(0, 0.05, tensor.shape) * (tensor.ndim > 1), tensor.dtype)
        for name, tensor in safetensors.numpy.load_file(file).items()
    }
    safetensors.numpy.save_file(tensors, file, metadata={"format": "pt"})
    files = []
    for images, reference, clip in [("made", "real", clip_folder), ("more", "darker", other)]:
        prompts = [("a red circle", "a blue square", "a circle")[i % 3] for i in range(COUNTS[images])]
        (folder / f"{images}.txt").write_text("\n".join(prompts))
        files.append(folder / f"{images}.json")
        status, _, errors = command(
            *("measure", f"--images={place / images}", f"--reference={place / reference}"),
            *("--metrics=fd_clip,hps_v2,contrast", f"--clip={clip}"),
            *(f"--prompts={folder / f'{images}.txt'}", f"--output={files[-1]}"),
        )
        assert status == 0, errors
    return files


@pytest.mark.parametrize(
    ("metric", "causes"),
    [
        ("fd_clip", ["images", "number of images", "reference", "feature weights"]),
        ("hps_v2", ["images", "number of images", "feature weights"]),
        ("contrast", ["images", "number of images"]),
    ],
)
def test_the_command_explains_what_was_measured(measured, tmp_path, metric, causes):
    status, out, errors = command(
        "explain", *map(str, measured), f"--metric={metric}", f"--output={tmp_path}"
    )
    assert status == 0, errors
    document = json.loads((tmp_path / "explanation.json").read_text())
    assert [cause["name"] for cause in document["causes"]] == causes
    [each] = document["explained"]
    gap = each["stored"][1] - each["stored"][0]
    assert each["stored"] == [json.loads(file.read_text())[metric] for file in measured]
    assert abs(each["unexplained"]) < 1e-4 * max(map(abs, each["stored"]))
    shares = sum(share["value"] for share in each["shares"])
    assert shares + each["unexplained"] == pytest.approx(gap, rel=1e-6)
    assert "unexplained" in out and (tmp_path / "explanation.html").exists()


def test_bad_input_is_one_line(measured, tmp_path):
    one, other = map(str, measured)
    (tmp_path / "gone.json").write_text(measured[0].read_text().replace("/made", "/nowhere"))
    changed = json.loads(measured[0].read_text())
    for manifest in changed["manifests"].values():
        manifest["reference" if "reference" in manifest else "images"]["fingerprint"] = "0" * 32
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    old = json.loads(measured[0].read_text())
    del old["manifests"]["fd_clip"]["measure"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    (tmp_path / "list.json").write_text("{}")
    (tmp_path / "folder").mkdir()
    for first, flags, says in [
        (tmp_path / "gone.json", (), "no such folder"),
        (tmp_path / "changed.json", (), "not what was measured"),
        (tmp_path / "old.json", (), "measure again"),
        (tmp_path / "list.json", (), "no result of `difflax measure`"),
        (tmp_path / "folder", (), "two of a kind"),
        (one, ("--metric=fid",), "--metric"),
        (one, ("--arms=a,b",), "--arms"),
    ]:
        status, _, errors = command("explain", str(first), other, *flags, f"--output={tmp_path / 'why'}")
        assert status == 2 and says in errors and len(errors.strip().splitlines()) == 1, errors
    copy = tmp_path / "copy.json"
    copy.write_text(measured[0].read_text())
    status, _, errors = command("explain", one, str(copy), f"--output={tmp_path / 'why'}")
    assert status == 2 and "nothing can be swapped" in errors


def test_an_array_cannot_be_opened_again(tmp_path):
    shown = np.random.default_rng(0).random((4, 8, 8, 3))
    for name in ("one", "other"):
        difflax.measure(shown, metrics="contrast", output=tmp_path / f"{name}.json")
    assert read_numbers(tmp_path / "one.json")["contrast"].of("images", "where") == "--images"
    with pytest.raises(UserError, match="an array"):
        ex.explain_measured(tmp_path / "one.json", tmp_path / "other.json", names=("a", "b"), output=tmp_path)


@pytest.mark.slow
def test_the_real_inception_is_explained(place, tmp_path):
    """Reference, resize and weights again, with two random Inceptions and the command."""
    for seed in (0, 1):
        make_inception(tmp_path / f"{seed}.safetensors", seed)
    files = []
    for name, (images, reference, weights, resize) in [("one", FIRST), ("other", SECOND)]:
        files.append(tmp_path / f"{name}.json")
        status, _, errors = command(
            *("measure", f"--images={place / images}", f"--reference={place / reference}"),
            *(f"--inception={tmp_path / f'{weights}.safetensors'}", f"--resize={resize}"),
            *("--metrics=fid", f"--output={files[-1]}"),
        )
        assert status == 0, errors
    comparison = ex.explain_measured(*files, names=("one", "other"), output=tmp_path / "why")
    assert [cause.name for cause in comparison.causes] == ["reference", "resize", "feature weights"]
    [each] = comparison.explained
    assert abs(each.rest) < 1e-4 * max(each.stored)
    total = sum(share.value for share in each.attribution.shares)
    assert total + each.rest == pytest.approx(each.stored[1] - each.stored[0])
