"""The TFDS builder of the embedded digits: ArrayRecord files of PNG bytes, written without TensorFlow.

The files of a builder hold its examples in generation order, so row ``i`` of a split is example ``i``.
"""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from difflax.core.files import move_folder, staging_folder
from difflax.data import digits


class DifflaxDigits(tfds.core.GeneratorBasedBuilder):
    """The handwritten digits of `difflax.data.digits`."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self, (8, 8, 1), digits.__doc__)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        return {split: self._generate_examples(split) for split in digits.SPLIT_ROWS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        for i, (image, digit) in enumerate(zip(*digits.load(split), strict=True)):
            yield i, {"image": io.BytesIO(encode_png(image)), "caption": digits.caption_of(i, int(digit))}


def prepare(
    builder_class: type[tfds.core.GeneratorBasedBuilder], data_dir: epath.PathLike
) -> tfds.core.DatasetBuilder:
    """The builder of data that lies complete under ``data_dir``, written first if it is not there.

    The files are written to a folder of their own and moved into place in one step. So a killed process
    leaves no half data set, and of several processes that write at once one wins and the others read its
    files, which are the same.
    """
    data_dir = epath.Path(data_dir)
    builder = _make(builder_class, data_dir)
    if builder.data_path.exists():
        return builder
    with staging_folder(data_dir / "building") as staging:
        staged = _make(builder_class, staging)
        with _quiet():
            staged.download_and_prepare()
        move_folder(staged.data_path, builder.data_path)
    return _make(builder_class, data_dir)


def encode_png(image: UInt8[np.ndarray, "h w c"]) -> bytes:
    """PNG bytes of an image of one or three channels, lightly compressed: small images gain little."""
    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out, "png", compress_level=1)
    return out.getvalue()


def _info(builder: tfds.core.DatasetBuilder, shape: tuple[int, int, int], doc: str) -> tfds.core.DatasetInfo:
    features = {
        "image": tfds.features.Image(shape=shape, encoding_format="png"),
        "caption": tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(
        builder=builder,
        description=doc,
        features=tfds.features.FeaturesDict(features),
        supervised_keys=("image", "caption"),
        disable_shuffling=True,
    )


def _make(builder_class, data_dir):
    with _quiet():
        return builder_class(data_dir=data_dir, file_format="array_record")


@contextlib.contextmanager
def _quiet():
    """TFDS prints to stdout, logs warnings about custom configs and draws nested progress bars."""
    tfds.disable_progress_bar()
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(verbosity)
