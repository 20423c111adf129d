"""Embeddings of captions: each computed once, found by caption, kept between runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning, UserError
from difflax.data.caches import EmbeddingCache


def numbers(captions, dtype=jnp.float32):
    """A caption's embedding as a function of the caption alone."""
    context = np.array([[[len(c), ord(c[-1]) if c else 0], [c.count("a"), 1]] for c in captions])
    return Conditioning(context=jnp.asarray(context, dtype), pooled=jnp.asarray(context[:, 0], dtype))


def refuse(captions):
    raise AssertionError(f"{captions} are known already")


CAPTIONS = ["a cat", "a dog", "", "a cat", "an apple", "a banana", "a dog", "zebra"]


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("batch_size", [1, 4, 6, 100])
def test_every_caption_finds_its_embedding(batch_size):
    def encode(captions):
        assert len(captions) == batch_size
        return numbers(captions)

    cache = EmbeddingCache(CAPTIONS, encode, batch_size=batch_size)
    assert len(cache) == len(set(CAPTIONS))
    same(cache.lookup(CAPTIONS), jax.tree.map(np.asarray, numbers(CAPTIONS)))
    assert [cache.captions[row] for row in cache.rows(CAPTIONS)] == CAPTIONS


def test_each_caption_is_encoded_once():
    encoded = []

    def encode(captions):
        encoded.extend(captions)
        return numbers(captions)

    EmbeddingCache(CAPTIONS, encode, batch_size=2)
    assert sorted(encoded) == sorted(set(CAPTIONS))


def test_unknown_captions():
    with pytest.raises(KeyError, match="a fox"):
        EmbeddingCache(CAPTIONS, numbers).rows(["a fox"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_kept_between_runs(tmp_path, dtype):
    place = {"directory": tmp_path / "cache", "fingerprint": "clip 1"}
    first = EmbeddingCache(CAPTIONS, lambda c: numbers(c, dtype), **place)
    again = EmbeddingCache(CAPTIONS[::-1], refuse, **place)
    assert again.captions == first.captions
    same(again.embeddings, first.embeddings)
    same(EmbeddingCache(["zebra", ""], refuse, **place).lookup(["zebra"]), first.lookup(["zebra"]))


def test_only_new_captions_are_encoded(tmp_path):
    place = {"directory": tmp_path, "fingerprint": "clip 1"}
    EmbeddingCache(CAPTIONS, numbers, **place)

    def encode(captions):
        assert set(captions) == {"a fox", "ferret"}
        return numbers(captions)

    more = [*CAPTIONS, "a fox", "ferret"]
    same(EmbeddingCache(more, encode, batch_size=5, **place).lookup(more), numbers_on_host(more))
    same(EmbeddingCache(more, refuse, **place).lookup(more), numbers_on_host(more))


def numbers_on_host(captions):
    return jax.tree.map(np.asarray, numbers(captions))


def test_another_encoder_has_its_own_embeddings(tmp_path):
    EmbeddingCache(CAPTIONS, numbers, directory=tmp_path, fingerprint="clip 1")
    doubled = EmbeddingCache(
        CAPTIONS,
        lambda c: jax.tree.map(lambda a: 2 * a, numbers(c)),
        directory=tmp_path,
        fingerprint="clip 2",
    )
    same(doubled.lookup(CAPTIONS), jax.tree.map(lambda a: 2 * a, numbers_on_host(CAPTIONS)))


def test_a_broken_file_says_what_to_do(tmp_path):
    EmbeddingCache(CAPTIONS, numbers, directory=tmp_path, fingerprint="clip 1")
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match="broken: delete it"):
        EmbeddingCache(CAPTIONS, numbers, directory=tmp_path, fingerprint="clip 1")


def test_mistakes():
    with pytest.raises(ValueError, match="belong together"):
        EmbeddingCache(CAPTIONS, numbers, fingerprint="clip 1")
    with pytest.raises(ValueError, match="no captions"):
        EmbeddingCache([], numbers)
