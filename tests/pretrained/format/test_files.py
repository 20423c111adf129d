"""Files in and out: every damaged, hostile or unfit one is one clear line, and nothing is loaded."""

import json
import pickle
import shutil
import struct

import difflax
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from difflax.core.types import UserError
from difflax.pretrained.format import hub
from difflax.pretrained.format.safetensors import open_file, open_weights, write_file
from difflax.pretrained.format.torch_names import from_torch
from etils import epath

from tests.fixtures import make_stable_diffusion as reference

UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return reference.build("sd15", tmp_path_factory.mktemp("files") / "sd15")


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "copy")


def refused(folder):
    with pytest.raises(UserError) as caught:
        difflax.from_pretrained(str(folder), variant="fp16")
    message = str(caught.value)
    assert "\n" not in message
    return message


TENSORS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bfloat16": np.arange(5).astype(ml_dtypes.bfloat16),
    "float16": np.float16([[1.5]]),
    "int64": np.arange(3),
    "scalar": np.array(2.0, np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "bool": np.array([True, False]),
}


class TestFormat:
    def test_reads_what_the_library_writes(self, tmp_path):
        safetensors.numpy.save_file(TENSORS, tmp_path / "a.safetensors")
        self.compare(open_file(tmp_path / "a.safetensors"))

    def test_the_library_reads_what_is_written(self, tmp_path):
        write_file(tmp_path / "a.safetensors", TENSORS)
        self.compare(safetensors.numpy.load_file(tmp_path / "a.safetensors"))
        with safetensors.safe_open(tmp_path / "a.safetensors", "numpy") as file:
            assert file.metadata() == {"format": "pt"}

    def compare(self, made):
        assert set(made) == set(TENSORS)
        for name, tensor in TENSORS.items():
            array = np.asarray(made[name])
            assert (array.dtype, array.shape) == (tensor.dtype, tensor.shape)
            np.testing.assert_array_equal(array, tensor)

    def header(self, entries, data=b"", length=None):
        text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    @pytest.mark.parametrize(
        "name",
        ["empty", "short", "long_header", "huge_header", "no_json", "no_mapping", "dtype", "negative",
         "overlap", "hole", "outside", "cut", "more", "shape", "deep", "boolean"],
    )  # fmt: skip
    def test_damaged_headers_are_refused_here_as_by_the_library(self, name, tmp_path):
        def entry(start, stop, shape=(1,), dtype="F32"):
            return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}

        eight = b"\0" * 8
        content = {
            "empty": b"",
            "short": b"\1\2\3",
            "long_header": self.header({"a": entry(0, 4)}, b"\0" * 4, length=10_000),
            "huge_header": self.header({}, b"", length=2**63),
            "no_json": self.header(b"{nonsense"),
            "no_mapping": self.header(b"[1, 2]"),
            "dtype": self.header({"a": entry(0, 4, dtype="F31")}, b"\0" * 4),
            "negative": self.header({"a": entry(0, 4, shape=(-1,))}, b"\0" * 4),
            "overlap": self.header({"a": entry(0, 4), "b": entry(0, 4)}, b"\0" * 4),
            "hole": self.header({"a": entry(0, 4), "b": entry(8, 12)}, b"\0" * 12),
            "outside": self.header({"a": entry(4, 8)}, b"\0" * 4),
            "cut": self.header({"a": entry(0, 8, shape=(2,))}, b"\0" * 4),
            "more": self.header({"a": entry(0, 4)}, eight),
            "shape": self.header({"a": entry(0, 4, shape=(2,))}, b"\0" * 4),
            "deep": self.header(b"[" * 100_000),
            "boolean": self.header({"a": entry(False, 4)}, b"\0" * 4),
        }[name]
        path = tmp_path / "a.safetensors"
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a readable safetensors file") as caught:
            open_file(path)
        assert "\n" not in str(caught.value)
        with pytest.raises(safetensors.SafetensorError):
            safetensors.numpy.load(content)


class TestShards:
    @pytest.fixture
    def shards(self, tmp_path):
        first, second = {"a": np.float32([1, 2])}, {"b": np.float32([3])}
        safetensors.numpy.save_file(first, tmp_path / "model-00001-of-00002.safetensors")
        safetensors.numpy.save_file(second, tmp_path / "model-00002-of-00002.safetensors")
        self.index(tmp_path, a="model-00001-of-00002.safetensors", b="model-00002-of-00002.safetensors")
        return tmp_path

    def index(self, folder, **places):
        text = json.dumps({"metadata": {}, "weight_map": places})
        (folder / "model.safetensors.index.json").write_text(text)

    def test_are_joined(self, shards):
        tensors = open_weights(shards, "model")
        np.testing.assert_array_equal(tensors["a"], [1, 2])
        np.testing.assert_array_equal(tensors["b"], [3])

    @pytest.mark.parametrize(
        "place", ["../model.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "model.bin"]
    )
    def test_an_index_that_points_elsewhere(self, shards, place):
        safetensors.numpy.save_file({"b": np.zeros(1)}, shards.parent / "model.safetensors")
        self.index(shards, a="model-00001-of-00002.safetensors", b=place)
        with pytest.raises(UserError, match="same folder"):
            open_weights(shards, "model")

    def test_an_index_that_does_not_fit(self, shards):
        self.index(shards, a="model-00001-of-00002.safetensors", c="model-00002-of-00002.safetensors")
        with pytest.raises(UserError, match="missing c; unexpected b"):
            open_weights(shards, "model")

    def test_a_shard_that_is_not_there(self, shards):
        (shards / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(UserError, match="no model-00002-of-00002"):
            open_weights(shards, "model")

    @pytest.mark.parametrize(
        "name", ["model.safetensors.index.fp16.json", "model.fp16.safetensors.index.json"]
    )
    def test_of_a_variant(self, shards, name):
        (shards / "model.safetensors.index.json").rename(shards / name)
        assert set(open_weights(shards, "model", variant="fp16")) == {"a", "b"}
        with pytest.raises(UserError, match="give its variant"):
            open_weights(shards, "model")


def test_tensors_that_are_not_finite_are_named():
    abstract = {"a": {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32)}, "b": {"bias": jnp.zeros(2)}}
    good = {"a.weight": np.ones((3, 2), np.float16), "b.bias": np.ones(2, np.float32)}
    for bad in (np.nan, np.inf, -np.inf):
        for name in good:
            damaged = {key: value.copy() for key, value in good.items()}
            damaged[name].flat[1] = bad
            with pytest.raises(UserError, match=f"not finite numbers in {name}:"):
                from_torch(damaged, abstract, "the case")
    assert from_torch(good, abstract, "the case")["a"]["kernel"].shape == (2, 3)


def change_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_tensors(path, change):
    tensors = dict(safetensors.numpy.load_file(path))
    change(tensors)
    safetensors.numpy.save_file(tensors, path)


class TestCheckpoints:
    def test_cut(self, copy):
        path = copy / UNET
        path.write_bytes(path.read_bytes()[:-1000])
        assert "not a readable safetensors file" in refused(copy)

    def test_missing_extra_and_misshapen(self, copy):
        def change(tensors):
            del tensors["conv_in.bias"]
            tensors["conv_extra.bias"] = np.zeros(1, np.float16)
            tensors["conv_out.bias"] = np.zeros(5, np.float16)

        change_tensors(copy / UNET, change)
        message = refused(copy)
        assert "missing conv_in.bias" in message
        assert "unexpected conv_extra.bias" in message
        assert "conv_out.bias has shape (5,) and not (4,)" in message

    def test_not_finite(self, copy):
        change_tensors(copy / UNET, lambda tensors: tensors["conv_in.weight"].fill(np.nan))
        assert "not finite numbers in conv_in.weight" in refused(copy)

    @pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt", "weights.pt"])
    def test_a_pickle_is_not_read(self, copy, name, tmp_path):
        class Trap:
            def __reduce__(self):
                return (open, (str(tmp_path / "sprung"), "w"))

        (copy / UNET).unlink()
        (copy / "unet" / name).write_bytes(pickle.dumps(Trap()))
        message = refused(copy)
        assert "pickle" in message
        assert "safe_serialization=True" in message
        assert not (tmp_path / "sprung").exists()

    def test_a_pickled_single_file(self, tmp_path):
        (tmp_path / "model.ckpt").write_bytes(pickle.dumps({}))
        assert "pickle" in refused(tmp_path / "model.ckpt")

    def test_no_tokenizer(self, copy):
        shutil.rmtree(copy / "tokenizer")
        assert "no tokenizer in" in refused(copy)

    @pytest.mark.parametrize("missing", ["unet", "vae", "text_encoder", "scheduler", "model_index.json"])
    def test_a_missing_part(self, copy, missing):
        path = copy / missing
        path.unlink() if path.is_file() else shutil.rmtree(path)
        assert missing in refused(copy)

    @pytest.mark.parametrize(
        ("file", "values", "says"),
        [
            ("model_index.json", {"_class_name": "StableCascadePipeline"}, "StableCascadePipeline"),
            ("unet/config.json", {"_class_name": "UNet1DModel"}, "UNet1DModel"),
            ("unet/config.json", {"time_embedding_type": "fourier"}, "time_embedding_type"),
            ("unet/config.json", {"in_channels": 5}, "in_channels|conv_in.weight has shape"),
            ("unet/config.json", {"cross_attention_dim": 32}, "to_k.weight has shape"),
            ("vae/config.json", {"_class_name": "VQModel"}, "VQModel"),
            ("vae/config.json", {"down_block_types": ["AttnDownBlock2D"] * 4}, "down_block_types"),
            ("vae/config.json", {"colour": 3}, "unknown option 'colour'"),
            ("text_encoder/config.json", {"model_type": "t5"}, "'t5' model"),
            ("scheduler/scheduler_config.json", {"_class_name": "FooScheduler"}, "FooScheduler"),
        ],
    )
    def test_what_is_not_supported(self, copy, file, values, says):
        change_json(copy / file, **values)
        assert any(word in refused(copy) for word in says.split("|"))

    @pytest.mark.parametrize("content", ["{", "[]", "", "\0"])
    def test_damaged_json(self, copy, content):
        (copy / "unet" / "config.json").write_text(content)
        assert "unet/config.json" in refused(copy)

    def test_no_such_place(self, tmp_path):
        assert "no such folder" in refused(tmp_path / "nowhere")

    def test_another_variant(self, copy):
        with pytest.raises(UserError, match="fp16"):
            difflax.from_pretrained(str(copy))


class TestHub:
    """The cache of huggingface_hub as it lies on a disk: blobs, snapshots of links, a branch."""

    @pytest.fixture
    def cache(self, checkpoint, tmp_path):
        repository, commit = tmp_path / "models--owner--tiny", "0" * 40
        (repository / "refs").mkdir(parents=True)
        (repository / "blobs").mkdir()
        (repository / "refs" / "main").write_text(commit)
        for number, path in enumerate(sorted(p for p in checkpoint.rglob("*") if p.is_file())):
            blob = repository / "blobs" / f"{number:040x}"
            shutil.copy(path, blob)
            link = repository / "snapshots" / commit / path.relative_to(checkpoint)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
        return tmp_path

    def load(self, name, cache, **more):
        return difflax.from_pretrained(
            name, variant="fp16", cache_dir=str(cache), local_files_only=True, **more
        )

    def test_a_cached_repository(self, cache, checkpoint):
        there = self.load("owner/tiny", cache)
        here = difflax.from_pretrained(str(checkpoint), variant="fp16")
        jax.tree.map(np.testing.assert_array_equal, there.model.params, here.model.params)
        assert there.model.configs == here.model.configs

    def test_a_revision(self, cache):
        self.load("owner/tiny", cache, revision="0" * 40)
        with pytest.raises(UserError, match="not in the cache"):
            self.load("owner/tiny", cache, revision="v2")

    def test_what_is_not_cached(self, cache):
        with pytest.raises(UserError, match=r"owner/other is not in the cache .* fetch it once online"):
            self.load("owner/other", cache)

    @pytest.mark.parametrize("parts", [(), ("text_encoder",), ("unet", "vae")])
    def test_of_a_configs_folder_only_the_weights_that_are_read_are_fetched(self, checkpoint, parts):
        files = {str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file()}
        wanted = hub._weights(epath.Path(checkpoint), files, "fp16", parts)
        assert sorted(name.split("/")[0] for name in wanted) == sorted(parts)
