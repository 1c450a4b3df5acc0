"""Find the training labels that confident learning calls wrong (Northcutt et al. 2021)."""

import numpy as np

from ..hashing import hash_order
from ..labels.pool import Pool
from ..labels.rules import Labels, Subset
from ..study import Run
from ..variants import CONFIDENT

FOLDS = 4
#: Part of the key of runs that leave labels out. To be changed when `find_label_errors` or `fine_tuning.embed` changes.
RULE = f"logistic regression on mean-pooled features of the frozen encoder, {FOLDS} folds by text"


def leave_out(run: Run, labels: Labels, pool: Pool, share: float, features: np.ndarray) -> Labels:
    """Return a run's labels without those that confident learning calls wrong; for the control, without as many others.

    Args:
        run (`Run`):
            A run of a variant in `CONFIDENT`.
        labels (`Labels`), pool (`Pool`), share (`float`):
            Its labels before, of which texts, and `grid.replace_share`.
        features (`np.ndarray` of shape `(n, width)`):
            What the frozen encoder makes of the texts of `labels`.
    """
    wrong = find_label_errors([pool.texts[i] for i in labels.rows], labels.labels, features, len(pool.label_names))
    if run.variant == CONFIDENT[1]:
        subset = Subset(pool, labels.rows, share, run.subset_seed)
        wrong = subset.draw(int(wrong.sum()), "confident-random-drop")
    return labels.without(wrong)


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
