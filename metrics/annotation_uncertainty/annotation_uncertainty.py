"""Measure an LLM annotator's label distributions: how unsure it is, how often it errs, and whether entropy shows it.

evaluate.load("metrics/annotation_uncertainty").compute(predictions=[[0.9, 0.1], [0.6, 0.4]], references=[0, 1])
"""

import datasets
import evaluate
import numpy as np
from scipy import special, stats

from .shared import (
    Direct,
    check_bins,
    check_clusters,
    check_labels,
    check_level,
    check_numbers,
    check_probabilities,
    sum_by_rank,
    wilson,
)

_CITATION = """\
@article{lu2025feeding, title={Feeding LLM Annotations to BERT Classifiers at Your Own Risk},
  author={Lu, Yucheng and Smith, Kazimier}, journal={arXiv:2504.15432}, year={2025}}
@article{guo2017calibration, title={On Calibration of Modern Neural Networks}, author={Guo, Chuan and others},
  journal={ICML}, year={2017}}
@article{geifman2019bias, title={Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers},
  author={Geifman, Yonatan and Uziel, Guy and El-Yaniv, Ran}, journal={ICLR}, year={2019}}
@article{agro2023handling, title={Handling Realistic Label Noise in BERT Text Classification},
  author={Agro, Maha Tufail and Aldarmaki, Hanan}, journal={ICNLSP}, year={2023}}
"""

_DESCRIPTION = """\
Entropy, calibration, errors and flips of an LLM annotator's label distributions, and whether entropy finds the errors.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of n lists of K `float`):
        The annotator's probabilities over the K >= 2 labels, one list per text. Each sums to 1 within 1e-3 and is
        renormalised. The label is the most probable class, the first of equals.
    references (`list` of n `int`, *optional*):
        Gold classes; -1 where there is none. Rows without gold are left out of the figures that need it.
    votes (`list` of n lists of P `int`, *optional*):
        The labels that P passes over the texts gave; -1 where a pass gave none.
    label_mass (`list` of n `float`, *optional*):
        The raw probability mass on the labels, before renormalising.
    clusters (`list` of n `int` or `str`, *optional*):
        The document, thread or author of each row: intervals count clusters, not rows.
    alphas (`list` of `float`, *optional*, defaults to `(0.05, 0.1, 0.25)`):
        The shares of most uncertain rows of the error capture, in (0, 1].
    bins (`int`, *optional*, defaults to 10):
        Of both calibration errors.
    confidence_level (`float`, *optional*, defaults to 0.95):
        Of all intervals.

Returns:
    `dict`: an `_interval` is a `list` of 2 `float`, or of such lists; entropies are in nats; nan is not defined. Always
    - **n**, **num_classes**, **n_gold** (`int`), **confidence_level** (`float`), **label_share** (`list` of K `float`)
    - **entropy_mean**, **normalised_entropy_mean** (`float`): the latter H / ln K; **entropy_quantiles** (`list` of 5
      `float`): at 5, 25, 50, 75 and 95%; **margin_mean** (`float`): the largest probability less the second.
    - **label_mass_mean** (`float`): only with label_mass.

    with votes, over the **n_voted** (`int`) rows that have two or more of the **P** (`int`)
    - **flip_rate** (`float`), **flip_rate_interval**: the share of rows whose votes do not all agree (Lu & Smith 2025),
      **vote_entropy_mean** (`float`): both depend on P.
    - **pairwise_disagreement** (`float`): of two votes of a row; its expectation does not depend on P.

    with gold
    - **n_errors** (`int`), **accuracy**, **majority_accuracy**, **macro_f1** (`float`), **accuracy_interval**,
      **macro_f1_interval**: macro-F1 is over the classes that occur in gold.
    - **confusion** (`list` of K lists of K `int`): a row for each gold class; **per_class_n** (`list` of K `int`)
    - **per_class_recall**, **per_class_precision** (`list` of K `float`), each with its `_interval`.
    - **nll** (`float`): the mean of -ln p(gold); inf if a gold class has probability 0; **brier** (`float` in [0, 2]):
      the sum over classes, as Brier (1950) has it.
    - **ece** (`float`): of the label's probability, bins of equal width (Guo et al. 2017); **adaptive_ece** (`float`):
      the same with bins of equal mass (after Nixon et al. 2019, who take every class).
    - **reliability** (`list` of `dict`): ece's: `lower`, `upper`, `n`, `confidence`, `accuracy`, `accuracy_interval`.
    - **entropy_auroc** (`float`), **entropy_auroc_interval**: P(a wrong label has more entropy than a right one).
    - **error_capture** (`list` of `float`), **error_capture_interval**: for each of **alphas** (`list` of `float`), the
      share of all errors among that share of most uncertain rows; **lift** (`list` of `float`): capture / alpha.
    - **risk_coverage** (`list` of at most 100 `[coverage, error rate]`): the error rate of the least uncertain share;
      **aurc** (`float`): the area under it; **e_aurc** (`float`): less a perfect order's (Geifman et al. 2019).
    - **error_by_class** (`list` of K `float`): of each gold class; **class_share** (`float` in [0, 1]): eta squared,
      the share of the errors' variance that is between gold classes.
    - **within_class_auroc** (`float`), **within_class_auroc_interval**: entropy_auroc over pairs of one gold class.

    with gold and votes
    - **n_flipped**, **n_unflipped** (`int`), **flipped_error_rate**, **unflipped_error_rate** (`float`), each with its
      `_interval`; **flip_recall** (`float`), **flip_recall_interval**: the share of errors that are flipped.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class AnnotationUncertainty(Direct, evaluate.Measurement):
    def _info(self):
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                # int64 would cast a label of 0.7 to 0
                {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, **kwargs):
        return annotation_uncertainty(**kwargs)


def annotation_uncertainty(
    predictions,
    references=None,
    votes=None,
    label_mass=None,
    clusters=None,
    alphas=(0.05, 0.1, 0.25),
    bins=10,
    confidence_level=0.95,
):
    """Compute what `_KWARGS_DESCRIPTION` lists."""
    predictions = check_probabilities(predictions, "n rows", "K classes")
    items, classes = predictions.shape
    if references is None:
        references = np.full(items, -1)
    references = check_labels("references", references, items, min_label=-1, num_classes=classes)
    clusters = check_clusters(clusters, items)
    check_level(confidence_level)
    bins = check_bins(bins)
    alphas = check_numbers("alphas", alphas, "shares").astype(np.float64)
    if not ((alphas > 0) & (alphas <= 1)).all():
        raise ValueError(f"`alphas` must be above 0 and at most 1. Got {alphas.tolist()}. Try [0.05, 0.25].")
    z = stats.norm.ppf(0.5 + confidence_level / 2)
    ranked = np.sort(predictions, axis=1)[:, ::-1]  # sorted, so that one distribution in any order is a tie
    ranked = (ranked / ranked.sum(axis=1, keepdims=True)).round(12)
    entropy = np.clip(special.entr(ranked).sum(axis=1), 0, np.log(classes))
    labels = predictions.argmax(axis=1)
    has_gold = references >= 0
    result = {
        "n": items,
        "num_classes": classes,
        "n_gold": int(has_gold.sum()),
        "label_share": (np.bincount(labels, minlength=classes) / items).tolist(),
        "entropy_mean": float(entropy.mean()),
        "normalised_entropy_mean": float(entropy.mean() / np.log(classes)),
        "entropy_quantiles": np.quantile(entropy, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist(),
        "margin_mean": float((ranked[:, 0] - ranked[:, 1]).mean()),
        "confidence_level": confidence_level,
    }
    if label_mass is not None:
        label_mass = check_numbers("label_mass", label_mass, items)
        if not ((label_mass >= 0) & (label_mass <= 1 + 1e-3)).all():
            got = f"{label_mass.min():g} to {label_mass.max():g}"
            raise ValueError(f"`label_mass` must be in [0, 1]. Got {got}. Try the sum of the raw probabilities.")
        result["label_mass_mean"] = float(label_mass.mean())
    if votes is not None:
        votes = check_labels("votes", votes, items, "P votes", min_label=-1, num_classes=classes)
        is_flipped, has_votes, figures = _votes(votes, classes, clusters, z)
        result |= figures
    if has_gold.any():
        gold, labels, entropy = references[has_gold], labels[has_gold], entropy[has_gold]
        clusters = np.unique(clusters[has_gold], return_inverse=True)[1]
        wrong = labels != gold
        result |= _scores(gold, labels, classes, clusters, z)
        result |= _calibration(predictions[has_gold], gold, ranked[has_gold, 0], ~wrong, bins, clusters, z)
        result |= _detection(entropy, wrong, alphas, clusters, z)
        result |= _auroc("entropy_auroc", entropy, wrong, np.zeros_like(gold), clusters, confidence_level)
        result |= _auroc("within_class_auroc", entropy, wrong, gold, clusters, confidence_level)
        if votes is not None:
            voted = has_votes[has_gold]
            result |= _flips(wrong[voted], is_flipped[has_gold & has_votes], clusters[voted], z)
    return result


def _votes(votes, classes, clusters, z):
    """Return which rows are flipped, which have two votes or more, and the figures over the latter."""
    items, passes = votes.shape
    cells = votes + np.arange(items)[:, None] * classes
    counts = np.bincount(cells[votes >= 0], minlength=items * classes).reshape(items, classes)
    num_votes = counts.sum(axis=1)
    is_flipped, has_votes = counts.max(axis=1) < num_votes, num_votes >= 2
    counts, num_votes = counts[has_votes], num_votes[has_votes]
    differ = 1 - (counts * (counts - 1)).sum(axis=1) / (num_votes * (num_votes - 1))
    figures = {
        "P": passes,
        "n_voted": len(num_votes),
        **_rate("flip_rate", is_flipped[has_votes], clusters[has_votes], z),
        "vote_entropy_mean": float(_ratio(special.entr(counts / num_votes[:, None]).sum(), len(num_votes))),
        "pairwise_disagreement": float(_ratio(differ.sum(), len(num_votes))),
    }
    return is_flipped, has_votes, figures


def _flips(wrong, is_flipped, clusters, z):
    """Compute error rates of flipped and other rows, over those with gold and two votes or more."""
    return {
        "n_flipped": int(is_flipped.sum()),
        "n_unflipped": int((~is_flipped).sum()),
        **_rate("flipped_error_rate", wrong[is_flipped], clusters[is_flipped], z),
        **_rate("unflipped_error_rate", wrong[~is_flipped], clusters[~is_flipped], z),
        **_rate("flip_recall", is_flipped[wrong], clusters[wrong], z),
    }


def _scores(gold, labels, classes, clusters, z):
    """Compute accuracy, macro-F1 and the noise structure.

    An item of gold class g that got label p moves F1 = 2 TP / S of class k, S = TP + FN + TP + FP, by
    (2 [g = p = k] - F1 ([g = k] + [p = k])) / S: the infinitesimal jackknife (Efron 1982).
    """
    confusion = np.bincount(gold * classes + labels, minlength=classes**2).reshape(classes, classes)
    items, hits, is_right = confusion.sum(), confusion.diagonal(), labels == gold
    gold_counts, label_counts = confusion.sum(axis=1), confusion.sum(axis=0)
    recall, accuracy, present = _ratio(hits, gold_counts), hits.sum() / items, gold_counts > 0
    sizes = np.maximum(gold_counts + label_counts, 1)
    weight = np.where(present, 1 / sizes, 0) / present.sum()  # of one item in macro-F1
    f1 = 2 * hits / sizes
    influence = 2 * np.diag(weight) - (weight * f1)[:, None] - weight * f1
    macro_f1, num_clusters = f1[present].mean(), int(clusters.max()) + 1
    moves = influence[gold, labels] * np.sqrt(num_clusters / max(num_clusters - 1, 1))
    worth = _worth(macro_f1, moves, clusters, _count_clusters(gold, classes, clusters)[present], 1 / present.sum())
    between = (gold_counts[present] * (recall[present] - accuracy) ** 2).sum()
    return {
        "n_errors": int(items - hits.sum()),
        **_rate("accuracy", is_right, clusters, z),
        "majority_accuracy": float(gold_counts.max() / items),
        "macro_f1": float(macro_f1),
        "macro_f1_interval": wilson(macro_f1, worth, z),
        "confusion": confusion.tolist(),
        "per_class_n": gold_counts.tolist(),
        **_rates("per_class_recall", is_right, gold, classes, clusters, z),
        **_rates("per_class_precision", is_right, labels, classes, clusters, z),
        "error_by_class": (1 - recall).tolist(),
        "class_share": float(min(_ratio(between, items * accuracy * (1 - accuracy)), 1)),
    }


def _calibration(probs, gold, confidence, right, bins, clusters, z):
    """Score probabilities against gold; `confidence` is that of the label, and bins of equal mass cut through ties."""
    items, probs = len(gold), probs / probs.sum(axis=1, keepdims=True)
    confidence = confidence.round(12)  # rounding errors must not move a probability to another bin
    of_gold = probs[np.arange(items), gold]
    edges = np.linspace(0, 1, bins + 1).round(12)
    at = np.maximum(np.searchsorted(edges, confidence) - 1, 0)  # bins are open below and closed above
    n = np.bincount(at, minlength=bins)
    mean = _ratio(np.bincount(at, confidence, minlength=bins), n)
    accuracy, worth = _share(right, at, bins, clusters)
    gaps = np.diff(sum_by_rank(confidence, right - confidence, np.linspace(0, items, bins + 1)))
    names = ("lower", "upper", "n", "confidence", "accuracy", "accuracy_interval")
    columns = (*(c.tolist() for c in (edges[:-1], edges[1:], n, mean, accuracy)), wilson(accuracy, worth, z))
    return {
        "nll": float(special.rel_entr(1, of_gold).mean()),
        "brier": float(((probs**2).sum(axis=1) - 2 * of_gold + 1).mean()),
        "ece": float(np.nansum(n * np.abs(accuracy - mean)) / items),
        "adaptive_ece": float(np.abs(gaps).sum() / items),
        "reliability": [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)],
    }


def _detection(entropy, wrong, alphas, clusters, z):
    """Compute error capture and risk-coverage from one curve: the errors among the least uncertain rows."""
    items, errors = len(wrong), wrong.sum()
    kept = np.arange(1, items + 1)
    risk = sum_by_rank(entropy, wrong, kept) / kept
    best = np.maximum(kept - (items - errors), 0) / kept  # all errors last
    # How much of each error is captured: a part, where alpha cuts rows that tie.
    _, group, sizes = np.unique(entropy, return_inverse=True, return_counts=True)
    above = np.cumsum(sizes) - items * (1 - alphas[:, None])
    captured = np.clip(above / sizes, 0, 1)[:, group[wrong]]
    of_alpha, of_cluster = np.repeat(np.arange(len(alphas)), errors), np.tile(clusters[wrong], len(alphas))
    shown = np.ceil(np.linspace(0, items, min(items, 100) + 1)[1:]).astype(int)
    return {
        "alphas": alphas.tolist(),
        **_rates("error_capture", captured.ravel(), of_alpha, len(alphas), of_cluster, z),
        "lift": _ratio(captured.sum(axis=1), errors * alphas).tolist(),
        "risk_coverage": np.stack([shown / items, risk[shown - 1]], axis=1).tolist(),
        "aurc": float(risk.mean()),
        "e_aurc": float(risk.mean() - best.mean()),
    }


def _auroc(name, entropy, wrong, group, clusters, level):
    """Compute P(a wrong row has more entropy than a right one of its group), ties half; all pairs count the same.

    The variance is DeLong's (1988); over several groups, that of the ratio of all wins to all pairs. With clusters, the
    influences of a cluster's wrong and right rows are added up (Obuchowski 1997).
    """
    wins, pairs, sizes, num_pairs = np.zeros(len(wrong)), np.zeros(len(wrong)), [], []
    for k in np.unique(group):
        bad, good = np.flatnonzero((group == k) & wrong), np.flatnonzero((group == k) & ~wrong)
        both = stats.rankdata(np.concatenate([entropy[bad], entropy[good]]))
        wins[bad] = both[: len(bad)] - stats.rankdata(entropy[bad])
        wins[good] = len(bad) - (both[len(bad) :] - stats.rankdata(entropy[good]))
        pairs[bad], pairs[good] = len(good), len(bad)
        if len(bad) and len(good):
            sizes.append(min(len(np.unique(clusters[rows])) for rows in (bad, good)))
            num_pairs.append(len(bad) * len(good))
    total = sum(num_pairs)
    if not total:
        return {name: float("nan"), f"{name}_interval": [float("nan")] * 2}
    auroc = wins[wrong].sum() / total
    kinds = _count_clusters(wrong.astype(int), 2, clusters)  # with right rows, and with wrong ones
    moves = (wins - auroc * pairs) / total * np.sqrt(kinds / np.maximum(kinds - 1, 1))[wrong.astype(int)]
    worth = _worth(auroc, moves, clusters, np.array(sizes), np.array(num_pairs) / total)
    t = stats.t.ppf(0.5 + level / 2, max(kinds.min() - 1, 1))
    return {name: float(auroc), f"{name}_interval": wilson(auroc, worth, t)}


def _worth(share, moves, clusters, sizes, weights):
    """Return how many independent trials give a share the variance that its rows' moves add up to.

    Clusters count as at most as many trials as their rows. Without a variance, the sizes of the parts count.
    """
    variance = (np.bincount(clusters, moves) ** 2).sum()
    if variance > 1e-15:
        return share * (1 - share) / max(variance, (moves**2).sum())
    return 1 / (weights**2 / sizes).sum()


def _share(hits, group, num_groups, clusters):
    """Return the share of hits in each group of rows, and how many independent trials it is worth.

    That is the number of rows by the design effect (Kish 1965): the linearised variance of the share p, with
    sum_g (sum of hit - p over the rows of cluster g)^2, by that of independent rows, with the sum of (hit - p)^2.
    Clusters count as at most as many trials as their rows, and as one each where nothing varies.
    """
    trials = np.bincount(group, minlength=num_groups)
    share = _ratio(np.bincount(group, hits, minlength=num_groups), trials)
    moves = hits - share[group]
    cells, cell = np.unique(clusters * num_groups + group, return_inverse=True)
    by_row = np.bincount(group, moves**2, minlength=num_groups)
    by_cluster = np.bincount(cells % num_groups, np.bincount(cell, moves) ** 2, minlength=num_groups)
    worth = np.bincount(cells % num_groups, minlength=num_groups).astype(float)
    has_variance = by_cluster > 1e-9  # above rounding errors
    worth[has_variance] = (trials * np.minimum(_ratio(by_row, by_cluster), 1))[has_variance]
    return share, worth


def _count_clusters(group, num_groups, clusters):
    """Return the number of clusters with rows in each group."""
    return np.bincount(np.unique(clusters * num_groups + group) % num_groups, minlength=num_groups)


def _rates(name, hits, group, num_groups, clusters, z):
    share, worth = _share(hits, group, num_groups, clusters)
    return {name: share.tolist(), f"{name}_interval": wilson(share, worth, z)}


def _rate(name, hits, clusters, z):
    rates = _rates(name, hits, np.zeros(len(hits), dtype=int), 1, clusters, z)
    return {key: values[0] for key, values in rates.items()}


def _ratio(parts, wholes):
    """Divide; nan where the whole is 0."""
    parts, wholes = np.broadcast_arrays(parts, wholes)
    return np.divide(parts, wholes, out=np.full(wholes.shape, np.nan), where=wholes > 0)
