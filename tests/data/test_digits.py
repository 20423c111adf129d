"""The handwritten digits: faithful to scikit-learn's, and readable across the split."""

import numpy as np
import pytest
from difflax.data import digits
from sklearn.datasets import load_digits
from sklearn.svm import SVC


def test_splits_are_all_the_digits_of_scikit_learn_in_order():
    grey, labels = load_digits(return_X_y=True)
    parts = [digits.load(split) for split in ("test", "train")]
    images = np.concatenate([part[0] for part in parts])
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), labels)
    np.testing.assert_array_equal(np.rint(images.reshape(-1, 64) / 255 * 16), grey)


def test_a_support_vector_machine_reads_the_real_test_digits():
    (train, labels), (test, truth) = digits.load("train"), digits.load("test")
    reader = SVC(C=10, gamma=0.001).fit(train.reshape(len(train), -1) / 255 * 16, labels)
    assert reader.score(test.reshape(len(test), -1) / 255 * 16, truth) >= 0.97


def test_captions_read_back():
    for digit in range(10):
        assert len(set(digits.captions(digit))) == 2
        for caption in digits.captions(digit):
            assert digits.parse_caption(caption) == digit
    assert digits.parse_caption("a handwritten seven") == 7
    with pytest.raises(ValueError, match="not a caption"):
        digits.parse_caption("a handwritten eleven")


def test_unknown_split():
    with pytest.raises(ValueError, match="splits"):
        digits.load("validation")
