"""The rules of the variants: which rows a run trains on, and with which labels.

All variants start from the same rows; some leave rows out. A rule ranks and draws within the rows of the run. It draws
by a salted hash of the row id and the run's subset seed, except for `noise-fixed`.

To add a variant, add an entry to `hf_recipes/variants.py`, a function here, and a test.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..data import NO_GOLD
from ..errors import UserError
from ..hashing import hash_order
from .pool import Pool
from .votes import NO_VOTE, flipped, majority


@dataclass(frozen=True)
class Labels:
    """Training labels of some rows.

    Attributes:
        rows (`np.ndarray` of shape `(n,)`): the rows' indices in the pool; a rule may leave rows out, or repeat some.
        targets (`np.ndarray` of shape `(n, K)`): the loss of a row is -sum_k target_k ln p_k. A hard label is one at
            its class, a soft one a distribution. A weight multiplies its row. Targets may be negative: with the label
            y' of every text, and the label y of texts audited at random with probability pi, the target
            (1 - R / pi) y' + (R / pi) y, R being 1 for audited texts, gives the loss under y without bias.
        from_gold (`np.ndarray` of shape `(n,)`, bool): which of them cost a gold label, or one of a rater's.
    """

    rows: np.ndarray
    targets: np.ndarray
    from_gold: np.ndarray

    @property
    def gold_labels(self) -> int:
        """The number of gold labels that it trains on."""
        return len(np.unique(self.rows[self.from_gold]))

    @property
    def labels(self) -> np.ndarray:
        """The class of each row, of shape `(n,)`; ties go to the first class. Of signed targets that of the audit."""
        return np.asarray(self.targets.argmax(axis=1))

    def accuracy(self, pool: Pool) -> float | None:
        """Return the share of the labels that equal gold; None if no row has gold.

        If only a random sample has gold and is labelled with it, all other labels are estimated to be right as often as
        the LLM is on that sample.
        """
        gold = pool.gold[self.rows]
        has_gold = gold != NO_GOLD
        if not has_gold.any():
            return None
        if pool.audited is None or self.from_gold.all() or not self.from_gold.any():
            return float((self.labels == gold)[has_gold].mean())
        gold_share = self.from_gold.mean()
        return float(gold_share + (1 - gold_share) * (pool.llm[self.rows] == gold)[has_gold].mean())

    def without(self, dropped: np.ndarray) -> "Labels":
        """Return the labels without those that `dropped`, of shape `(n,)`, marks."""
        kept = ~dropped
        return replace(self, rows=self.rows[kept], targets=self.targets[kept], from_gold=self.from_gold[kept])


@dataclass(frozen=True)
class Subset:
    """The rows of a run, to which a rule gives labels.

    Attributes:
        pool (`Pool`)
        rows (`np.ndarray` of shape `(size,)`): indices of the rows in the pool.
        share (`float` in (0, 1)): the share of rows that replacing and dropping rules replace or drop.
        seed (`int`): the run's subset seed.
    """

    pool: Pool
    rows: np.ndarray
    share: float
    seed: int

    @property
    def count(self) -> int:
        """The number of rows to replace or drop."""
        return round(self.share * len(self.rows))

    def draw(self, count: int, salt: str) -> np.ndarray:
        """Mark `count` rows, drawn at random by their ids."""
        order = hash_order([self.pool.ids[i] for i in self.rows], f"{salt}:{self.seed}")
        return np.isin(np.arange(len(self.rows)), order[:count])

    def random_gold(self) -> np.ndarray:
        """Mark the share of rows that get gold at random or, where only a random sample has gold, that sample."""
        if self.pool.audited is None:
            return self.draw(self.count, "random-replace")
        _require_audit(self.pool)
        return self.pool.audited[self.rows]

    def most_uncertain(self) -> np.ndarray:
        """Mark the rows with the highest entropy; ties are broken by id."""
        ids = np.array([self.pool.ids[i] for i in self.rows])
        ranked = np.lexsort((ids, -self.pool.entropy[self.rows]))
        return np.isin(np.arange(len(self.rows)), ranked[: self.count])

    def hard(self, classes: np.ndarray) -> Labels:
        """Return these labels of the LLM, of shape `(size,)`."""
        return Labels(self.rows, np.eye(len(self.pool.label_names))[classes], np.zeros(len(classes), dtype=bool))

    def replace(self, chosen: np.ndarray) -> Labels:
        """Return the LLM's labels, with gold for the rows that are chosen."""
        classes = np.where(chosen, self.pool.gold[self.rows], self.pool.llm[self.rows])
        return replace(self.hard(classes), from_gold=chosen)


RULES: dict[str, Callable[[Subset], Labels]] = {}
Rule = Callable[[Subset], Labels]


def rule_of(name: str) -> Callable[[Rule], Rule]:
    """Register the rule of a variant."""

    def register(rule: Rule) -> Rule:
        RULES[name] = rule
        return rule

    return register


def training_labels(name: str, pool: Pool, rows: np.ndarray, share: float, seed: int) -> Labels:
    """Return the labels on which a run trains.

    Args:
        name (`str`):
            A name in `VARIANTS`.
        pool (`Pool`), rows (`np.ndarray`), share (`float`), seed (`int`):
            See `Subset`.

    Returns:
        `Labels`: in the order of `rows`, without those that the variant leaves out. Where only a sample has gold,
        `gold-only` returns rows of the sample, in `rows` or not.

    Raises:
        UserError: the variant requires annotators' labels or an audit that the study does not have.
    """
    return RULES[name](Subset(pool, rows, share, seed))


@rule_of("gold")
def gold(subset: Subset) -> Labels:
    classes = np.eye(len(subset.pool.label_names))
    return Labels(subset.rows, classes[subset.pool.gold[subset.rows]], np.ones(len(subset.rows), dtype=bool))


@rule_of("llm")
@rule_of("llm-confident-drop")  # training finds out which rows these two leave out
@rule_of("llm-confident-random-drop")
def llm(subset: Subset) -> Labels:
    return subset.hard(subset.pool.llm[subset.rows])


@rule_of("llm-soft")
def llm_soft(subset: Subset) -> Labels:
    """Return the LLM's probabilities (Hinton et al. 2015, at temperature 1)."""
    return replace(llm(subset), targets=subset.pool.probs[subset.rows])


@rule_of("llm-majority")
def llm_majority(subset: Subset) -> Labels:
    return subset.hard(majority(subset.pool.votes[subset.rows], len(subset.pool.label_names)))


@rule_of("llm-dawid-skene")
def llm_dawid_skene(subset: Subset) -> Labels:
    return subset.hard(subset.pool.aggregated[subset.rows].argmax(axis=1))


@rule_of("llm-entropy-replace")
def llm_entropy_replace(subset: Subset) -> Labels:
    """Replace the most uncertain labels (Lu & Smith 2025, section 4)."""
    return subset.replace(subset.most_uncertain())


@rule_of("llm-random-replace")
def llm_random_replace(subset: Subset) -> Labels:
    return subset.replace(subset.random_gold())


@rule_of("llm-audit")
def llm_audit(subset: Subset) -> Labels:
    """Weight gold so that the expected loss is that under gold: (1 - R / pi) y' + (R / pi) y, see `Labels.targets`."""
    labels = subset.replace(subset.random_gold())
    pool = subset.pool
    probability = subset.count / len(subset.rows) if pool.audited is None else pool.audit_share
    weight = (labels.from_gold / probability)[:, None]
    return replace(labels, targets=(1 - weight) * llm(subset).targets + weight * labels.targets)


@rule_of("llm-flip-replace")
def llm_flip_replace(subset: Subset) -> Labels:
    """Replace the labels on which the passes differ (Lu & Smith 2025, section 4)."""
    return subset.replace(flipped(subset.pool.votes[subset.rows]))


@rule_of("llm-flip-random-replace")
def llm_flip_random_replace(subset: Subset) -> Labels:
    num_flips = int(flipped(subset.pool.votes[subset.rows]).sum())
    return subset.replace(subset.draw(num_flips, "flip-random-replace"))


@rule_of("llm-entropy-drop")
def llm_entropy_drop(subset: Subset) -> Labels:
    return llm(subset).without(subset.most_uncertain())


@rule_of("llm-random-drop")
def llm_random_drop(subset: Subset) -> Labels:
    return llm(subset).without(subset.draw(subset.count, "random-drop"))


@rule_of("gold-only")
def gold_only(subset: Subset) -> Labels:
    """Repeat the gold rows of a replacing variant, so that a run takes as many optimiser steps as on all rows."""
    pool, budget = subset.pool, subset.rows[: subset.count]
    if pool.audited is not None:
        _require_audit(pool)
        sample = np.flatnonzero(pool.audited)
        budget = sample[hash_order([pool.ids[i] for i in sample], f"gold-only:{subset.seed}")[: len(subset.rows)]]
    return gold(replace(subset, rows=np.resize(budget, len(subset.rows))))


@rule_of("one-annotator")
def one_annotator(subset: Subset) -> Labels:
    """Draw one annotator of each text; leave out texts without annotators."""
    if subset.pool.raters is None:
        raise UserError("`grid.variants`: one-annotator requires data.raters. Add it, or remove the variant.")
    counts = subset.pool.raters[subset.rows]
    has_annotator = counts.sum(axis=1) > 0
    if not has_annotator.any():
        raise UserError(
            "`grid.variants`: one-annotator requires labels of annotators. Got none for the "
            f"{len(counts)} texts of a run. Try another data.raters."
        )
    bounds = np.cumsum(counts, axis=1) / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    drawn = (_uniform(subset, f"rater:{subset.seed}")[:, None] >= bounds).sum(axis=1)
    labels = subset.hard(np.minimum(drawn, counts.shape[1] - 1))
    return replace(labels, from_gold=has_annotator).without(~has_annotator)


@rule_of("noise-fixed")
def noise_fixed(subset: Subset) -> Labels:
    """Change gold at random with the LLM's confusion matrix in the pool, regardless of the text and the run."""
    pool, classes = subset.pool, len(subset.pool.label_names)
    confusion = np.zeros((classes, classes))
    labelled = pool.votes[:, pool.number] != NO_VOTE  # a pass may give a text no label
    np.add.at(confusion, (pool.gold[labelled], pool.llm[labelled]), 1)
    bounds = np.cumsum(confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1), axis=1)
    drawn = (_uniform(subset, "noise")[:, None] >= bounds[pool.gold[subset.rows]]).sum(axis=1)
    return replace(subset.hard(np.minimum(drawn, classes - 1)), from_gold=np.ones(len(drawn), dtype=bool))


def _uniform(subset: Subset, salt: str) -> np.ndarray:
    """Return a number in [0, 1) for each row, by its id."""
    ids = (subset.pool.ids[i] for i in subset.rows)
    digests = [hashlib.blake2b(f"{salt}\0{i}".encode(), digest_size=8).digest() for i in ids]
    return np.array([int.from_bytes(digest) for digest in digests]) / 2**64


def _require_audit(pool: Pool) -> None:
    if pool.audited is None or not pool.audited.any():
        raise UserError(
            "`grid.variants`: gold-only, llm-audit and llm-random-replace require gold labels, and the study has none. "
            "Run hf-recipes audit sample and hf-recipes audit import, or remove the variants."
        )
