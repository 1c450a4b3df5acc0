"""The verdict follows from the intervals, errs as seldom as it says, and what it asks for would decide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import make_figures
from scipy import stats

from hf_recipes.analysis.verdict import _fewest_labels, _fewest_seeds, decide
from hf_recipes.recipe import Accept

RULE = Accept(macro_f1_loss=0.02, churn=0.03, min_class_f1=0.6)


def make_results(loss=(-0.01, 0.01), churn=(-0.02, 0.02), f1=(0.7, 0.9), se=0.02, runs=10, parts=(0.25, 0.25), **more):
    def compared(figure, bounds, sign):
        middle, half = sum(bounds) / 2, (bounds[1] - bounds[0]) / 2
        interval = sorted(sign * bound for bound in bounds)
        pair = {"variant": "llm", "against": "gold", "size": 100, "figure": figure}
        return {
            **{**pair, "difference": sign * middle, "interval": interval},
            **{"seed_se": half * parts[0], "item_se": half * parts[1]},
        }

    names = [f"c{k}" for k in range(len(f1))]
    seed, item = more.get("class_parts", (se / 4, se))
    variants = [
        {
            **{
                "variant": variant,
                "size": 100,
                "chance_level_runs": more.get("unlearnt", 0) if variant == "gold" else 0,
            },
            **{
                "per_class_f1_mean": [*f1, None],
                "per_class_n": {**dict.fromkeys(names, more.get("n_k", 100)), "no": 0},
            },
            **{"per_class_f1_seed_se": [seed] * len(f1) + [None], "per_class_f1_item_se": [item] * len(f1) + [None]},
        }
        for variant in ("gold", "llm")
    ]
    comparisons = [compared("macro_f1", loss, -1), compared("pairwise_disagreement", churn, 1)]
    return {"variants": variants, "comparisons": comparisons, "label_names": [*names, "no"], "R": runs, "n": 500}


BOUNDS = st.tuples(st.floats(-0.5, 0.5), st.floats(0.001, 0.4)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(BOUNDS, BOUNDS, st.lists(st.floats(0.2, 0.95), min_size=1, max_size=5), st.floats(0.001, 0.1))
def test_it_ships_only_where_every_interval_lies_on_the_good_side_and_not_where_one_lies_on_the_bad(
    loss, churn, f1, se
):
    found = decide(make_figures(make_results(loss, churn, f1, se)), RULE)
    total = np.hypot(se / 4, se)
    degrees = 9 * total**2 / (se / 4) ** 2
    low = [value - stats.t.ppf(0.975, degrees) * total for value in f1]
    high = [value + stats.t.ppf(1 - 0.025 / len(f1), degrees) * total for value in f1]
    good = [loss[1] < 0.02, churn[1] < 0.03, min(low) > 0.6]
    bad = [loss[0] > 0.02, churn[0] > 0.03, min(high) < 0.6]
    assert (found.decision == "ship") == all(good)
    assert (found.decision == "do not ship") == any(bad)
    assert [one.status for one in found.criteria] == [
        "holds" if g else "fails" if b else "inconclusive" for g, b in zip(good, bad, strict=True)
    ]


def test_a_class_that_is_hardly_known_is_not_hidden_by_one_that_is_worse_and_well_known():
    results = make_results(f1=(0.7, 0.71))
    for variant in results["variants"]:
        variant["per_class_f1_item_se"] = [0.01, 0.1, None]
    found = decide(make_figures(results), RULE)
    assert (found.decision, found.worst_class) == ("label more", "c1")
    assert found.test_labels > 500


@pytest.mark.parametrize("classes", [2, 10])
def test_the_limit_on_classes_errs_as_seldom_as_it_says(classes):
    """Simulated: all classes exactly at the limit, or one of them at it and the rest far above."""
    rng = np.random.default_rng(0)
    held = failed = 0
    for _ in range(1000):
        f1 = rng.normal(0.6, np.hypot(0.0125, 0.05), classes)
        at_it = decide(make_figures(make_results(f1=f1, se=0.05)), RULE)
        failed += at_it.criteria[2].status == "fails"
        near = [rng.normal(0.6, np.hypot(0.0125, 0.05)), *[0.9] * (classes - 1)]
        held += decide(make_figures(make_results(f1=near, se=0.05)), RULE).criteria[2].status == "holds"
    assert held / 1000 < 0.025 + 3 * np.sqrt(0.025 * 0.975 / 1000)
    assert failed / 1000 < 0.025 + 3 * np.sqrt(0.025 * 0.975 / 1000)


def test_where_nothing_varies_few_texts_do_not_decide():
    for value, n_k, status in (
        (0.0, 2, "inconclusive"),
        (0.0, 40, "fails"),
        (1.0, 3, "inconclusive"),
        (1.0, 40, "holds"),
    ):
        results = make_results(f1=(value,), class_parts=(0.0, 0.0), n_k=n_k)
        found = decide(make_figures(results), RULE).criteria[2]
        assert found.status == status
        low, high = found.interval
        exact = stats.binomtest(int(value * n_k), n_k).proportion_ci(method="exact")
        assert (low, high) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize(("parts", "what"), [((0.1, 0.4), "test_labels"), ((0.35, 0.1), "seeds")])
def test_what_it_asks_for_would_decide(parts, what):
    """The oracle: simulated studies with as much of it as it asks for, with the t interval of studies."""
    results = make_results(loss=(-0.02, 0.03), parts=parts)
    found = decide(make_figures(results), RULE)
    comparison = results["comparisons"][0]
    labels, seeds = (found.test_labels, 10) if what == "test_labels" else (500, found.seeds)
    assert labels > 500 or seeds > 10
    rng = np.random.default_rng(0)
    per_run = rng.normal(0, comparison["seed_se"] * 10**0.5, (20_000, seeds))
    item_se = comparison["item_se"] * (500 / labels) ** 0.5
    estimates = -comparison["difference"] + per_run.mean(axis=1) + rng.normal(0, item_se, 20_000)
    over_runs = per_run.var(axis=1, ddof=1) / seeds
    degrees = (seeds - 1) * (over_runs + item_se**2) / over_runs
    upper = estimates + stats.t.ppf(0.975, degrees) * np.sqrt(over_runs + item_se**2)
    assert (upper < 0.02).mean() == pytest.approx(0.8, abs=0.05)


def test_where_nothing_can_be_told_it_says_why():
    found = decide(make_figures(make_results(unlearnt=1)), RULE)
    assert (found.decision, found.test_labels, found.seeds) == ("inconclusive", None, None)
    assert found.reason.startswith("gold labels were not learnt in every run")
    two = make_results(runs=2)
    for comparison in two["comparisons"]:
        comparison |= {"interval": None, "seed_se": None}
    assert decide(make_figures(two), RULE).reason == "two runs give no intervals"
    assert decide(make_figures(two), RULE).criteria[2].interval is None
    on_the_limit = decide(make_figures(make_results(loss=(0.0, 0.04))), RULE)
    assert (on_the_limit.decision, on_the_limit.test_labels, on_the_limit.seeds) == ("inconclusive", None, None)
    assert decide(make_figures(make_results(f1=(0.0, 0.0))), Accept(min_class_f1=0)).decision == "ship"  # no limit


def test_a_class_of_three_texts_is_not_decided_by_one_more():
    """The variance over three texts is not known well, and more seeds do not change that."""
    still = [(0.3, 0.005, 0.085, 3)]
    assert _fewest_labels(still, runs=5, items=100) > 130  # not 101
    assert _fewest_seeds(still, runs=5) is None
    assert _fewest_labels([(0.3, 0.005, 0.085, np.inf)], runs=5, items=100) == 101
