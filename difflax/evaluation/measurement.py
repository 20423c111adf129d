"""Reading images: the judge's answers, features, saturation and diversity, batch by batch.

Only features and numbers of all images are kept, and the images of one batch and one prompt.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from difflax.evaluation import metrics as m
from difflax.figures.png import to_uint8

Images = Float[np.ndarray, "n h w c"]
Columns = Mapping[str, Float[np.ndarray, " n"]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSpace:
    """Where CLIP score, Fréchet distance and feature diversity are measured.

    Attributes:
        name: the encoder and its weights.
        preprocessing: from images in [0, 1] to the encoder's input: size, resize filter, normalisation. It is
            stored with every result, because a Fréchet distance means nothing without it.
        image: images ``[n, h, w, c]`` in [0, 1] → features ``[n, d]``.
        text: prompts → features ``[n, d]``; ``None`` leaves the CLIP score out.
        fingerprint: of the encoder's weights.
    """

    name: str
    preprocessing: str
    image: Callable[[Images], Any]
    text: Callable[[list[str]], Any] | None = None
    fingerprint: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PromptGroup:
    """Prompts that share a curve, and what their images are compared with.

    Attributes:
        name: as it stands in legends ("one object, seen pairs").
        prompts: distinct prompts.
        chance: the level of guessing, by metric name.
        real_images: real images of such prompts, for the Fréchet distance and the lines of real images.
        real_prompts: the prompts of ``real_images``, for their CLIP score and the judge's own ceiling.
        split: of the data, of which such images are.
    """

    name: str
    prompts: tuple[str, ...]
    chance: Mapping[str, float] = dataclasses.field(default_factory=dict)
    real_images: Float[np.ndarray, "m h w c"] | None = None
    real_prompts: tuple[str, ...] | None = None
    split: str = "test"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """What reads images against their prompts.

    Attributes:
        read: ``read(images, prompts) -> {"accuracy": [n], …}``: columns of numbers of each image, NaN where
            there is none. A share of right images is 1 right, 0 wrong, NaN not asked.
        metrics: what becomes curves, in their order; a column without a metric is only kept in the records.
        compare: ``compare(group, prompt, columns) -> {name: value}``, measures of all images of one prompt
            together, from nothing but their columns; a name that is missing was not measured.
        aspects: the metrics that tell the whole story side by side, by what they stand for ("alignment":
            "accuracy"). The first one says what guidance gains, the others what it costs.
    """

    read: Callable[[Images, list[str]], Mapping[str, Any]]
    metrics: tuple[m.Metric, ...] = (m.ACCURACY,)
    compare: Callable[[PromptGroup, str, Columns], Mapping[str, float]] | None = None
    aspects: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Instruments:
    """What reads the images: a feature space, a judge, both or neither."""

    features: FeatureSpace | None = None
    judge: Judge | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """What is kept of the images of one scale (or of real images).

    Attributes:
        columns: per-image metrics by name, each ``[n]``.
        features: image features ``[n, d]``; ``[n, 0]`` without a feature space.
        pixel_diversity: one value a prompt; empty with one seed.
        samples: the images of the grid, as bytes.
    """

    columns: dict[str, Float[np.ndarray, " n"]]
    features: Float[np.ndarray, "n d"]
    pixel_diversity: Float[np.ndarray, " p"]
    samples: UInt8[np.ndarray, "k h w c"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """The images of one scale in order: group by group, prompt by prompt, seed by seed.

    ``group`` and ``prompt`` number groups and (over all groups) prompts; ``shown`` marks the images of the
    grid.
    """

    groups: tuple[PromptGroup, ...]
    seeds: tuple[int, ...]
    grid_prompts: int

    @property
    def prompts(self) -> list[str]:
        return [prompt for group in self.groups for prompt in group.prompts]

    @property
    def prompt(self) -> Int[np.ndarray, " n"]:
        return np.repeat(np.arange(len(self.prompts)), len(self.seeds))

    @property
    def group(self) -> Int[np.ndarray, " n"]:
        sizes = [len(group.prompts) * len(self.seeds) for group in self.groups]
        return np.repeat(np.arange(len(self.groups)), sizes)

    @property
    def seed(self) -> Int[np.ndarray, " n"]:
        """Each image has a noise of its own. Where prompts share theirs, and the noise decides what they
        leave open, their mistakes are the same and no band over prompts shows it.
        """
        first = np.arange(len(self.prompts)) * (max(self.seeds) + 1)
        return (first[:, None] + np.array(self.seeds)).ravel()

    @property
    def captions(self) -> list[str]:
        return [prompt for prompt in self.prompts for _ in self.seeds]

    @property
    def shown(self) -> list[int]:
        """Indices of the first seed of the first prompts of each group."""
        starts = np.cumsum([0, *(len(group.prompts) for group in self.groups)])
        shown = [starts[g] + p for g, group in enumerate(self.groups) for p in range(self._shown_of(group))]
        return [int(index) * len(self.seeds) for index in shown]

    def _shown_of(self, group: PromptGroup) -> int:
        return min(self.grid_prompts, len(group.prompts))

    def shown_by_group(self) -> list[int]:
        """How many grid images each group has."""
        return [self._shown_of(group) for group in self.groups]


def text_features(
    instruments: Instruments, prompts: Sequence[str], batch_size: int
) -> Float[np.ndarray, "p d"] | None:
    """The text features of the prompts in batches, or ``None`` where no text encoder is given."""
    if instruments.features is None or instruments.features.text is None:
        return None
    encode = instruments.features.text
    parts = [list(prompts[start : start + batch_size]) for start in range(0, len(prompts), batch_size)]
    return np.concatenate([np.asarray(encode(part), np.float32) for part in parts])


def read(
    images: Images,
    captions: list[str] | None,
    texts: Float[np.ndarray, "n d"] | None,
    instruments: Instruments,
) -> tuple[dict[str, Float[np.ndarray, " n"]], Float[np.ndarray, "n d"]]:
    """Per-image metrics and features of one batch; without captions nothing that compares with the prompt."""
    columns: dict[str, Float[np.ndarray, " n"]] = {}
    if instruments.judge is not None and captions is not None:
        for name, verdicts in instruments.judge.read(images, captions).items():
            columns[name] = np.asarray(verdicts, np.float64)
    features = np.zeros((len(images), 0), np.float32)
    if instruments.features is not None:
        features = np.asarray(instruments.features.image(images), np.float32)
        if texts is not None:
            columns[m.CLIP_SCORE.name] = m.clip_score(features, texts)
    columns[m.CLIPPED_FRACTION.name] = m.clipped_fraction(images)
    if images.shape[-1] == 3:
        columns[m.HSV_SATURATION.name] = m.hsv_saturation(images)
    return columns, features


def measure(
    batches: Iterator[Images], plan: Design, instruments: Instruments, texts: Float[np.ndarray, "p d"] | None
) -> Measurement:
    """Reads the images of one scale as they come, in the plan's order."""
    captions, prompt, shown = plan.captions, plan.prompt, set(plan.shown)
    columns: list[dict[str, Float[np.ndarray, " n"]]] = []
    features, samples, diversity = [], [], []
    siblings: list[Float[np.ndarray, "h w c"]] = []
    done = 0
    for images in batches:
        rows = slice(done, done + len(images))
        batch_texts = None if texts is None else texts[prompt[rows]]
        batch_columns, batch_features = read(images, captions[rows], batch_texts, instruments)
        columns.append(batch_columns)
        features.append(batch_features)
        samples += [to_uint8(image) for number, image in enumerate(images, done) if number in shown]
        for image in images:
            siblings.append(image)
            if len(siblings) == len(plan.seeds):
                if len(siblings) > 1:
                    diversity.append(m.pixel_diversity(np.stack(siblings)))
                siblings = []
        done += len(images)
    return Measurement(
        columns={name: np.concatenate([part[name] for part in columns]) for name in columns[0]},
        features=np.concatenate(features),
        pixel_diversity=np.array(diversity, np.float64),
        samples=np.stack(samples),
    )


def compare(measured: Measurement, design: Design, judge: Judge) -> dict[str, Float[np.ndarray, " p"]]:
    """The judge's measures of each prompt's images together, by name; NaN where there is none."""
    values: dict[str, Float[np.ndarray, " p"]] = {}
    if judge.compare is None:
        return values
    asked = [(group, prompt) for group in design.groups for prompt in group.prompts]
    for number, (group, prompt) in enumerate(asked):
        rows = slice(number * len(design.seeds), (number + 1) * len(design.seeds))
        columns = {name: column[rows] for name, column in measured.columns.items()}
        for name, value in judge.compare(group, prompt, columns).items():
            values.setdefault(name, np.full(len(asked), np.nan))[number] = value
    return values


def measure_real(group: PromptGroup, instruments: Instruments, batch_size: int) -> Measurement | None:
    """The same readings of a group's real images, or ``None`` if it has none."""
    if group.real_images is None:
        return None
    texts = None if group.real_prompts is None else text_features(instruments, group.real_prompts, batch_size)
    parts = []
    for start in range(0, len(group.real_images), batch_size):
        rows = slice(start, start + batch_size)
        captions = None if group.real_prompts is None else list(group.real_prompts[rows])
        images = group.real_images[rows].astype(np.float32)
        parts.append(read(images, captions, None if texts is None else texts[rows], instruments))
    return Measurement(
        columns={name: np.concatenate([columns[name] for columns, _ in parts]) for name in parts[0][0]},
        features=np.concatenate([features for _, features in parts]),
        pixel_diversity=np.zeros(0),
        samples=to_uint8(group.real_images[:1]),
    )
