"""Calibration: each method against its formula by hand, and what is fitted on gold against a brute search."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from hf_recipes.annotation.calibration import GOLD_FREE, calibrate

FREE = np.log([[0.7, 0.1, 0.05], [0.6, 0.2, 0.05]])


def make(n=400, seed=0, sharp=3.0, bias=(0.0, 0.0, 0.0)):
    """Texts with true probabilities; the annotator is too sure by `sharp` and leans by `bias`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 3)) * 1.5
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gold = (probs.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return logits * sharp + np.array(bias) - 4.0, gold


def test_contextual_makes_inputs_without_content_uniform():
    balanced, calibration = calibrate(FREE.mean(axis=0, keepdims=True), FREE, "contextual")
    assert balanced == pytest.approx(np.full((1, 3), 1 / 3))
    assert (calibration.method, calibration.temperature, len(calibration.gold_rows)) == ("contextual", 1.0, 0)
    raw = np.log([[0.5, 0.2, 0.1]])
    assert calibrate(raw, FREE, "none")[0] == pytest.approx(np.array([[0.5, 0.2, 0.1]]) / 0.8)
    by_hand = np.array([0.5, 0.2, 0.1]) / np.exp(FREE.mean(axis=0))
    assert calibrate(raw, FREE, "contextual")[0] == pytest.approx((by_hand / by_hand.sum())[None])


def test_batch_divides_by_the_mean_prediction_and_leaves_rows_without_an_answer_alone():
    raw, _ = make(50)
    raw[7] = np.nan
    plain = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    by_hand = plain / np.nanmean(plain, axis=0)
    by_hand /= by_hand.sum(axis=1, keepdims=True)
    assert calibrate(raw, FREE, "batch")[0] == pytest.approx(by_hand, nan_ok=True)


@given(st.sampled_from(GOLD_FREE), st.floats(-50, 50), st.integers(0, 20))
def test_mass_outside_the_labels_changes_no_probability(method, constant, seed):
    raw, _ = make(20, seed)
    probs, shifted = calibrate(raw, FREE, method)[0], calibrate(raw + constant, FREE, method)[0]
    assert probs == pytest.approx(shifted, abs=1e-9)
    assert probs.sum(axis=1) == pytest.approx(np.ones(20))


def test_temperature_is_the_best_of_a_fine_grid_and_changes_no_label():
    raw, gold = make()
    rows = np.arange(0, 400, 2)
    probs, calibration = calibrate(raw, FREE, "temperature", gold, rows)
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 4000))

    def loss(temperature):
        scaled = np.exp(raw[rows] / temperature - (raw[rows] / temperature).max(axis=1, keepdims=True))
        return log_loss(gold[rows], scaled / scaled.sum(axis=1, keepdims=True), labels=[0, 1, 2])

    best = min(grid, key=loss)
    assert calibration.temperature == pytest.approx(best, rel=0.01)
    assert calibration.temperature == pytest.approx(3.0, rel=0.3)  # it was too sure by three
    assert (probs.argmax(axis=1) == raw.argmax(axis=1)).all()
    assert calibration.log_loss == pytest.approx({"none": log_loss(gold[rows], probs[rows], labels=[0, 1, 2])})


@pytest.mark.parametrize(
    ("bias", "free", "best"),
    [
        ((0, 0, 0), FREE, "none"),
        ((6, 0, 0), np.log([[0.9, 0.9 / np.exp(6), 0.9 / np.exp(6)]]), "contextual"),
        ((6, 0, 0), FREE[:, ::-1], "batch"),
    ],
)
def test_auto_takes_the_method_that_fits_the_gold_rows(bias, free, best):
    raw, gold = make(bias=bias)
    probs, calibration = calibrate(raw, free, "auto", gold, np.arange(200))
    assert calibration.method == best
    assert set(calibration.log_loss) == set(GOLD_FREE)
    assert log_loss(gold[200:], probs[200:], labels=[0, 1, 2]) < 0.95


def test_gold_outside_the_given_rows_changes_nothing():
    raw, gold = make()
    other = gold.copy()
    other[100:] = (other[100:] + 1) % 3
    probs = calibrate(raw, FREE, "auto", gold, np.arange(100))[0]
    assert probs == pytest.approx(calibrate(raw, FREE, "auto", other, np.arange(100))[0])
