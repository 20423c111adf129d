"""Blind votes between two arms: kept in ``votes.csv`` beside the results, a row a vote.

A vote is on two images of the same prompt and seed. What is reported of an arm is the share of its votes that
it won (a draw counts half), with a band over prompts, and its strength after Bradley and Terry.
"""

import csv
import dataclasses
import os
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from etils import epath

from difflax.core.types import UserError
from difflax.evaluation import statistics as st
from difflax.evaluation.ablation.results import AblationResult, Measured
from difflax.evaluation.contrasts.votes import strengths
from difflax.evaluation.metrics import Metric

VOTES_FILE = "votes.csv"
PREFERRED = Metric(
    name="preferred",
    label="Preferred in blind votes",
    unit="share of votes",
    better="higher",
    definition="Share of its blind votes that an arm won, a draw counting half.",
    source="votes.csv; two images of one prompt and noise on random sides, see `difflax view`",
    note="It depends on whom the arm met: compare the log strengths of Bradley and Terry too.",
    bounds=(0.0, 1.0),
)
Choice = Literal["first", "second", "neither"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vote:
    """One answer.

    Attributes:
        first, second: the keys of the two arms, in alphabetical order, whatever the side they were shown on.
        prompt: the number of the prompt.
        seed: the seed of both images.
        choice: which one is better.
    """

    first: str
    second: str
    prompt: int
    seed: int
    choice: Choice


VOTE_COLUMNS = [field.name for field in dataclasses.fields(Vote)]


def read_votes(directory: epath.PathLike) -> list[Vote]:
    """The votes so far; none where nobody voted.

    Raises:
        UserError: the file holds something else.
    """
    path = epath.Path(directory) / VOTES_FILE
    if not path.exists():
        return []
    found = []
    with path.open("r") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            try:
                choice = row["choice"]
                if choice not in get_args(Choice):
                    raise ValueError(choice)
                found.append(
                    Vote(
                        first=str(row["first"]),
                        second=str(row["second"]),
                        prompt=int(row["prompt"]),
                        seed=int(row["seed"]),
                        choice=choice,
                    )
                )
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"{path}, line {number}: no vote ({error}): delete that line, or the file"
                ) from error
    return found


def add_vote(directory: epath.PathLike, vote: Vote) -> None:
    """Writes one more row; it is on the disk when this returns."""
    path = epath.Path(directory) / VOTES_FILE
    begun = path.exists() and path.stat().length > 0
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not begun:
            writer.writerow(VOTE_COLUMNS)
        writer.writerow(dataclasses.astuple(vote))
        file.flush()
        os.fsync(file.fileno())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standing:
    """How an arm stands after the votes.

    Attributes:
        arm: its key.
        won: the share of its votes that it won, a draw counting half.
        strength: log strength of Bradley and Terry, mean 0 over the arms.
    """

    arm: str
    won: st.Estimate
    strength: st.Estimate


def standings(votes: Sequence[Vote]) -> list[Standing]:
    """The arms that were voted on, the strongest first."""
    arms = sorted({arm for vote in votes for arm in (vote.first, vote.second)})
    if not arms:
        return []
    number = {arm: index for index, arm in enumerate(arms)}
    pairs = np.array([(number[vote.first], number[vote.second]) for vote in votes])
    turned = np.array([vote.choice == "second" for vote in votes])
    drawn = np.array([vote.choice == "neither" for vote in votes]).astype(np.int64)
    won, lost = np.where(turned, pairs[:, 1], pairs[:, 0]), np.where(turned, pairs[:, 0], pairs[:, 1])
    prompts = np.array([vote.prompt for vote in votes])
    strength = strengths(won, lost, drawn, prompts, len(arms))
    found = []
    for arm, index in number.items():
        mine = (won == index) | (lost == index)
        points = np.where(drawn == 1, 0.5, (won == index).astype(np.float64))[mine]
        # A draw is no trial with two outcomes.
        share = (st.mean if drawn[mine].any() else st.proportion)(points, prompts[mine])
        found.append(Standing(arm=arm, won=share, strength=strength[index]))
    return sorted(found, key=lambda standing: -standing.strength.value)


def with_votes(result: AblationResult, votes: Sequence[Vote]) -> AblationResult:
    """The result with the votes as one more metric of each group that was voted on."""
    kept = tuple(each for each in result.measured if each.metric.name != PREFERRED.name)
    ends = np.cumsum([len(group.prompts) for group in result.groups])
    made = []
    for number, group in enumerate(result.groups):
        mine = [vote for vote in votes if np.searchsorted(ends, vote.prompt, side="right") == number]
        won = {standing.arm: standing.won for standing in standings(mine)}
        estimates = tuple(won.get(arm.key, st.NOTHING) for arm in result.arms)
        if any(estimate.count for estimate in estimates):
            made.append(Measured(group=group.name, metric=PREFERRED, estimates=estimates))
    return dataclasses.replace(result, measured=(*kept, *made)) if votes else result
