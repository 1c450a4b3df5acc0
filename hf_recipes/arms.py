"""Arms: for each source of training labels, the label of every row, from annotations and gold.

All arms train on the same rows. What an arm ranks or draws, it ranks or draws within the rows of the run.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, softmax

from .annotate import Annotations
from .data import NO_GOLD, Rows, hash_order


@dataclass(frozen=True)
class Pool:
    """The usable rows: those with a gold label and an annotation.

    Attributes:
        ids (`list[str]`), texts (`list[str]`), label_names (`list[str]`)
        gold (`np.ndarray` of shape `(n,)`): class indices.
        probs (`np.ndarray` of shape `(n, K)`): the LLM's calibrated probabilities over the labels; rows sum to one.
        covered (`np.ndarray` of shape `(n,)`): the raw probability mass on the labels, before renormalising, in [0, 1].
    """

    ids: list[str]
    texts: list[str]
    label_names: list[str]
    gold: np.ndarray
    probs: np.ndarray
    covered: np.ndarray

    @property
    def llm(self) -> np.ndarray:
        """The LLM's labels, of shape `(n,)`; ties go to the first class."""
        return self.probs.argmax(axis=1)

    @property
    def entropy(self) -> np.ndarray:
        """The LLM's uncertainty, -sum p ln p in nats, of shape `(n,)`, in [0, ln K]."""
        return entropy(self.probs)


@dataclass(frozen=True)
class Labels:
    """Training labels of some rows.

    Attributes:
        labels (`np.ndarray` of shape `(n,)`): class indices.
        from_gold (`np.ndarray` of shape `(n,)`, bool): which of them are gold labels: the arm's gold ledger.
    """

    labels: np.ndarray
    from_gold: np.ndarray


def entropy(probs: np.ndarray) -> np.ndarray:
    """Shannon entropy in nats over the last axis."""
    return -(probs * np.log(np.clip(probs, 1e-300, None))).sum(axis=-1)


def calibrate(logprobs: np.ndarray, content_free: np.ndarray, calibration: str) -> np.ndarray:
    """Label probabilities from raw log-probabilities.

    Args:
        logprobs (`np.ndarray` of shape `(n, K)`):
            Raw, over the full vocabulary.
        content_free (`np.ndarray` of shape `(m, K)`):
            The same for inputs without content.
        calibration (`str`):
            `none`: renormalise over the labels. `contextual`: first subtract the mean of the content-free
            log-probabilities, which takes away the preference for a label that the prompt alone creates (Zhao et al.
            2021, "Calibrate Before Use", section 5, with the mean taken over log-probabilities). It needs no gold.

    Returns:
        `np.ndarray` of shape `(n, K)`; rows sum to one.
    """
    if calibration == "contextual":
        logprobs = logprobs - content_free.mean(axis=0)
    return softmax(logprobs, axis=1)


def build_pool(rows: Rows, annotations: Annotations, calibration: str) -> Pool:
    """Keeps the rows with both a gold label and an annotation; demonstrations and error rows are left out."""
    usable = np.array([status == "ok" for status in annotations.status]) & (rows.gold != NO_GOLD)
    kept = rows.take(np.flatnonzero(usable))
    logprobs = annotations.logprobs[usable]
    return Pool(
        kept.ids,
        [str(text) for text in kept.texts],
        kept.label_names,
        kept.gold,
        calibrate(logprobs, annotations.content_free, calibration),
        np.exp(logsumexp(logprobs, axis=1)) if len(logprobs) else np.zeros(0),
    )


def _gold(pool: Pool, rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    return np.ones(len(rows), dtype=bool)


def _llm(pool: Pool, rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    return np.zeros(len(rows), dtype=bool)


def _most_uncertain(pool: Pool, rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    ids = np.array([pool.ids[i] for i in rows])
    ranked = np.lexsort((ids, -pool.entropy[rows]))  # ties by id
    return np.isin(np.arange(len(rows)), ranked[: _budget(rows, share)])


def _at_random(pool: Pool, rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    drawn = hash_order([pool.ids[i] for i in rows], f"random-replace:{seed}")
    return np.isin(np.arange(len(rows)), drawn[: _budget(rows, share)])


def _budget(rows: np.ndarray, share: float) -> int:
    return round(share * len(rows))


#: Which of a run's rows take their label from gold; the others take the LLM's.
FROM_GOLD: dict[str, Callable[[Pool, np.ndarray, float, int], np.ndarray]] = {
    "gold": _gold,
    "llm": _llm,
    "llm-entropy-replace": _most_uncertain,  # Lu & Smith 2025, section 4: the top share by entropy
    "llm-random-replace": _at_random,  # its control: as many, drawn anew for each seed
}


def training_labels(arm: str, pool: Pool, rows: np.ndarray, share: float, seed: int) -> Labels:
    """The labels on which a run trains.

    Args:
        arm (`str`):
            A key of `FROM_GOLD`.
        pool (`Pool`):
            The usable rows.
        rows (`np.ndarray` of shape `(size,)`):
            Indices of the run's rows in the pool.
        share (`float`):
            The share of labels that the replacing arms take from gold, in (0, 1).
        seed (`int`):
            The run's subset seed; the random control is drawn anew for each.

    Returns:
        `Labels`, in the order of `rows`.
    """
    from_gold = FROM_GOLD[arm](pool, rows, share, seed)
    return Labels(np.where(from_gold, pool.gold[rows], pool.llm[rows]), from_gold)
