"""The pool: every labelled training text with its gold label, the LLM's probabilities and the votes of all passes.

`read_labels` reads a study's rows and annotations, once. All later steps take what it returns.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.special import logsumexp

from ..annotation.annotations import Annotations, load_annotations, load_test_annotations
from ..annotation.calibration import ON_GOLD, Calibration, calibrate, not_enough_gold, shift
from ..data import NO_GOLD, RowFiles, Rows, open_rows
from ..errors import UserError
from ..hashing import hash_ids, hash_order, make_key
from ..recipe import Annotate
from ..study import Study, read_json
from .votes import NO_VOTE, aggregate


@dataclass(frozen=True)
class Pool:
    """Training texts with a label of the LLM.

    Attributes:
        ids (`list[str]`), texts (`list[str]`), label_names (`list[str]`)
        gold (`np.ndarray` of shape `(n,)`): class indices; `NO_GOLD` where a text has none.
        pass_probs (`np.ndarray` of shape `(P, n, K)`): calibrated probabilities over the labels by pass; rows sum to
            one, or are nan where the pass gave no label.
        pass_label_mass (`np.ndarray` of shape `(P, n)`): the raw probability mass on the labels, in [0, 1]; for votes
            the share that named a label; 1 for guided answers.
        votes (`np.ndarray` of shape `(n, P)`): the label of each pass, `NO_VOTE` where it gave none.
        calibrations (`list[Calibration]`): one for each pass.
        calibration_gold (`int`): the gold rows that the calibrations were fitted on; they are not in the pool.
        number (`int`): the pass whose labels are the LLM's.
        raters (`np.ndarray` of shape `(n, K)`, *optional*): how many annotators gave each class.
        clusters (`np.ndarray` of shape `(n,)`, *optional*): the values of `data.cluster_column`; None for nulls.
        audited (`np.ndarray` of shape `(n,)`, bool, *optional*): where only a random sample has gold, the rows of it
            that runs may train on; None where all rows have gold.
        audit_share (`float` in [0, 1]): the probability that a row that runs may train on is audited.
    """

    ids: list[str]
    texts: list[str]
    label_names: list[str]
    gold: np.ndarray
    pass_probs: np.ndarray
    pass_label_mass: np.ndarray
    votes: np.ndarray
    calibrations: list[Calibration]
    calibration_gold: int
    number: int = 0
    raters: np.ndarray | None = None
    clusters: np.ndarray | None = None
    audited: np.ndarray | None = None
    audit_share: float = 1.0

    def take(self, indices: np.ndarray) -> "Pool":
        """Return the pool of some of its rows."""
        return replace(
            self,
            ids=[self.ids[i] for i in indices],
            texts=[self.texts[i] for i in indices],
            gold=self.gold[indices],
            pass_probs=self.pass_probs[:, indices],
            pass_label_mass=self.pass_label_mass[:, indices],
            votes=self.votes[indices],
            raters=None if self.raters is None else self.raters[indices],
            clusters=None if self.clusters is None else self.clusters[indices],
            audited=None if self.audited is None else self.audited[indices],
        )

    def of_pass(self, number: int) -> "Pool":
        """Return the same rows with the labels of another pass as the LLM's."""
        return self if number == self.number else replace(self, number=number)

    def with_audit(self, gold: np.ndarray, excluded: np.ndarray) -> "Pool":
        """Return the pool with people's labels of a random sample as its gold.

        The rows were selected without regard to the sample. So the labelled rows are a simple random sample of the
        pool, as long as people skip texts at random.

        Args:
            gold (`np.ndarray` of shape `(n,)`): class indices, `NO_GOLD` outside the sample.
            excluded (`np.ndarray`): indices of rows that no run trains on.
        """
        usable = np.ones(len(gold), dtype=bool)
        usable[excluded] = False
        audited = (gold != NO_GOLD) & usable
        return replace(self, gold=gold, audited=audited, audit_share=float(audited.sum() / max(usable.sum(), 1)))

    @property
    def probs(self) -> np.ndarray:
        """The LLM's probabilities, of shape `(n, K)`."""
        return np.asarray(self.pass_probs[self.number])

    @property
    def label_mass(self) -> np.ndarray:
        """The probability mass on the labels, of shape `(n,)`."""
        return np.asarray(self.pass_label_mass[self.number])

    @property
    def llm(self) -> np.ndarray:
        """The LLM's labels, of shape `(n,)`; ties go to the first class."""
        return self.probs.argmax(axis=1)

    @cached_property
    def aggregated(self) -> np.ndarray:
        """Class probabilities from all passes by Dawid & Skene 1979, of shape `(n, K)`."""
        return aggregate(self.votes, len(self.label_names))

    @property
    def entropy(self) -> np.ndarray:
        """The LLM's uncertainty, -sum p ln p in nats, of shape `(n,)`, in [0, ln K]."""
        return entropy(self.probs)

    @cached_property
    def key(self) -> str:
        """The hash of the rows' ids, gold, probabilities and votes, and of the audit."""
        audited = np.zeros(len(self.ids), dtype=bool) if self.audited is None else self.audited
        rows = zip(self.ids, self.gold, audited, self.pass_probs[0], self.votes, strict=True)
        return hash_ids(
            f"{i} {gold} {is_audited} {probs.tolist()} {votes.tolist()}" for i, gold, is_audited, probs, votes in rows
        )


@dataclass(frozen=True)
class Audit:
    """People's labels of a random sample of rows.

    Attributes:
        gold (`np.ndarray` of shape `(n,)`): class indices, `NO_GOLD` for rows outside the sample or without an answer.
        num_drawn (`int`): the rows that were drawn.
    """

    gold: np.ndarray
    num_drawn: int

    @property
    def num_labelled(self) -> int:
        """The rows that people labelled."""
        return int((self.gold != NO_GOLD).sum())


@dataclass(frozen=True)
class StudyLabels:
    """An annotated study, read once.

    Attributes:
        files (`RowFiles`): the rows as files.
        test (`Rows`): the test split.
        annotations (`list[Annotations]`): the passes over the training split.
        pool (`Pool`): the rows with a label of the LLM, whether or not they have gold.
        training_pool (`Pool`): those that variants label: with gold, unless the recipe trains without gold.
        trainable (`np.ndarray`): the rows of `training_pool` that runs train on, as sorted indices.
        validation (`np.ndarray`): the rows of `training_pool` that no run trains on, as sorted indices.
        test_annotations (`Annotations`, *optional*): the first pass over the test texts; None where it is incomplete,
            and where runs take their labels from different passes.
        pool_audit (`Audit`, *optional*), test_audit (`Audit`, *optional*): people's labels of a random sample.
    """

    files: RowFiles
    test: Rows
    annotations: list[Annotations]
    pool: Pool
    training_pool: Pool
    trainable: np.ndarray
    validation: np.ndarray
    test_annotations: Annotations | None
    pool_audit: Audit | None
    test_audit: Audit | None

    @cached_property
    def pool_key(self) -> str:
        """The hash of everything that the labels of the training texts consist of."""
        return make_key(
            annotations=[annotations.key for annotations in self.annotations],
            calibrations=[[a.section.calibration, a.section.calibration_rows] for a in self.annotations],
            status=[annotations.status for annotations in self.annotations],
            pools=[self.pool.key, self.training_pool.key],
            raters=None if self.pool.raters is None else hash_ids(map(str, self.pool.raters.tolist())),
            clusters=None if self.pool.clusters is None else self.pool.clusters.tolist(),
            audit=None if self.pool_audit is None else [self.pool_audit.num_drawn, self.pool_audit.gold.tolist()],
        )

    @cached_property
    def test_key(self) -> str:
        """The hash of the test texts and their gold."""
        return hash_ids(f"{i} {gold}" for i, gold in zip(self.test.ids, self.test_gold, strict=True))

    @cached_property
    def key(self) -> str:
        """The hash of everything that results are computed from, apart from the runs."""
        return make_key(
            pool=self.pool_key,
            test=self.test_key,
            teacher=None if self.teacher is None else self.teacher.tolist(),
            groups=None if self.test.groups is None else self.test.groups.tolist(),
            clusters=None if self.test.clusters is None else self.test.clusters.tolist(),
            num_drawn=None if self.test_audit is None else self.test_audit.num_drawn,
        )

    @property
    def test_gold(self) -> np.ndarray:
        """Classes of the test texts, of shape `(n,)`; `NO_GOLD` where neither the source nor an audit has one."""
        return self.test.gold if self.test_audit is None else self.test_audit.gold

    @cached_property
    def teacher(self) -> np.ndarray | None:
        """The LLM's labels of the test texts, of shape `(n,)`, `NO_VOTE` where it gave none.

        They take the calibration of the first pass; nothing is fitted on them. None without `test_annotations`.
        """
        if self.test_annotations is None:
            return None
        first, method = self.annotations[0], self.pool.calibrations[0].method
        return _most_probable(shift(self.test_annotations.logprobs, first.content_free, method, first.logprobs))


def read_labels(study: Study, files: RowFiles | None = None) -> StudyLabels:
    """Read the rows, annotations and audit of an annotated study.

    Args:
        study (`Study`):
            An annotated study.
        files (`RowFiles`, *optional*):
            Its rows, where they are open already.

    Raises:
        UserError: the study is not annotated, or a calibration requires more gold than there is.
    """
    recipe = study.recipe
    files = files or open_rows(study)
    rows, test = files.load("train"), files.load("test")
    annotations = load_annotations(study, rows)
    pool = training_pool = build_pool(rows, annotations)
    pool_audit = _read_audit(study, "pool", pool.ids, pool.label_names)
    if recipe.grid and not recipe.few_gold:
        training_pool = pool.take(np.flatnonzero(pool.gold != NO_GOLD))
    # Where runs take their labels from different passes, they train on texts with a label in every pass.
    by_all_passes = recipe.grid is not None and "pass" in recipe.grid.vary
    eligible = np.flatnonzero((training_pool.votes != NO_VOTE).all(axis=1) | (not by_all_passes))
    drawn = eligible[hash_order([training_pool.ids[i] for i in eligible], "validation")]
    validation_size = recipe.train.validation_size if recipe.train else 0
    validation = np.sort(drawn[:validation_size])
    if recipe.few_gold:
        gold = np.full(len(pool.ids), NO_GOLD) if pool_audit is None else pool_audit.gold
        training_pool = training_pool.with_audit(gold, validation)
    return StudyLabels(
        files=files,
        test=test,
        annotations=annotations,
        pool=pool,
        training_pool=training_pool,
        trainable=np.sort(drawn[validation_size:]),
        validation=validation,
        test_annotations=None if by_all_passes else load_test_annotations(study, test),
        pool_audit=pool_audit,
        test_audit=_read_audit(study, "test", test.ids, test.label_names) if recipe.few_gold else None,
    )


def _read_audit(study: Study, part: Literal["pool", "test"], ids: list[str], label_names: list[str]) -> Audit | None:
    """Return people's labels of the rows of a part; None where the part was not audited.

    Labels that the source brings are left out: they are not a random sample.
    """
    labels, sample = read_json(study.audit / "labels.json"), read_json(study.audit / "sample.json")
    if not labels or sample is None or part not in sample["parts"]:
        return None
    if label_names != sample["label_names"]:
        raise UserError(f"{study.audit} has labels of other classes. Delete the folder and draw a new sample.")
    drawn = set(sample["parts"][part]["ids"])
    number = {name: k for k, name in enumerate(label_names)}
    gold = [number[labels[i]] if i in drawn and i in labels else NO_GOLD for i in ids]
    return Audit(np.array(gold, dtype=np.int64), len(drawn))


def entropy(probs: np.ndarray) -> np.ndarray:
    """Return the Shannon entropy in nats over the last axis."""
    return -(probs * np.log(np.clip(probs, 1e-300, None))).sum(axis=-1)


def build_pool(rows: Rows, passes: list[Annotations]) -> Pool:
    """Build the pool: the rows to which the first pass gave a label.

    Rows that any pass shows as a few-shot example are left out, and so are the gold rows of a calibration.

    Args:
        rows (`Rows`):
            The training split.
        passes (`list[Annotations]`):
            One or more passes over it.

    Raises:
        UserError: a calibration requires more gold rows than there are.
    """
    usable = np.array([status == "ok" for status in passes[0].status])
    for annotations in passes:
        usable &= np.array([status != "demonstration" for status in annotations.status])
    spent = np.zeros(len(rows), dtype=bool)
    all_probs, calibrations = [], []
    for annotations in passes:
        section, gold_rows = annotations.section, None
        if section.calibration in ON_GOLD:
            labelled = usable & (rows.gold != NO_GOLD) & ~np.isnan(annotations.logprobs[:, 0])
            gold_rows = _calibration_rows(rows, np.flatnonzero(labelled), section)
            spent[gold_rows] = True
        probs, calibration = calibrate(
            annotations.logprobs, annotations.content_free, section.calibration, rows.gold, gold_rows
        )
        all_probs.append(probs)
        calibrations.append(calibration)
    kept = np.flatnonzero(usable & ~spent)
    pool_rows = rows.take(kept)
    logprobs = [annotations.logprobs[kept] for annotations in passes]
    return Pool(
        ids=pool_rows.ids,
        texts=[text or "" for text in pool_rows.texts],  # a study that was published without texts has none
        label_names=pool_rows.label_names,
        gold=pool_rows.gold,
        pass_probs=np.stack(all_probs)[:, kept],
        pass_label_mass=np.exp(logsumexp(logprobs, axis=2)) if len(kept) else np.zeros((len(passes), 0)),
        votes=np.stack([_most_probable(probs) for probs in all_probs], axis=1)[kept],
        calibrations=calibrations,
        calibration_gold=int(spent.sum()),
        raters=pool_rows.raters,
        clusters=pool_rows.clusters,
    )


def _most_probable(scores: np.ndarray) -> np.ndarray:
    """Return the class of the highest score of each row; `NO_VOTE` where there are none."""
    missing = np.isnan(scores[:, 0])
    return np.where(missing, NO_VOTE, np.where(missing[:, None], 0.0, scores).argmax(axis=1))


def _calibration_rows(rows: Rows, labelled: np.ndarray, section: Annotate) -> np.ndarray:
    """Return the gold rows that a calibration may use: the first of a seeded order, the same for all passes."""
    num_rows = section.calibration_rows
    if len(labelled) <= num_rows:
        raise not_enough_gold(section, len(labelled))
    order = hash_order((rows.ids[i] for i in labelled), "calibration")
    return np.sort(labelled[order[:num_rows]])
