"""A local page to look through the images of a sweep and to vote on pairs of them without knowing which is
which.

Served by Flask, in pages without scripts: forms and links do all of it. Where two images are compared their
addresses are random words, so that nothing on the page tells the arms.
"""

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from difflax.core.types import UserError
from difflax.evaluation.ablation.ballots import Choice, Vote, add_vote, read_votes, standings
from difflax.evaluation.ablation.pictures import Pictures
from difflax.evaluation.statistics import Estimate
from difflax.figures import html
from difflax.figures.html import Markup, tag

PAGE_SIZE = 48
WAITING = 200
"""How many pairs may be open at once (in several tabs); the oldest are forgotten."""

VIEWER_STYLE = """
nav { display: flex; gap: 1.5rem; margin-bottom: 1.5rem; }
a { color: var(--accent); }
form.choose { display: flex; flex-wrap: wrap; gap: .8rem 1.2rem; align-items: end; margin-bottom: 1.5rem; }
form.choose label { display: grid; gap: .2rem; color: var(--quiet); font-size: .84rem; max-width: 100%; }
select, button { font: inherit; padding: .35rem .7rem; border-radius: .5rem; border: 1px solid var(--quiet);
  background: var(--card); color: var(--ink); max-width: 100%; }
button { cursor: pointer; }
.tiles { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); }
.tiles figure { margin: 0; }
.tiles img { width: 100%; image-rendering: auto; border-radius: .4rem; background: #fff; }
.tiles figcaption { font-size: .8rem; line-height: 1.35; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5rem; max-width: 60rem; }
.pair figure { margin: 0; text-align: center; }
.pair img { width: 100%; border-radius: .5rem; background: #fff; }
.asked { font-size: 1.25rem; font-weight: 600; margin: 0 0 1rem; max-width: none; }
.answers { display: flex; gap: 1rem; justify-content: center; margin: 1.5rem 0; max-width: 60rem; }
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Two images that wait for a vote: of ``arms``, the left one first, at one prompt and seed."""

    arms: tuple[str, str]
    prompt: int
    seed: int

    def vote(self, answer: str) -> Vote:
        """The vote of an answer "left", "right" or "neither"."""
        first, second = sorted(self.arms)
        sides = dict(zip(("left", "right"), self.arms, strict=True))
        choice: Choice = "neither"
        if answer in sides:
            choice = "first" if sides[answer] == first else "second"
        return Vote(first=first, second=second, prompt=self.prompt, seed=self.seed, choice=choice)


def next_pair(pictures: Pictures, votes: Sequence[Vote], rng: np.random.Generator) -> Pair:
    """Two arms that were compared as rarely as any, at a random prompt and seed, on random sides."""
    arms = sorted(pictures.arms)
    counts = {(a, b): 0 for i, a in enumerate(arms) for b in arms[i + 1 :]}
    for vote in votes:
        if (vote.first, vote.second) in counts:
            counts[vote.first, vote.second] += 1
    least = [pair for pair, count in counts.items() if count == min(counts.values())]
    chosen = least[rng.integers(len(least))]
    sides = chosen if rng.integers(2) else chosen[::-1]
    prompt = int(rng.integers(len(pictures.prompts)))
    return Pair(arms=sides, prompt=prompt, seed=int(rng.choice(pictures.seeds)))


def make_app(pictures: Pictures, directory: str, rng: np.random.Generator | None = None) -> Any:
    """The Flask application.

    Args:
        directory: where ``votes.csv`` is kept.
        rng: what chooses the pairs.

    Raises:
        UserError: Flask is not installed, there is no arm, or the votes are damaged.
    """
    try:
        import flask
    except ImportError:
        raise UserError("`difflax view` needs Flask: pip install 'difflax[view]'") from None
    if not pictures.arms:
        raise UserError(f"{pictures.directory}: no arm is complete: let `difflax ablate` end first")
    rng = rng or np.random.default_rng()
    votes = read_votes(directory)
    waiting: dict[str, Pair] = {}
    app = flask.Flask("difflax", static_folder=None)

    @app.get("/")
    def browse() -> str:
        return _browse_page(pictures, flask.request.args)

    @app.get("/image/<arm>/<int:prompt>/<int:seed>")
    def image(arm: str, prompt: int, seed: int) -> Any:
        if arm not in pictures.arms or prompt >= len(pictures.prompts) or seed not in pictures.seeds:
            flask.abort(404)
        return flask.Response(pictures.path(arm, prompt, seed).read_bytes(), mimetype="image/png")

    @app.get("/vote")
    def ask() -> str:
        if len(pictures.arms) < 2:
            return _page("Vote", "There is a single arm: nothing to compare.")
        word = secrets.token_urlsafe(12)
        waiting[word] = pair = next_pair(pictures, votes, rng)
        for old in list(waiting)[:-WAITING]:
            del waiting[old]
        return _vote_page(word, pictures.prompts[pair.prompt], len(votes))

    @app.get("/blind/<word>/<side>")
    def blind(word: str, side: str) -> Any:
        if word not in waiting or side not in ("left", "right"):
            flask.abort(404)
        pair = waiting[word]
        arm = pair.arms[0 if side == "left" else 1]
        # The file's text says how it was made: only its pixels go out.
        pixels = _without_text(pictures.path(arm, pair.prompt, pair.seed).read_bytes())
        return flask.Response(pixels, mimetype="image/png", headers={"Cache-Control": "no-store"})

    @app.post("/vote")
    def answer() -> Any:
        pair = waiting.pop(flask.request.form.get("pair", ""), None)
        given = flask.request.form.get("answer")
        if pair is not None and given in ("left", "right", "neither"):
            vote = pair.vote(given)
            add_vote(directory, vote)
            votes.append(vote)
        return flask.redirect("/vote", code=303)

    @app.get("/votes")
    def results() -> str:
        return _standings_page(pictures, votes)

    return app


def _without_text(data: bytes) -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
        Image.frombytes(picture.mode, picture.size, picture.tobytes()).save(out, format="PNG")
    return out.getvalue()


def _page(title: str, subtitle: str, *blocks: str) -> str:
    links = [("/", "images"), ("/vote", "blind vote"), ("/votes", "votes so far")]
    nav = tag("nav", *(tag("a", text, href=where) for where, text in links))
    return html.page(title, subtitle, nav, *blocks, kicker="difflax · view", style=VIEWER_STYLE)


def _choice(name: str, options: Sequence[tuple[str, str]], chosen: str) -> Markup:
    everything = tag("option", "all", value="")
    parts = [
        tag("option", text, value=value, **({"selected": "selected"} if value == chosen else {}))
        for value, text in options
    ]
    return tag("label", name, tag("select", everything, *parts, name=name))


def _browse_page(pictures: Pictures, asked: Any) -> str:
    arm, prompt, seed = (asked.get(name, "") for name in ("arm", "prompt", "seed"))
    if not (arm or prompt or seed) and "page" not in asked:
        prompt, seed = "0", str(pictures.seeds[0])
    tiles = [
        (key, number, each)
        for number in range(len(pictures.prompts))
        if prompt in ("", str(number))
        for each in pictures.seeds
        if seed in ("", str(each))
        for key in pictures.arms
        if arm in ("", key)
    ]
    page = int(asked.get("page", "0")) if asked.get("page", "0").isdigit() else 0
    shown = tiles[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]
    form = tag(
        "form",
        _choice("arm", [(key, one.label) for key, one in pictures.arms.items()], arm),
        _choice("prompt", [(str(n), text) for n, text in enumerate(pictures.prompts)], prompt),
        _choice("seed", [(str(each), str(each)) for each in pictures.seeds], seed),
        tag("input", type="hidden", name="page", value="0"),
        tag("button", "show", type="submit"),
        class_="choose",
        method="get",
        action="/",
    )
    query = {"arm": arm, "prompt": prompt, "seed": seed}
    around = [("earlier", page - 1)] * (page > 0) + [("later", page + 1)] * (
        (page + 1) * PAGE_SIZE < len(tiles)
    )
    more = [tag("a", text, href="/?" + _query({**query, "page": str(where)})) for text, where in around]
    said = f"{len(tiles):,} images" + (f", {len(shown)} of them on this page" if more else "")
    return _page(
        "The images of this sweep",
        f"{len(pictures.arms)} arms × {len(pictures.prompts)} prompts × {len(pictures.seeds)} seeds. "
        "One prompt and seed starts from the same noise in every arm.",
        form,
        tag("p", said, class_="lead"),
        tag("div", *(_tile(pictures, *each) for each in shown), class_="tiles"),
        tag("nav", *more),
    )


def _query(values: dict[str, str]) -> str:
    from urllib.parse import urlencode

    return urlencode(values)


def _tile(pictures: Pictures, arm: str, prompt: int, seed: int) -> Markup:
    one = pictures.arms[arm]
    settings = "\n".join(f"{name}: {value}" for name, value in one.settings.items())
    where = f"/image/{arm}/{prompt}/{seed}"
    text = f"{one.label}: {pictures.prompts[prompt]}, seed {seed}"
    return tag(
        "figure",
        tag(
            "a",
            tag("img", src=where, alt=text, title=f"{settings}\nseed: {seed}", loading="lazy"),
            href=where,
        ),
        tag("figcaption", tag("strong", one.label), tag("br"), f"{pictures.prompts[prompt]} · seed {seed}"),
    )


def _vote_page(word: str, prompt: str, count: int) -> str:
    def side(name: str) -> Markup:
        shown = tag("img", src=f"/blind/{word}/{name}", alt=f"the {name} image")
        return tag("figure", shown)

    def button(value: str, text: str, key: str) -> Markup:
        return tag("button", text, type="submit", name="answer", value=value, accesskey=key)

    form = tag(
        "form",
        tag("input", type="hidden", name="pair", value=word),
        tag(
            "div",
            button("left", "left is better", "1"),
            button("neither", "no difference", "2"),
            button("right", "right is better", "3"),
            class_="answers",
        ),
        method="post",
        action="/vote",
    )
    return _page(
        "Which one is better?",
        f"Two arms, the same prompt and the same noise, on random sides. {count:,} votes so far.",
        tag("p", prompt, class_="asked"),
        tag("div", side("left"), side("right"), class_="pair"),
        form,
    )


def _band(estimate: Estimate, digits: int = 2) -> str:
    if np.isnan(estimate.low):
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"


def _standings_page(pictures: Pictures, votes: Sequence[Vote]) -> str:
    rows = [
        [
            pictures.arms[each.arm].label if each.arm in pictures.arms else each.arm,
            f"{each.won.count}",
            _band(each.won),
            _band(each.strength),
        ]
        for each in standings(votes)
    ]
    columns = ["arm", "votes", "share won (95% band)", "log strength, Bradley–Terry (95% band)"]
    table = html.table(columns, rows) if rows else tag("p", "Nobody has voted yet.")
    lead = "Who votes on should not look here first: it tells which arm wins."
    return _page("Votes so far", f"{len(votes):,} votes, in votes.csv beside the results. {lead}", table)
