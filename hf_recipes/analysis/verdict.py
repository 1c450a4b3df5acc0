"""The verdict: can you trust these labels for training? Tests of equivalence against the limits in `accept`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from ..recipe import Accept
from .metric_modules import LEVEL
from .schema import Criterion, Decision, Figures, Interval, Status, VariantResult, VerdictResult

POWER = 0.8  # the probability with which more labels or seeds are to decide
NO_INTERVALS = "two runs give no intervals"
MAX_COUNT = 10_000_000


def decide(figures: Figures, accept: Accept) -> VerdictResult:
    """Return the verdict, and how many more labels or seeds would decide what is open.

    A limit holds if the whole interval is on its good side, and fails if the whole interval is on the other: with 95%
    intervals either is wrong at most 2.5% of the time (two one-sided tests, Schuirmann 1987). F1 has to keep its limit
    in every class: it holds if it holds in each, and fails if it fails in one, at a level corrected for their number.
    All limits have to hold to ship, which needs no correction (the intersection-union principle, Berger 1982).

    Args:
        figures (`Figures`), accept (`Accept`):
            The results and the limits.

    Returns:
        `VerdictResult`: `decision` (`ship`, `do not ship`, `label more`, `cannot tell`), `criteria` (a list of `name`,
        `value`, `interval`, `limit`, `status`), `worst_class` (that whose F1 may be the lowest), `test_labels` and
        `seeds` (the total of either that, with the other unchanged, decides what is open with probability 0.8 if the
        truth equals the estimate; None if no number does), and `reason` (why the study decides nothing, or None).
        Without a gold variant, a limit against gold has no `value`, and the decision is never to ship.
    """
    variants = figures.at_top
    if "gold" not in variants:
        return _without_gold(figures, variants["llm"], accept)
    runs, items = figures.R, figures.n
    loss, churn = figures.find("llm", "gold", "macro_f1"), figures.find("llm", "gold", "pairwise_disagreement")
    assert loss is not None and churn is not None  # noqa: S101, PT018  (measure compares them wherever gold is trained)
    classes, worst = _classes(variants["llm"], figures.label_names, accept.min_class_f1, runs)
    criteria = [
        _criterion("macro_f1_loss", -loss.difference, _negate(loss.interval), accept.macro_f1_loss),
        _criterion("churn", churn.difference, churn.interval, accept.churn),
        classes,
    ]
    statuses = {criterion.status for criterion in criteria}
    reason = None
    if variants["gold"].chance_level_runs:
        reason = "gold labels were not learnt in every run, so that nothing can be compared with them"
    elif runs < 3:
        reason = NO_INTERVALS
    parts = [(c.seed_se or 0.0, c.item_se or 0.0, np.inf) for c in (loss, churn)] + [(*worst.parts, worst.n)]
    open_criteria = [
        (abs(criterion.value - criterion.limit), *part)
        for criterion, part in zip(criteria, parts, strict=True)
        if criterion.status == "cannot tell" and criterion.value is not None
    ]
    test_labels, seeds = (
        (None, None) if reason else (_fewest_labels(open_criteria, runs, items), _fewest_seeds(open_criteria, runs))
    )
    decision: Decision
    if reason:
        decision = "cannot tell"
    elif "fails" in statuses:
        decision = "do not ship"
    elif statuses == {"holds"}:
        decision = "ship"
    else:
        decision = "label more" if test_labels else "cannot tell"
    return VerdictResult(
        decision=decision,
        criteria=criteria,
        worst_class=worst.name,
        reason=reason,
        test_labels=test_labels,
        seeds=seeds,
    )


def _without_gold(figures: Figures, llm: VariantResult, accept: Accept) -> VerdictResult:
    """Return the verdict without a gold variant. The loss is not identifiable; F1 is, on audited test texts.

    A class without audited texts keeps no limit: its F1 is unknown. `test_labels` and `seeds` are those that would
    decide the limit on classes.
    """
    runs = figures.R
    criteria = [_unknown("macro_f1_loss", accept.macro_f1_loss), _unknown("churn", accept.churn)]
    classes, worst_class, test_labels, seeds = _unknown("min_class_f1", accept.min_class_f1), None, None, None
    if llm.n_gold:
        classes, worst = _classes(llm, figures.label_names, accept.min_class_f1, runs)
        worst_class = worst.name
        if classes.status == "cannot tell" and runs > 2 and classes.value is not None:
            open_criteria = [(abs(classes.value - classes.limit), *worst.parts, float(worst.n))]
            test_labels, seeds = (
                _fewest_labels(open_criteria, runs, llm.n_gold),
                _fewest_seeds(open_criteria, runs),
            )
        elif classes.status == "holds" and None in (llm.per_class_f1_mean or []):
            classes = classes.model_copy(update={"status": "cannot tell"})
    return VerdictResult(
        decision="do not ship" if classes.status == "fails" else "cannot tell",
        criteria=[*criteria, classes],
        worst_class=worst_class,
        reason=None if runs > 2 else NO_INTERVALS,
        test_labels=test_labels,
        seeds=seeds,
    )


def _unknown(name: Any, limit: float) -> Criterion:
    return Criterion(name=name, value=None, interval=None, limit=limit, status="cannot tell")


def _negate(interval: Interval) -> Interval:
    return None if interval is None else (-interval[1], -interval[0])


def _criterion(name: Any, value: float, interval: Interval, limit: float) -> Criterion:
    """Return whether a figure stays below a limit."""
    status: Status = "cannot tell"
    if interval is not None and interval[1] < limit:
        status = "holds"
    elif interval is not None and interval[0] > limit:
        status = "fails"
    return Criterion(name=name, value=value, interval=interval, limit=limit, status=status)


@dataclass(frozen=True)
class _Class:
    """Mean F1 of a class, the two parts of its standard error, and its test texts."""

    name: str
    value: float
    parts: tuple[float, float]
    n: int

    def bounds(self, level: float, runs: int) -> tuple[float, float]:
        """Return an interval by t; where nothing varies, as all or none are right, the exact one of the recall."""
        seed_se, item_se = self.parts
        if seed_se == item_se == 0:
            tail = ((1 - level) / 2) ** (1 / self.n)
            return tail if self.value == 1 else 0.0, 1.0 if self.value == 1 else 1 - tail
        # The variance over few texts is not known well.
        degrees = min(freedom(seed_se, item_se, runs), max(self.n - 1, 1))
        half = stats.t.ppf(0.5 + level / 2, degrees) * np.hypot(seed_se, item_se)
        return float(max(self.value - half, 0.0)), float(min(self.value + half, 1.0))


def _classes(result: VariantResult, names: list[str], limit: float, runs: int) -> tuple[Criterion, _Class]:
    """Return whether F1 of every class with gold stays above a limit, and the class that may be the lowest."""
    means, seed_ses, item_ses = result.per_class_f1_mean, result.per_class_f1_seed_se, result.per_class_f1_item_se
    assert means is not None and seed_ses is not None and item_ses is not None  # noqa: S101, PT018  (n_gold > 0)
    classes = []
    for name, value, seed_se, item_se in zip(names, means, seed_ses, item_ses, strict=True):
        if value is not None:
            classes.append(_Class(name, value, (seed_se or 0.0, item_se or 0.0), result.per_class_n[name]))
    worst = min(classes, key=lambda entry: entry.bounds(LEVEL, runs)[0])
    corrected = 1 - (1 - LEVEL) / len(classes)
    failing = [entry for entry in classes if runs > 2 and entry.bounds(corrected, runs)[1] < limit]
    status: Status = "cannot tell"
    if limit == 0 or (runs > 2 and all(entry.bounds(LEVEL, runs)[0] > limit for entry in classes)):
        status = "holds"
    elif failing:
        status, worst = "fails", min(failing, key=lambda entry: entry.bounds(corrected, runs)[1])
    interval = worst.bounds(LEVEL, runs) if runs > 2 else None
    return Criterion(name="min_class_f1", value=worst.value, interval=interval, limit=limit, status=status), worst


def freedom(seed_se: float, item_se: float, runs: int) -> float:
    """Return the degrees of freedom of a standard error over runs and texts, as in the metric modules."""
    return (runs - 1) * (seed_se**2 + item_se**2) / seed_se**2 if seed_se else np.inf


# distance from the limit, the two parts of the standard error, and the texts that the latter is known from
OpenCriteria = list[tuple[float, float, float, float]]


def _decides(open_criteria: OpenCriteria, seed_factor: float, item_factor: float, runs: int) -> bool:
    """Return whether all that is open would be decided if the parts of the standard errors shrank by these factors."""
    for distance, seed_se, item_se, texts in open_criteria:
        seed, item = seed_se * seed_factor, item_se * item_factor
        degrees = min(freedom(seed, item, runs), max(texts / item_factor**2 - 1, 1))
        num_errors = stats.t.ppf(0.5 + LEVEL / 2, degrees) + stats.t.ppf(POWER, degrees)
        if num_errors * np.hypot(seed, item) > distance:
            return False
    return True


def _fewest_labels(open_criteria: OpenCriteria, runs: int, items: int) -> int | None:
    """Return the fewest test labels that decide what is open, with as many seeds."""
    return _fewest(lambda n: _decides(open_criteria, 1.0, (items / n) ** 0.5, runs), items) if open_criteria else None


def _fewest_seeds(open_criteria: OpenCriteria, runs: int) -> int | None:
    """Return the fewest seeds that decide what is open, with as many test labels."""
    return _fewest(lambda r: _decides(open_criteria, (runs / r) ** 0.5, 1.0, r), runs) if open_criteria else None


def _fewest(decides: Any, start: int) -> int | None:
    """Return the smallest number above `start` that decides, by bisection; None if no number does."""
    if not decides(MAX_COUNT):
        return None
    low, high = start, MAX_COUNT
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
