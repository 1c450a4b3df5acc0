"""The verdict: may these labels be trained on? Tests of equivalence against the limits of the recipe's `accept`."""

from typing import Any, Literal

from scipy import stats

from .recipe import Accept

Status = Literal["holds", "fails", "cannot tell"]
POWER = 0.8  # with which more labels or seeds are to decide
MOST = 1_000_000


def decide(results: dict[str, Any], accept: Accept) -> dict[str, Any]:
    """Ship, do not ship, or what it takes to know.

    A limit holds if the whole interval is on its good side, and fails if the whole interval is on the other: with 95%
    intervals either is wrong at most 2.5% of the time (two one-sided tests, Schuirmann 1987). All have to hold to ship,
    which needs no correction (the intersection-union principle, Berger 1982); one that fails is enough not to.

    Args:
        results (`dict`):
            `arms` and `comparisons` of `measure`.
        accept (`Accept`):
            The limits.

    Returns:
        `dict` with `decision` (`ship`, `do not ship`, `label more`, `cannot tell`), `criteria` (a list of `name`,
        `value`, `interval`, `limit`, `status`), `worst_class`, `test_labels` and `seeds` (of either how many, in all
        and the other as it is, would decide what is open with probability .8, the truth being where the estimate is;
        None if no number would), and `reason` (why nothing can be told, or None).
    """
    top = max(arm["size"] for arm in results["arms"])
    arms = {arm["arm"]: arm for arm in results["arms"] if arm["size"] == top}
    found = {
        c["figure"]: c for c in results["comparisons"] if (c["arm"], c["against"], c["size"]) == ("llm", "gold", top)
    }
    loss, churn = found["macro_f1"], found["pairwise_disagreement"]
    by_class = dict(zip(results["label_names"], arms["llm"]["per_class_f1_mean"], strict=True))
    intervals = dict(zip(results["label_names"], arms["llm"]["per_class_f1_mean_interval"], strict=True))
    worst = min((name for name in by_class if by_class[name] is not None), key=lambda name: by_class[name])
    criteria = [
        _criterion("macro_f1_loss", -loss["difference"], _flipped(loss["interval"]), accept.macro_f1_loss, upper=True),
        _criterion("churn", churn["difference"], churn["interval"], accept.churn, upper=True),
        _criterion("min_class_f1", by_class[worst], intervals[worst], accept.min_class_f1, upper=False),
    ]
    statuses = {one["status"] for one in criteria}
    reason = None
    if arms["gold"]["failed_runs"]:
        reason = "gold labels were not learnt in every run, so that nothing can be compared with them"
    elif results["R"] < 3:
        reason = "two runs give no intervals"
    test_labels, seeds = _needed([(loss, criteria[0]), (churn, criteria[1])], results["R"], results["n"])
    if reason:
        decision = "cannot tell"
    elif "fails" in statuses:
        decision = "do not ship"
    elif statuses == {"holds"}:
        decision = "ship"
    else:
        decision = "label more" if test_labels and test_labels > results["n"] else "cannot tell"
    return {
        **{"decision": decision, "criteria": criteria, "worst_class": worst, "reason": reason},
        **{"test_labels": test_labels, "seeds": seeds},
    }


def _flipped(interval: list[float] | None) -> list[float] | None:
    return None if interval is None else [-interval[1], -interval[0]]


def _criterion(
    name: str, value: float, interval: list[float] | None, limit: float, upper: bool
) -> dict[str, float | str | list[float] | None]:
    status: Status = "cannot tell"
    if interval is not None and None not in interval:
        below, above = interval[1] < limit, interval[0] > limit
        status = "holds" if (below if upper else above) else "fails" if (above if upper else below) else "cannot tell"
    return {"name": name, "value": value, "interval": interval, "limit": limit, "status": status}


def _needed(pairs: list[tuple[dict[str, Any], dict[str, Any]]], runs: int, items: int) -> tuple[int | None, int | None]:
    """How many test labels with as many seeds, and how many seeds with as many test labels, would decide what is open.

    With the distance d of the estimate from the limit it takes a standard error of d / (z_.975 + z_.8) or less, where
    its square is the sum of a part that falls with the seeds and one that falls with the test texts.
    """
    labels: int | None = items
    seeds: int | None = runs
    for comparison, criterion in pairs:
        if criterion["status"] != "cannot tell" or criterion["interval"] is None:
            continue
        wanted = (abs(criterion["value"] - criterion["limit"]) / (stats.norm.ppf(0.975) + stats.norm.ppf(POWER))) ** 2
        over_seeds, over_items = comparison["seed_se"] ** 2, comparison["item_se"] ** 2
        labels = _more(labels, items * over_items, wanted - over_seeds)
        seeds = _more(seeds, runs * over_seeds, wanted - over_items)
    return labels, seeds


def _more(so_far: int | None, variance: float, left: float) -> int | None:
    """The larger of `so_far` and variance / left; None where there is no such number."""
    if so_far is None or left <= 0 or variance / left > MOST:
        return None
    return max(so_far, int(-(-variance // left)))
