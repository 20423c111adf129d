"""The images themselves: a row a prompt and seed, a column an arm; pointing at one shows how it was made.

Small images stand in the page one by one, as many rows as do not make it too heavy. Where one row would, one
picture of them all does.
"""

import io
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image

from difflax.evaluation.ablation.arms import Arm
from difflax.evaluation.ablation.formatting import axes_in_words, named
from difflax.evaluation.ablation.pictures import Pictures
from difflax.evaluation.ablation.results import AblationResult, GroupInfo
from difflax.evaluation.ablation.trajectories import first_seeds
from difflax.evaluation.ablation.values import words
from difflax.figures import html
from difflax.figures.html import Embedded, Markup, tag
from difflax.figures.png import to_picture

MOST_TILES = 1200
HEAVIEST_PAGE = 12_000_000
PHOTO = 128  # pixels wide, from where JPEG is the smaller file
TILE_PROMPTS, TILE_SEEDS = 6, 3

TILE_STYLE = """
.tiles-table { overflow: auto; max-height: 80vh; border: 1px solid var(--rule); border-radius: .7rem; }
.tiles-table table { width: auto; font-size: .78rem; }
.tiles-table th, .tiles-table td { padding: .25rem .3rem; border: 0; white-space: normal; }
.tiles-table thead th { position: sticky; top: 0; background: var(--paper); z-index: 1; max-width: 6.5rem;
  vertical-align: bottom; text-align: center; overflow-wrap: anywhere; }
.tiles-table tbody th { position: sticky; left: 0; background: var(--paper); min-width: 8rem;
  max-width: 12rem; border: 0; font-weight: 400; color: var(--ink); vertical-align: middle;
  text-align: left; }
.tiles-table th small { display: block; color: var(--quiet); }
.tiles-table img { display: block; width: 6rem; height: auto; background: #fff; border-radius: .25rem; }
@media print { .tiles-table { max-height: none; overflow: visible; } .tiles-table img { width: 3.2rem; } }
"""


def tiles(result: AblationResult, group: GroupInfo, pictures: Pictures | None) -> Markup | None:
    """The table of a group.

    Args:
        pictures: the sweep's images on disk, which also have further seeds.

    Returns:
        ``None`` where there are no images, or so many arms that one row would make the page too heavy.
    """
    rows = list(_rows(result, group, pictures))[: MOST_TILES // len(result.arms)]
    heads = [tag("th", axes_in_words(result)), *(tag("th", named(result, arm)) for arm in result.arms)]
    size, body = 0, []
    for prompt, seed, images in rows:
        cells = []
        for arm, image in zip(result.arms, images, strict=True):
            shown = encoded(image)
            size += len(shown.data)
            about = {"prompt": prompt, "seed": str(seed), **settings_of(arm)}
            cells.append(tag("td", tile(shown, about)))
        if size > HEAVIEST_PAGE:
            break
        body.append(tag("tr", tag("th", tag("span", prompt), tag("small", f" seed {seed}")), *cells))
    if not body:
        return None
    inside = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *body))
    caption = f"{group.name}: {len(body)} rows of {len(group.prompts)} prompts × {len(result.seeds)} seeds"
    return tag("figure", tag("div", inside, class_="tiles-table"), tag("figcaption", caption), class_="plain")


def _rows(
    result: AblationResult, group: GroupInfo, pictures: Pictures | None
) -> Iterator[tuple[str, int, list[np.ndarray]]]:
    """Prompt, the seed of the noise and an image of each arm."""
    if pictures is not None and all(arm.key in pictures.arms for arm in result.arms):
        mine = [n for n, name in enumerate(pictures.groups) if name == group.name]
        for prompt in mine[:TILE_PROMPTS]:
            for seed in pictures.seeds[:TILE_SEEDS]:
                paths = [pictures.path(arm.key, prompt, seed) for arm in result.arms]
                if all(path.exists() for path in paths):
                    place = prompt * len(result.seeds) + result.seeds.index(seed)
                    noise = int(result.records["seed"][place])
                    yield pictures.prompts[prompt], noise, [_read(path) for path in paths]
        return
    shown = result.samples.get(group.name, np.zeros((0, 0))).swapaxes(0, 1)
    # Of a group without images there is nothing to say.
    seeds = first_seeds(result, group) if len(shown) else ()
    for prompt, seed, images in zip(group.prompts, seeds, shown, strict=False):
        yield prompt, int(seed), list(images)


def _read(path) -> np.ndarray:
    with path.open("rb") as file, Image.open(file, formats=("PNG",)) as picture:
        pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def encoded(image: np.ndarray) -> Embedded:
    """A small picture of an image."""
    picture, out = to_picture(image), io.BytesIO()
    if picture.width >= PHOTO:
        picture.thumbnail((PHOTO, PHOTO))
        picture.convert("RGB").save(out, format="JPEG", quality=85)
        return Embedded(data=out.getvalue(), kind="image/jpeg")
    picture.save(out, format="PNG")
    return Embedded(data=out.getvalue(), kind="image/png")


def settings_of(arm: Arm) -> dict[str, str]:
    """The settings of an arm in words, by axis."""
    return {name: words(value) for name, value in arm.settings.items()}


def tile(shown: Embedded, about: Mapping[str, str]) -> Markup:
    """An image that says ``about`` itself when it is pointed at."""
    text = "\n".join(f"{name}: {value}" for name, value in about.items())
    return html.tag("img", src=shown.uri, alt=text.replace("\n", ", "), title=text, loading="lazy")
