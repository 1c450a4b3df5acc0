"""The verdict: can you trust these labels for training? Tests of equivalence against the limits in `accept`."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..recipe import Accept
from .metric_modules import LEVEL, error_variance
from .schema import Advice, Comparison, Criterion, Figures, VerdictResult, decision_of

LATER_LEVEL = 0.99  # of the intervals of every verdict after the first: see `decide`
NUM_LIMITS = 3
POWER = 0.8  # the probability with which the advised study decides all that is open
#: The largest study that is advised, and the seconds in which a person labels a text.
MAX_SEEDS, MAX_TEXTS, LABEL_SECONDS = 200, 20_000, 20.0
NO_INTERVALS = "two runs give no intervals"
GOLD_NOT_LEARNT = "classifiers on gold labels are not better than chance, so nothing can be compared with them"


def decide(figures: Figures, accept: Accept) -> VerdictResult:
    """Return the verdict, the tightest limits that the study certifies, and the cheapest study that decides them.

    A limit holds if the whole interval is on its good side (a test of equivalence, Schuirmann 1987): with 95% intervals
    that is wrong at most 2.5% of the time. All limits have to hold to ship, which needs no correction (the
    intersection-union principle, Berger 1982). It is enough that one fails not to ship, so a limit fails if the
    interval at a level corrected for their number (Bonferroni) is on its bad side. F1 has to keep its limit in every
    class: it holds if it holds in each, and fails if it fails in one, at a level corrected for their number too.

    Seeds or texts that are added after a verdict give it another chance to err. The first verdict has 95% intervals,
    every later one 99%: docs/statistics.md has the rate of false "holds" after several looks.

    Args:
        figures (`Figures`), accept (`Accept`):
            The results and the limits.

    Returns:
        `VerdictResult`: without a gold variant, a limit against gold has no `value`, and the decision is never to ship.
    """
    level = LEVEL if len(figures.looks) < 2 else LATER_LEVEL
    tests: list[_Test] = []
    for name, figure, sign in (("macro_f1_loss", "macro_f1", -1), ("churn", "pairwise_disagreement", 1)):
        limit, comparison = getattr(accept, name), figures.find("llm", "gold", figure)  # type: ignore[arg-type]
        tests.append(_Test(name, limit, [_Bound.of(comparison, sign)] if comparison else []))
    classes = [
        _Bound(-entry.value, error_variance(entry.variance) if entry.variance and figures.R > 2 else None, entry.name)
        for entry in figures.class_f1
    ]
    is_complete = {entry.name for entry in figures.class_f1} >= set(_required_classes(figures))
    tests.append(_Test("min_class_f1", -accept.min_class_f1, classes, is_complete))
    criteria = [test.judge(level) for test in tests]

    reason = None
    gold = figures.at_top.get("gold")
    if figures.R < 3:
        reason = NO_INTERVALS
    elif gold is not None and gold.above_chance is False:
        reason = GOLD_NOT_LEARNT
    decision = decision_of(criteria, reason)
    is_open = [
        test
        for test, criterion in zip(tests, criteria, strict=True)
        if criterion.status == "inconclusive" and test.bounds
    ]
    can_decide = reason is None and decision == "inconclusive" and bool(is_open)
    return VerdictResult(
        decision=decision,
        criteria=criteria,
        worst_class=tests[2].decisive(level).name if classes else None,
        reason=reason,
        level=level,
        advice=_advise(figures, is_open, LATER_LEVEL) if can_decide else None,
    )


def _required_classes(figures: Figures) -> list[str]:
    """Return the classes whose F1 must be known: with audited test texts all, else those that have test texts."""
    return figures.label_names if figures.audit else [entry.name for entry in figures.class_f1]


@dataclass(frozen=True)
class _Bound:
    """A value that has to be below a limit, the variance of its estimate, and the class that it is of."""

    value: float
    variance: Any
    name: str | None = None

    @classmethod
    def of(cls, comparison: Comparison, sign: int) -> "_Bound":
        variance = comparison.variance and error_variance(comparison.variance)
        return cls(sign * comparison.difference, variance)

    def interval(self, level: float) -> tuple[float, float]:
        if self.variance is None:  # two runs
            return -np.inf, np.inf
        low, high = self.variance.interval(self.value, level)
        return low, high


@dataclass(frozen=True)
class _Test:
    """The test of one limit: every value has to be below it. F1 is negated."""

    name: Any
    limit: float
    bounds: list[_Bound]
    is_complete: bool = True

    def decisive(self, level: float) -> _Bound:
        """Return the value that decides: the highest that fails or, if none fails, the one that may be the highest."""
        failing = [bound for bound in self.bounds if bound.interval(self.fail_level(level))[0] > self.limit]
        if failing:
            return max(failing, key=lambda bound: bound.value)
        return max(self.bounds, key=lambda bound: (bound.interval(level)[1], bound.value))

    def fail_level(self, level: float) -> float:
        return 1 - (1 - level) / NUM_LIMITS / len(self.bounds)

    def judge(self, level: float) -> Criterion:
        sign = -1 if self.name == "min_class_f1" else 1
        if not self.bounds:
            missing = {"value": None, "interval": None, "bound": None, "refuted": None}
            return Criterion(name=self.name, limit=sign * self.limit, status="inconclusive", **missing)
        lowest = max(bound.interval(self.fail_level(level))[0] for bound in self.bounds)
        highest = max(bound.interval(level)[1] for bound in self.bounds)
        decisive = self.decisive(level)
        interval = None if decisive.variance is None else decisive.interval(level)
        # F1 is in [0, 1], and so a difference of two shares in [-1, 1].
        if sign < 0:
            interval = interval and (max(-interval[1], 0.0), min(-interval[0], 1.0))
            bound, refuted = max(-highest, 0.0), min(-lowest, 1.0)
        else:
            interval = interval and (max(interval[0], -1.0), min(interval[1], 1.0))
            bound, refuted = min(highest, 1.0), max(lowest, -1.0)
        criterion = Criterion(
            name=self.name,
            value=sign * decisive.value,
            interval=interval,
            limit=sign * self.limit,
            bound=float(bound) if interval and self.is_complete else None,
            refuted=float(refuted) if np.isfinite(lowest) else None,
            status="inconclusive",
        )
        return criterion.at(criterion.limit)

    def power(self, level: float, seeds: float, texts: float) -> float:
        """Return the probability that a study with so many times as many seeds and texts decides the limit.

        The truth is supposed to be where the estimates are. If one is above the limit, the highest has to fail; else
        all have to hold.
        """
        highest = max(self.bounds, key=lambda bound: bound.value)
        if highest.value > self.limit:
            variance = highest.variance.scaled(runs=seeds, items=texts)
            return float(variance.power(highest.value - self.limit, self.fail_level(level)))
        if not self.is_complete:
            return 0.0
        powers = [
            bound.variance.scaled(runs=seeds, items=texts).power(self.limit - bound.value, level)
            for bound in self.bounds
        ]
        return float(np.prod(powers))


def _advise(figures: Figures, tests: list[_Test], level: float) -> Advice | None:
    """Return the cheapest study whose verdict, a later look, decides all open limits with probability `POWER`.

    Hours are those of training and of labelling test texts, `LABEL_SECONDS` each, beyond this study. The limits count
    as independent: what decides one makes it more likely that the others are decided, so the power is no less.
    """
    runs, test_texts = figures.R, figures.at_top["llm"].n_gold
    num_texts = test_texts + (figures.out_of_bag.n if figures.out_of_bag and figures.out_of_bag.is_used else 0)
    best: tuple[float, int, int] | None = None
    ladder = np.unique(np.geomspace(runs, max(MAX_SEEDS, runs), 25).round().astype(int))

    def power(seeds: int, texts: int) -> float:
        factors = seeds / runs, (num_texts + texts - test_texts) / num_texts
        return float(np.prod([test.power(level, *factors) for test in tests]))

    for seeds in map(int, ladder):
        low, high = test_texts - 1, max(MAX_TEXTS, test_texts)
        if power(seeds, high) < POWER:
            continue
        while high - low > max(1, high // 100):
            middle = (low + high) // 2
            low, high = (low, middle) if power(seeds, middle) >= POWER else (middle, high)
        texts = max(high, test_texts)
        hours = (seeds - runs) * figures.hours_per_seed + (texts - test_texts) * LABEL_SECONDS / 3600
        if best is None or hours < best[0]:
            best = (hours, seeds, texts)
    if best is None:
        return None
    hours, seeds, texts = best
    return Advice(seeds=seeds, test_texts=texts, hours=hours, power=power(seeds, texts))
