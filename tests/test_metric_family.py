"""The modules for probabilities, learning curves and comparisons, and what all modules share."""

import importlib.util
import itertools
import json
import re
import shutil
import subprocess
import sys

import evaluate
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss

from hf_recipes.hub.spaces import metric_files

#: LlamBERT's IMDb curves of roberta-large (Csanady et al. 2024; Lu & Smith's figure 1): size, mean and error bar.
SIZES = [200, 400, 800, 1600, 3200, 6400, 12800, 25000]
GOLD = [94.072, 94.378, 94.764, 95.212, 95.488, 95.864, 96.172, 96.576]
GOLD_BAR = [0.514, 0.517, 0.288, 0.349, 0.057, 0.098, 0.050, 0.191]
LLM = [94.032, 94.082, 94.332, 94.440, 94.738, 94.802, 94.846, 94.774]
LLM_BAR = [0.279, 0.367, 0.447, 0.306, 0.102, 0.069, 0.069, 0.040]


def load(name, **kwargs):
    return evaluate.load(str(ROOT / "metrics" / name), keep_in_memory=True, **kwargs)


@pytest.fixture(scope="module")
def divergence():
    return load("seed_divergence")


@pytest.fixture(scope="module")
def plateau():
    return load("learning_plateau")


@pytest.fixture(scope="module")
def comparison():
    return load("instability_comparison")


def runs_of(means, bars, runs=5):
    """Scores with just these means and standard deviations."""
    spread = stats.zscore(np.arange(runs), ddof=1)
    random = np.random.default_rng(0)
    return [(mean + bar * random.permutation(spread)) / 100 for mean, bar in zip(means, bars, strict=True)]


def variants(runs=4, items=300, seed=0, skills=(0.7, 0.6), classes=3):
    random = np.random.default_rng(seed)
    gold = random.choice(classes, p=[0.6, 0.3, 0.1], size=items)
    hard = random.random(items)
    found = []
    for skill in skills:
        right = random.random((runs, items)) < skill + 0.6 * (hard - 0.5)
        found.append(np.where(right, gold, random.integers(classes, size=(runs, items))))
    return gold, found


# ------------------------------------------------------------------------------------------------ seed_divergence


@given(st.integers(2, 5), st.integers(1, 8), st.integers(2, 4), st.integers(0, 99))
def test_divergence_is_what_scipy_and_scikit_learn_say(divergence, runs, items, classes, seed):
    random = np.random.default_rng(seed)
    probs = random.dirichlet(np.full(classes, 0.4), size=(runs, items))
    gold = random.integers(classes, size=items)
    result = divergence.compute(predictions=probs, references=gold, return_items=True)
    pairs = list(itertools.combinations(range(runs), 2))
    items_js = np.mean([jensenshannon(probs[r], probs[s], axis=1) ** 2 for r, s in pairs], axis=0)
    assert result["item_js_divergence"] == pytest.approx(items_js, abs=1e-9)
    assert result["js_divergence"] == pytest.approx(items_js.mean(), abs=1e-9)
    variation = [0.5 * np.abs(probs[r] - probs[s]).sum(axis=1).mean() for r, s in pairs]
    assert result["total_variation"] == pytest.approx(np.mean(variation))
    mean = probs.mean(axis=0)
    information = stats.entropy(mean, axis=1).mean() - stats.entropy(probs, axis=2).mean()
    assert result["mutual_information"] == pytest.approx(max(information, 0), abs=1e-9)
    labels = list(range(classes))
    each = [log_loss(gold, run, labels=labels) for run in probs]
    assert result["nll"] == pytest.approx(each)
    assert result["ensemble_nll"] == pytest.approx(log_loss(gold, mean, labels=labels))
    assert result["nll_gain"] == pytest.approx(np.mean(each) - log_loss(gold, mean, labels=labels))
    assert result["nll_gain"] >= -1e-12
    assert result["ensemble_brier"] == pytest.approx(brier_score_loss(gold, mean, labels=labels, scale_by_half=False))
    accuracy = [accuracy_score(gold, run.argmax(axis=1)) for run in probs]
    assert result["accuracy"] == pytest.approx(accuracy)
    gain = accuracy_score(gold, mean.argmax(axis=1)) - np.mean(accuracy)
    assert result["accuracy_gain"] == pytest.approx(gain)
    assert 0 <= result["ensemble_ece"] <= 1
    if runs == 2:  # two runs' mutual information is their Jensen-Shannon divergence
        assert result["mutual_information"] == pytest.approx(result["js_divergence"], abs=1e-9)


def test_runs_that_agree_do_not_diverge_and_calibration_is_found(divergence):
    probs = np.tile([[0.75, 0.25]], (3, 400, 1))
    gold = np.repeat([0, 1], [300, 100])  # right three times in four, as it says
    result = divergence.compute(predictions=probs, references=gold)
    assert result["js_divergence"] == result["total_variation"] == result["mutual_information"] == 0
    assert result["ece"] == pytest.approx([0, 0, 0])
    assert divergence.compute(predictions=probs, references=1 - gold)["ensemble_ece"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("predictions", "references", "part"),
    [
        ([[[0.9, 0.3]], [[0.5, 0.5]]], None, r"sum 1.2 and lowest 0.3 at \[0, 0\]"),
        ([[[0.5, 0.5]], [[1.5, -0.5]]], None, r"lowest -0.5 at \[1, 0\]"),
        ([[[0.5, float("nan")]], [[0.5, 0.5]]], None, r"at \[0, 0\]"),
        ([[[0.5, 0.5]]], None, "at least 2 runs"),
        ([[[0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]], None, "rows of equal length"),
        ([[0, 1], [1, 1]], None, "shape R runs x n items x K"),
        ([[[0.5, 0.5]], [[0.5, 0.5]]], [2], "class indices from 0 to 1. Got 2"),
        ([[[0.5, 0.5]], [[0.5, 0.5]]], [0, 1], "`references` must have the shape R runs x 1"),
        ([[[0.5, 0.5]], [[0.5, 0.5]]], [0.5], "must be class indices. Got 0.5"),
    ],
)
def test_what_is_wrong_with_probabilities_is_named(divergence, predictions, references, part):
    with pytest.raises(ValueError, match=part):
        divergence.compute(predictions=predictions, references=references)


# ----------------------------------------------------------------------------------------------- learning_plateau


def test_llamberts_llm_labels_plateau_early_and_its_gold_labels_do_not(plateau):
    llm, gold = runs_of(LLM, LLM_BAR), runs_of(GOLD, GOLD_BAR)
    result = plateau.compute(sizes=SIZES, scores=llm, against=gold, delta=0.002, asymptote=True)
    assert result["verdict"] == "plateau"
    assert result["against_verdict"] == "gains"
    assert result["premature_plateau"] == "yes"
    assert result["gain_difference_interval"][0] > 0
    assert result["asymptote_status"] == "identified"
    low, high = result["asymptote_interval"]
    assert low < 0.948 < high
    assert high < 0.96
    of_gold = plateau.compute(sizes=SIZES, scores=gold, delta=0.002, asymptote=True)
    assert of_gold["asymptote_status"] == "not identified: the error may go on falling to 0"
    assert np.isnan(of_gold["asymptote"])
    other_way = plateau.compute(sizes=SIZES, scores=gold, against=llm, delta=0.002)
    assert other_way["premature_plateau"] == "no"


def test_the_gain_and_its_interval_are_those_of_a_t_test_and_order_does_not_matter(plateau):
    random = np.random.default_rng(0)
    scores = random.normal(0.7, 0.02, (4, 6)) + np.arange(4)[:, None] / 100
    sizes = [100, 250, 500, 1000]
    result = plateau.compute(sizes=sizes, scores=scores)
    expected = stats.ttest_rel(scores[3], scores[2]).confidence_interval()
    assert result["gain_interval"] == pytest.approx(expected)
    order = [2, 0, 3, 1]
    assert plateau.compute(sizes=np.array(sizes)[order], scores=scores[order]) == result
    wider = plateau.compute(sizes=sizes, scores=scores, item_se=0.05)["gain_interval"]
    assert wider[0] < expected.low
    assert wider[1] > expected.high


def test_half_the_largest_size_is_interpolated_where_it_was_not_run(plateau):
    line = np.log2([100, 300, 900])[:, None] * 0.01 + np.array([0.5, 0.6, 0.7])
    result = plateau.compute(sizes=[100, 300, 900], scores=line)
    assert result["gain"] == pytest.approx(0.01)
    assert result["last_doubling"] == [450, 900]


def test_not_significant_is_no_plateau(plateau):
    noisy = [[0.60, 0.80, 0.70], [0.80, 0.60, 0.70]]
    assert plateau.compute(sizes=[100, 200], scores=noisy)["verdict"] == "inconclusive"
    flat = [[0.700, 0.701, 0.702], [0.701, 0.702, 0.703]]
    assert plateau.compute(sizes=[100, 200], scores=flat, delta=0.005)["verdict"] == "plateau"
    two = plateau.compute(sizes=[100, 200], scores=[[0.7, 0.7], [0.7, 0.7]])
    assert two["verdict"] == "inconclusive"
    assert np.isnan(two["gain_interval"]).all()


@pytest.mark.parametrize(
    ("sizes", "scores", "kwargs", "part"),
    [
        ([100], [[0.1, 0.2]], {}, "differ and span a doubling"),
        ([100, 100], [[0.1, 0.2]] * 2, {}, "differ and span a doubling"),
        ([100, 150], [[0.1, 0.2]] * 2, {}, "differ and span a doubling"),
        ([100, 200], [[0.1, 0.2], [0.1]], {}, "rows of equal length"),
        ([100, 200], [[0.1], [0.2]], {}, "at least 2 runs"),
        ([100, 200], [[0.1, float("nan")], [0.1, 0.2]], {}, "must be finite"),
        ([100, 200], [[0.1, 0.2]] * 3, {}, "`scores` must have the shape 2 x R runs"),
        ([0, 200], [[0.1, 0.2]] * 2, {}, "whole numbers from 1"),
        ([100, 200], [[0.1, 0.2]] * 2, {"delta": 0}, "above 0"),
        ([100, 200], [[0.1, 0.2]] * 2, {"against": [[0.1], [0.1]]}, "`against` must have the shape 2 x 2"),
    ],
)
def test_what_is_wrong_with_a_curve_is_named(plateau, sizes, scores, kwargs, part):
    with pytest.raises(ValueError, match=part):
        plateau.compute(sizes=sizes, scores=scores, **kwargs)


def test_an_asymptote_that_is_there_is_found(plateau):
    sizes = 125 * 2 ** np.arange(8)
    random = np.random.default_rng(0)
    law = 0.88 - 2 * sizes**-0.6
    scores = law[:, None] + random.normal(0, 0.003, (8, 10))
    result = plateau.compute(sizes=sizes, scores=scores, asymptote=True)
    low, high = result["asymptote_interval"]
    assert low < 0.88 < high
    assert high - low < 0.05
    assert plateau.compute(sizes=sizes[:6], scores=scores[:6], asymptote=True)["asymptote_status"].startswith("needs 7")
    broken = scores.copy()
    broken[-1] -= 0.2
    status = plateau.compute(sizes=sizes, scores=broken, asymptote=True)["asymptote_status"]
    assert status == "the power law fails on the largest size"


# ----------------------------------------------------------------------------------------- instability_comparison


def test_a_comparison_is_the_difference_of_the_variants_own_figures(comparison):
    gold, (one, two) = variants()
    result = comparison.compute(predictions1=one, predictions2=two, references=gold)
    own = [
        load("seed_scores").compute(predictions=variant, references=gold, return_items=True) for variant in (one, two)
    ]
    stable = [load("seed_instability").compute(predictions=variant, references=gold) for variant in (one, two)]
    for name in ("accuracy", "macro_f1"):
        assert result[f"{name}_difference"] == pytest.approx(own[0][f"{name}_mean"] - own[1][f"{name}_mean"])
        parts = result[f"{name}_variance"]
        welch = stats.ttest_ind(own[0][f"{name}_runs"], own[1][f"{name}_runs"], equal_var=False)
        assert parts["run_freedom"] == pytest.approx(welch.df)
        variances = np.square([each[f"{name}_sd"] for each in own]) / 4
        assert parts["runs"] == pytest.approx(max(variances.sum() - parts["both"], 0))  # runs that are uncorrelated
        moves = np.subtract(own[0][f"{name}_influence"], own[1][f"{name}_influence"])
        assert parts["items"] + parts["both"] == pytest.approx((moves**2).sum(), rel=0.01)
        assert result[f"{name}_spread_ratio"] == pytest.approx(own[0][f"{name}_sd"] / own[1][f"{name}_sd"])
        brown = stats.levene(own[0][f"{name}_runs"], own[1][f"{name}_runs"], center="median").pvalue
        assert result[f"{name}_spread_p_value"] == pytest.approx(brown)
        assert result[f"{name}_spread_verdict"] == "inconclusive"
    difference = stable[0]["pairwise_disagreement"] - stable[1]["pairwise_disagreement"]
    assert result["pairwise_disagreement_difference"] == pytest.approx(difference)
    jackknife = sum(3 * np.var(each["leave_one_out"]) for each in stable)
    parts = result["pairwise_disagreement_variance"]
    assert parts["runs"] == pytest.approx(max(jackknife - parts["both"], 0))
    swapped = comparison.compute(predictions1=two, predictions2=one, references=gold)
    for figure in ("accuracy", "macro_f1", "pairwise_disagreement"):
        assert swapped[f"{figure}_difference"] == pytest.approx(-result[f"{figure}_difference"])
        assert swapped[f"{figure}_p_value"] == pytest.approx(result[f"{figure}_p_value"])


def test_a_variant_against_itself_is_no_different(comparison):
    gold, (one, _) = variants()
    result = comparison.compute(predictions1=one, predictions2=one, references=gold, paired=True)
    for figure in ("accuracy", "macro_f1", "pairwise_disagreement"):
        low, high = result[f"{figure}_interval"]
        assert 0 < high == -low < 0.04
        assert result[f"{figure}_p_value"] == 1
        assert result[f"{figure}_verdict"] == "inconclusive"


def test_an_interval_is_as_wide_as_the_spread_of_many_studies(comparison):
    results, widths = {"accuracy": [], "macro_f1": [], "pairwise_disagreement": []}, {}
    for seed in range(300):
        gold, (one, two) = variants(runs=10, items=150, seed=seed)
        result = comparison.compute(predictions1=one, predictions2=two, references=gold, num_classes=3)
        for figure, values in results.items():
            values.append(result[f"{figure}_difference"])
            widths.setdefault(figure, []).append(np.diff(result[f"{figure}_interval"])[0])
    for figure, values in results.items():
        assert np.mean(widths[figure]) == pytest.approx(2 * 1.97 * np.std(values), rel=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_the_variance_of_a_mean_is_that_of_crossed_random_effects(comparison, seed):
    """The oracle: sums of squares by regression. (MS_runs + MS_items - MS_residual) / (R n) is unbiased."""
    gold, (predictions, _) = variants(runs=6, items=40, seed=seed)
    right = (predictions == gold).ravel() * 1.0
    run, item = np.divmod(np.arange(240), 40)
    by_run, by_item, constant = np.eye(6)[run], np.eye(40)[item], np.ones((240, 1))

    def residual(*columns):
        design = np.hstack([constant, *columns])
        return np.square(right - design @ np.linalg.lstsq(design, right, rcond=None)[0]).sum()

    both = residual(by_run, by_item) / (5 * 39) / 240
    over_runs, over_items = (residual() - residual(by_run)) / 5 / 240, (residual() - residual(by_item)) / 39 / 240
    scores = load("seed_scores").compute(predictions=predictions, references=gold)
    low, high = scores["accuracy_mean_interval"]
    variance = max(over_runs - both, 0) + over_items
    freedom = 1 / (1 / (5 * max(variance / max(over_runs, both), 1)) + 1 / 39)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, freedom) * np.sqrt(variance))


@given(*[st.floats(1e-6, 1e-2)] * 3, st.floats(2, 40), st.floats(2, 999), st.floats(-1, 1), st.floats(-0.3, 0.3))
def test_an_interval_leaves_out_zero_where_its_p_value_says_so(
    comparison, runs, items, both, run_freedom, item_freedom, skew, value
):
    variance = comparison.variance(
        runs=runs, items=items, both=both, run_freedom=run_freedom, item_freedom=item_freedom, skew=skew
    )
    for level in (0.5, 0.95, 0.99):
        low, high = variance.interval(value, level)
        p_value = variance.p_value(value)
        if abs(p_value - (1 - level)) > 1e-6:
            assert (low > 0 or high < 0) == (p_value < 1 - level)


def test_more_runs_and_items_shrink_the_parts_that_they_average(comparison):
    parts = {"runs": 4e-4, "items": 2e-4, "both": 1e-4, "run_freedom": 18.0, "item_freedom": 499.0}
    variance = comparison.variance(**parts)
    assert variance.scaled(runs=4).total == pytest.approx(1e-4 + 2e-4 + 0.25e-4)
    assert variance.scaled(items=2).total == pytest.approx(4e-4 + 1e-4 + 0.5e-4)
    # The third cumulant of a mean over runs falls with the square of their number, whatever the texts do.
    skewed = comparison.variance(**parts, skew=0.5)
    for runs, items in ((4, 1), (1, 10), (4, 10)):
        larger = skewed.scaled(runs=runs, items=items)
        assert larger.skew * larger.total**1.5 == pytest.approx(0.5 * skewed.total**1.5 / runs**2)
    rng, distance = np.random.default_rng(0), 0.08
    estimates = rng.normal(distance, np.sqrt(variance.total), 20_000)
    errors = np.sqrt(variance.total * rng.chisquare(variance.freedom, 20_000) / variance.freedom)
    found = (estimates / errors > stats.t.ppf(0.975, variance.freedom)).mean()
    assert variance.power(distance, 0.95) == pytest.approx(found, abs=0.01)


def test_what_is_detectable_is_found_in_four_studies_of_five(comparison):
    gold, (one, two) = variants(runs=6, items=300)
    result = comparison.compute(predictions1=one, predictions2=two, references=gold)
    for figure in ("macro_f1", "pairwise_disagreement"):
        variance = comparison.variance(**result[f"{figure}_variance"] | {"skew": 0.5})
        module = sys.modules[type(comparison).__module__]
        assert variance.power(module._detectable(variance, 0.95), 0.95) == pytest.approx(0.8, abs=0.03)


def test_runs_of_one_seed_are_paired_where_they_are_correlated(comparison):
    """The oracle: t tests of scipy, over so many items that runs alone vary."""
    gold, (one, two) = variants(runs=8, items=20_000, skills=(0.7, 0.7))
    right = np.random.default_rng(0).random((8, 20_000)) < np.linspace(0.6, 0.8, 8)[:, None]
    one, two = (np.where(right, gold, labels) for labels in (one, two))
    both = {"predictions1": one, "predictions2": two, "references": gold}
    scores = [(labels == gold).mean(axis=1) for labels in (one, two)]
    for paired, test in ((True, stats.ttest_rel(*scores)), (False, stats.ttest_ind(*scores, equal_var=False))):
        result = comparison.compute(**both, paired=paired)["accuracy_variance"]
        assert result["run_freedom"] == pytest.approx(test.df)
        deviations = np.square(np.mean(scores[0] - scores[1]) / test.statistic)
        assert max(deviations - result["both"], 0) == pytest.approx(result["runs"])


def test_a_class_in_few_clusters_is_not_well_known():
    rng, held = np.random.default_rng(0), 0
    clusters = np.repeat(np.arange(40), 25)
    for _ in range(200):
        gold = (clusters < 3).astype(int)
        skill = np.clip(0.6 + rng.normal(0, 0.25, 40), 0, 1)[clusters]
        labels = np.where(gold == 1, rng.random((5, 1000)) < skill, 0) * 1
        scores = load("seed_scores").compute(predictions=labels, references=gold, clusters=clusters)
        assert scores["per_class_f1_variance"][1]["item_freedom"] == 2
        low, high = scores["per_class_f1_mean_interval"][1]
        held += low <= 0.745 <= high  # 2 x .595 / (1 + .595), as the mean of a clipped normal is .595
    assert held / 200 > 0.9


def test_one_cluster_decides_nothing(comparison):
    gold, (one, two) = variants()
    result = comparison.compute(predictions1=one, predictions2=two, references=gold, clusters=["a"] * 300)
    assert result["accuracy_interval"] == [-1, 1]


def test_a_class_that_not_all_runs_saw_does_not_count(comparison):
    gold, (one, two) = variants(runs=5, items=200)
    with_rare = np.append(gold, 3)
    hidden = [np.hstack([labels, np.array([[3], [-1], [3], [3], [3]])]) for labels in (one, two)]
    rare = comparison.compute(predictions1=hidden[0], predictions2=hidden[1], references=with_rare)
    without = comparison.compute(predictions1=one, predictions2=two, references=gold)
    assert rare["macro_f1_difference"] == pytest.approx(without["macro_f1_difference"], abs=1e-3)


def test_items_that_a_run_did_not_see_do_not_count(comparison):
    gold, pair = variants(runs=5, items=200)
    is_hidden = np.random.default_rng(1).random((5, 200)) < 0.3
    one, two = (np.where(is_hidden, -1, predictions) for predictions in pair)
    result = comparison.compute(predictions1=one, predictions2=two, references=gold, num_classes=3)
    for number, predictions in ((1, one), (2, two)):
        seen = [np.flatnonzero(run >= 0) for run in predictions]
        accuracy = [accuracy_score(gold[at], run[at]) for run, at in zip(predictions, seen, strict=True)]
        assert result[f"accuracy_{number}"] == pytest.approx(np.mean(accuracy))
        f1 = [f1_score(gold[at], run[at], average="macro") for run, at in zip(predictions, seen, strict=True)]
        assert result[f"macro_f1_{number}"] == pytest.approx(np.mean(f1))
        pairs = [list(itertools.combinations(item[item >= 0], 2)) for item in predictions.T]
        by_item = np.array([np.mean([x != y for x, y in of_item]) if of_item else np.nan for of_item in pairs])
        by_run = [np.nanmean(by_item[at]) for at in seen]
        assert result[f"pairwise_disagreement_{number}"] == pytest.approx(np.mean(by_run), abs=0.002)
    scores = load("seed_scores").compute(predictions=one, references=gold)
    assert scores["macro_f1_mean"] == result["macro_f1_1"]
    with pytest.raises(ValueError, match="`predictions2` must have -1 where"):
        comparison.compute(predictions1=one, predictions2=pair[1], references=gold)


def test_hidden_items_narrow_the_interval_as_much_as_they_should(comparison):
    """Out-of-bag texts: each is hidden from one run in three. The spread of many studies is the oracle."""
    differences, widths = {}, {}
    for seed in range(300):
        gold, (one, two) = variants(runs=10, items=300, seed=seed)
        is_hidden = np.random.default_rng(seed).random((10, 300)) < 0.33
        is_hidden[:, :60] = False
        one, two = (np.where(is_hidden, -1, predictions) for predictions in (one, two))
        result = comparison.compute(predictions1=one, predictions2=two, references=gold)
        for figure in ("accuracy", "macro_f1", "pairwise_disagreement"):
            differences.setdefault(figure, []).append(result[f"{figure}_difference"])
            variance = comparison.variance(**result[f"{figure}_variance"])
            widths.setdefault(figure, []).append(variance.total)
    for figure, values in differences.items():
        assert 0.95 < np.sqrt(np.mean(widths[figure])) / np.std(values) < 1.2


@given(st.integers(3, 5), st.integers(4, 9), st.integers(2, 3), st.integers(0, 99))
def test_copies_of_items_add_nothing_if_they_are_one_cluster(comparison, runs, items, copies, seed):
    random = np.random.default_rng(seed)
    gold, one, two = random.integers(3, size=items), *random.integers(3, size=(2, runs, items))
    again, clusters = np.repeat(np.arange(items), copies), np.repeat([f"d{i}" for i in range(items)], copies)
    modules = {
        comparison: {"predictions1": one, "predictions2": two},
        load("seed_scores"): {"predictions": one},
        load("seed_instability"): {"predictions": one},
        load("seed_divergence"): {"predictions": random.dirichlet([1, 1, 1], size=(runs, items))},
    }
    for module, inputs in modules.items():
        options = {} if "divergence" in module.name else {"num_classes": 3}
        whole = module.compute(**inputs, references=gold, **options)
        repeated = {name: values[:, again] for name, values in inputs.items()}
        copied = module.compute(**repeated, references=gold[again], clusters=clusters, **options)
        names = {name for name in whole if name.endswith("_interval") and "per_class" not in name}
        # These depend on the number of labels, or are not of a mean over runs and items.
        names -= {"krippendorff_alpha_interval", "unanimity_interval", "accuracy_distribution_variance_interval"}
        for name in names:
            assert copied[name] == pytest.approx(whole[name], nan_ok=True, abs=1e-9), name


def test_at_equal_accuracy_a_weaker_variant_is_set_against_the_same_strength(comparison):
    gold, (weak, *ladder) = variants(runs=6, items=2000, skills=(0.6, 0.55, 0.65, 0.9))
    result = comparison.compute(predictions1=weak, predictions2=ladder[2], references=gold, ladder=ladder)
    assert result["pairwise_disagreement_verdict"] == "higher"  # weaker students disagree more
    same = result["iso_accuracy"]
    assert same["status"] == "ok"
    assert same["sizes"] == [0, 1]
    assert same["verdict"] == "inconclusive"
    assert same["accuracy"] == pytest.approx(result["accuracy_1"])
    figures = [
        load("seed_instability").compute(predictions=variant)["pairwise_disagreement"]
        for variant in (ladder[0], ladder[1])
    ]
    assert min(figures) <= same["pairwise_disagreement2"] <= max(figures)
    none = comparison.compute(predictions1=ladder[2], predictions2=weak, references=gold, ladder=[ladder[0], weak])
    assert none["iso_accuracy"]["status"] == "no overlap"
    # Disagreement is not linear in accuracy between distant sizes.
    far = comparison.compute(predictions1=weak, predictions2=weak, references=gold, ladder=[ladder[0], ladder[2]])
    assert far["iso_accuracy"]["status"] == "gap"
    assert far["iso_accuracy"]["gap"] > 0.1


def test_the_iso_interval_is_that_of_a_jackknife_by_hand(comparison):
    """The part over runs, with every run left out of all variants in turn; many items, so that theirs is small."""
    gold, (variant, low, high) = variants(runs=5, items=4000, skills=(0.6, 0.55, 0.65))
    module = sys.modules[type(comparison).__module__]

    def compare(keep):
        clusters = np.arange(4000)
        variants = [module._figures(predictions[keep], gold, clusters) for predictions in (variant, low, high)]
        return module._iso_accuracy(variants[0], variants[1:], 0.95)

    every = list(range(5))
    without = np.array([compare([r for r in every if r != left])["difference"] for left in every])
    spread = 4 / 5 * ((without - without.mean()) ** 2).sum()
    found = compare(every)
    half = (found["interval"][1] - found["interval"][0]) / 2
    assert half > 1.96 * np.sqrt(spread)
    assert half < 3 * np.sqrt(spread + 0.004**2)


def test_holm_is_holm(comparison):
    assert comparison.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert comparison.holm([0.5, 0.9]) == [1.0, 1.0]
    with_nan = comparison.holm([0.01, float("nan"), 0.02])
    assert with_nan[::2] == pytest.approx([0.03, 0.04])
    assert np.isnan(with_nan[1])
    with pytest.raises(ValueError, match="numbers in"):
        comparison.holm([0.1, 1.2])


def test_runs_needed_find_what_fewer_do_not(comparison):
    gold, (one, two) = variants(runs=10, items=2000)
    result = comparison.compute(predictions1=one, predictions2=two, references=gold, delta=0.03)
    detectable, needed = result["accuracy_detectable"], result["accuracy_runs_needed"]
    assert (needed <= 10) == (detectable <= 0.03)
    hopeless = comparison.compute(predictions1=one, predictions2=two, references=gold, delta=1e-6)
    assert hopeless["accuracy_runs_needed"] is None
    assert "accuracy_runs_needed" not in comparison.compute(predictions1=one, predictions2=two, references=gold)


@pytest.mark.parametrize(
    ("one", "two", "gold", "kwargs", "part"),
    [
        ([[0, 1]], [[0, 1]], [0, 1], {}, "at least 2 runs"),
        ([[0, 1]] * 2, [[0, 1]] * 3, [0, 1], {}, "`predictions2` must have the shape 2 x 2"),
        ([[0, 1]] * 2, [[0, 1]] * 2, None, {}, "must be gold labels"),
        ([[0, 1]] * 2, [[0, 2]] * 2, [0, 1], {}, "above all labels. Got 2 with the label 2"),
        ([[0, 0.5]] * 2, [[0, 1]] * 2, [0, 1], {}, "whole numbers"),
        ([[0, 1]] * 2, [[0, 1]] * 2, [0, 1], {"ladder": [[[0], [1]]]}, "`ladder` must have the shape 2 x 2"),
        ([[0, 1]] * 2, [[0, 1]] * 2, [0, 1], {"delta": -1}, "above 0"),
    ],
)
def test_what_is_wrong_with_a_comparison_is_named(comparison, one, two, gold, kwargs, part):
    with pytest.raises(ValueError, match=part):
        comparison.compute(predictions1=one, predictions2=two, references=gold, **kwargs)


# ---------------------------------------------------------------------------------------------------- all modules


def inputs(name):
    gold, (one, two) = variants(items=30)
    probs = np.random.default_rng(0).dirichlet(np.ones(3), size=(4, 30))
    return {
        "seed_instability": {"predictions": one, "references": gold},
        "seed_scores": {"predictions": one, "references": gold},
        "seed_divergence": {"predictions": probs, "references": gold},
        "learning_plateau": {"sizes": np.array([100, 200, 400]), "scores": probs[:3, :5, 0]},
        "instability_comparison": {"predictions1": one, "predictions2": two, "references": gold},
        "annotation_uncertainty": {"predictions": probs[0], "references": gold},
    }[name]


NAMES = [
    "seed_instability",
    "seed_scores",
    "seed_divergence",
    "learning_plateau",
    "instability_comparison",
    "annotation_uncertainty",
]


def said(module, **kwargs):
    return json.dumps(module.compute(**kwargs))  # so that nan equals nan


@pytest.mark.parametrize("name", NAMES)
def test_lists_arrays_tensors_and_frames_give_the_same_and_so_do_batches(name):
    module, given_as = load(name), inputs(name)
    whole = said(module, **given_as)
    for convert in (np.ndarray.tolist, torch.tensor):
        assert said(module, **{key: convert(value) for key, value in given_as.items()}) == whole
    if all(value.ndim <= 2 for value in given_as.values()):
        frames = {key: pd.DataFrame(v) if v.ndim == 2 else pd.Series(v) for key, v in given_as.items()}
        assert said(module, **frames) == whole
    gold = given_as.pop("references", None)
    for i in range(len(next(iter(given_as.values())))):
        batch = {key: value[i : i + 1] for key, value in given_as.items()}
        if gold is not None:
            batch["references"] = gold[i : i + 1] if name == "annotation_uncertainty" else [gold]
        module.add_batch(**batch)
    assert said(module) == whole


PROCESS = """
import sys, evaluate, numpy as np
folder, cache, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
module = evaluate.load(folder, num_process=2, process_id=rank, experiment_id="two", cache_dir=cache)
random = np.random.default_rng(0)
gold, runs = random.integers(3, size=40), random.integers(3, size=(4, 40))
for run in runs[2 * rank : 2 * rank + 2]:
    module.add(prediction=run, reference=gold)
result = module.compute()
print(None if result is None else result["pairwise_disagreement"])
"""


def test_two_processes_give_one_result(tmp_path):
    start = [sys.executable, "-c", PROCESS, str(ROOT / "metrics/seed_instability"), str(tmp_path)]
    both = [subprocess.Popen([*start, str(rank)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    said = [process.communicate(timeout=300)[0].split()[-1] for process in both]
    random = np.random.default_rng(0)
    random.integers(3, size=40)
    runs = random.integers(3, size=(4, 40))
    expected = np.mean([(runs[r] != runs[s]).mean() for r, s in itertools.combinations(range(4), 2)])
    assert float(said[0]) == pytest.approx(expected)
    assert said[1] == "None"


def test_two_runs_unanimity_is_one_less_their_disagreement():
    """The identity that shows which cells of the paper's tables were of two runs."""
    _, (one, _) = variants(runs=2)
    result = load("seed_instability").compute(predictions=one)
    assert result["unanimity"] == pytest.approx(1 - result["pairwise_disagreement"])


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_card_runs_and_its_front_matter_makes_a_space(name):
    from huggingface_hub import RepoCard

    files = metric_files(ROOT / "metrics" / name)
    assert sorted(files) == sorted(["README.md", "app.py", "requirements.txt", "shared.py", "theme.py", f"{name}.py"])
    card = RepoCard.load(files["README.md"], ignore_metadata_errors=False)
    assert card.data.sdk == "gradio"
    assert card.data.app_file in files
    assert "evaluate" in card.data.tags
    assert re.match(rf"\s*# .*\n\n\*\*{re.escape(card.data.description)}\*\*\n", card.text)
    assert "](https://arxiv.org/abs/2504.15432)" in card.text
    blocks = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert re.search(r"  # ['\d-]", blocks[0])
    for block in blocks:
        scope = {}
        exec(block, scope)  # noqa: S102
        for line in block.splitlines():
            if re.search(r"  # ['\d-]", line):
                assert repr(eval(line.split("  # ")[0], scope)) == line.split("  # ")[1]  # noqa: S307


def test_optional_lists_may_be_arrays_and_odd_numbers_are_named(comparison):
    gold, (one, two) = variants()
    instability, scores = load("seed_instability"), load("seed_scores")
    assert set(instability.compute(predictions=one, at_r=np.array([2, 3]))["unanimity_at"]) == {2, 3}
    ladder = np.stack([one, two])
    assert "iso_accuracy" in comparison.compute(predictions1=one, predictions2=two, references=gold, ladder=ladder)
    for bad in ([[0, float("inf")], [0, 1]], [[0, 10**12], [0, 1]]):
        for compute in (
            lambda bad=bad: scores.compute(predictions=bad, references=[0, 1]),
            lambda bad=bad: instability.compute(predictions=bad),
            lambda bad=bad: comparison.compute(predictions1=bad, predictions2=[[0, 1]] * 2, references=[0, 1]),
        ):
            with pytest.raises(ValueError, match="class indices"):
                compute()
    with pytest.raises(ValueError, match="one list per run, not one per item"):
        instability.compute(predictions=np.zeros((8000, 5), dtype=int))
    with pytest.raises(ValueError, match="must be whole"):
        instability.compute(predictions=one, num_classes=3.5)
    with pytest.raises(ValueError, match="confidence_level"):
        scores.compute(predictions=one, references=gold, confidence_level=95)
    with pytest.raises(ValueError, match="must be shares from -1 to 1"):
        load("learning_plateau").compute(sizes=[100, 200], scores=[[70, 71], [72, 73]], delta=1, asymptote=True)


def test_modules_combine_and_a_comparison_takes_runs_one_by_one(comparison):
    gold, (one, two) = variants()
    both = evaluate.combine([load("seed_scores"), load("seed_instability")])
    for run in one:
        both.add(prediction=run, reference=gold)
    found = both.compute()
    assert found["accuracy_mean"] == pytest.approx((one == gold).mean())
    assert found["pairwise_disagreement"] == load("seed_instability").compute(predictions=one)["pairwise_disagreement"]
    for run, other in zip(one, two, strict=True):
        comparison.add(predictions1=run, predictions2=other, references=gold)
    assert comparison.compute()["accuracy_1"] == pytest.approx((one == gold).mean())


def test_error_consistency_has_an_interval_with_many_small_classes():
    random = np.random.default_rng(0)
    gold = np.arange(150) % 75
    predictions = np.where(random.random((5, 150)) < 0.6, gold, random.integers(75, size=(5, 150)))
    result = load("seed_instability").compute(predictions=predictions, references=gold)
    low, high = result["error_consistency_interval"]
    assert low < result["error_consistency"] < high


def page_of(name, folder):
    for file, path in metric_files(ROOT / "metrics" / name).items():
        shutil.copyfile(path, folder / file)
    spec = importlib.util.spec_from_file_location(f"page_of_{name}", folder / "app.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    return page


def test_pages_take_labels_for_what_they_are(tmp_path_factory):
    uncertainty = page_of("annotation_uncertainty", tmp_path_factory.mktemp("page"))
    table, _ = uncertainty.measure("gold,None,Hate\nNone,.2,.8\nNone,.1,.9\nHate,.1,.9\n,.2,.8", None)
    values = table.set_index("figure")["value"]
    assert values["n gold"] == 3
    assert values["accuracy"] == pytest.approx(1 / 3, abs=1e-4)
    assert values["per class recall, Hate"] == 1
    instability = page_of("seed_instability", tmp_path_factory.mktemp("page"))
    table, figure = instability.measure("Gold ,a,b,c\n$x_$,$x_$,$x_$,$x_$\nnull,$x_$,null,null\n", None)
    figure.canvas.draw()
    values = table.set_index("figure")["value"]
    assert (values["R"], values["n"], values["per class n, null"]) == (3, 2, 1)
    for bad, part in (
        ("gold,run 0,run 1\na,b,b,b\nb,a,a,a\n", "as long as the header"),
        ("gold,run 0,run 1\na,b,\n", "empty one in row 1"),
        (",".join(f"r{i}" for i in range(300)) + "\n" + ",".join("a" * 300), "at most 200 columns"),
    ):
        with pytest.raises(Exception, match=part):
            instability.measure(bad, None)


def test_each_page_shows_what_its_module_computes(tmp_path_factory):
    page = page_of("learning_plateau", tmp_path_factory.mktemp("page"))
    table, _ = page.measure(page.EXAMPLE, None, 0.05)
    figures = table.set_index("figure")
    assert figures.loc["verdict", "value"] == "plateau"
    assert figures.loc["gain", "from"] < figures.loc["gain", "value"] < figures.loc["gain", "to"]
    page = page_of("instability_comparison", tmp_path_factory.mktemp("page"))
    table, _ = page.measure(page.EXAMPLE, None)
    inputs, _ = page.read_pair(page.EXAMPLE)
    result = load("instability_comparison").compute(**inputs)
    difference = table.set_index("figure").loc["macro f1 difference"].tolist()
    assert difference == pytest.approx([result["macro_f1_difference"], *result["macro_f1_interval"]], abs=1e-4)


@given(st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_calibration_depends_on_neither_the_order_of_items_nor_rounding_errors(runs, seed):
    rng = np.random.default_rng(seed)
    run = rng.choice([[0.5, 0.5], [0.3, 0.7], [0.1, 0.9], [0.8, 0.2]], 40)
    gold = rng.integers(0, 2, 40)
    divergence = load("seed_divergence")
    first = divergence.compute(predictions=[run] * runs, references=gold)
    noisy = [run * (1 + rng.normal(0, 1e-15, run.shape)) for _ in range(runs)]
    order = rng.permutation(40)
    second = divergence.compute(predictions=[one[order] for one in noisy], references=gold[order])
    for name in ("ece", "adaptive_ece", "accuracy"):
        assert second[name] == pytest.approx(first[name])
        assert first[f"ensemble_{name}"] == pytest.approx(first[name][0])


def test_an_infinite_loss_gains_nothing_and_is_not_nan():
    certain = [[1.0, 0.0], [0.5, 0.5]]
    divergence = load("seed_divergence")
    assert divergence.compute(predictions=[certain, certain], references=[1, 0])["nll_gain"] == 0
    mixed = [[0.5, 0.5], [0.5, 0.5]]
    assert divergence.compute(predictions=[certain, mixed], references=[1, 0])["nll_gain"] == np.inf


def test_scores_in_percent_are_refused():
    with pytest.raises(
        ValueError, match="`scores` must be shares from -1 to 1. Got 74. Try dividing percentages by 100"
    ):
        load("learning_plateau").compute(sizes=[100, 200], scores=[[70, 71], [74, 73]])
