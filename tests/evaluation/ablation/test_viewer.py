"""The page of a sweep's images, asked as a browser would; votes are counted for whom they were given."""

import io
import re

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.evaluation.ablation import ballots
from difflax.evaluation.ablation.arms import arms_of_scales
from difflax.evaluation.ablation.pictures import Album, PictureArm, Pictures, read_pictures
from difflax.evaluation.ablation.sweep import by_scale, run_sweep
from difflax.evaluation.ablation.viewer import make_app
from difflax.figures.png import to_uint8
from etils import epath
from PIL import Image

from tests.evaluation import known_sweep
from tests.evaluation.test_report import parse

pytest.importorskip("flask")
PROMPTS = ("a <red> ball", "a green box", "a blue tree")
ARMS = {
    "aa11": PictureArm(label="scale 1", settings={"guidance.scale": 1.0}),
    "bb22": PictureArm(label="scale 4, <rescaled>", settings={"guidance.scale": 4.0}),
    "cc33": PictureArm(label="scale 8", settings={"guidance.scale": 8.0}),
}
LEVEL = {"aa11": 0.2, "bb22": 0.5, "cc33": 0.8}


@pytest.fixture
def folder(tmp_path):
    pictures = Pictures(
        directory=epath.Path(tmp_path) / "images", prompts=PROMPTS, groups=("seen",) * 3, seeds=(0, 1)
    )
    for arm in ARMS:
        for prompt in range(3):
            for seed in (0, 1):
                image = np.full((8, 8, 3), LEVEL[arm], np.float32)
                pictures.save(arm, prompt, seed, image, {"arm": arm})
    pictures.complete(ARMS)
    return tmp_path


@pytest.fixture
def client(folder):
    return make_app(read_pictures(folder), str(folder), np.random.default_rng(0)).test_client()


def images_of(page):
    return re.findall(r'<img src="([^"]+)"', page)


def colour(client, where):
    answer = client.get(where)
    assert answer.status_code == 200 and answer.mimetype == "image/png"
    with Image.open(io.BytesIO(answer.data)) as picture:
        assert not getattr(picture, "text", {}) or where.startswith("/image/")
        return np.asarray(picture)[0, 0, 0] / 255


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 3),
        ("?page=0", 18),
        ("?page=0&arm=aa11", 6),
        ("?page=0&prompt=2&seed=1", 3),
        ("?arm=cc33&seed=0", 3),
    ],
)
def test_images_are_found_by_arm_prompt_and_seed(client, query, count):
    page = client.get(f"/{query}").text
    shown = images_of(page)
    assert len(shown) == count
    arm = shown[0].split("/")[2]
    assert colour(client, shown[0]) == pytest.approx(LEVEL[arm], abs=0.01)
    checked = parse(page)
    assert not {"script", "red", "rescaled"} & set(checked.tags)
    assert "a <red> ball" in "".join(checked.text)


def test_nothing_else_is_served(client):
    for where in ("/image/aa11/9/0", "/image/nobody/0/0", "/image/../0/0", "/blind/x/left", "/manifest.json"):
        assert client.get(where).status_code == 404


def test_the_vote_is_blind_and_goes_to_the_image_that_was_chosen(client, folder):
    rng, won = np.random.default_rng(1), []
    for _ in range(30):
        page = client.get("/vote").text
        assert not any(name in page for arm, one in ARMS.items() for name in (arm, one.label))
        left, right = images_of(page)
        word = left.split("/")[2]
        levels = colour(client, left), colour(client, right)
        answer = "left" if levels[0] > levels[1] else "right"
        # Who likes bright images says so; sometimes nobody can tell.
        answer = "neither" if rng.random() < 0.2 else answer
        client.post("/vote", data={"pair": word, "answer": answer})
        won.append((max(levels), answer))
    votes = ballots.read_votes(folder)
    assert len(votes) == 30
    for vote, (level, answer) in zip(votes, won, strict=True):
        assert vote.first < vote.second
        best = {"first": vote.first, "second": vote.second}.get(vote.choice)
        assert (best is None) == (answer == "neither")
        assert best is None or LEVEL[best] == pytest.approx(level, abs=0.01)
    assert [each.arm for each in ballots.standings(votes)] == ["cc33", "bb22", "aa11"]
    counts = {frozenset((v.first, v.second)) for v in votes}
    assert len(counts) == 3, "every pair comes up"


def test_a_pair_is_answered_once_and_only_by_who_was_asked(client, folder):
    word = images_of(client.get("/vote").text)[0].split("/")[2]
    for data in ({"pair": "guessed", "answer": "left"}, {"pair": word, "answer": "left"}) * 2:
        assert client.post("/vote", data=data).status_code == 303
    assert len(ballots.read_votes(folder)) == 1


def test_votes_are_kept_and_shown(client, folder):
    for prompt in range(3):
        ballots.add_vote(
            folder, ballots.Vote(first="aa11", second="bb22", prompt=prompt, seed=0, choice="second")
        )
    again = make_app(read_pictures(folder), str(folder)).test_client()
    page = "".join(parse(again.get("/votes").text).text)
    assert "3 votes" in page and page.index("scale 4") < page.index("scale 1")
    first = ballots.standings(ballots.read_votes(folder))[0]
    assert (first.arm, first.won.value, first.won.count) == ("bb22", 1.0, 3)


def test_a_share_with_draws_counts_halves():
    votes = [
        ballots.Vote(first="a", second="b", prompt=n, seed=0, choice=choice)
        for n, choice in enumerate(["first", "neither", "second", "first"])
    ]
    found = {each.arm: each for each in ballots.standings(votes)}
    assert found["a"].won.value == 0.625 and found["b"].won.value == 0.375
    assert found["a"].strength.value == pytest.approx(-found["b"].strength.value)
    assert ballots.standings([]) == []


def test_what_is_wrong_is_said_in_a_line(folder, tmp_path):
    with pytest.raises(UserError, match="--save_images"):
        read_pictures(tmp_path / "images" / "aa11")
    with pytest.raises(UserError, match="no folder"):
        read_pictures(tmp_path / "nowhere")
    (folder / "votes.csv").write_text("first,second,prompt,seed,choice\naa11,bb22,0,0,left\n")
    with pytest.raises(UserError, match="line 2"):
        make_app(read_pictures(folder), str(folder))
    (folder / "images" / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(UserError, match="no manifest of images"):
        read_pictures(folder)


def test_an_arm_is_entered_when_it_is_complete(folder):
    pictures = read_pictures(folder)
    assert dict(pictures.arms) == ARMS and not pictures.lacks("aa11") and pictures.lacks("dd44")
    assert read_pictures(folder / "images") == pictures
    with pytest.raises(ValueError, match="folder of images"):
        pictures.save("../dd", 0, 0, np.zeros((8, 8, 3), np.float32), {})


def test_a_sweep_keeps_its_images(tmp_path):
    """Every pixel of every arm, also of arms that were measured before images were asked for."""
    scales, groups = (1.0, 4.0), [(group.name, group.prompts) for group in known_sweep.groups()]
    known_sweep.sweep(tmp_path, scales=scales[:1])
    album = Album(tmp_path, groups, known_sweep.SEEDS)
    painter = by_scale(known_sweep.draw)
    result = run_sweep(
        painter,
        known_sweep.groups(),
        arms=arms_of_scales(scales),
        seeds=known_sweep.SEEDS,
        provenance=known_sweep.provenance(),
        directory=tmp_path,
        instruments=known_sweep.instruments(),
        batch_size=7,
        album=album,
        show_progress=False,
    )
    pictures = read_pictures(tmp_path)
    assert [one.settings for one in pictures.arms.values()] == [{"guidance.scale": scale} for scale in scales]
    for arm in result.arms:
        for prompt, text in enumerate(pictures.prompts):
            seed = known_sweep.DRAWN[text][2]
            expected = to_uint8(known_sweep.draw([text], np.array([seed]), arm.settings["guidance.scale"]))[0]
            with Image.open(pictures.path(arm.key, prompt, known_sweep.SEEDS[2])) as picture:
                np.testing.assert_array_equal(np.asarray(picture), expected)
