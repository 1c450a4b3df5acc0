"""Find the training labels that confident learning calls wrong (Northcutt et al. 2021)."""

import numpy as np

from ..hashing import hash_order

FOLDS = 4
#: Part of the key of runs that leave labels out. To be changed when `find_label_errors` or `fine_tuning.embed` changes.
RULE = f"logistic regression on mean-pooled features of the frozen encoder, {FOLDS} folds by text"


def find_label_errors(texts: list[str], labels: np.ndarray, features: np.ndarray, num_classes: int) -> np.ndarray:
    """Mark the labels that cleanlab calls wrong by the probabilities of a classifier that has not seen them.

    Args:
        texts (`list[str]`):
            The texts; equal texts share a fold.
        labels (`np.ndarray` of shape `(n,)`):
            Class indices.
        features (`np.ndarray` of shape `(n, width)`):
            Features of each text.
        num_classes (`int`):
            The number of classes; `labels` need not have all of them.

    Returns:
        `np.ndarray` of shape `(n,)`, bool; all False if the texts outside of a fold have a single class.
    """
    from cleanlab.filter import find_label_issues
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from threadpoolctl import threadpool_limits

    distinct = list(dict.fromkeys(texts))
    order = hash_order(distinct, "folds")
    fold_of = {distinct[place]: rank % FOLDS for rank, place in enumerate(order)}
    folds = np.array([fold_of[text] for text in texts])
    if any(len(np.unique(labels[folds != fold])) < 2 for fold in range(FOLDS)):
        return np.zeros(len(labels), dtype=bool)

    probs = np.zeros((len(labels), num_classes))
    # With one thread the sums, and so the marked rows, do not depend on the number of cores.
    with threadpool_limits(1):
        probs[:, np.unique(labels)] = cross_val_predict(
            LogisticRegression(max_iter=1000), features, labels, cv=PredefinedSplit(folds), method="predict_proba"
        )
    return np.asarray(find_label_issues(labels, probs, filter_by="prune_by_noise_rate", n_jobs=1), dtype=bool)
