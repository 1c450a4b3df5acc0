"""The verdict: may these labels be trained on? Tests of equivalence against the limits of the recipe's `accept`."""

from typing import Any, Literal

import numpy as np
from scipy import stats

from .recipe import Accept

Status = Literal["holds", "fails", "cannot tell"]
LEVEL = 0.95
POWER = 0.8  # with which more labels or seeds are to decide
NO_INTERVALS = "two runs give no intervals"
MOST = 10_000_000


def decide(results: dict[str, Any], accept: Accept) -> dict[str, Any]:
    """Ship, do not ship, or what it takes to know.

    A limit holds if the whole interval is on its good side, and fails if the whole interval is on the other: with 95%
    intervals either is wrong at most 2.5% of the time (two one-sided tests, Schuirmann 1987). F1 has to keep its limit
    in every class: it holds if it holds in each, and fails if it fails in one, at a level corrected for their number.
    All limits have to hold to ship, which needs no correction (the intersection-union principle, Berger 1982).

    Args:
        results (`dict`):
            `arms`, `comparisons`, `label_names`, `R` and `n` of `measure`.
        accept (`Accept`):
            The limits.

    Returns:
        `dict` with `decision` (`ship`, `do not ship`, `label more`, `cannot tell`), `criteria` (a list of `name`,
        `value`, `interval`, `limit`, `status`), `worst_class` (that whose F1 may be the lowest), `test_labels` and
        `seeds` (of either how many, in all and the other as it is, would decide what is open with probability .8, the
        truth being where the estimate is; None if no number would), and `reason` (why nothing can be told, or None).
        Without an arm of gold labels, a limit against them has no `value`, and nothing is shipped.
    """
    top = max(arm["size"] for arm in results["arms"])
    arms = {arm["arm"]: arm for arm in results["arms"] if arm["size"] == top}
    found = {
        c["figure"]: c for c in results["comparisons"] if (c["arm"], c["against"], c["size"]) == ("llm", "gold", top)
    }
    if "gold" not in arms:
        return _without_gold(results, arms["llm"], accept)
    runs, items = results["R"], results["n"]
    loss, churn = found["macro_f1"], found["pairwise_disagreement"]
    classes, worst = _classes(arms["llm"], results["label_names"], accept.min_class_f1, runs)
    criteria = [
        _criterion("macro_f1_loss", -loss["difference"], _flipped(loss["interval"]), accept.macro_f1_loss),
        _criterion("churn", churn["difference"], churn["interval"], accept.churn),
        classes,
    ]
    statuses = {one["status"] for one in criteria}
    reason = None
    if arms["gold"]["unlearnt_runs"]:
        reason = "gold labels were not learnt in every run, so that nothing can be compared with them"
    elif runs < 3:
        reason = NO_INTERVALS
    parts = [(one["seed_se"], one["item_se"], np.inf) for one in (loss, churn)] + [(*worst["parts"], worst["n"])]
    still = [
        (abs(one["value"] - one["limit"]), *part)
        for one, part in zip(criteria, parts, strict=True)
        if one["status"] == "cannot tell"
    ]
    test_labels, seeds = (None, None) if reason else (_labels(still, runs, items), _seeds(still, runs, items))
    if reason:
        decision = "cannot tell"
    elif "fails" in statuses:
        decision = "do not ship"
    elif statuses == {"holds"}:
        decision = "ship"
    else:
        decision = "label more" if test_labels else "cannot tell"
    return {
        **{"decision": decision, "criteria": criteria, "worst_class": worst["name"], "reason": reason},
        **{"test_labels": test_labels, "seeds": seeds},
    }


def _without_gold(results: dict[str, Any], llm: dict[str, Any], accept: Accept) -> dict[str, Any]:
    """Where no arm has gold: what is lost against it is not identifiable, F1 of the classes is, on audited test texts.

    A class of which no audited text is keeps no limit: it is not known. `test_labels` and `seeds` are those that would
    decide the limit on classes.
    """
    runs, unknown = results["R"], {"value": None, "interval": None, "status": "cannot tell"}
    criteria = [{"name": name, "limit": getattr(accept, name), **unknown} for name in type(accept).model_fields]
    reason = None if runs > 2 else NO_INTERVALS
    found: dict[str, Any] = {"worst_class": None, "reason": reason, "test_labels": None, "seeds": None}
    if llm["n_gold"]:
        classes, worst = _classes(llm, results["label_names"], accept.min_class_f1, runs)
        criteria[-1], found["worst_class"] = classes, worst["name"]
        still = [(abs(classes["value"] - classes["limit"]), *worst["parts"], worst["n"])] if runs > 2 else []
        if classes["status"] == "cannot tell":
            found |= {"test_labels": _labels(still, runs, llm["n_gold"]), "seeds": _seeds(still, runs, llm["n_gold"])}
        elif classes["status"] == "holds" and None in llm["per_class_f1_mean"]:
            classes["status"] = "cannot tell"
    decision = "do not ship" if criteria[-1]["status"] == "fails" else "cannot tell"
    return {"decision": decision, "criteria": criteria, **found}


def _flipped(interval: list[float] | None) -> list[float] | None:
    return None if interval is None else [-interval[1], -interval[0]]


def _criterion(name: str, value: float, interval: list[float] | None, limit: float) -> dict[str, Any]:
    """Whether a figure keeps below a limit."""
    status: Status = "cannot tell"
    if interval is not None:
        status = "holds" if interval[1] < limit else "fails" if interval[0] > limit else "cannot tell"
    return {"name": name, "value": value, "interval": interval, "limit": limit, "status": status}


def _classes(arm: dict[str, Any], names: list[str], limit: float, runs: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Whether F1 of every class with gold keeps above a limit; the criterion, and the class that may be the lowest."""
    known = [
        {
            "name": name,
            "value": arm["per_class_f1_mean"][k],
            "parts": (arm["per_class_f1_seed_se"][k], arm["per_class_f1_item_se"][k]),
            "n": arm["per_class_n"][name],
        }
        for k, name in enumerate(names)
        if arm["per_class_f1_mean"][k] is not None
    ]
    for one in known:
        one["interval"] = _bounds(one, LEVEL, runs)
        one["upper"] = _bounds(one, 1 - (1 - LEVEL) / len(known), runs)[1]
    worst = min(known, key=lambda one: one["interval"][0])
    status: Status = "cannot tell"
    if limit == 0 or (runs > 2 and all(one["interval"][0] > limit for one in known)):
        status = "holds"
    elif runs > 2 and (failing := [one for one in known if one["upper"] < limit]):
        status, worst = "fails", min(failing, key=lambda one: one["upper"])
    fields = {"value": worst["value"], "interval": worst["interval"] if runs > 2 else None}
    return {"name": "min_class_f1", **fields, "limit": limit, "status": status}, worst


def _bounds(one: dict[str, Any], level: float, runs: int) -> list[float]:
    """An interval of a mean F1: by t; where nothing varies, all or none being right, exact for the recall."""
    value, (seed_se, item_se) = one["value"], one["parts"]
    if seed_se == item_se == 0:
        tail = ((1 - level) / 2) ** (1 / one["n"])
        return [tail if value == 1 else 0.0, 1.0 if value == 1 else 1 - tail]
    degrees = min(freedom(seed_se, item_se, runs), max(one["n"] - 1, 1))  # of few texts the variance is not known well
    half = stats.t.ppf(0.5 + level / 2, degrees) * np.hypot(seed_se, item_se)
    return [float(max(value - half, 0.0)), float(min(value + half, 1.0))]


def freedom(seed_se: float, item_se: float, runs: int) -> float:
    """Degrees of freedom of a standard error with a part over runs and a part over texts, as in the metric modules."""
    return (runs - 1) * (seed_se**2 + item_se**2) / seed_se**2 if seed_se else np.inf


# distance from the limit, the two parts of the standard error, and the texts that the latter is known from
Open = list[tuple[float, float, float, float]]


def _decides(still: Open, seed_factor: float, item_factor: float, runs: int) -> bool:
    """Whether all that is open would be decided with standard errors whose parts are so much smaller."""
    for distance, seed_se, item_se, texts in still:
        seed, item = seed_se * seed_factor, item_se * item_factor
        degrees = min(freedom(seed, item, runs), max(texts / item_factor**2 - 1, 1))
        needed = stats.t.ppf(0.5 + LEVEL / 2, degrees) + stats.t.ppf(POWER, degrees)
        if needed * np.hypot(seed, item) > distance:
            return False
    return True


def _labels(still: Open, runs: int, items: int) -> int | None:
    """The fewest test labels that decide what is open, with as many seeds."""
    return _fewest(lambda n: _decides(still, 1.0, (items / n) ** 0.5, runs), items) if still else None


def _seeds(still: Open, runs: int, items: int) -> int | None:
    """The fewest seeds that decide what is open, with as many test labels."""
    return _fewest(lambda r: _decides(still, (runs / r) ** 0.5, 1.0, r), runs) if still else None


def _fewest(decides: Any, start: int) -> int | None:
    """The smallest number above `start` that decides, by bisection; None if none does."""
    if not decides(MOST):
        return None
    low, high = start, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
