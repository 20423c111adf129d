"""A few pictures of one thing with prompts that name it: what DreamBooth and textual inversion learn from."""

import dataclasses
import math

import numpy as np
from etils import epath
from jaxtyping import Float

from difflax.core.bounds import Edge, Examples
from difflax.core.several import several
from difflax.core.types import UserError
from difflax.data.captions import caption_form
from difflax.data.folders import FileEntries, find_images, images_of
from difflax.data.images import ImageForm, ImageRecords
from difflax.data.records import check_split
from difflax.data.transforms import check_images

PROMPT = "prompt"  # the column of the captions
MAX_CLASS_IMAGES = 100_000  # each of which the model may have to make


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """Every picture with every prompt, and perhaps pictures of other members of its class.

    The class's pictures keep the model's idea of the class while it learns the one member (prior
    preservation: Ruiz et al. 2022, https://arxiv.org/abs/2208.12242, eq. 2). Rows take turns, so a batch has
    as many of the one as of the other on average, and the class's count ``prior_weight``.

    Attributes:
        path: a folder with pictures, in subfolders too (but for those of ``class_path``), or one picture.
        prompts: what the subject's pictures show; one may stand for a tuple of it.
        height, width: of every image, in pixels; the middle of others is cut out and resized.
        class_prompt: what the class's pictures show; empty for no prior preservation.
        class_path: a folder with the class's pictures; empty for one in the workdir. What is missing there of
            ``class_images`` pictures, training makes with the model as it was.
        prior_weight: lambda of eq. 2.
        flip: see `Records`.
        class_images: how many pictures of the class there are to be.
    """

    path: str
    prompts: tuple[str, ...]
    height: Edge
    width: Edge
    class_prompt: str = ""
    class_path: str = ""
    class_images: Examples = 200
    prior_weight: float = 1.0
    flip: float = 0.0

    def __post_init__(self):
        check_images(self.image_shape, self.flip)
        object.__setattr__(self, "prompts", several(self.prompts))
        if not self.prompts or not all(map(str.strip, self.prompts)):
            raise ValueError(f"prompts must be one or more prompts, none of them empty, got {self.prompts!r}")
        if self.class_path and not self.class_prompt:
            raise ValueError("class_path needs a class_prompt, which says what its pictures show")
        if not 1 <= self.class_images <= MAX_CLASS_IMAGES:
            raise ValueError(
                f"class_images must be at least 1 and at most {MAX_CLASS_IMAGES:,}, got {self.class_images:,}"
            )
        if not 0 <= self.prior_weight < math.inf:
            raise ValueError(f"prior_weight must be finite and not negative, got {self.prior_weight}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.height, self.width, 3

    def split(self, name: str) -> "SubjectRecords":
        """See `Source`; the one split is "train"."""
        check_split("subject", name, ("train",))
        root = epath.Path(self.path).expanduser()
        where = f"config.data.path = {self.path!r}"
        if root.is_file():
            pictures = [root]
        elif root.is_dir():
            others = self.class_path and epath.Path(self.class_path).expanduser()
            pictures = find_images(root, where, without=(others,) if others else ())
        else:
            raise UserError(f"{where}: no such folder or picture")
        own = [(picture, prompt) for picture in pictures for prompt in self.prompts]
        return SubjectRecords(own, self._class_rows(), self)

    def missing_class_images(self) -> int:
        """How many pictures too few there are in ``class_path``."""
        return max(0, self.class_images - len(images_of(epath.Path(self.class_path).expanduser())))

    def _class_rows(self) -> list[tuple[epath.Path, str]]:
        if not self.class_prompt:
            return []
        folder = epath.Path(self.class_path).expanduser()
        pictures = find_images(folder, f"config.data.class_path = {self.class_path!r}")[: self.class_images]
        return [(picture, self.class_prompt) for picture in pictures]


class SubjectRecords(ImageRecords):
    """The subject's rows and the class's in turns, the fewer of them repeated."""

    def __init__(
        self, own: list[tuple[epath.Path, str]], others: list[tuple[epath.Path, str]], source: Subject
    ):
        rows = list(own)
        self.weights: Float[np.ndarray, " rows"] | None = None
        if others:
            count = max(len(own), len(others))
            rows = [row for i in range(count) for row in (own[i % len(own)], others[i % len(others)])]
            self.weights = np.tile(np.array([1.0, source.prior_weight], np.float32), count)
        entries = FileEntries([path for path, _ in rows], [{PROMPT: prompt} for _, prompt in rows])
        form = ImageForm(shapes=(source.image_shape,), caption=caption_form(PROMPT), flip=source.flip)
        super().__init__(entries, form)
