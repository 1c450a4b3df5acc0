"""Where the spread comes from: oracles by counting pairs and by statsmodels' own ANOVA table, and known truths."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_recipes.analysis import components
from hf_recipes.analysis.components import disagreement, variances

SOURCES = ["subset", "init", "order"]


@given(st.integers(2, 3), st.integers(1, 3), st.integers(2, 4), st.integers(0, 5))
def test_disagreement_is_that_of_all_pairs_counted_one_by_one(levels, sources, classes, seed):
    labels = np.random.default_rng(seed).integers(classes, size=(*[levels] * sources, 7))
    cells = list(product(range(levels), repeat=sources))
    found = disagreement(labels, SOURCES[:sources], classes)
    for name in found:
        wanted = set(range(sources)) if name == "all" else {SOURCES.index(name)}
        pairs = [
            (labels[a] != labels[b]).mean()
            for a in cells
            for b in cells
            if {axis for axis in range(sources) if a[axis] != b[axis]} == wanted
        ]
        assert found[name]["value"] == pytest.approx(np.mean(pairs))
        assert (found[name]["interval"] is None) == (levels == 2)


def test_a_source_that_does_nothing_brings_nothing():
    rng = np.random.default_rng(0)
    labels = np.broadcast_to(rng.integers(3, size=(3, 1, 3, 200)), (3, 3, 3, 200))
    found = disagreement(labels, SOURCES, 3)
    assert found["init"] == {"value": 0, "interval": [0, 0]}
    assert found["subset"]["value"] > 0.5
    scores = np.broadcast_to(rng.normal(size=(3, 1, 3)), (3, 3, 3))
    assert variances(scores, SOURCES)["init"]["variance"] <= 1e-12


def test_variances_are_those_of_the_textbook_two_way_table():
    """Montgomery, Design and Analysis of Experiments, random two-factor model without replication."""
    scores = np.random.default_rng(1).normal(size=(4, 4))
    rows, columns = scores.mean(1), scores.mean(0)
    rest = scores - rows[:, None] - columns + scores.mean()
    error = np.square(rest).sum() / 9
    found = variances(scores, ["a", "b"])
    assert found["a"]["variance"] == pytest.approx((4 * rows.var(ddof=1) - error) / 4)
    assert found["b"]["variance"] == pytest.approx((4 * columns.var(ddof=1) - error) / 4)
    assert found["a:b"]["variance"] == pytest.approx(error)
    assert found["total"]["variance"] == pytest.approx(sum(found[name]["variance"] for name in ("a", "b", "a:b")))


def simulate(rng, sds, levels=3):
    """Scores with main effects and a rest of known standard deviations."""
    scores = rng.normal(size=(levels,) * 3) * sds[3]
    for axis, sd in enumerate(sds[:3]):
        scores += np.expand_dims(rng.normal(size=levels) * sd, [a for a in range(3) if a != axis])
    return scores


@pytest.mark.parametrize("levels", [2, 3, 5])
@pytest.mark.parametrize("sds", [(1, 0, 0, 0), (1, 1, 1, 1), (0, 0, 0, 1)])
def test_the_interval_of_the_total_contains_the_truth(levels, sds, monkeypatch):
    """1,000 simulated studies; fiducial draws contained it in 81% of those with L = 3 and unexplained chance alone."""
    monkeypatch.setattr(components, "DRAWS", 2)  # of the other intervals
    rng = np.random.default_rng(levels)
    num_covered = 0
    for _ in range(1000):
        low, high = variances(simulate(rng, sds, levels), SOURCES)["total"]["interval"]
        num_covered += low <= np.square(sds).sum() <= high
    assert num_covered >= 930


@pytest.mark.slow
def test_the_intervals_hold_the_truth():
    rng = np.random.default_rng(0)
    sds = (0.04, 0.01, 0.02, 0.02)
    inside = dict.fromkeys((*SOURCES, "total"), 0)
    for _ in range(400):
        found = variances(simulate(rng, sds), SOURCES)
        for name, truth in zip((*SOURCES, "total"), (*np.square(sds[:3]), np.square(sds).sum()), strict=True):
            low, high = found[name]["interval"]
            inside[name] += low <= truth <= high
    assert min(inside.values()) >= 0.92 * 400, inside


def runs(rng, difficulty, levels=3, sds=(0.5, 0.2, 0.3)):
    """Labels of two classes: a text's own difficulty, what each source's level does to it, and a shift of all texts."""
    n = len(difficulty)
    latent = np.broadcast_to(difficulty, (levels,) * 3 + (n,)).copy()
    for axis, sd in enumerate(sds):
        moved = rng.normal(size=(levels, n)) * sd + rng.normal(size=(levels, 1)) * sd / 3
        latent += np.expand_dims(moved, [a for a in range(3) if a != axis])
    return (latent + rng.normal(size=latent.shape) * 0.1 > 0).astype(int)


@pytest.mark.slow
def test_the_intervals_of_disagreement_hold_the_truth():
    rng = np.random.default_rng(0)
    truth = {name: [] for name in (*SOURCES, "all")}
    for _ in range(60):  # many levels of many texts
        for name, figure in disagreement(runs(rng, rng.normal(size=2000), 6), SOURCES, 2).items():
            truth[name].append(figure["value"])
    inside = dict.fromkeys(truth, 0)
    for _ in range(300):
        for name, figure in disagreement(runs(rng, rng.normal(size=300)), SOURCES, 2).items():
            low, high = figure["interval"]
            inside[name] += low <= np.mean(truth[name]) <= high
    assert min(inside.values()) >= 0.92 * 300, inside
