"""Prepared TFDS data that other people wrote: captions and pictures of any encoding."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from difflax.data.builders import prepare
from difflax.data.loader import Loader
from difflax.data.sources import Tfds
from PIL import Image

from tests.data.test_loader import rows_of, take

CAPTIONS = [
    b"plain",
    "café".encode("cp1252"),
    "красный".encode("cp1251"),
    "a\u2028b".encode(),
    b"x\0y",
]


class Foreign(tfds.core.GeneratorBasedBuilder):
    """Five pictures, the second lying on its side, the fourth cut short."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {"image": tfds.features.Image(), "caption": tfds.features.Text()}
        )
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        exif = Image.Exif()
        exif[274] = 6
        for i, caption in enumerate(CAPTIONS):
            file = io.BytesIO()
            Image.fromarray(np.uint8([[[i] * 3, [90] * 3]])).save(
                file, "PNG", **({"exif": exif} if i == 1 else {})
            )
            data = file.getvalue()[: 40 if i == 3 else None]
            yield i, {"image": io.BytesIO(data), "caption": caption}


@pytest.mark.parametrize("in_memory", [True, False])
def test_what_can_be_used_is_and_the_rest_is_named(tmp_path, in_memory):
    builder = prepare(Foreign, tmp_path)
    records = Tfds(builder=str(builder.data_path), height=2, width=1).split("train")
    assert list(records.captions) == ["plain", "café", "", "a\u2028b", ""]
    np.testing.assert_array_equal(records[1].image[:, 0, 0], [1, 90])
    loader = Loader(records, batch_size=2, seed=0, max_bad_examples=0.7, in_memory=in_memory)
    assert set(rows_of(take(loader, 5))) == {0, 1}
    faults = sorted(loader.new_faults())
    assert [fault.split("row ")[1][0] for fault in faults] == ["2", "3", "4"]
    assert "save it as UTF-8" in faults[0] and "cannot be read as an image" in faults[1]
