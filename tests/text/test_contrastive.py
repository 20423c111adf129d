"""The contrastive loss and retrieval against hand-made references."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.text.contrastive import contrastive_loss, recall_at_1, retrieval
from scipy.special import logsumexp

LOGITS = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32) * 3
IDS = jnp.asarray([0, 1, 0, 2, 0, 1, 3])
SAME = np.asarray(IDS[:, None] == IDS[None, :])


def test_each_pair_is_weighed_against_those_that_say_something_else():
    expected = []
    for i in range(7):
        others = [j for j in range(7) if j == i or IDS[j] != IDS[i]]
        rows, columns = logsumexp(LOGITS[i, others]), logsumexp(LOGITS[others, i])
        expected.append((rows + columns) / 2 - LOGITS[i, i])
    np.testing.assert_allclose(contrastive_loss(jnp.asarray(LOGITS), IDS), expected, rtol=1e-5)


def test_without_matches_every_other_example_is_a_negative():
    expected = (logsumexp(LOGITS, axis=0) + logsumexp(LOGITS, axis=1)) / 2 - np.diag(LOGITS)
    np.testing.assert_allclose(contrastive_loss(jnp.asarray(LOGITS)), expected, rtol=1e-5)


def test_copies_get_no_gradient_from_each_other():
    gradient = jax.grad(lambda x: contrastive_loss(x, IDS).sum())(jnp.asarray(LOGITS))
    copies = SAME & ~np.eye(7, dtype=bool)
    assert np.all(gradient[copies] == 0)
    assert np.all(gradient[~SAME] > 0)
    assert np.all(np.diag(gradient) < 0)


def test_a_batch_of_one_caption_has_nothing_to_learn():
    loss, gradient = jax.value_and_grad(lambda x: contrastive_loss(x, jnp.ones(7, int)).sum())(
        jnp.asarray(LOGITS)
    )
    assert loss == 0
    assert np.all(gradient == 0)


@pytest.mark.parametrize(("ids", "choices"), [(None, np.full(7, 7)), (IDS, 8 - SAME.sum(1))])
def test_equal_logits_cost_the_log_of_the_choices(ids, choices):
    np.testing.assert_allclose(contrastive_loss(jnp.zeros((7, 7)), ids), np.log(choices), rtol=1e-6)


class TestRetrieval:
    def test_counts_the_queries_whose_best_is_right(self):
        logits = jnp.asarray([[3.0, 1.0, 0.0], [9.0, 8.0, 0.0], [0.0, 1.0, 2.0]])
        found = retrieval(logits)
        np.testing.assert_allclose(found.text_to_image, 2 / 3)
        np.testing.assert_allclose(found.image_to_text, 2 / 3)
        np.testing.assert_allclose(found.chance, 1 / 3)

    def test_any_match_is_right(self):
        logits = jnp.asarray([[0.0, 5.0, 1.0], [5.0, 0.0, 1.0], [0.0, 0.0, 6.0]])
        found = retrieval(logits, jnp.asarray([4, 4, 7]))
        assert (found.text_to_image, found.image_to_text) == (1, 1)
        np.testing.assert_allclose(found.chance, 5 / 9)

    def test_queries_and_candidates_may_differ_in_number(self):
        scores = jnp.asarray([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
        right = jnp.asarray([[False, True, True], [False, True, True]])
        np.testing.assert_allclose(recall_at_1(scores, right), 0.5)

    def test_what_knows_nothing_is_at_chance_exactly(self):
        found = retrieval(jnp.full((7, 7), 0.3), IDS)
        np.testing.assert_allclose(found.text_to_image, found.chance, rtol=1e-6)
        np.testing.assert_allclose(found.image_to_text, found.chance, rtol=1e-6)

    def test_random_logits_are_at_chance_on_average(self):
        logits = jax.random.normal(jax.random.key(0), (4000, 7, 7))
        found = jax.vmap(lambda x: retrieval(x, IDS))(logits)
        standard_error = np.sqrt(0.25 * 0.75 / (4000 * 7))
        for recall in (found.text_to_image, found.image_to_text):
            assert abs(recall.mean() - found.chance[0]) < 5 * standard_error


def test_a_sharded_batch_has_the_same_loss_and_gradient():
    """Eight devices, each with two of sixteen pairs, see all sixteen."""
    program = """
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import AxisType, NamedSharding, PartitionSpec
        from difflax.text.clip import unit_norm
        from difflax.text.contrastive import contrastive_loss

        jax.config.update("jax_num_cpu_devices", 8)

        def loss(features, ids):
            text, image = unit_norm(features["text"]), unit_norm(features["image"])
            return contrastive_loss(10 * text @ image.T, ids).mean()

        text, image = jax.random.normal(jax.random.key(0), (2, 16, 5))
        inputs = {"text": text, "image": image}, jnp.arange(16) // 2
        one = jax.jit(jax.value_and_grad(loss))(*inputs)
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        spread = jax.device_put(inputs, NamedSharding(mesh, PartitionSpec("data")))
        eight = jax.jit(jax.value_and_grad(loss))(*spread)
        assert len(eight[1]["text"].sharding.device_set) == 8
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight)):
            np.testing.assert_allclose(a, b, atol=5e-6)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)
