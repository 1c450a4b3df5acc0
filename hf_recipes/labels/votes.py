"""Votes: the labels of several passes over the same rows. Passes differ in prompt, few-shot examples or model."""

import numpy as np

NO_VOTE = -1


def vote_shares(votes: np.ndarray, classes: int) -> np.ndarray:
    """Return the share of each class among a row's votes.

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
    """Return the class with most votes, of shape `(n,)`. Ties go to the earliest pass; `NO_VOTE` without votes."""
    shares = np.nan_to_num(vote_shares(votes, classes))
    is_tied = np.take_along_axis(shares, np.maximum(votes, 0), axis=1) == shares.max(axis=1, keepdims=True)
    first = (is_tied & (votes != NO_VOTE)).argmax(axis=1)
    return votes[np.arange(len(votes)), first]


def flipped(votes: np.ndarray) -> np.ndarray:
    """Mark the rows whose passes differ: the trigger of Lu & Smith 2025's consistency ensemble."""
    has_vote = votes != NO_VOTE
    low = np.where(has_vote, votes, np.iinfo(votes.dtype).max).min(axis=1)
    high = votes.max(axis=1)
    return (has_vote.sum(axis=1) > 1) & (low != high)


def aggregate(votes: np.ndarray, classes: int, method: str = "DawidSkene") -> np.ndarray:
    """Return class probabilities from passes of unequal quality, by one of crowd-kit's aggregators.

    It requires three or more different models: passes of one model share its errors, which an aggregator that assumes
    independent workers (as Dawid & Skene 1979 do) cannot detect.

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
    shares = getattr(aggregation, method)().fit_predict_proba(answers)
    return np.asarray(
        shares.reindex(index=range(len(votes)), columns=range(classes))
        .fillna(0.0)
        .where(pd.Series(np.isin(np.arange(len(votes)), row)), np.nan, axis=0)
    )
