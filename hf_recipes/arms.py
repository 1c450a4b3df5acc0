"""Arms: for each source of training labels, the label of every row, from annotations and gold.

All arms start from the same rows; some leave rows out. What an arm ranks or draws, it ranks or draws within the rows of
the run; what it draws is drawn anew for each subset seed, unless its name says fixed.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.special import logsumexp

from .annotate import Annotations
from .calibrate import ON_GOLD, Calibration, calibrate, not_enough_gold, shift
from .data import NO_GOLD, Rows, hash_order
from .recipe import Annotate, ArmName, UserError
from .votes import NO_VOTE, aggregate, flipped, majority

#: Arms that are content with gold for a random sample of the rows.
SAMPLED: tuple[ArmName, ...] = ("llm-random-replace", "llm-audit", "gold-only", "gold-only-long")


@dataclass(frozen=True)
class Pool:
    """The usable rows: those with an annotation and, where the source has any, a gold label.

    Attributes:
        ids (`list[str]`), texts (`list[str]`), label_names (`list[str]`)
        gold (`np.ndarray` of shape `(n,)`): class indices.
        pass_probs (`np.ndarray` of shape `(P, n, K)`): calibrated probabilities over the labels by pass; rows sum to
            one, or are nan where the pass gave none.
        pass_covered (`np.ndarray` of shape `(P, n)`): the raw probability mass on the labels, before renormalising, in
            [0, 1]; of votes the share that named a label; 1 where answers are guided, which cannot know it.
        votes (`np.ndarray` of shape `(n, P)`): the label of each pass, `NO_VOTE` where it gave none.
        raw_votes (`np.ndarray` of shape `(n, P)`): the same without calibration.
        calibrations (`list[Calibration]`): of each pass.
        calibration_gold (`int`): gold rows that went into them.
        number (`int`): the pass whose labels are the LLM's.
        raters (`np.ndarray` of shape `(n, K)`, *optional*): how many people gave each class.
        audited (`np.ndarray` of shape `(n,)`, bool, *optional*): where only a random sample has gold, which rows of it
            may be trained on; None where all have.
        audit_share (`float` in [0, 1]): with which probability a row that may be trained on is one of these.
    """

    ids: list[str]
    texts: list[str]
    label_names: list[str]
    gold: np.ndarray
    pass_probs: np.ndarray
    pass_covered: np.ndarray
    votes: np.ndarray
    raw_votes: np.ndarray
    calibrations: list[Calibration]
    calibration_gold: int
    number: int = 0
    raters: np.ndarray | None = None
    audited: np.ndarray | None = None
    audit_share: float = 1.0

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

    @cached_property
    def aggregated(self) -> np.ndarray:
        """What all passes say together by Dawid & Skene 1979, of shape `(n, K)`."""
        return aggregate(self.votes, len(self.label_names))

    @property
    def entropy(self) -> np.ndarray:
        """The LLM's uncertainty, -sum p ln p in nats, of shape `(n,)`, in [0, ln K]."""
        return entropy(self.probs)


@dataclass(frozen=True)
class Labels:
    """Training labels of some rows.

    Attributes:
        rows (`np.ndarray` of shape `(n,)`): the rows' indices in the pool; an arm may leave rows out, or repeat some.
        targets (`np.ndarray` of shape `(n, K)`): the loss of a row is -sum_k target_k ln p_k. A hard label is one at
            its class, a soft one a distribution. A weight multiplies its row. Targets may be negative: with the label
            y' of every text, and the label y of texts audited at random with probability pi, the target
            (1 - R / pi) y' + (R / pi) y, R being 1 for audited texts, gives the loss under y without bias.
        from_gold (`np.ndarray` of shape `(n,)`, bool): which of them cost a gold label, or one of a rater's.
        then (`int`): so many of the last ones are trained on after the others, with a schedule of their own.
    """

    rows: np.ndarray
    targets: np.ndarray
    from_gold: np.ndarray
    then: int = 0

    @property
    def gold_labels(self) -> int:
        """The arm's gold ledger: how many gold labels it trains on."""
        return len(np.unique(self.rows[self.from_gold]))

    @property
    def labels(self) -> np.ndarray:
        """The class of each row, of shape `(n,)`; ties go to the first class. Of signed targets that of the audit."""
        return np.asarray(self.targets.argmax(axis=1))

    def accuracy(self, pool: Pool) -> float | None:
        """The share of the labels that equal gold; None if no row has gold.

        Where only a random sample has gold and the labels of it are gold, the others are as often right as the LLM is
        on that sample.
        """
        gold = pool.gold[self.rows]
        known = gold != NO_GOLD
        if not known.any():
            return None
        if pool.audited is None or self.from_gold.all() or not self.from_gold.any():
            return float((self.labels == gold)[known].mean())
        sure = self.from_gold.mean()
        return float(sure + (1 - sure) * (pool.llm[self.rows] == gold)[known].mean())

    def without(self, dropped: np.ndarray) -> "Labels":
        """The others, where `dropped` of shape `(n,)` marks some."""
        kept = ~dropped
        return replace(self, rows=self.rows[kept], targets=self.targets[kept], from_gold=self.from_gold[kept])


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
    votes = [_labels(p) for p in probs]
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
        np.stack([_labels(one.logprobs) for one in passes], axis=1)[kept],
        [made for _, made in calibrated],
        int(spent.sum()),
        raters=some.raters,
    )


def label_others(pool: Pool, first: Annotations, others: Annotations) -> np.ndarray:
    """The LLM's labels of texts outside the pool, by the calibration of its first pass; nothing is fitted on them.

    Args:
        pool (`Pool`):
            What `build_pool` made of the pool.
        first (`Annotations`), others (`Annotations`):
            The first pass over the whole pool, and the same pass over the other texts.

    Returns:
        `np.ndarray` of shape `(n,)`: class indices; `NO_VOTE` where the LLM gave no label. A temperature changes none.
    """
    return _labels(shift(others.logprobs, first.content_free, pool.calibrations[0].method, first.logprobs))


def _labels(scores: np.ndarray) -> np.ndarray:
    """The class of the highest score of each row; `NO_VOTE` where there are none."""
    nothing = np.isnan(scores[:, 0])
    return np.where(nothing, NO_VOTE, np.where(nothing[:, None], 0.0, scores).argmax(axis=1))


def _calibration_rows(rows: Rows, labelled: np.ndarray, section: Annotate) -> np.ndarray:
    """The gold rows that a calibration may look at: the first of a seeded order, the same for all passes."""
    wanted = section.calibration_rows
    if len(labelled) <= wanted:
        raise not_enough_gold(section, len(labelled))
    order = hash_order((rows.ids[i] for i in labelled), "calibration")
    return np.sort(labelled[order[:wanted]])


def _most_uncertain(pool: Pool, rows: np.ndarray, count: int) -> np.ndarray:
    ids = np.array([pool.ids[i] for i in rows])
    ranked = np.lexsort((ids, -pool.entropy[rows]))  # ties by id
    return np.isin(np.arange(len(rows)), ranked[:count])


def draw(pool: Pool, rows: np.ndarray, count: int, seed: str) -> np.ndarray:
    """Marks `count` of the rows, drawn at random by their ids."""
    order = hash_order([pool.ids[i] for i in rows], seed)
    return np.isin(np.arange(len(rows)), order[:count])


def _by_class(pool: Pool, rows: np.ndarray, choose: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    """What `choose(rows of a class, class)` marks among the rows of each class that the LLM gave."""
    found = np.zeros(len(rows), dtype=bool)
    for k in range(len(pool.label_names)):
        places = np.flatnonzero(pool.llm[rows] == k)
        found[places] = choose(rows[places], k)
    return found


def _matched(pool: Pool, rows: np.ndarray, like: np.ndarray, seed: str) -> np.ndarray:
    """As many of each class that the LLM gave as `like` has, at random."""
    counts = np.bincount(pool.llm[rows][like], minlength=len(pool.label_names))
    return _by_class(pool, rows, lambda some, k: draw(pool, some, counts[k], seed))


def _flips(pool: Pool, rows: np.ndarray) -> np.ndarray:
    return flipped(pool.votes[rows])


def _one_rater(pool: Pool, rows: np.ndarray, seed: str) -> np.ndarray:
    """The label of one of a text's raters, drawn at random; -1 where it has none."""
    if pool.raters is None:
        raise UserError("grid.arms: one-rater wants data.raters, the raters' labels")
    counts = pool.raters[rows]
    bounds = np.cumsum(counts, axis=1) / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    drawn = np.minimum((_chance(pool, rows, seed)[:, None] >= bounds).sum(axis=1), counts.shape[1] - 1)
    return np.where(counts.sum(axis=1) > 0, drawn, -1)


def _chance(pool: Pool, rows: np.ndarray, seed: str) -> np.ndarray:
    """A number in [0, 1) for each row, by its id."""
    hashed = (hashlib.blake2b(f"{seed}\0{pool.ids[i]}".encode(), digest_size=8).digest() for i in rows)
    return np.array([int.from_bytes(one) for one in hashed]) / 2**64


def _corrupted(pool: Pool, rows: np.ndarray, seed: str) -> np.ndarray:
    """Gold labels with the LLM's confusions: each changed by chance alone, whatever its text."""
    classes = len(pool.label_names)
    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (pool.gold, pool.llm), 1)
    bounds = np.cumsum(confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1), axis=1)
    return np.minimum((_chance(pool, rows, seed)[:, None] >= bounds[pool.gold[rows]]).sum(axis=1), classes - 1)


def training_labels(  # noqa: PLR0911, PLR0912  (an arm a case)
    arm: ArmName, pool: Pool, rows: np.ndarray, share: float, seed: int
) -> Labels:
    """The labels on which a run trains.

    Args:
        arm (`str`):
            Its name; docs/arms.md says what each is for.
        pool (`Pool`):
            The usable rows.
        rows (`np.ndarray` of shape `(size,)`):
            Indices of the run's rows in the pool.
        share (`float`):
            The share of rows that the replacing and dropping arms replace or drop, in (0, 1). Where only a random
            sample has gold, that sample stands for the share that would be replaced.
        seed (`int`):
            The run's subset seed.

    Returns:
        `Labels`, in the order of `rows`, without those that the arm leaves out. Of an audit, `gold-only` has all rows
        that may be trained on (at most as many as `rows`), in `rows` or not.

    Raises:
        UserError: no raters where the arm wants them.
    """
    count, size = round(share * len(rows)), len(rows)
    none = np.zeros(size, dtype=bool)
    classes = np.eye(len(pool.label_names))

    def replaced(chosen: np.ndarray, others: np.ndarray = pool.llm[rows]) -> Labels:
        return Labels(rows, classes[np.where(chosen, pool.gold[rows], others)], chosen)

    def dropped(chosen: np.ndarray) -> Labels:
        return Labels(rows[~chosen], classes[pool.llm[rows[~chosen]]], none[~chosen])

    def gold(some: np.ndarray) -> Labels:
        return Labels(some, classes[pool.gold[some]], np.ones(len(some), dtype=bool))

    def drawn() -> np.ndarray:
        """Which rows have gold by chance: as many as the budget, or those of the audit."""
        return draw(pool, rows, count, f"random-replace:{seed}") if pool.audited is None else pool.audited[rows]

    budget = rows[:count]
    if pool.audited is not None and arm in SAMPLED:
        sample = np.flatnonzero(pool.audited)
        budget = sample[hash_order([pool.ids[i] for i in sample], f"gold-only:{seed}")[:size]]

    match arm:
        case "gold":
            return gold(rows)
        case "llm" | "llm-confident-drop" | "llm-confident-random-drop":  # training leaves out rows of the latter
            return replaced(none)
        case "llm-raw":  # as in Lu & Smith 2025
            return replaced(none, pool.raw_votes[rows, pool.number])
        case "llm-then-gold":  # all with the LLM's labels, then the gold ones that gold-only has
            both = np.concatenate([rows, rows[:count]])
            targets = np.concatenate([classes[pool.llm[rows]], classes[pool.gold[rows[:count]]]])
            return Labels(both, targets, np.arange(len(both)) >= size, count)
        case "one-rater":
            found = _one_rater(pool, rows, f"rater:{seed}")
            kept = found >= 0
            if not kept.any():
                raise UserError(f"grid.arms: one-rater: none of the {size} texts of a run has a label in data.raters")
            return Labels(rows[kept], classes[found[kept]], ~none[kept])
        case "llm-soft":  # the distribution in place of the label (Hinton et al. 2015, at temperature 1)
            return Labels(rows, pool.probs[rows], none)
        case "llm-majority":
            return replaced(none, majority(pool.votes[rows], len(classes)))
        case "llm-dawid-skene":
            return replaced(none, pool.aggregated[rows].argmax(axis=1))
        case "llm-entropy-replace":  # Lu & Smith 2025, section 4: the top share by entropy
            return replaced(_most_uncertain(pool, rows, count))
        case "llm-random-replace":
            return replaced(drawn())
        case "llm-audit":  # (1 - R / pi) y' + (R / pi) y: the loss under gold, without bias
            chosen = drawn()  # the very rows of its control
            weight = (chosen / (count / size if pool.audited is None else pool.audit_share))[:, None]
            targets = (1 - weight) * classes[pool.llm[rows]] + weight * replaced(chosen).targets
            return Labels(rows, targets, chosen)
        case "llm-matched-replace":
            return replaced(_matched(pool, rows, _most_uncertain(pool, rows, count), f"matched-replace:{seed}"))
        case "llm-flip-replace":  # Lu & Smith 2025, section 4: what flips when prompted otherwise
            return replaced(_flips(pool, rows))
        case "llm-flip-random-replace":
            return replaced(draw(pool, rows, int(_flips(pool, rows).sum()), f"flip-random-replace:{seed}"))
        case "llm-entropy-drop":
            return dropped(_most_uncertain(pool, rows, count))
        case "llm-balanced-drop":
            return dropped(_by_class(pool, rows, lambda some, _: _most_uncertain(pool, some, round(share * len(some)))))
        case "llm-random-drop":
            return dropped(draw(pool, rows, count, f"random-drop:{seed}"))
        case "gold-only":  # the gold labels that a replacing arm has, and no others: as many epochs
            return gold(budget)
        case "gold-only-long":  # and as many optimiser steps
            return gold(np.resize(budget, size))
        case "noise-fixed":
            return Labels(rows, classes[_corrupted(pool, rows, "noise")], ~none)
        case "noise-redrawn":
            return Labels(rows, classes[_corrupted(pool, rows, f"noise:{seed}")], ~none)
