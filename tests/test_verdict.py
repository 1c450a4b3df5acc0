"""The verdict follows from the intervals, and what it asks for would decide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_recipes.recipe import Accept
from hf_recipes.verdict import decide

RULE = Accept(macro_f1_loss=0.02, churn=0.03, min_class_f1=0.6)


def make_results(
    loss=(-0.01, 0.01), churn=(-0.02, 0.02), worst=(0.65, 0.75), runs=10, items=500, unlearnt=0, parts=(0.25, 0.25)
):
    def compared(figure, bounds, sign):
        middle, half = sum(bounds) / 2, (bounds[1] - bounds[0]) / 2
        se = {"seed_se": half * parts[0], "item_se": half * parts[1]}
        interval = sorted(sign * bound for bound in bounds)
        pair = {"arm": "llm", "against": "gold", "size": 100, "figure": figure}
        return {**pair, "difference": sign * middle, "interval": interval, **se}

    f1 = [sum(worst) / 2, 0.9, None]
    arms = [
        {
            **{"arm": arm, "size": 100, "failed_runs": unlearnt if arm == "gold" else 0, "per_class_f1_mean": f1},
            "per_class_f1_mean_interval": [list(worst), [0.85, 0.95], [None, None]],
        }
        for arm in ("gold", "llm")
    ]
    comparisons = [compared("macro_f1", loss, -1), compared("pairwise_disagreement", churn, 1)]
    return {"arms": arms, "comparisons": comparisons, "label_names": ["a", "b", "c"], "R": runs, "n": items}


BOUNDS = st.tuples(st.floats(-0.5, 0.5), st.floats(0.001, 0.4)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(BOUNDS, BOUNDS, BOUNDS)
def test_it_ships_only_where_every_interval_lies_on_the_good_side_and_not_where_one_lies_on_the_bad(loss, churn, worst):
    worst = (worst[0] + 0.5, worst[1] + 0.5)
    found = decide(make_results(loss, churn, worst), RULE)
    good = [loss[1] < 0.02, churn[1] < 0.03, worst[0] > 0.6]
    bad = [loss[0] > 0.02, churn[0] > 0.03, worst[1] < 0.6]
    assert (found["decision"] == "ship") == all(good)
    assert (found["decision"] == "do not ship") == any(bad)
    assert found["worst_class"] == ("a" if sum(worst) / 2 <= 0.9 else "b") or sum(worst) / 2 > 0.9
    assert [one["status"] for one in found["criteria"][:2]] == [
        "holds" if g else "fails" if b else "cannot tell" for g, b in zip(good[:2], bad[:2], strict=True)
    ]


@pytest.mark.parametrize(("parts", "what"), [((0.1, 0.4), "test_labels"), ((0.4, 0.1), "seeds")])
def test_what_it_asks_for_would_decide(parts, what):
    """The oracle: studies simulated with as much of it as it asks for, the truth being where the estimate was."""
    results = make_results(loss=(-0.02, 0.03), parts=parts)
    found = decide(results, RULE)
    comparison = results["comparisons"][0]
    assert found["decision"] == ("label more" if what == "test_labels" else "cannot tell")
    labels, seeds = (found["test_labels"], 10) if what == "test_labels" else (500, found["seeds"])
    assert labels > 500 or seeds > 10
    se = np.sqrt(comparison["seed_se"] ** 2 * 10 / seeds + comparison["item_se"] ** 2 * 500 / labels)
    estimates = np.random.default_rng(0).normal(-comparison["difference"], se, 50_000)
    assert (estimates + 1.96 * se < 0.02).mean() == pytest.approx(0.8, abs=0.03)


def test_where_nothing_can_be_told_it_says_why():
    assert decide(make_results(unlearnt=1), RULE) | {"criteria": None} == {
        **{"decision": "cannot tell", "criteria": None, "worst_class": "a", "test_labels": 500, "seeds": 10},
        "reason": "gold labels were not learnt in every run, so that nothing can be compared with them",
    }
    two = make_results(runs=2)
    for comparison in two["comparisons"]:
        comparison["interval"] = None
    assert decide(two, RULE)["reason"] == "two runs give no intervals"
    on_the_limit = decide(make_results(loss=(0.0, 0.04)), RULE)
    assert (on_the_limit["decision"], on_the_limit["test_labels"], on_the_limit["seeds"]) == ("cannot tell", None, None)
