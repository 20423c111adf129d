"""Real handwritten digits with captions in words: scikit-learn's ``load_digits``, 8×8 pixels, one channel.

The 1,797 digits are the test set of the UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak
1998, doi:10.24432/C50P49) in its file order, in which a writer's digits follow each other. The split keeps
that order, first 500 for "test" and last 1,297 for "train", so that almost no writer is in both: an SVM
(``SVC(C=10, gamma=0.001)`` on the grey levels 0 … 16) trained on "train" reads 0.974 of "test".
Interleaving the two would give 0.99, by testing on writers that were trained on.
"""

import numpy as np
from jaxtyping import Int64, UInt8

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_SIZE = 500
SPLIT_ROWS = {"train": slice(TEST_SIZE, None), "test": slice(TEST_SIZE)}
GREY_LEVELS = 16  # load_digits counts from 0 (paper) to 16 (ink)

TEMPLATES = ("a handwritten {}", "the digit {} written by hand")


def captions(digit: int) -> tuple[str, ...]:
    """Every caption of a digit 0 … 9."""
    return tuple(template.format(WORDS[digit]) for template in TEMPLATES)


def parse_caption(caption: str) -> int:
    """The digit that a caption names: the inverse of `captions`.

    Raises:
        ValueError: the caption is not one of `captions`.
    """
    for digit in range(10):
        if caption in captions(digit):
            return digit
    raise ValueError(f"not a caption of a digit: {caption!r}")


def load(split: str) -> tuple[UInt8[np.ndarray, "n 8 8 1"], Int64[np.ndarray, " n"]]:
    """Images (0 paper … 255 ink) and labels of a split, in the order of the file.

    ``image / 255 * 16`` rounds back to scikit-learn's grey levels.
    """
    if split not in SPLIT_ROWS:
        raise ValueError(f"no split {split!r}; splits: {tuple(SPLIT_ROWS)}")
    # Slow to import, and only this function needs it.
    from sklearn.datasets import load_digits

    grey, labels = load_digits(return_X_y=True)
    images = np.rint(grey * (255 / GREY_LEVELS)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return images[SPLIT_ROWS[split]], labels[SPLIT_ROWS[split]].astype(np.int64)


def caption_of(row: int, digit: int) -> str:
    """The caption of a row: the phrasings take turns."""
    return captions(digit)[row % len(TEMPLATES)]
