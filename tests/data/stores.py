"""The same captioned pictures as people keep them: one writer a layout, and the config that reads it."""

import csv
import dataclasses
import io
import json
import pathlib
import tarfile

from difflax.config.resolve import read_section
from difflax.config.schema import Section
from difflax.data.sources import MIXABLE, SOURCES

COLUMNS = ("text", "alt", "tags", "looks")


@dataclasses.dataclass(frozen=True)
class Example:
    """One of them, with what stands beside the picture; a column may be missing."""

    key: str
    picture: bytes
    fields: dict
    suffix: str = "png"

    @property
    def file(self):
        return f"{self.key}.{self.suffix}"


def write_sidecars(place, examples):
    for example in examples:
        (place / example.file).write_bytes(example.picture)
        if "text" in example.fields:
            (place / f"{example.key}.txt").write_text(example.fields["text"], encoding="utf-8")
    return {"name": "folder", "path": str(place)}


def write_jsonl(place, examples):
    for example in examples:
        (place / example.file).write_bytes(example.picture)
    lines = [json.dumps({"file_name": example.file, **example.fields}) for example in examples]
    (place / "metadata.jsonl").write_text("\n".join(lines))
    return {"name": "image_folder", "path": str(place)}


def write_csv(place, examples):
    for example in examples:
        (place / example.file).write_bytes(example.picture)
    with (place / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, ["file_name", *COLUMNS])
        rows.writeheader()
        for example in examples:
            rows.writerow({"file_name": example.file, **{c: example.fields.get(c, "") for c in COLUMNS}})
    return {"name": "image_folder", "path": str(place)}


def add_member(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write_shard(path, examples):
    with tarfile.open(path, "w") as tar:
        for example in examples:
            add_member(tar, example.file, example.picture)
            if "text" in example.fields:
                add_member(tar, f"{example.key}.txt", example.fields["text"].encode())
            add_member(tar, f"{example.key}.json", json.dumps(example.fields).encode())


def write_tars(place, examples):
    """Three shards, of which the last one is shorter."""
    size = -(-len(examples) // 3)
    for number in range(3):
        write_shard(place / f"{number:04d}.tar", examples[number * size : (number + 1) * size])
    return {
        "name": "webdataset",
        "path": str(place / "{0000..0002}.tar"),
        "caption": "txt",
        "data_dir": str(place / "cache"),
    }


def parquet_table(examples):
    import pyarrow

    columns = {"image": [{"bytes": example.picture, "path": example.file} for example in examples]}
    for column in COLUMNS:
        columns[column] = [example.fields.get(column) for example in examples]
    return pyarrow.table(columns)


def write_parquet(place, examples):
    """Two files in the Hub's layout, in groups of a few rows."""
    import pyarrow.parquet

    half = -(-len(examples) // 2)
    for number, part in enumerate((examples[:half], examples[half:])):
        path = place / f"train-{number:05d}-of-00002.parquet"
        pyarrow.parquet.write_table(parquet_table(part), path, row_group_size=5)
    return {"name": "parquet", "path": str(place), "data_dir": str(place / "cache")}


def write_dataset(place, examples):
    import datasets

    columns = {"image": [{"bytes": example.picture, "path": example.file} for example in examples]}
    for column in COLUMNS:
        columns[column] = [example.fields.get(column) for example in examples]
    features = {"image": datasets.Image(), **dict.fromkeys(COLUMNS, datasets.Value("string"))}
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    datasets.DatasetDict({"train": rows}).save_to_disk(str(place / "saved"))
    return {"name": "huggingface", "path": str(place / "saved")}


def write_tfds(place, examples):
    import tensorflow_datasets as tfds
    from difflax.data.builders import prepare

    class Kept(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """The examples."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            texts = {column: tfds.features.Text() for column in COLUMNS}
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(), **texts})
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, example in enumerate(examples):
                texts = {column: example.fields.get(column, "") for column in COLUMNS}
                yield i, {"image": io.BytesIO(example.picture), **texts}

    return {"name": "tfds", "builder": str(prepare(Kept, place).data_path), "caption": "text"}


def write_mixture(place, examples):
    """Half of them in a folder, half in shards."""
    half = len(examples) // 2
    for name in ("one", "two"):
        (place / name).mkdir()
    return {
        "name": "mixture",
        "sources": (write_jsonl(place / "one", examples[:half]), write_tars(place / "two", examples[half:])),
    }


STORES = {
    "sidecars": write_sidecars,
    "jsonl": write_jsonl,
    "csv": write_csv,
    "webdataset": write_tars,
    "parquet": write_parquet,
    "huggingface": write_dataset,
    "tfds": write_tfds,
    "mixture": write_mixture,
}


def store(kind, place, examples, **fields):
    """The source of examples in one of the layouts; images of 24 × 36 pixels unless fields say other."""
    place = pathlib.Path(place)
    place.mkdir(parents=True, exist_ok=True)
    section = STORES[kind](place, examples)
    fields = {"height": 24, "width": 36, **fields}
    if "sources" in section:
        weights = {"weights": fields.pop("weights")} if "weights" in fields else {}
        section = {**section, **weights, "sources": tuple({**one, **fields} for one in section["sources"])}
    else:
        section = {**section, **fields}
    return opened(section)


def opened(section):
    """The source of a section of a config."""
    below = {"sources": Section(of=MIXABLE, many=True)}
    return read_section(Section(of=SOURCES, below=below), section, "config.data")
