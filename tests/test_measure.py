"""Figures that no metric module gives: shares of classes by group, and choices judged where they were not made."""

import numpy as np
import pytest
from test_planted import NAMES

from hf_recipes.analysis.measure import _best, _class_shares
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
        return list(_class_shares(given, judged, every.take(places), every.take(known)))

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

    among = ["gold-only", "llm-soft"]
    predictions = {("llm", 50): drawn(0.5), ("gold-only", 50): drawn(0.4), ("llm-soft", 50): drawn(0.7)}
    found = _best(among, predictions, test)
    assert (found["variant"], found["among"], found["R"]) == ("llm-soft", among, 4)
    assert found["n"] == pytest.approx(150, abs=3)  # halves within each class
    assert found["verdict"] == "higher"
    moved = {variant: labels.copy() for variant, labels in predictions.items()}
    moved["gold-only", 50][1::2] = test.gold  # perfect where nothing is chosen
    assert _best(among, moved, test) == found
    moved["llm-soft", 50][1::2] = (test.gold + 1) % 3  # and wrong there
    worse = _best(among, moved, test)
    assert (worse["variant"], worse["verdict"]) == ("llm-soft", "lower")
    few = {variant: labels[:5] for variant, labels in predictions.items()}
    assert _best(among, few, test) is None
    assert _best([], predictions, test) is None
    some = np.arange(39)
    assert _best(among, {variant: labels[:, some] for variant, labels in predictions.items()}, test.take(some)) is None
