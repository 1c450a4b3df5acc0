"""The share of each class among the test texts, in predictions and in gold, for those who count classes."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from ..metric_loading import load_metric
from .metric_modules import LEVEL
from .texts import Texts


def powered_share(
    shares: np.ndarray, sample_shares: np.ndarray, gold: np.ndarray, level: float
) -> tuple[float, list[float]]:
    """Estimate the share of a class among texts that were all classified and of which a random sample was labelled.

    The classifiers' share, less their bias on the sample: mean(f) + mean(y - f), the prediction-powered estimate of
    Angelopoulos et al. 2023. It is right on average whatever the classifiers are; good ones make it more exact.

    Args:
        shares (`np.ndarray` of shape `(N,)`):
            f, the share of the runs that give a text the class, of all texts.
        sample_shares (`np.ndarray` of shape `(n,)`):
            The same of the labelled texts, which are among them; n >= 2.
        gold (`np.ndarray` of shape `(n,)`, bool):
            y, whether these are of the class.
        level (`float`):
            Of the interval.

    Returns:
        `tuple[float, list[float]]`: the estimate and its interval, for texts like these, in [0, 1]: by t with n - 1
        degrees of freedom and the variance (1/n - 1/N) var(y - f) + share (1 - share) / N. A sample
        without errors does not prove a rate of zero, so var(y - f) counts one more error each way.
    """
    from scipy import stats

    errors, num_texts = gold - sample_shares, len(gold)
    share = float(np.clip(shares.mean() + errors.mean(), 0, 1))
    spread = (np.square(errors - errors.mean()).sum() + 2) / (num_texts + 1)
    variance = (1 / num_texts - 1 / len(shares)) * spread + share * (1 - share) / len(shares)
    half = float(stats.t.ppf(0.5 + level / 2, num_texts - 1) * np.sqrt(variance))
    return share, [max(share - half, 0.0), min(share + half, 1.0)]


def class_shares(all_test: Texts, with_gold: Texts) -> Iterator[dict[str, Any]]:
    """Yield the share that each variant's classifiers give each class at the largest size, and its bias against gold.

    The interval of the bias is by t over runs and texts together, as that of a mean score, and corrected for the number
    of classes (Bonferroni); the SD is over runs. Where people labelled a sample of the texts, the share in gold is an
    estimate by all of them (`powered_share`), and its interval is corrected likewise. With groups, the same follows for
    each group of which two or more texts have gold, corrected for the number of classes and groups.

    Args:
        all_test (`Texts`), with_gold (`Texts`):
            All test texts, and those with gold; the latter without runs where too few have gold, see `read_texts`.
    """
    if not with_gold.labels:
        return
    module, groups = load_metric("seed_scores"), with_gold.rows.groups
    names = [] if groups is None else sorted(set(groups) - {None})
    parts = [(None, np.arange(len(all_test.rows)), np.arange(len(with_gold.rows)))]
    parts += [(name, *(np.flatnonzero(texts.rows.groups == name) for texts in (all_test, with_gold))) for name in names]
    for (variant, size), (group, places, gold_places) in product(all_test.labels, parts):
        if size != all_test.top or len(gold_places) < 2:
            continue
        all_labels = all_test.labels[variant, size][:, places]
        inside = with_gold.take(gold_places)
        labels, gold, num_classes = inside.labels[variant, size], inside.rows.gold, inside.num_classes
        runs, items = labels.shape
        level = 1 - (1 - LEVEL) / num_classes / (1 if group is None else len(names))

        for k, name in enumerate(inside.rows.label_names):
            is_class, gold_share, gold_interval = all_labels == k, float((gold == k).mean()), None
            if items < len(places):
                sample = (labels == k).mean(axis=0)
                gold_share, gold_interval = powered_share(is_class.mean(axis=0), sample, gold == k, level)
            errors = (labels == k).astype(float) - (gold == k)
            bias = module.mean_interval(errors, inside.clusters, level, (-1, 1))
            yield {
                "variant": variant,
                "size": size,
                "group": group,
                "class_name": name,
                "R": runs,
                "n": items,
                "gold": gold_share,
                "gold_interval": gold_interval,
                "share": float(is_class.mean()),
                "bias": float(errors.mean()),
                "bias_interval": bias if runs > 2 else None,
                "sd": float(is_class.mean(axis=1).std(ddof=1)),
            }
