"""Measure how far probabilities differ from seed to seed, each run's calibration, and what averaging the runs gains.

evaluate.load("metrics/seed_divergence").compute(predictions=[[[0.9, 0.1]], [[0.6, 0.4]]], references=[0])
"""

import datasets
import evaluate
import numpy as np
from scipy import special

from .shared import (
    UNKNOWN,
    Crossed,
    CrossedVariance,
    Direct,
    by_cluster,
    check_bins,
    check_clusters,
    check_gold,
    check_level,
    check_probabilities,
    crossed_variance,
    item_variance,
    jackknife,
    pair_values,
    sum_by_rank,
)

_CITATION = """\
@inproceedings{du2023measuring, title={Measuring the Instability of Fine-Tuning}, author={Du, Yupei and Nguyen, Dong},
  booktitle={ACL}, year={2023}}
@inproceedings{lakshminarayanan2017simple, title={Simple and Scalable Predictive Uncertainty Estimation using Deep
  Ensembles}, author={Lakshminarayanan, Balaji and others}, booktitle={NeurIPS}, year={2017}}
@inproceedings{guo2017calibration, title={On Calibration of Modern Neural Networks}, author={Guo, Chuan and others},
  booktitle={ICML}, year={2017}}
"""

_DESCRIPTION = """\
Jensen-Shannon divergence, total variation and mutual information of several training runs' probabilities on one test
set; calibration of each run and of their ensemble, and the ensemble's gain.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of R lists of n lists of K `float`):
        Probabilities of K >= 2 classes, per run over the same items in the same order. R is at least 2. Each sums to 1
        within 1e-3 and is renormalised.
    references (`list` of n `int`, or of R such lists, *optional*):
        Gold labels, needed for calibration and for the ensemble's gain.
    bins (`int`, *optional*, defaults to 10):
        Of both calibration errors.
    clusters (`list` of n `int` or `str`, *optional*):
        The document, thread or author of each item: intervals count clusters, not items.
    return_items (`bool`, *optional*, defaults to `False`):
        Also return `item_js_divergence`, one figure per item.
    confidence_level (`float`, *optional*, defaults to 0.95):
        Of all intervals.

Returns:
    `dict`: an `_interval` is a `list` of 2 `float`, over runs and items together; nan at R = 2. Information is in nats.
    - **js_divergence** (`float` in [0, ln 2]), **js_divergence_interval**: Jensen-Shannon divergence of two runs,
      averaged over pairs and items. Its expectation does not depend on R, nor does that of
    - **total_variation** (`float` in [0, 1]), **total_variation_interval**: half the summed differences, likewise.
    - **mutual_information** (`float` in [0, ln min(K, R)]): entropy of the mean less the mean entropy. It grows with
      R: compare it at equal R only.

    with references
    - **accuracy**, **nll**, **brier**, **ece**, **adaptive_ece** (`list` of R `float`): of each run. Brier sums over
      classes; ece has bins of equal width, adaptive_ece of equal mass.
    - **ensemble_accuracy**, **ensemble_nll**, **ensemble_brier**, **ensemble_ece**, **ensemble_adaptive_ece**
      (`float`): of the mean of the runs' probabilities; they depend on R.
    - **accuracy_gain** (`float`), **accuracy_gain_interval**: the ensemble's less the mean of the runs'; depends on R.
    - **nll_gain**, **brier_gain** (`float` >= 0): the mean of the runs' less the ensemble's (Jensen's inequality).

    and **R**, **n**, **num_classes** (`int`), **confidence_level** (`float`)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class SeedDivergence(Direct, evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Sequence(datasets.Value("float64"))),
                    "references": datasets.Sequence(datasets.Value("float64")),  # int64 would cast 0.7 to 0
                }
            ),
        )

    def _compute(self, **kwargs):
        return seed_divergence(**kwargs)


CELLS = 2**20  # probabilities of a run in memory at a time
DIGITS = 12


def seed_divergence(predictions, references=None, bins=10, clusters=None, return_items=False, confidence_level=0.95):
    """Compute what `_KWARGS_DESCRIPTION` lists."""
    predictions = check_probabilities(predictions, "R runs", "n items", "K classes")
    sums = predictions.sum(axis=2, keepdims=True)
    predictions /= np.where(np.abs(sums - 1) > 1e-12, sums, 1)
    # without the digits of rounding errors: they would break ties, and move a probability to another bin
    predictions.round(DIGITS, out=predictions)
    runs, items, classes = predictions.shape
    if runs < 2:
        raise ValueError("`predictions` must have at least 2 runs. Got 1. Try runs with other seeds.")
    references, bins = check_gold(references, items, classes), check_bins(bins)
    check_level(confidence_level)
    clusters = check_clusters(clusters, items)
    mean = predictions.mean(axis=0).round(DIGITS)
    entropy = special.entr(predictions).sum(axis=2)
    sums = np.zeros((2, runs, items))  # over a run's pairs
    block = max(CELLS // classes, 1)
    for start in range(0, items, block):  # every pair is looked at: R^2 in time, not in memory
        part = slice(start, start + block)
        for r in range(runs):
            for s in range(r):
                first, second = predictions[r, part], predictions[s, part]
                mixed = special.entr((first + second) / 2).sum(axis=1)
                divergence = np.maximum(mixed - (entropy[r, part] + entropy[s, part]) / 2, 0)
                variation = np.abs(first - second).sum(axis=1) / 2
                sums[:, r, part] += (divergence, variation)
                sums[:, s, part] += (divergence, variation)
    result, is_seen = {}, np.ones((runs, items), dtype=bool)
    for name, of_pairs, most in zip(("js_divergence", "total_variation"), sums, (np.log(2), 1.0), strict=True):
        figure = Crossed(pair_values(of_pairs, np.full(items, runs)), is_seen, clusters, min_runs=3)
        variance = crossed_variance(figure, floor=0.5, with_skew=True) if runs > 2 else UNKNOWN
        result |= {name: figure.mean, f"{name}_interval": variance.interval(figure.mean, confidence_level, (0, most))}
    result |= {
        "mutual_information": float(max(special.entr(mean).sum(axis=1).mean() - entropy.mean(), 0)),
        "R": runs,
        "n": items,
        "num_classes": classes,
        "confidence_level": confidence_level,
    }
    if references is not None:
        each = [_calibration(run, references, bins) for run in predictions]
        ensemble = _calibration(mean, references, bins)
        result |= {name: [run[name] for run in each] for name in ensemble}
        result |= {f"ensemble_{name}": value for name, value in ensemble.items()}
        result |= _accuracy_gain(predictions, mean, references, clusters, confidence_level)
        result["brier_gain"] = float(np.mean(result["brier"]) - ensemble["brier"])
        # where no run gives the gold class any probability, the ensemble gains nothing: both losses are infinite
        of_gold = np.take_along_axis(predictions, references[None, :, None], axis=2)[..., 0]
        ensemble_loss, losses = special.rel_entr(1, of_gold.mean(axis=0)), special.rel_entr(1, of_gold).mean(axis=0)
        is_finite = np.isfinite(ensemble_loss)
        result["nll_gain"] = float((losses[is_finite] - ensemble_loss[is_finite]).sum() / items)
    if return_items:
        result["item_js_divergence"] = (sums[0].sum(axis=0) / (runs * (runs - 1))).tolist()
    return result


def _accuracy_gain(predictions, mean, references, clusters, level):
    runs = len(predictions)
    right = (predictions.argmax(axis=2) == references).astype(np.float64)
    gains = (mean.argmax(axis=1) == references) - right.mean(axis=0)
    total = predictions.sum(axis=0)
    without = [
        ((total - predictions[r]).round(DIGITS - 2).argmax(axis=1) == references).mean()
        - np.delete(right, r, axis=0).mean()
        for r in range(runs)
    ]
    without = np.array(without) if runs > 2 else np.full(runs, np.nan)
    value = gains.mean()
    influence = by_cluster((gains - value)[None], clusters)[0]
    variance = CrossedVariance(jackknife(without), item_variance(influence), 0.0, runs - 1, max(len(influence) - 1, 1))
    return {"accuracy_gain": float(value), "accuracy_gain_interval": variance.interval(value, level, (-1, 1))}


def _calibration(probs, gold, bins):
    """Score one set of probabilities (n, K). Items that tie count with their mean in the bins of equal mass."""
    items = len(gold)
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == gold
    gap = right - confidence
    edges = np.linspace(0, 1, bins + 1)[1:-1].round(DIGITS)
    by_width = np.bincount(np.searchsorted(edges, confidence), gap, minlength=bins)  # open below, closed above
    by_mass = np.diff(sum_by_rank(confidence, gap, np.linspace(0, items, bins + 1)))
    of_gold = probs[np.arange(items), gold]
    return {
        "accuracy": float(right.mean()),
        "nll": float(special.rel_entr(1, of_gold).mean()),
        "brier": float(((probs**2).sum(axis=1) - 2 * of_gold + 1).mean()),
        "ece": float(np.abs(by_width).sum() / items),
        "adaptive_ece": float(np.abs(by_mass).sum() / items),
    }
