"""What all sources of stored pictures have in common."""

import dataclasses
import operator
import os
from typing import Annotated, ClassVar

from etils import epath

from difflax.core.bounds import Edge, Range
from difflax.data.captions import CaptionForm, CaptionText, caption_form
from difflax.data.images import ImageForm
from difflax.data.pictures import WHITE
from difflax.data.transforms import Crop, check_images

Level = Annotated[int, Range(0, 255)]
"""Of a colour in sRGB."""


def data_directory(data_dir: str | None) -> epath.Path:
    """``data_dir`` or the default."""
    return epath.Path(data_dir or os.environ.get("DIFFLAX_DATA_DIR") or "~/.cache/difflax/data").expanduser()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Pictures that are stored with texts beside them.

    Attributes:
        height, width: of every image, in pixels; others are cut and resized.
        crop: what is kept of a picture of another aspect ratio: its middle, a part drawn each time that it is
            seen ("random"), or all of it squeezed to the shape ("none").
        caption: a column, a template with columns in braces ("a photo of a {label}"), or several of these
            with the share of each.
        shuffle_tags: whether the parts of a caption between commas come in another order each time.
        keep_tags: how many of these parts stay first.
        flip: the probability that an image is mirrored left to right.
        background: the colour that transparency is laid over: red, green and blue, 0 to 255.
        buckets: more shapes (height, width); each image gets the one nearest to its own aspect ratio, and a
            batch holds images of one shape.
        alpha_mask: an image's opacity is its mask, for a loss of a part of each image.
        score_key: the column with the number that says how well an image looks; empty: none.
    """

    channels: ClassVar[int] = 3

    height: Edge
    width: Edge
    crop: Crop = "center"
    caption: CaptionText = "text"
    shuffle_tags: bool = False
    keep_tags: Annotated[int, Range(0)] = 0
    flip: float = 0.0
    background: tuple[Level, Level, Level] = WHITE
    buckets: tuple[tuple[int, int], ...] = ()
    alpha_mask: bool = False
    score_key: str = ""

    def __post_init__(self):
        for bucket in self.buckets:
            try:
                _, _ = map(operator.index, bucket)
            except (TypeError, ValueError) as error:
                raise ValueError(f"buckets must be pairs (height, width), got {bucket!r}") from error
        for shape in self.image_shapes:
            check_images(shape, self.flip)
        if self.keep_tags and not self.shuffle_tags:
            raise ValueError(f"keep_tags = {self.keep_tags} is for shuffle_tags: set it to True")
        if not isinstance(self.caption, str):
            object.__setattr__(self, "caption", tuple(dict(self.caption).items()))
        _ = self.caption_form

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of its images."""
        return self.height, self.width, self.channels

    @property
    def image_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Of the images, `image_shape` and those of the buckets."""
        shapes = [self.image_shape, *((*bucket, self.channels) for bucket in self.buckets)]
        return tuple(dict.fromkeys(shapes))

    @property
    def caption_form(self) -> CaptionForm:
        """How its captions are made."""
        return caption_form(self.caption, self.shuffle_tags, self.keep_tags)

    @property
    def form(self) -> ImageForm:
        """What becomes of its pictures."""
        return ImageForm(
            shapes=self.image_shapes,
            caption=self.caption_form,
            crop=self.crop,
            background=self.background,
            flip=self.flip,
            alpha_mask=self.alpha_mask,
            score_key=self.score_key,
        )

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Those that captions and scores are read from."""
        return (*self.caption_form.columns, *filter(None, (self.score_key,)))
