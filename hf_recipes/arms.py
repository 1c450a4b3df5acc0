"""Arms: for each source of training labels, the label of every row, from annotations and gold.

All arms train on the same rows. What an arm ranks or draws, it ranks or draws within the rows of the run.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import logsumexp

from .annotate import Annotations
from .calibrate import ON_GOLD, Calibration, calibrate, not_enough_gold
from .data import NO_GOLD, Rows, hash_order
from .recipe import Annotate
from .votes import NO_VOTE


@dataclass(frozen=True)
class Pool:
    """The usable rows: those with an annotation and, to train on, a gold label.

    Attributes:
        ids (`list[str]`), texts (`list[str]`), label_names (`list[str]`)
        gold (`np.ndarray` of shape `(n,)`): class indices.
        pass_probs (`np.ndarray` of shape `(P, n, K)`): calibrated probabilities over the labels by pass; rows sum to
            one, or are nan where the pass gave none.
        pass_covered (`np.ndarray` of shape `(P, n)`): the raw probability mass on the labels, before renormalising, in
            [0, 1]; of votes the share that named a label; 1 where answers are guided, which cannot know it.
        votes (`np.ndarray` of shape `(n, P)`): the label of each pass, `NO_VOTE` where it gave none.
        calibrations (`list[Calibration]`): of each pass.
        calibration_gold (`int`): gold rows that went into them.
        number (`int`): the pass whose labels are the LLM's.
    """

    ids: list[str]
    texts: list[str]
    label_names: list[str]
    gold: np.ndarray
    pass_probs: np.ndarray
    pass_covered: np.ndarray
    votes: np.ndarray
    calibrations: list[Calibration]
    calibration_gold: int
    number: int = 0

    def of_pass(self, number: int) -> "Pool":
        """The same rows, with the labels of another pass as the LLM's."""
        return replace(self, number=number)

    @property
    def probs(self) -> np.ndarray:
        """The LLM's probabilities, of shape `(n, K)`."""
        return np.asarray(self.pass_probs[self.number])

    @property
    def covered(self) -> np.ndarray:
        """The mass on the labels, of shape `(n,)`."""
        return np.asarray(self.pass_covered[self.number])

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
        targets (`np.ndarray` of shape `(n, K)`): the loss of a row is -sum_k target_k ln p_k. A hard label is one at
            its class, a soft one a distribution. A weight multiplies its row. Targets may be negative: with the label
            y' of every text, and the label y of texts audited at random with probability pi, the target
            (1 - R / pi) y' + (R / pi) y, R being 1 for audited texts, gives the loss under y without bias.
        from_gold (`np.ndarray` of shape `(n,)`, bool): which of them are gold labels: the arm's gold ledger.
    """

    targets: np.ndarray
    from_gold: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """The class of each row, of shape `(n,)`; ties go to the first class."""
        return np.asarray(self.targets.argmax(axis=1))


def entropy(probs: np.ndarray) -> np.ndarray:
    """Shannon entropy in nats over the last axis."""
    return -(probs * np.log(np.clip(probs, 1e-300, None))).sum(axis=-1)


def build_pool(rows: Rows, passes: list[Annotations], with_gold: bool = True, by_all: bool = False) -> Pool:
    """The rows to train on, or to look at: those that the first pass gave a label.

    Rows that any pass shows as a demonstration, and the gold rows that a calibration was fitted on, are left out.

    Args:
        rows (`Rows`):
            The whole pool.
        passes (`list[Annotations]`):
            One or more passes over it; the first one's labels are the LLM's.
        with_gold (`bool`, *optional*, defaults to `True`):
            Leave out rows without a gold label.
        by_all (`bool`, *optional*, defaults to `False`):
            Leave out rows that any pass gave no label.

    Raises:
        UserError: a calibration wants more gold rows than there are.
    """
    usable = np.array([status == "ok" for status in passes[0].status])
    for one in passes:
        usable &= np.array([status == "ok" if by_all else status != "demonstration" for status in one.status])
    spent = np.zeros(len(rows), dtype=bool)
    calibrated = []
    for one in passes:
        section, gold_rows = one.section, None
        if section.calibration in ON_GOLD:
            labelled = usable & (rows.gold != NO_GOLD) & ~np.isnan(one.logprobs[:, 0])
            gold_rows = _calibration_rows(rows, np.flatnonzero(labelled), section)
            spent[gold_rows] = True
        calibrated.append(calibrate(one.logprobs, one.content_free, section.calibration, rows.gold, gold_rows))
    probs = [found for found, _ in calibrated]
    votes = [np.where(np.isnan(p[:, 0]), NO_VOTE, np.nan_to_num(p).argmax(axis=1)) for p in probs]
    kept = np.flatnonzero(usable & ~spent & ((rows.gold != NO_GOLD) | (not with_gold)))
    some = rows.take(kept)
    return Pool(
        some.ids,
        [str(text) for text in some.texts],
        some.label_names,
        some.gold,
        np.stack(probs)[:, kept],
        np.exp(logsumexp([one.logprobs[kept] for one in passes], axis=2)) if len(kept) else np.zeros((len(passes), 0)),
        np.stack(votes, axis=1)[kept],
        [made for _, made in calibrated],
        int(spent.sum()),
    )


def _calibration_rows(rows: Rows, labelled: np.ndarray, section: Annotate) -> np.ndarray:
    """The gold rows that a calibration may look at: the first of a seeded order, the same for all passes."""
    wanted = section.calibration_rows
    if len(labelled) <= wanted:
        raise not_enough_gold(section, len(labelled))
    order = hash_order((rows.ids[i] for i in labelled), "calibration")
    return np.sort(labelled[order[:wanted]])


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
    "llm-soft": _llm,
    "llm-entropy-replace": _most_uncertain,  # Lu & Smith 2025, section 4: the top share by entropy
    "llm-random-replace": _at_random,  # its control: as many, drawn anew for each seed
}


SOFT = ("llm-soft",)  # the LLM's distribution in place of its label (Hinton et al. 2015, at temperature 1)


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
    if arm in SOFT:
        return Labels(pool.probs[rows], from_gold)
    return Labels(np.eye(len(pool.label_names))[np.where(from_gold, pool.gold[rows], pool.llm[rows])], from_gold)
