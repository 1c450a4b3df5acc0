"""Figures that no metric module gives: shares of classes by group, and choices judged where they were not made."""

import numpy as np
import pytest
from test_planted import NAMES

from hf_recipes.analysis.class_shares import class_shares
from hf_recipes.analysis.comparisons import best_mitigation, plateaus
from hf_recipes.analysis.texts import Texts
from hf_recipes.data import Rows


@pytest.mark.parametrize("labelled", [90, 40])
def test_shares_of_a_group_are_those_of_its_texts_alone_with_wider_intervals(labelled):
    rng = np.random.default_rng(0)
    groups = np.array([None, "1998", "2002"], dtype=object)[np.arange(90) % 3]
    every = Rows([str(i) for i in range(90)], [""] * 90, rng.integers(3, size=90), NAMES, None, groups)
    runs = {("llm", 50): rng.integers(3, size=(5, 90)), ("gold", 50): rng.integers(3, size=(5, 90))}

    def shares(places):
        """Of some texts; the first of them that people labelled."""
        texts = Texts(every, runs, np.arange(90))
        return list(class_shares(texts.take(places), texts.take(places[places < labelled])))

    found = shares(np.arange(90))
    assert [one["group"] for one in found[:9]] == [None] * 3 + ["1998"] * 3 + ["2002"] * 3
    for group in ("1998", "2002"):
        inside = [one for one in found if one["group"] == group]
        alone = [one for one in shares(np.flatnonzero(groups == group)) if one["group"] is None]
        assert len(inside) == len(alone) == 6
        for one, other in zip(inside, alone, strict=True):
            same = ("variant", "class_name", "R", "n", "gold", "share", "bias", "sd")
            assert [one[name] for name in same] == [other[name] for name in same]
            for name in ("bias_interval", *(["gold_interval"] if labelled < 90 else [])):
                widths = [np.diff(which[name])[0] for which in (one, other)]
                assert widths[0] > widths[1] or 0 in one[name]  # corrected for twice as many
    assert all((one["gold_interval"] is None) == (labelled == 90) for one in found)


def test_the_interval_of_a_bias_of_shares_is_within_its_range():
    gold = np.array([0, 0, 0, 0, 0, 1])
    test = Rows([str(i) for i in range(6)], [""] * 6, gold, NAMES)
    labels = np.ones((3, 6), dtype=int)
    labels[0, 0] = 0
    texts = Texts(test, {("llm", 50): labels}, np.arange(6))
    intervals = [share["bias_interval"] for share in class_shares(texts, texts)]
    assert intervals[0][0] == -1
    assert intervals[1][1] == 1
    assert all(-1 <= low <= high <= 1 for low, high in intervals)


def test_an_interpolated_doubling_has_an_interval_over_texts_too():
    """Between 20 and 60 texts in logarithms, the gain from 30 is a fixed share of that from 20."""
    rng, items = np.random.default_rng(0), 300
    test = Rows([str(i) for i in range(items)], [""] * items, rng.integers(3, size=items), NAMES)
    small, large = (
        np.where(rng.random((5, items)) < accuracy, test.gold, rng.integers(3, size=(5, items)))
        for accuracy in (0.4, 0.7)
    )

    def measure(size):
        texts = Texts(test, {("llm", size): small, ("llm", 60): large}, np.arange(items))
        variants = [{"variant": name, "size": at, "above_chance": True} for name, at in texts.labels]
        for variant in variants:
            variant["macro_f1_runs"] = texts.score((variant["variant"], variant["size"]))["macro_f1_runs"]
        (plateau,) = plateaus(variants, texts)
        return plateau

    interpolated, exact = measure(20), measure(30)
    share = np.log(2) / np.log(3)
    assert (interpolated["is_interpolated"], exact["is_interpolated"]) == (True, False)
    assert exact["item_se"] > 0.01
    for figure in ("gain", "item_se", "gain_interval"):
        assert interpolated[figure] == pytest.approx(share * np.array(exact[figure]))


def test_a_choice_is_made_on_one_half_and_judged_on_the_other():
    rng, items = np.random.default_rng(0), 300
    test = Rows([str(i) for i in range(items)], [""] * items, rng.integers(3, size=items), NAMES)

    def drawn(accuracy):
        return np.where(rng.random((8, items)) < accuracy, test.gold, rng.integers(3, size=(8, items)))

    among = ["llm-entropy-replace", "llm-entropy-drop"]
    variants = [{"variant": name, "size": 50, "above_chance": True} for name in ("llm", *among)]
    predictions = {
        ("llm", 50): drawn(0.5),
        ("llm-entropy-replace", 50): drawn(0.4),
        ("llm-entropy-drop", 50): drawn(0.7),
    }

    def choose(labels, variants=variants):
        return best_mitigation(variants, Texts(test, labels, np.arange(items)))

    found = choose(predictions)
    assert (found["variant"], found["among"], found["R"]) == ("llm-entropy-drop", among, 4)
    assert found["n"] == pytest.approx(150, abs=3)  # halves within each class
    assert found["verdict"] == "higher"
    # The halves of seeds and texts on which the choice is made.
    moved = {variant: labels.copy() for variant, labels in predictions.items()}
    moved["llm-entropy-replace", 50][1::2] = test.gold  # perfect where nothing is chosen
    assert choose(moved) == found
    moved["llm-entropy-drop", 50][1::2] = (test.gold + 1) % 3  # and wrong there
    worse = choose(moved)
    assert (worse["variant"], worse["verdict"]) == ("llm-entropy-drop", "lower")
    assert choose({variant: labels[:5] for variant, labels in predictions.items()}) is None
    assert choose(predictions, variants=[]) is None
    assert best_mitigation(variants, Texts(test, predictions, np.arange(items)).take(np.arange(39))) is None


def test_a_cluster_is_not_split_between_the_choice_and_its_judgement():
    rng, items = np.random.default_rng(0), 300
    test = Rows([str(i) for i in range(items)], [""] * items, np.arange(items) // 5 % 3, NAMES)
    labels = {(name, 50): rng.integers(3, size=(8, items)) for name in ("llm", "llm-audit")}
    variants = [{"variant": name, "size": 50, "above_chance": True} for name, _ in labels]
    found = best_mitigation(variants, Texts(test, labels, np.arange(items) // 5))
    assert found["n"] == 150
