"""Planted truths: what the report's sentences claim is seldom false. Real classifiers, trained on made-up texts."""

import numpy as np
import pytest
from made import make_results
from sklearn.linear_model import LogisticRegression

from hf_recipes.analysis.annotator import estimate_gold_error
from hf_recipes.analysis.comparisons import compare_variants, plateaus
from hf_recipes.analysis.copied_errors import error_cells
from hf_recipes.analysis.measure import find_claims
from hf_recipes.analysis.metric_modules import correct
from hf_recipes.analysis.texts import Texts, same_distribution
from hf_recipes.data import Rows
from hf_recipes.metric_loading import load_metric
from hf_recipes.report.findings import describe

NAMES, SIZE, RUNS = ["a", "b", "c"], 150, 6
#: P(LLM's label | class): it hardly knows the third class, and errs at random otherwise.
CONFUSION = np.array([[0.85, 0.1, 0.05], [0.15, 0.8, 0.05], [0.35, 0.35, 0.3]])
CENTRES = np.array([[0, 0, 0, 0], [1.6, 0, 1, 0], [0, 1.6, 0, 1.0]])


def corrupt(labels, confusion, rng):
    cumulated = confusion[labels].cumsum(axis=1)
    return np.minimum((rng.random((len(labels), 1)) > cumulated).sum(axis=1), len(confusion) - 1)


def make_texts(seed, gold_error=0.0, by_text=False, num_test=400, pool=900):
    """Return test texts that classifiers on gold, LLM labels and the control classified, and the LLM's labels of them.

    Args:
        gold_error (`float`): the share of wrong gold labels, at random.
        by_text (`bool`): whether the LLM draws the borders between classes elsewhere, in place of random errors.
    """
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, p=[0.45, 0.35, 0.2], size=pool + num_test)
    features = CENTRES[truth] + rng.normal(size=(len(truth), 4))
    gold = corrupt(truth, (1 - gold_error) * np.eye(3) + gold_error * (1 - np.eye(3)) / 2, rng)
    llm = corrupt(truth, CONFUSION, rng)
    if by_text:
        llm = ((features[:, None] - CENTRES - [1, -0.8, 0, 0]) ** 2).sum(axis=2).argmin(axis=1)
    joint = np.stack([np.bincount(llm[:pool][gold[:pool] == k], minlength=3) for k in range(3)])
    noise = corrupt(gold, joint / joint.sum(axis=1, keepdims=True), rng)
    labels = {(name, SIZE): [] for name in ("gold", "llm", "noise-fixed")}
    for _ in range(RUNS):
        rows = rng.permutation(pool)[:SIZE]
        for name, training in (("gold", gold), ("llm", llm), ("noise-fixed", noise)):
            classifier = LogisticRegression(C=10).fit(features[rows], training[rows])
            labels[name, SIZE].append(classifier.predict(features[pool:]))
    rows = Rows([str(i) for i in range(num_test)], [""] * num_test, gold[pool:], NAMES)
    stacked = {key: np.array(runs) for key, runs in labels.items()}
    return Texts(rows, stacked, np.arange(num_test)), llm[pool:]


def read_report(texts, teacher, gold_error=None):
    """Return the sentences on the control, and how the errors compare with it."""
    comparisons, cells = compare_variants(texts, texts, texts), list(error_cells(teacher, texts))
    correct(find_claims(comparisons, [], cells, None, None))
    variants = [
        {"variant": name, "size": SIZE, "above_chance": True, "gold_train_labels": [0], "per_class_disagreement": {}}
        for name in ("gold", "llm")
    ]
    annotator = {"gold_error": gold_error, "accuracy": float((teacher == texts.rows.gold).mean())}
    fields = {"variants": variants, "comparisons": comparisons, "annotator": annotator, "label_names": NAMES}
    fields["verdict"] = {"decision": "inconclusive", "criteria": [], "worst_class": None, "reason": "x"}
    return fields, {(entry["variant"]): entry for entry in cells}


def describe_noise(fields):
    from hf_recipes.report.findings import _describe_noise
    from hf_recipes.report.more_findings import index_differences

    results = make_results(fields)
    return _describe_noise(results, index_differences(results))


@pytest.mark.parametrize("gold_error", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("has_votes", [False, True])
def test_random_errors_are_seldom_called_systematic(gold_error, has_votes):
    """With wrong gold labels the control is worse than the LLM's labels, which says nothing of the LLM's errors."""
    claims, studies = 0, 40
    for seed in range(studies):
        texts, teacher = make_texts(seed, gold_error)
        fields, _ = read_report(texts, teacher, gold_error if has_votes else None)
        claims += "they depend on the text" in describe_noise(fields)
    assert claims / studies <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / studies)


def test_errors_that_depend_on_the_text_are_found_where_votes_show_that_gold_is_clean():
    claims = unclear = 0
    for seed in range(10):
        texts, teacher = make_texts(seed, by_text=True)
        claims += "they depend on the text" in describe_noise(read_report(texts, teacher, gold_error=0.001)[0])
        unclear += "inconclusive unless gold is clean" in describe_noise(read_report(texts, teacher)[0])
    assert claims >= 8
    assert unclear >= 8


def test_a_preference_for_classes_is_not_copying():
    """Errors at random given the class: classifiers repeat more than those on gold, but no more than the control's."""
    above_gold = above_noise = 0
    for seed in range(20):
        texts, teacher = make_texts(seed)
        llm = read_report(texts, teacher)[1]["llm"]
        above_gold += llm["copied_above_gold"]["verdict"] == "higher"
        above_noise += llm["copied_above_noise"]["verdict"] == "higher"
    assert above_gold >= 15
    assert above_noise <= 3
    by_text = read_report(*make_texts(0, by_text=True))[1]["llm"]
    assert by_text["copied_above_noise"]["verdict"] == "higher"


def test_wrong_gold_labels_are_counted_by_the_votes_of_their_annotators():
    rng = np.random.default_rng(0)
    for skill, num_raters in ((0.85, 3), (0.7, 5), (0.95, 3)):
        truth = rng.integers(3, size=3000)
        confusion = np.full((3, 3), (1 - skill) / 2) + np.eye(3) * (skill - (1 - skill) / 2)
        votes = np.stack([corrupt(truth, confusion, rng) for _ in range(num_raters)])
        raters = np.stack([(votes == k).sum(axis=0) for k in range(3)], axis=1)
        gold = (raters + rng.random(raters.shape) / 10).argmax(axis=1)
        assert estimate_gold_error(raters, gold) == pytest.approx((gold != truth).mean(), abs=0.015)
    assert estimate_gold_error(np.array([[1, 1]]), np.array([0])) is None


@pytest.mark.parametrize("runs", [3, 5, 10])
def test_more_seeds_do_not_block_a_variant_that_learns(runs):
    """5% positives: single runs look like chance more often the more there are; all of them together seldom."""
    rng, scores = np.random.default_rng(runs), load_metric("seed_scores")
    single = together = 0
    for _ in range(100):
        gold = (rng.random(400) < 0.05).astype(int)
        recall = rng.uniform(0.1, 0.5, (runs, 1))
        predictions = np.where(gold == 1, rng.random((runs, 400)) < recall, rng.random((runs, 400)) < 0.02) * 1
        result = scores.compute(predictions=predictions, references=gold, num_classes=2)
        single += result["chance_level_runs"] > 0
        together += result["above_chance"]
    assert single > 20
    assert together >= 85
    blind = (rng.random((300, runs, 400)) < 0.05) * 1
    claims = [scores.compute(predictions=labels, references=gold, num_classes=2)["above_chance"] for labels in blind]
    assert np.mean(claims) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def test_what_did_not_start_has_not_ended():
    """Runs at chance level gain nothing; that is no plateau."""
    rng = np.random.default_rng(0)
    gold = rng.integers(3, size=300)
    labels = {("llm", size): np.zeros((5, 300), int) for size in (50, 100)}
    labels |= {("gold", size): np.where(rng.random((5, 300)) < size / 120, gold, 0) for size in (50, 100)}
    texts = Texts(Rows([str(i) for i in range(300)], [""] * 300, gold, NAMES), labels, np.arange(300))
    variants = [{"variant": name, "size": size, **texts.score((name, size))} for name, size in labels]
    assert [plateau["variant"] for plateau in plateaus(variants, texts)] == ["gold"]


def test_pool_texts_of_another_distribution_do_not_count():
    rng, rejected = np.random.default_rng(0), {"same": 0, "other classes": 0, "harder": 0}
    for _ in range(40):
        for name in rejected:
            shares = [0.5, 0.3, 0.2]
            gold = rng.choice(3, p=shares, size=900)
            if name == "other classes":
                gold[300:] = rng.choice(3, p=[0.3, 0.4, 0.3], size=600)
            skill = np.full(900, 0.8)
            skill[300:] -= 0.15 if name == "harder" else 0
            labels = {}
            for variant in ("gold", "llm"):
                predictions = np.where(rng.random((5, 900)) < skill, gold, rng.integers(3, size=(5, 900)))
                predictions[:, 300:][rng.random((5, 600)) < 0.3] = -1
                labels[variant, 100] = predictions
            texts = Texts(Rows([str(i) for i in range(900)], [""] * 900, gold, NAMES), labels, np.arange(900))
            rejected[name] += same_distribution(texts, 300) < 0.01
    # Clusters of twenty texts are no reason to reject.
    clusters, rejections = np.arange(900) // 20, 0
    for _ in range(40):
        gold = rng.integers(3, size=45)[clusters]
        labels = {("llm", 100): np.where(rng.random((5, 900)) < 0.8, gold, 0)}
        texts = Texts(Rows([str(i) for i in range(900)], [""] * 900, gold, NAMES), labels, clusters)
        rejections += same_distribution(texts, 300) < 0.01
    assert rejections <= 3
    assert rejected["same"] <= 3
    assert rejected["other classes"] >= 38
    assert rejected["harder"] >= 36


def test_clear_words_follow_from_corrected_p_values():
    results = make_results(
        {
            "variants": [{"variant": name, "size": 20, "above_chance": True} for name in ("gold", "llm")],
            "annotator": {"llm_share": {"a": 0.5, "b": 0.5}},
            "comparisons": [
                {"size": 20, "variant": "llm", "against": "gold", "figure": figure, "difference": -0.05}
                | {"interval": [-0.09, -0.01], "p_value": 0.03, "p_holm": 0.09, "verdict": "inconclusive"}
                for figure in ("macro_f1", "pairwise_disagreement")
            ],
            "verdict": {
                "decision": "inconclusive",
                "criteria": [
                    {"name": name, "value": 0.1, "interval": None, "limit": 0.1, "status": "inconclusive"}
                    for name in ("macro_f1_loss", "churn", "min_class_f1")
                ],
                **{"worst_class": None, "reason": "two runs give no intervals"},
            },
        }
    )
    text = " ".join(finding.text for finding in describe(results).findings if finding.title != "Verdict.")
    assert "-0.050 [-0.090, -0.010], inconclusive with R = 3 after the correction for several comparisons" in text
    assert "clearly" not in text
