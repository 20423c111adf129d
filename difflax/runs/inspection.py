"""`data inspect`: what training would see of a source, as text, JSON and a page with a contact sheet."""

import io
import json
from collections.abc import Callable
from typing import Any

from etils import epath

from difflax.config.experiments import Experiment
from difflax.core.files import atomic_write
from difflax.core.types import UserError
from difflax.data.inspection import Inspection, inspect
from difflax.data.sources import HuggingFace, ImageFolder, Parquet, Source, Tfds, WebDataset
from difflax.figures.grids import captioned_grid
from difflax.figures.html import Embedded, Headline, figure, headlines, page, section, table
from difflax.runs.diffusion import TOKENIZER, clip_folder
from difflax.text.tokenizer import load_tokenizer

EDGE = 256  # pixels of the images of a path without a config
LISTED = 200  # rows of the tables on the page

BY_SUFFIX: dict[str, Callable[..., Any]] = {".tar": WebDataset, ".parquet": Parquet}
"""By the suffix of the files that a path names or holds."""

BY_MARK: dict[str, Callable[..., Any]] = {
    "dataset_info.json": Tfds,
    "dataset_dict.json": HuggingFace,
    "state.json": HuggingFace,
}
"""By a file that a folder holds; the first counts."""


def guess_source(path: str, caption: str | None = None) -> Source:
    """The source that a path looks like.

    Args:
        caption: see `ImageSource`; ``None``: the source's own.

    Raises:
        UserError: nothing is there.
    """
    fields: dict[str, Any] = {"height": EDGE, "width": EDGE} | (
        {} if caption is None else {"caption": caption}
    )
    for suffix, source in BY_SUFFIX.items():
        if path.endswith(suffix):
            return source(path=path, **fields)
    folder = epath.Path(path).expanduser() if "://" not in path else None
    if folder is None or not folder.is_dir():
        raise UserError(f"--path={path}: no folder, and no {' or '.join(BY_SUFFIX)} file or pattern of them")
    names = {found.name for found in folder.iterdir()}
    for mark, source in BY_MARK.items():
        if mark in names and not (source is HuggingFace and "features" in names):
            return source(**{"builder" if source is Tfds else "path": path}, **fields)
    inside = names | {found.name for sub in folder.iterdir() if sub.is_dir() for found in sub.iterdir()}
    for suffix, source in BY_SUFFIX.items():
        if any(name.endswith(suffix) for name in inside - {"metadata.parquet"}):
            return source(path=path, **fields)
    return ImageFolder(path=path, **fields)


def tokenizer_of(experiment: Experiment) -> str | None:
    """The folder of the tokenizer that a config names with its text encoder; ``None``: it names none."""
    options = getattr(experiment, "text_encoder", None)
    if options is None:
        return None
    folder = clip_folder(options.path, "config.text_encoder.path")
    return str(folder / TOKENIZER if (folder / TOKENIZER).is_dir() else folder)


def inspect_source(
    source: Source, split: str, output: epath.Path, tokenizer: str | None = None
) -> Inspection:
    """Inspects a split and writes ``inspect.json``, ``inspect.html`` and ``contact_sheet.png``.

    Args:
        tokenizer: its folder or Hub id, by which the tokens of captions are counted.
    """
    shapes = [shape[:2] for shape in getattr(source, "image_shapes", (source.image_shape,))]
    counted = {}
    if tokenizer is not None:
        loaded = load_tokenizer(tokenizer)

        def count(texts: list[str]) -> list[int]:
            return [len(ids) for ids in loaded.backend(texts)["input_ids"]]

        counted = {"count_tokens": count, "max_tokens": loaded.max_length}
    found = inspect(source.split(split), shapes, **counted)
    output.mkdir(parents=True, exist_ok=True)
    with atomic_write(output / "inspect.json", "w") as file:
        json.dump(found.as_json(), file, indent=2, ensure_ascii=False)
    sheet = _contact_sheet(found)
    if sheet:
        with atomic_write(output / "contact_sheet.png") as file:
            file.write(sheet)
    with atomic_write(output / "inspect.html", "w") as file:
        file.write(_page(source, split, found, sheet))
    return found


def as_text(found: Inspection) -> str:
    """What is printed."""
    captions = found.captions
    lines = [f"{name}: {value}" for name, value in _numbers(found).items()]
    lines += [f"  row {row}: {reason}" for row, reason in list(found.unusable.items())[:20]]
    if len(found.unusable) > 20:
        lines.append(f"  and {len(found.unusable) - 20} more")
    return "\n".join([*lines, f"longest caption: {captions['longest'][:200]}"])


def _numbers(found: Inspection) -> dict[str, str]:
    captions, characters = found.captions, found.captions["characters"]
    numbers = {
        "examples": f"{found.examples:,}",
        "rows of an epoch": f"{found.epoch:,}",
        "unusable": f"{len(found.unusable):,}",
        "captions": f"{captions['captions']:,}, of them {captions['different']:,} different",
        "examples with several": f"{captions['examples_with_several']:,}",
        "characters": f"median {characters['median']:.0f}, 95 % up to {characters['95%']:.0f},"
        f" most {characters['most']:,}",
        "near copies": f"{sum(map(len, found.duplicates)):,} in {len(found.duplicates):,} groups",
        "sizes": ", ".join(f"{h}×{w}: {n:,}" for (h, w), n in list(found.sizes.items())[:8]),
        "shapes": ", ".join(f"{h}×{w}: {n:,}" for (h, w), n in found.buckets.items()),
    }
    if captions["max_tokens"] is not None:
        over = f"{captions['over_max_tokens']:,} have more than {captions['max_tokens']}"
        numbers["tokens"] = over
    return numbers


def _contact_sheet(found: Inspection) -> bytes:
    """A PNG of the first pictures of the commonest shape."""
    if not found.shown:
        return b""
    shape = found.shown[0][0].shape
    shown = [(image, caption) for image, caption in found.shown if image.shape == shape]
    sheet = io.BytesIO()
    captioned_grid([image for image, _ in shown], [caption for _, caption in shown]).save(sheet, "PNG")
    return sheet.getvalue()


def _page(source: Source, split: str, found: Inspection, sheet: bytes) -> str:
    numbers = _numbers(found)
    parts = [headlines([Headline(label=name, value=numbers[name]) for name in ("examples", "unusable")])]
    parts.append(section("Numbers", table(["", "value"], list(numbers.items()), text_columns=2)))
    if sheet:
        embedded = Embedded(data=sheet, kind="image/png")
        parts.append(section("As training sees them", figure(embedded, "the first pictures", wide=True)))
    if found.unusable:
        rows = [(str(row), reason) for row, reason in list(found.unusable.items())[:LISTED]]
        parts.append(section("What cannot be used", table(["row", "reason"], rows, text_columns=2)))
    if found.duplicates:
        groups = [(str(len(rows)), ", ".join(map(str, rows[:20]))) for rows in found.duplicates[:LISTED]]
        parts.append(section("Near copies", table(["pictures", "rows"], groups, text_columns=2)))
    return page("What training would see", f"{type(source).__name__}, split {split}", *parts)
