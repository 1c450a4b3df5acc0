"""Figures that no metric module gives: shares of classes by group, and choices judged where they were not made."""

import numpy as np
import pytest
from test_planted import NAMES

from hf_recipes.analysis.class_shares import class_shares
from hf_recipes.analysis.comparisons import best_mitigation
from hf_recipes.data import Rows


@pytest.mark.parametrize("labelled", [90, 40])
def test_shares_of_a_group_are_those_of_its_texts_alone_with_wider_intervals(labelled):
    rng = np.random.default_rng(0)
    groups = np.array([None, "1998", "2002"], dtype=object)[np.arange(90) % 3]
    every = Rows([str(i) for i in range(90)], [""] * 90, rng.integers(3, size=90), NAMES, None, groups)
    runs = {("llm", 50): rng.integers(3, size=(5, 90)), ("gold", 50): rng.integers(3, size=(5, 90))}

    def shares(places):
        """Of some texts; the first of them that people labelled."""
        known = places[places < labelled]
        given, judged = ({variant: labels[:, some] for variant, labels in runs.items()} for some in (places, known))
        return list(class_shares(given, judged, every.take(places), every.take(known)))

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


def test_a_choice_is_made_on_one_half_and_judged_on_the_other():
    rng, items = np.random.default_rng(0), 300
    test = Rows([str(i) for i in range(items)], [""] * items, rng.integers(3, size=items), NAMES)

    def drawn(accuracy):
        return np.where(rng.random((8, items)) < accuracy, test.gold, rng.integers(3, size=(8, items)))

    among = ["llm-entropy-replace", "llm-entropy-drop"]
    variants = [{"variant": name, "size": 50, "chance_level_runs": 0} for name in ("llm", *among)]
    predictions = {
        ("llm", 50): drawn(0.5),
        ("llm-entropy-replace", 50): drawn(0.4),
        ("llm-entropy-drop", 50): drawn(0.7),
    }
    found = best_mitigation(variants, predictions, test)
    assert (found["variant"], found["among"], found["R"]) == ("llm-entropy-drop", among, 4)
    assert found["n"] == pytest.approx(150, abs=3)  # halves within each class
    assert found["verdict"] == "higher"
    moved = {variant: labels.copy() for variant, labels in predictions.items()}
    moved["llm-entropy-replace", 50][1::2] = test.gold  # perfect where nothing is chosen
    assert best_mitigation(variants, moved, test) == found
    moved["llm-entropy-drop", 50][1::2] = (test.gold + 1) % 3  # and wrong there
    worse = best_mitigation(variants, moved, test)
    assert (worse["variant"], worse["verdict"]) == ("llm-entropy-drop", "lower")
    few = {variant: labels[:5] for variant, labels in predictions.items()}
    assert best_mitigation(variants, few, test) is None
    assert best_mitigation([], predictions, test) is None
    some = np.arange(39)
    assert (
        best_mitigation(
            variants, {variant: labels[:, some] for variant, labels in predictions.items()}, test.take(some)
        )
        is None
    )
