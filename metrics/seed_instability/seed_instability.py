"""Measure instability of labels from seed to seed: do the same texts get the same labels when only chance changes?

evaluate.load("metrics/seed_instability").compute(predictions=[[0, 1, 1], [0, 1, 0]], references=[0, 1, 1])
"""

from dataclasses import dataclass

import datasets
import evaluate
import numpy as np
from scipy import special, stats

from .shared import (
    CrossedVariance,
    Direct,
    by_cluster,
    check_classes,
    check_clusters,
    check_level,
    check_runs,
    item_variance,
    jackknife,
    third_cumulant,
    variance_from_squares,
    wilson,
)

_CITATION = """\
@inproceedings{du2023measuring, title={Measuring the Instability of Fine-Tuning}, author={Du, Yupei and Nguyen, Dong},
  booktitle={ACL}, year={2023}}
@book{krippendorff2004content, title={Content Analysis}, author={Krippendorff, Klaus}, year={2004}}
@article{gwet2008computing, title={Computing Inter-Rater Reliability and Its Variance in the Presence of High
  Agreement}, author={Gwet, Kilem Li}, year={2008},
  journal={British Journal of Mathematical and Statistical Psychology}}
@inproceedings{geirhos2020beyond, title={Beyond Accuracy: Quantifying Trial-by-Trial Behaviour of CNNs and Humans by
  Measuring Error Consistency}, author={Geirhos, Robert and others}, booktitle={NeurIPS}, year={2020}}
@article{lu2025feeding, title={Feeding LLM Annotations to BERT Classifiers at Your Own Risk},
  author={Lu, Yucheng and Smith, Kazimier}, journal={arXiv:2504.15432}, year={2025}}
"""

_DESCRIPTION = """\
Disagreement, chance-corrected agreement, unanimity and vote entropy of several training runs' labels on one test set.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of R lists of n `int`):
        One list of class indices per run, all over the same items in the same order. R is at least 2.
    references (`list` of n `int`, or of R such lists, *optional*):
        Gold labels, needed for error consistency and for the figures per class.
    num_classes (`int`, *optional*):
        The number of classes K, by default one more than the largest reference, or without references the largest
        prediction. `gwet_ac1` depends on it.
    clusters (`list` of n `int` or `str`, *optional*):
        The document, thread or author of each item: intervals count clusters, not items.
    at_r (`list` of `int`, *optional*):
        Numbers of runs, 2 to R each, at which to give unanimity too, so that studies of different R compare.
    return_items (`bool`, *optional*, defaults to `False`):
        Also return `item_disagreement`, one figure per item.
    confidence_level (`float`, *optional*, defaults to 0.95):
        Of all intervals.

Returns:
    `dict`: an `_interval` is a `list` of 2 `float`, over runs and items together unless said otherwise; see the card.
    - **pairwise_disagreement** (`float` in [0, 1]), **pairwise_disagreement_interval**: the share of items on which two
      runs differ, averaged over pairs. The primary figure: its expectation does not depend on R.
    - **krippendorff_alpha** (`float` <= 1), **krippendorff_alpha_interval**: agreement beyond chance, nominal; nan if
      all predictions are one class.
    - **gwet_ac1** (`float` <= 1), **gwet_ac1_interval**: agreement beyond chance that rare classes do not distort.
    - **unanimity** (`float` in [0, 1]), **unanimity_interval**: the share of items on which all R runs agree (Lu &
      Smith's p_uc), its interval over items only, for these very runs. It falls as R grows: compare it at equal R only.
    - **unanimity_at** (`dict` from R' to `float`): the same of R' runs, averaged over all subsets; only with at_r.
    - **vote_entropy** (`float` in [0, ln min(K, R)]): of the R labels of an item, in nats, averaged. Biased low by an
      amount that shrinks with R: compare it at equal R only.
    - **error_consistency** (`float` <= 1), **error_consistency_interval**: Cohen's kappa of two runs' right and wrong,
      averaged over pairs for which it is defined; nan if there is none. Only with references.
    - **per_class_n**, **per_class_disagreement**, **per_class_disagreement_interval**, **per_class_alpha**,
      **per_class_ac1**, **per_class_unanimity**, **per_class_vote_entropy**, **per_class_error_consistency** (`dict`
      from class to a figure): within each gold class; only with references.
    - **single_class** (`bool`): all predictions of all runs are one class, so that agreement means nothing.
    - **leave_one_out** (`list` of R `float`): the disagreement without each run in turn (nan at R = 2).
    - **R** (`int`), **n** (`int`), **num_classes** (`int`), **confidence_level** (`float`)
"""


MAX_CELLS = 2**27  # of labels by run, gold class and label: 1 GB
CELLS = 2**20  # of counts, items x classes, in memory at a time
BLOCK_BYTES = 2**26  # of right and wrong answers in memory at a time
FOLDS = 20  # of items, left out in turn for the interval of the error consistency


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class SeedInstability(Direct, evaluate.Metric):
    def _info(self):
        per_run = datasets.Sequence(datasets.Value("float64"))  # int64 would cast 0.7 to 0
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": per_run, "references": per_run}),
        )

    def _compute(self, **kwargs):
        return seed_instability(**kwargs)


def seed_instability(
    predictions,
    references=None,
    num_classes=None,
    clusters=None,
    at_r=None,
    return_items=False,
    confidence_level=0.95,
):
    """Compute what `_KWARGS_DESCRIPTION` lists."""
    predictions, references = check_runs(predictions, references)
    check_level(confidence_level)
    classes = check_classes(num_classes, predictions if references is None else references, predictions)
    runs, items = predictions.shape
    at_r = () if at_r is None else at_r
    if bad := [r for r in at_r if r != int(r) or not 2 <= r <= runs]:
        raise ValueError(f"`at_r` must be whole numbers from 2 to R = {runs}. Got {bad[0]}. Try [2].")
    predictions = predictions.astype(np.min_scalar_type(classes))
    present, group = ([], np.zeros(items, int)) if references is None else np.unique(references, return_inverse=True)
    if runs * max(len(present), 1) * classes > MAX_CELLS or FOLDS * runs**2 > MAX_CELLS:
        raise ValueError(
            f"`predictions` must fit into 1 GB of counts. Got {runs} runs of {items} items with {classes} classes. Try "
            "one list per run, not one per item."
        )
    clusters = check_clusters(clusters, items)
    votes = _count(predictions, group, classes, clusters, at_r)
    pooled = votes.labels.sum(axis=(0, 1))
    disagreement = votes.disagreement.mean()
    without = _leave_one_out(disagreement * items, votes.company.sum(axis=1), items)
    variance = _variance(votes.disagreement - disagreement, without, clusters, votes.both)
    result = {
        "pairwise_disagreement": float(disagreement),
        "pairwise_disagreement_interval": variance.interval(disagreement, confidence_level, (0, 1)),
        **_chance_corrected(predictions, votes, pooled, without, clusters, confidence_level),
        "unanimity": float(votes.unanimous.mean()),
        "unanimity_interval": _share_interval(votes.unanimous, clusters, confidence_level),
        "vote_entropy": float(votes.entropy.mean()),
        "single_class": bool((pooled > 0).sum() == 1),
        "leave_one_out": without.tolist(),
        "R": runs,
        "n": items,
        "num_classes": classes,
        "confidence_level": confidence_level,
    }
    if len(at_r):
        result["unanimity_at"] = {int(r): float(total / items) for r, total in zip(at_r, votes.at_r, strict=True)}
    if references is not None:
        result |= _error_consistency(predictions, references, present, clusters, confidence_level)
        result |= _per_class(votes, group, present, clusters, confidence_level)
    if return_items:
        result["item_disagreement"] = votes.disagreement.tolist()
    return result


@dataclass
class _Votes:
    """Collect the counts from which all figures are computed.

    With c the number of runs that give an item a class, a run's *company* on an item is the c of its own label; the
    sum of (company - 1) over items is what leaving that run out takes away.

    Attributes:
        disagreement, entropy (`np.ndarray` of shape `(n,)`): the share of pairs of runs that differ; of votes, in nats.
        unanimous (`np.ndarray` of shape `(n,)`, bool)
        at_r (`np.ndarray`): for each R', the sum over items of the share of subsets of R' runs that are unanimous.
        labels (`np.ndarray` of shape `(R, G, K)`): how often each run gives a gold class each label.
        company (`np.ndarray` of shape `(R, G)`): summed over a gold class.
        both (`float`): the part of the variance of the mean disagreement that is run x item; nan at R = 2.
        both_of (`np.ndarray` of shape `(G,)`): the same within each gold class; with clusters 0, on the safe side.
    """

    disagreement: np.ndarray
    entropy: np.ndarray
    unanimous: np.ndarray
    at_r: np.ndarray
    labels: np.ndarray
    company: np.ndarray
    both: float
    both_of: np.ndarray


def _count(predictions, group, classes, clusters, at_r):
    """Count everything in one walk over the items, a block at a time: linear in R x n, whatever K is."""
    runs, items = predictions.shape
    groups, num_clusters = int(group.max()) + 1, int(clusters.max()) + 1
    is_clustered = num_clusters < items
    company_by_cluster = np.zeros((runs, num_clusters if is_clustered else 0))
    squares = np.zeros(groups)  # of company less its mean over runs
    count = np.arange(runs + 1)
    entropy_of, subsets_of = special.entr(count / runs), [special.comb(count, r) / special.comb(runs, r) for r in at_r]
    disagreement, entropy, unanimous = np.empty(items), np.empty(items), np.empty(items, dtype=bool)
    at_r, company_of = np.zeros(len(subsets_of)), np.zeros((runs, groups))
    labels = np.zeros((runs, groups * classes))
    block = max(CELLS // max(classes, runs), 1)
    for start in range(0, items, block):
        part = slice(start, min(start + block, items))
        width = part.stop - start
        cells = predictions[:, part] + np.arange(0, width * classes, classes)
        counts = np.bincount(cells.ravel(), minlength=width * classes)
        company = counts.take(cells)
        counts = counts.reshape(width, classes)
        disagreement[part] = 1 - np.einsum("ik,ik->i", counts, counts - 1) / (runs * (runs - 1))
        entropy[part] = entropy_of[counts].sum(axis=1)
        unanimous[part] = company[0] == runs
        at_r += [lookup[counts].sum() for lookup in subsets_of]
        of_group = group[part] * classes
        for r in range(runs):
            company_of[r] += np.bincount(group[part], company[r], minlength=groups)
            labels[r] += np.bincount(of_group + predictions[r, part], minlength=groups * classes)
            if is_clustered:
                company_by_cluster[r] += np.bincount(clusters[part], company[r], minlength=num_clusters)
        by_item = np.square(company).sum(axis=0) - np.square(company.sum(axis=0)) / runs
        squares += np.bincount(group[part], by_item, minlength=groups)

    totals, sizes = company_of.sum(axis=1), np.bincount(group)
    both_of = _both(squares - np.square(company_of - company_of.mean(axis=0)).sum(axis=0) / sizes, runs, sizes)
    both = _both(squares.sum() - np.square(totals - totals.mean()).sum() / items, runs, items)
    if is_clustered:
        centred = (company_by_cluster - np.outer(totals / items, np.bincount(clusters))) * (num_clusters / items)
        both = _both(np.square(centred - centred.mean(axis=0)).sum(), runs, num_clusters)
        both_of = np.zeros(groups)
    labels = labels.reshape(runs, groups, classes)
    return _Votes(disagreement, entropy, unanimous, at_r, labels, company_of, float(both), both_of)


def _both(squares, runs, items):
    """Return the run x item part of the variance by the squared residuals of company; nan at R = 2.

    A run's pseudo-value on an item is a constant less 2 / (R - 2) of its company there.
    """
    if runs == 2:
        return np.nan * squares
    return (2 / (runs - 2)) ** 2 * squares / (runs * (runs - 1) * items * np.maximum(items - 1, 1))


def _variance(influence, without, clusters, both, floor=0.5, scale=1.0):
    """Return the variance of a mean over runs and items, by the influence of items and the mean without each run.

    Args:
        influence (`np.ndarray` of shape `(n,)`), without (`np.ndarray` of shape `(R,)`), clusters (`np.ndarray`)
        both (`float`): the run x item part of the variance of the disagreement.
        floor (`float`): of an item's influence, see `crossed_variance`.
        scale (`float`): how far the figure moves with the disagreement.
    """
    runs, by_unit = len(without), by_cluster(influence[None], clusters)[0]
    over_items = item_variance(by_unit, floor * scale)
    third = third_cumulant(-(runs - 1) * without)
    return variance_from_squares(
        jackknife(without), runs - 1, over_items, both * scale**2, max(len(by_unit) - 1, 1), third
    )


def _leave_one_out(total, company, items):
    """Return the mean disagreement without each run in turn, from the sum over items with all; nan at R = 2."""
    runs = len(company)
    if runs == 2:
        return np.full(2, np.nan)
    agreeing = runs * (runs - 1) * (items - total) - 2 * (company - items)
    return 1 - agreeing / (items * (runs - 1) * (runs - 2))


def _chance_corrected(predictions, votes, pooled, without, clusters, level):
    """Compute Krippendorff's nominal alpha for complete data and Gwet's AC1, with their intervals."""
    runs = len(predictions)
    disagreement, share = votes.disagreement.mean(), pooled / pooled.sum()
    pooled_without = pooled - votes.labels.sum(axis=1)
    # How common the labels of an item are.
    commonness = sum(share[run] for run in predictions) / runs - (share**2).sum()
    result = {}
    for name, expected, slope in (
        ("krippendorff_alpha", _expected_alpha, -2.0),
        ("gwet_ac1", _expected_ac1, 2.0 / max(len(pooled) - 1, 1)),
    ):
        chance, chance_without = expected(pooled), expected(pooled_without)
        value = 1 - disagreement / chance
        influence = (value - 1) * ((votes.disagreement - disagreement) / disagreement if disagreement else 0)
        influence = influence + (1 - value) / chance * slope * commonness
        value_without = 1 - without / chance_without
        result[name] = float(value)
        variance = _variance(influence, value_without, clusters, votes.both, scale=1 / chance)
        result[f"{name}_interval"] = variance.interval(value, level, (-1, 1))
    return result


def _expected_alpha(pooled):
    """Return chance disagreement from the labels of all runs (last axis); nan if they are one class."""
    total = pooled.sum(axis=-1)
    chance = 1 - (pooled * (pooled - 1)).sum(axis=-1) / np.maximum(total * (total - 1), 1)
    return np.where(chance > 0, chance, np.nan)


def _expected_ac1(pooled):
    """Return 1 - sum q(1 - q) / (K - 1) (Gwet 2008); nan if there is one class."""
    share = pooled / pooled.sum(axis=-1, keepdims=True)
    classes = pooled.shape[-1]
    return 1 - (share * (1 - share)).sum(axis=-1) / (classes - 1) if classes > 1 else np.full(share.shape[:-1], np.nan)


def _per_class(votes, group, present, clusters, level):
    result = {name: {} for name in ("n", "disagreement", "disagreement_interval", "alpha", "ac1", "unanimity")}
    result["vote_entropy"] = {}
    for g, k in enumerate(present.tolist()):
        of_class = group == g
        each, pooled = votes.disagreement[of_class], votes.labels[:, g].sum(axis=0)
        without = _leave_one_out(each.sum(), votes.company[:, g], len(each))
        result["n"][k] = len(each)
        result["disagreement"][k] = float(each.mean())
        of_clusters = np.unique(clusters[of_class], return_inverse=True)[1]
        variance = _variance(each - each.mean(), without, of_clusters, float(votes.both_of[g]))
        result["disagreement_interval"][k] = variance.interval(each.mean(), level, (0, 1))
        result["alpha"][k] = float(1 - each.mean() / _expected_alpha(pooled))
        result["ac1"][k] = float(1 - each.mean() / _expected_ac1(pooled))
        result["unanimity"][k] = float(votes.unanimous[of_class].mean())
        result["vote_entropy"][k] = float(votes.entropy[of_class].mean())
    return {f"per_class_{name}": figures for name, figures in result.items()}


def _error_consistency(predictions, references, present, clusters, level):
    """Compute Geirhos et al. 2020, averaged over pairs of runs; the pairs' counts are products of small matrices.

    The interval is a jackknife over runs and over `FOLDS` folds of items, or of clusters.
    """
    runs, items = predictions.shape
    is_clustered = clusters.max() + 1 < items
    folds, sizes = np.zeros((FOLDS, runs, runs)), np.zeros(FOLDS)
    of_class = {k: np.zeros((runs, runs)) for k in present.tolist()}
    block = max(BLOCK_BYTES // (4 * runs), 1)
    for start in range(0, items, block):
        part = slice(start, start + block)
        order = np.argsort(references[part], kind="stable")
        right = np.ascontiguousarray((predictions[:, part] == references[part]).T)[order].astype(np.float32)
        gold = references[part][order]
        # Folds go by the place in the block, so that small classes fill all of them, or by the cluster.
        fold_of = (clusters[part][order] if is_clustered else np.arange(len(order))) % FOLDS
        bounds = np.flatnonzero(np.diff(gold)) + 1
        for first, last in zip([0, *bounds], [*bounds, len(order)], strict=True):
            both = np.zeros((FOLDS, runs, runs))
            for fold in range(FOLDS):
                members = right[first:last][fold_of[first:last] == fold]
                both[fold] = members.T @ members
                sizes[fold] += len(members)
            folds += both
            of_class[int(gold[first])] += both.sum(axis=0)
    per_class = {k: _mean(_kappas(both, (references == k).sum())) for k, both in of_class.items()}
    whole = folds.sum(axis=0)
    kappas = _kappas(whole, items)
    value, defined = _mean(kappas), ~np.isnan(kappas)
    pairs = defined.sum() - 2 * defined.sum(axis=0)  # without each run in turn
    sums = np.nansum(kappas) - 2 * np.nansum(kappas, axis=0)
    without_run = np.divide(sums, pairs, out=np.full(runs, np.nan), where=pairs > 0)
    used = np.flatnonzero((sizes > 0) & (sizes < items))
    without_fold = np.array([_mean(_kappas(whole - folds[fold], items - sizes[fold])) for fold in used])
    count = len(used)
    over_items = (count - 1) / count * ((without_fold - without_fold.mean()) ** 2).sum() if count > 1 else np.nan
    return {
        "error_consistency": value,
        "error_consistency_interval": CrossedVariance(
            jackknife(without_run), over_items, 0.0, runs - 1, max(count - 1, 1)
        ).interval(value, level, (-1, 1)),
        "per_class_error_consistency": per_class,
    }


def _kappas(both_right, items):
    """Return Cohen's kappa of each pair of runs, (R, R), from counts of items that both get right.

    nan where it is not defined, and for a run with itself.
    """
    rates = both_right.diagonal() / items
    observed = 1 - rates[:, None] - rates + 2 * both_right / items
    expected = np.outer(rates, rates) + np.outer(1 - rates, 1 - rates)
    able = (expected < 1) & ~np.eye(len(rates), dtype=bool)
    return np.divide(observed - expected, 1 - expected, out=np.full(expected.shape, np.nan), where=able)


def _mean(values):
    """Return the mean of the values that are defined; nan if there are none."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def _share_interval(is_hit, clusters, level):
    """Return Wilson's (1927) interval; clusters count as fewer trials, by their design effect (Kish 1965)."""
    trials, share = len(is_hit), is_hit.mean()
    influence = by_cluster((is_hit - share)[None], clusters)[0]
    if len(influence) < trials:
        is_mixed = 0 < share < 1
        trials = min(trials, share * (1 - share) / item_variance(influence)) if is_mixed else len(influence)
    return wilson(share, trials, stats.norm.ppf(0.5 + level / 2))
