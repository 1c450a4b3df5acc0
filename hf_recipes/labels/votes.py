"""Votes: what several passes over the same rows say together. Passes differ in prompt, demonstrations or model."""

import numpy as np

NO_VOTE = -1


def vote_shares(votes: np.ndarray, classes: int) -> np.ndarray:
    """The share of each class among a row's votes.

    Args:
        votes (`np.ndarray` of shape `(n, P)`):
            Class indices, `NO_VOTE` where a pass gave none.
        classes (`int`):
            The number of classes K.

    Returns:
        `np.ndarray` of shape `(n, K)`; rows sum to one, or are nan where no pass gave a vote.
    """
    counts = (votes[:, :, None] == np.arange(classes)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(axis=1, keepdims=True)


def majority(votes: np.ndarray, classes: int) -> np.ndarray:
    """The class with most votes, of shape `(n,)`; of tied ones the earliest pass's, `NO_VOTE` where no pass voted."""
    shares = np.nan_to_num(vote_shares(votes, classes))
    tied = np.take_along_axis(shares, np.maximum(votes, 0), axis=1) == shares.max(axis=1, keepdims=True)
    first = (tied & (votes != NO_VOTE)).argmax(axis=1)
    return votes[np.arange(len(votes)), first]


def flipped(votes: np.ndarray) -> np.ndarray:
    """Whether a row's passes do not all say the same: the trigger of Lu & Smith 2025's consistency ensemble."""
    known = votes != NO_VOTE
    low = np.where(known, votes, np.iinfo(votes.dtype).max).min(axis=1)
    high = votes.max(axis=1)
    return (known.sum(axis=1) > 1) & (low != high)


def aggregate(votes: np.ndarray, classes: int, method: str = "DawidSkene") -> np.ndarray:
    """Class probabilities from passes of unequal worth, by one of crowd-kit's aggregators.

    Worth having over three or more different models: passes of one model share its errors, which no aggregator that
    supposes independent workers (as Dawid & Skene 1979 do) can see.

    Args:
        votes (`np.ndarray` of shape `(n, P)`), classes (`int`):
            See `vote_shares`; a pass is a worker.
        method (`str`, *optional*, defaults to `"DawidSkene"`):
            A class of `crowdkit.aggregation` with `fit_predict_proba`: `DawidSkene`, `GLAD`, `MajorityVote`, `Wawa`,
            `ZeroBasedSkill`, `OneCoinDawidSkene`.

    Returns:
        `np.ndarray` of shape `(n, K)`; nan where no pass gave a vote.
    """
    import pandas as pd
    from crowdkit import aggregation

    row, worker = np.nonzero(votes != NO_VOTE)
    answers = pd.DataFrame({"task": row, "worker": worker, "label": votes[row, worker]})
    found = getattr(aggregation, method)().fit_predict_proba(answers)
    return np.asarray(
        found.reindex(index=range(len(votes)), columns=range(classes))
        .fillna(0.0)
        .where(pd.Series(np.isin(np.arange(len(votes)), row)), np.nan, axis=0)
    )
