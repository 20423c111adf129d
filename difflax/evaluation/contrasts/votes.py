"""Arms from blind votes between two images: the model of Bradley and Terry (1952).

Arm i is preferred to arm j with probability ``π_i / (π_i + π_j)``. The log strengths are found by
Newton's method. An arm that won everything has no finite strength, so every arm also met an imaginary one of
strength 1, and won as often as it lost.
"""

import numpy as np
from jaxtyping import Float, Int

from difflax.evaluation import statistics as st

PRIOR = 0.5
NEWTON_STEPS = 100


def win_matrix(
    won: Int[np.ndarray, " v"], lost: Int[np.ndarray, " v"], drawn: Int[np.ndarray, " v"], arms: int
) -> Float[np.ndarray, "a a"]:
    """How often the arm of a row beat that of a column; a draw counts as half a win for both.

    Args:
        won, lost: the two arms of each vote; where ``drawn`` is 1, neither won.
    """
    wins = np.zeros((arms, arms))
    np.add.at(wins, (won, lost), 1 - drawn / 2)
    np.add.at(wins, (lost, won), drawn / 2)
    return wins


def bradley_terry(wins: Float[np.ndarray, "... a a"], prior: float = PRIOR) -> Float[np.ndarray, "... a"]:
    """The log strengths, natural logarithm, of mean 0.

    Args:
        wins: see `win_matrix`.
        prior: how often every arm won against, and lost to, the imaginary one; 0 gives maximum likelihood,
            which is finite only where no set of arms won everything.
    """
    met = wins + np.swapaxes(wins, -1, -2)
    arms = wins.shape[-1]
    # Without the imaginary arm a common shift changes nothing, and the Hessian has no inverse.
    held = np.zeros((arms, arms)) if prior else np.ones((arms, arms)) / arms
    logs = np.zeros(wins.shape[:-1])
    for _ in range(NEWTON_STEPS):
        chance = 1 / (1 + np.exp(logs[..., None, :] - logs[..., :, None]))  # that the row beats the column
        imaginary = 1 / (1 + np.exp(-logs))
        slope = wins.sum(-1) + prior - (met * chance).sum(-1) - 2 * prior * imaginary
        curved = met * chance * (1 - chance)
        own = curved.sum(-1) + 2 * prior * imaginary * (1 - imaginary)
        curvature = own[..., None] * np.eye(arms) - curved + held
        step = np.linalg.solve(curvature, slope[..., None])[..., 0]
        # A full Newton step from far away can overshoot.
        logs = logs + np.clip(step, -1.0, 1.0)
        if np.max(np.abs(step)) < 1e-10:
            break
    return logs - logs.mean(-1, keepdims=True)


def strengths(
    won: Int[np.ndarray, " v"],
    lost: Int[np.ndarray, " v"],
    drawn: Int[np.ndarray, " v"],
    clusters: Int[np.ndarray, " v"],
    arms: int,
    *,
    resamples: int = 1000,
) -> list[st.Estimate]:
    """The log strength of each arm with a band from drawing the voted prompts again (percentile, 95 %).

    Args:
        clusters: the prompt of each vote: votes on one prompt are not independent.
    """
    prompts, index, counts = np.unique(clusters, return_inverse=True, return_counts=True)
    each = np.zeros((arms, arms, len(prompts)))
    for number in range(len(prompts)):
        rows = index == number
        each[..., number] = win_matrix(won[rows], lost[rows], drawn[rows], arms)
    values = bradley_terry(each.sum(-1))
    bands = np.full((2, arms), np.nan)
    if len(prompts) > 1:
        found = bradley_terry(st.resampled(each, resamples))
        bands = st.expanded_percentiles(found, len(prompts))
    votes = [int(np.sum((won == arm) | (lost == arm))) for arm in range(arms)]
    return [
        st.Estimate(
            value=float(values[arm]),
            low=float(bands[0, arm]),
            high=float(bands[1, arm]),
            count=votes[arm],
            clusters=len(counts),
            method="Bradley–Terry, bootstrap over prompts",
        )
        for arm in range(arms)
    ]
