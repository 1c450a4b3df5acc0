"""The verdict follows from the intervals, errs as seldom as it says, and what it advises would decide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import make_figures

from hf_recipes.analysis.verdict import GOLD_NOT_LEARNT, LATER_LEVEL, NO_INTERVALS, decide
from hf_recipes.metric_loading import load_metric
from hf_recipes.recipe import Accept

RULE = Accept(macro_f1_loss=0.02, churn=0.03, min_class_f1=0.6)


def variance(error=0.01, parts=(0.5, 0.5, 0.0), freedom=(9.0, 499.0)):
    """Return a variance of the square of `error`, in these parts over runs, texts and both."""
    runs, items, both = np.array(parts) / sum(parts) * error**2
    return {"runs": runs, "items": items, "both": both, "run_freedom": freedom[0], "item_freedom": freedom[1]}


def bounds(value, parts, level):
    return load_metric("instability_comparison").variance(**parts).interval(value, level)


def make_results(loss=0.0, churn=0.0, f1=(0.8,), error=0.005, class_error=0.02, runs=10, **more):
    """Return figures with these values and standard errors."""
    pairs = (("macro_f1", -loss, error), ("pairwise_disagreement", churn, more.pop("churn_error", error)))
    parts = more.pop("parts", (0.5, 0.5, 0.0))
    comparisons = [
        {"variant": "llm", "against": "gold", "size": 100, "figure": figure, "R": runs, "n": 500}
        | {"difference": value, "variance": variance(size, parts, (2 * (runs - 1), 499))}
        for figure, value, size in pairs
    ]
    sizes = more.pop("class_sizes", [100] * len(f1))
    class_f1 = [
        {"name": f"c{k}", "n": n, "value": value, "variance": variance(class_error, (0.1, 0.9, 0), (9.0, n - 1.0))}
        for k, (value, n) in enumerate(zip(f1, sizes, strict=True))
    ]
    variants = [
        {"variant": name, "size": 100, "n_gold": 500, "above_chance": more.get("gold_learnt", True) or name == "llm"}
        for name in ("gold", "llm")
    ]
    more.pop("gold_learnt", None)
    names = [entry["name"] for entry in class_f1]
    fields = {"variants": variants, "comparisons": comparisons, "class_f1": class_f1, "label_names": names}
    return make_figures(fields | {"R": runs, "n": 500, "looks": [[runs, 500]]} | more)


VALUES = st.floats(-0.3, 0.3)
ERRORS = st.floats(0.001, 0.1)


@given(VALUES, VALUES, st.lists(st.floats(0.2, 0.95), min_size=1, max_size=5), ERRORS, ERRORS, ERRORS, st.booleans())
def test_it_ships_only_where_every_interval_is_on_the_good_side_and_not_where_one_is_clearly_on_the_bad(
    loss, churn, f1, error, churn_error, class_error, is_later
):
    looks = [[5, 500], [10, 500]] if is_later else [[10, 500]]
    found = decide(make_results(loss, churn, f1, error, class_error, churn_error=churn_error, looks=looks), RULE)
    level = 0.99 if is_later else 0.95
    fail_level = 1 - (1 - level) / 3
    of_loss, of_churn = variance(error, freedom=(18, 499)), variance(churn_error, freedom=(18, 499))
    of_class = variance(class_error, (0.1, 0.9, 0), (9, 99))
    good = [
        bounds(loss, of_loss, level)[1] < 0.02,
        bounds(churn, of_churn, level)[1] < 0.03,
        min(bounds(value, of_class, level)[0] for value in f1) > 0.6,
    ]
    class_level = 1 - (1 - fail_level) / len(f1)
    bad = [
        bounds(loss, of_loss, fail_level)[0] > 0.02,
        bounds(churn, of_churn, fail_level)[0] > 0.03,
        min(bounds(value, of_class, class_level)[1] for value in f1) < 0.6,
    ]
    assert found.level == level
    assert (found.decision == "ship within limits") == all(good)
    assert (found.decision == "do not ship") == any(bad)
    assert [criterion.status for criterion in found.criteria] == [
        "holds" if holds else "fails" if fails else "inconclusive" for holds, fails in zip(good, bad, strict=True)
    ]
    certified = [criterion.bound for criterion in found.criteria]
    lowest = max(min(bounds(value, of_class, level)[0] for value in f1), 0)
    assert certified == pytest.approx([bounds(loss, of_loss, level)[1], bounds(churn, of_churn, level)[1], lowest])


def test_what_a_study_certifies_holds_and_anything_tighter_does_not():
    figures = make_results(loss=0.03, churn=0.01, f1=(0.7,))
    first = decide(figures, RULE)
    loss, churn, class_f1 = (criterion.bound for criterion in first.criteria)
    wider = Accept(macro_f1_loss=loss + 1e-6, churn=churn + 1e-6, min_class_f1=class_f1 - 1e-6)
    tighter = Accept(macro_f1_loss=loss - 1e-6, churn=churn - 1e-6, min_class_f1=class_f1 + 1e-6)
    assert decide(figures, wider).decision == "ship within limits"
    assert {criterion.status for criterion in decide(figures, tighter).criteria} == {"inconclusive"}


def test_the_class_that_decides_is_named():
    uncertain = make_results(f1=(0.7, 0.71), class_sizes=[400, 4])
    assert decide(uncertain, RULE).worst_class == "c1"  # the better one may be the worse
    clear = make_results(f1=(0.3, 0.2, 0.9), class_sizes=[400, 3, 400])
    found = decide(clear, RULE)
    assert (found.decision, found.worst_class) == ("do not ship", "c1")  # the lowest of those that fail


@pytest.mark.parametrize("classes", [2, 10])
def test_the_limit_on_classes_errs_as_seldom_as_it_says(classes):
    """Simulated: all classes exactly at the limit, or one of them at it and all others far above."""
    rng = np.random.default_rng(0)
    held = failed = 0
    for _ in range(1000):
        f1 = rng.normal(0.6, 0.05, classes)
        failed += decide(make_results(f1=f1, class_error=0.05), RULE).criteria[2].status == "fails"
        near = [rng.normal(0.6, 0.05), *[0.95] * (classes - 1)]
        held += decide(make_results(f1=near, class_error=0.05), RULE).criteria[2].status == "holds"
    assert held / 1000 < 0.025 + 3 * np.sqrt(0.025 * 0.975 / 1000)
    assert failed / 1000 < 0.025 / 3 + 3 * np.sqrt(0.025 * 0.975 / 1000)


def test_three_limits_together_are_refused_no_more_often_than_one():
    """All truths are at the limits, which is where an error is most likely."""
    rng, refused, num_studies = np.random.default_rng(0), 0, 2000
    for _ in range(num_studies):
        loss, churn = rng.normal(0.02, 0.005), rng.normal(0.03, 0.005)
        figures = make_results(loss, churn, f1=(rng.normal(0.6, 0.02),))
        refused += decide(figures, RULE).decision == "do not ship"
    assert refused / num_studies < 0.025 + 3 * np.sqrt(0.025 * 0.975 / num_studies)


def test_adding_seeds_until_a_limit_holds_seldom_errs():
    """Looks at 3, 5, 10 and 20 seeds; the true loss is the limit."""
    rng, studies, module = np.random.default_rng(0), 3000, load_metric("instability_comparison")
    errors = {"all at 95%": 0, "later at 99%": 0}
    for _ in range(studies):
        by_run, by_text = rng.normal(0.02, 0.02, (2, 20)), rng.normal(0, 0.004)
        found = dict.fromkeys(errors, False)
        for look, runs in enumerate((3, 5, 10, 20)):
            first, second = by_run[:, :runs]
            parts = {"runs": (first.var(ddof=1) + second.var(ddof=1)) / runs, "items": 0.004**2, "both": 0.0}
            error = module.variance(**parts, run_freedom=2 * (runs - 1), item_freedom=499)
            estimate = 0.02 + first.mean() - second.mean() + by_text
            found["all at 95%"] |= error.interval(estimate, 0.95)[1] < 0.02
            found["later at 99%"] |= error.interval(estimate, LATER_LEVEL if look else 0.95)[1] < 0.02
        for name, is_error in found.items():
            errors[name] += is_error
    assert errors["all at 95%"] / studies > 0.04
    assert errors["later at 99%"] / studies < 0.035


@pytest.mark.parametrize("open_limits", [1, 2])
@pytest.mark.parametrize("parts", [(0.1, 0.9, 0.0), (0.9, 0.1, 0.0), (0.3, 0.3, 0.4)])
def test_what_it_advises_decides_all_that_is_open(open_limits, parts):
    """The oracle: simulated studies of that size, with the intervals of studies."""
    figures = make_results(
        loss=0.0, churn=0.005, f1=(0.9,), error=0.015, churn_error=0.015 if open_limits == 2 else 0.003, parts=parts
    )
    found = decide(figures, RULE)
    assert [criterion.status for criterion in found.criteria].count("inconclusive") == open_limits
    advice, module = found.advice, load_metric("instability_comparison")
    assert (advice.seeds, advice.test_texts) != (10, 500)
    assert advice.power >= 0.8
    rng, decided, studies = np.random.default_rng(0), 0, 4000
    of_study = module.variance(**variance(0.015, parts, (18, 499))).scaled(advice.seeds / 10, advice.test_texts / 500)
    for _ in range(studies):
        is_decided = True
        for value, limit in ((0.0, 0.02), (0.005, 0.03))[:open_limits]:
            over_runs = of_study.runs + of_study.both
            observed = over_runs * rng.chisquare(of_study.run_freedom) / of_study.run_freedom
            error = module.variance(
                runs=max(observed - of_study.both, 0),
                items=of_study.items,
                both=of_study.both,
                run_freedom=of_study.run_freedom,
                item_freedom=of_study.item_freedom,
            )
            estimate = rng.normal(value, np.sqrt(of_study.total))
            is_decided &= error.interval(estimate, LATER_LEVEL)[1] < limit
        decided += is_decided
    assert decided / studies == pytest.approx(advice.power, abs=0.04)


def test_the_advice_is_the_cheapest_pair():
    figures = make_results(error=0.015, churn_error=0.015, f1=(0.9,), parts=(0.5, 0.5, 0.0))
    cheap_seeds = decide(figures.model_copy(update={"hours_per_seed": 0.001}), RULE).advice
    cheap_texts = decide(figures.model_copy(update={"hours_per_seed": 10.0}), RULE).advice
    assert cheap_seeds.seeds > cheap_texts.seeds
    assert cheap_seeds.test_texts < cheap_texts.test_texts
    assert cheap_texts.hours == pytest.approx(
        10 * (cheap_texts.seeds - 10) + (cheap_texts.test_texts - 500) * 20 / 3600
    )


def test_it_says_where_no_affordable_study_decides():
    on_the_limit = decide(make_results(loss=0.02, error=0.01), RULE)
    assert (on_the_limit.decision, on_the_limit.advice) == ("inconclusive", None)
    assert on_the_limit.criteria[0].bound == pytest.approx(0.041, abs=0.001)


def test_where_nothing_can_be_compared_it_says_why_and_a_failing_class_is_not_hidden():
    found = decide(make_results(gold_learnt=False, f1=(0.9,)), RULE)
    assert (found.decision, found.advice, found.reason) == ("inconclusive", None, GOLD_NOT_LEARNT)
    assert decide(make_results(gold_learnt=False, f1=(0.1,)), RULE).decision == "do not ship"
    two = make_results(runs=2)
    without = [comparison.model_copy(update={"variance": None}) for comparison in two.comparisons]
    found = decide(two.model_copy(update={"comparisons": without}), RULE)
    assert (found.decision, found.reason) == ("inconclusive", NO_INTERVALS)
    assert [criterion.interval for criterion in found.criteria] == [None] * 3
    assert decide(make_results(runs=2, f1=(0.9, 0.1)), RULE).worst_class == "c1"
    no_limit = Accept(macro_f1_loss=0.5, churn=0.5, min_class_f1=0)
    assert decide(make_results(f1=(0.0, 0.0)), no_limit).decision == "ship within limits"
