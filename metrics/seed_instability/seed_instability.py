"""Instability of hard predictions from seed to seed: do the same texts get the same labels when only chance changes?

evaluate.load("metrics/seed_instability").compute(predictions=[[0, 1, 1], [0, 1, 0]], references=[0, 1, 1])
"""

import datasets
import evaluate
import numpy as np
from scipy import stats

_CITATION = """\
@article{du2023measuring, title={Measuring the Instability of Fine-Tuning}, author={Du, Yupei and Nguyen, Dong},
  journal={ACL}, year={2023}}
@book{krippendorff2004content, title={Content Analysis}, author={Krippendorff, Klaus}, year={2004}}
@article{lu2025feeding, title={Feeding LLM Annotations to BERT Classifiers at Your Own Risk},
  author={Lu, Yucheng and Smith, Kazimier}, journal={arXiv:2504.15432}, year={2025}}
"""

_DESCRIPTION = """\
Pairwise disagreement, Krippendorff's alpha and unanimity of the predictions of several training runs on one test set.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of R lists of n `int`):
        One list of class indices per run, all over the same items in the same order. R is at least 2.
    references (`list` of n `int`, or of R such lists, *optional*):
        Gold labels, needed for the figures per class.
    return_items (`bool`, *optional*, defaults to `False`):
        Also return `item_disagreement`, one figure per item.
    confidence_level (`float`, *optional*, defaults to 0.95):
        Of all intervals.

Returns:
    `dict`:
    - **pairwise_disagreement** (`float` in [0, 1]): the share of items on which two runs differ, averaged over pairs.
      Its expectation does not depend on R.
    - **pairwise_disagreement_interval** (`list` of 2 `float`): over runs and items together; see the card.
    - **krippendorff_alpha** (`float` <= 1): agreement beyond chance, nominal; nan if all predictions are one class.
    - **krippendorff_alpha_interval** (`list` of 2 `float`)
    - **unanimity** (`float` in [0, 1]): the share of items on which all runs agree (Lu & Smith's p_uc). It falls as R
      grows: compare it at equal R only.
    - **unanimity_interval** (`list` of 2 `float`): over items only, for these very runs.
    - **per_class_disagreement** (`dict` from class to `float`), **per_class_n** (`dict` from class to `int`): within
      each gold class; only with references.
    - **single_class** (`bool`): all predictions of all runs are one class, so that agreement means nothing.
    - **leave_one_out** (`list` of R `float`): the disagreement without each run in turn (nan at R = 2).
    - **R** (`int`), **n** (`int`), **confidence_level** (`float`)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class SeedInstability(evaluate.Metric):
    def _info(self):
        per_run = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": per_run, "references": per_run}),
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Adds runs; references may be given once for all of them."""
        predictions = whole_numbers("predictions", predictions)
        if references is None:
            references = np.empty((len(predictions), 0), dtype=np.int64)
        else:
            references = whole_numbers("references", np.atleast_2d(references))
            if references.shape[1] != predictions.shape[1]:
                raise ValueError(f"references have {references.shape[1]} items, predictions {predictions.shape[1]}")
            if len(references) > 1 and (references != references[0]).any():
                raise ValueError("references differ between runs; all runs must be over the same items")
            references = np.broadcast_to(references[0], predictions.shape)
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Adds one run."""
        self.add_batch(predictions=[prediction], references=reference, **kwargs)

    def _compute(self, predictions, references, return_items=False, confidence_level=0.95):
        references = np.array(references[0]) if len(references[0]) else None
        return seed_instability(np.array(predictions), references, return_items, confidence_level)


def whole_numbers(name, values):
    """The values as an (R, n) array of integers; evaluate itself would cast 0.7 to 0 without a word."""
    try:
        array = np.array(values)
    except ValueError:
        raise ValueError(f"{name}: runs differ in length; each needs one label per item") from None
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name}: expected R runs x n items, got shape {array.shape}")
    if array.dtype.kind not in "iu" and not (array.dtype.kind == "f" and np.all(array == np.floor(array))):
        raise ValueError(f"{name}: expected class indices (whole numbers), got {array.dtype}")
    if array.min() < 0:
        raise ValueError(f"{name}: class indices start at 0, got {array.min()}")
    return array.astype(np.int64)


def seed_instability(predictions, references=None, return_items=False, confidence_level=0.95):
    """See `_KWARGS_DESCRIPTION`; predictions of shape (R, n), references of shape (n,) or None."""
    runs, items = predictions.shape
    if runs < 2:
        raise ValueError(f"instability needs at least 2 runs, got {runs}")
    classes = int(predictions.max()) + 1
    counts = np.stack([(predictions == k).sum(axis=0) for k in range(classes)], axis=1)  # (n, K)
    item_disagreement = _disagreement(counts, runs)
    without = [counts - (predictions[r][:, None] == np.arange(classes)) for r in range(runs)]
    leave_one_out = np.array([_disagreement(c, runs - 1).mean() if runs > 2 else np.nan for c in without])
    disagreement = item_disagreement.mean()
    alpha, alpha_influence = _alpha(counts, runs)
    alpha_without = np.array([_alpha(c, runs - 1)[0] if runs > 2 else np.nan for c in without])
    unanimous = counts.max(axis=1) == runs
    result = {
        "pairwise_disagreement": float(disagreement),
        "pairwise_disagreement_interval": _interval(
            disagreement, item_disagreement - disagreement, leave_one_out, confidence_level, (0, 1)
        ),
        "krippendorff_alpha": float(alpha),
        "krippendorff_alpha_interval": _interval(alpha, alpha_influence, alpha_without, confidence_level, (-1, 1)),
        "unanimity": float(unanimous.mean()),
        "unanimity_interval": _wilson(int(unanimous.sum()), items, confidence_level),
        "single_class": bool((counts > 0).any(axis=0).sum() == 1),
        "leave_one_out": leave_one_out.tolist(),
        "R": runs,
        "n": items,
        "confidence_level": confidence_level,
    }
    if references is not None:
        present = np.unique(references).tolist()
        result["per_class_disagreement"] = {k: float(item_disagreement[references == k].mean()) for k in present}
        result["per_class_n"] = {k: int((references == k).sum()) for k in present}
    if return_items:
        result["item_disagreement"] = item_disagreement.tolist()
    return result


def _disagreement(counts, runs):
    """Per item, the share of pairs of runs that differ (Du & Nguyen 2023, pairwise disagreement)."""
    return 1 - (counts * (counts - 1)).sum(axis=1) / (runs * (runs - 1)) if runs > 1 else np.full(len(counts), np.nan)


def _alpha(counts, runs):
    """Krippendorff's nominal alpha for complete data, and the influence of each item on it (mean zero)."""
    total = runs * len(counts)
    pooled = counts.sum(axis=0)
    chance = 1 - (pooled * (pooled - 1.0)).sum() / (total * (total - 1.0))
    observed = _disagreement(counts, runs)
    if chance == 0 or runs < 2:
        return np.nan, np.full(len(counts), np.nan)
    share = pooled / total
    chance_influence = -2 * ((counts / runs - share) * share).sum(axis=1)
    mean = observed.mean()
    return 1 - mean / chance, -(observed - mean) / chance + mean / chance**2 * chance_influence


def _interval(estimate, influence, leave_one_out, level, bounds):
    """A t interval whose variance is that over items (influence function) plus that over runs (jackknife).

    The items' part holds a share of the runs' part, so the interval errs on the wide side. nan at R = 2, where no run
    can be left out.
    """
    runs, items = len(leave_one_out), len(influence)
    over_items = (influence**2).sum() / items / max(items - 1, 1)
    over_runs = (runs - 1) / runs * ((leave_one_out - leave_one_out.mean()) ** 2).sum()
    variance = over_items + over_runs
    if not np.isfinite(variance):
        return [float("nan"), float("nan")]
    if variance == 0:
        return [float(estimate), float(estimate)]
    freedom = (runs - 1) * variance / over_runs if over_runs else np.inf  # wider than Satterthwaite's: see the card
    half = stats.t.ppf(0.5 + level / 2, freedom) * np.sqrt(variance)
    return [float(max(estimate - half, bounds[0])), float(min(estimate + half, bounds[1]))]


def _wilson(successes, trials, level):
    interval = stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    return [float(interval.low), float(interval.high)]
