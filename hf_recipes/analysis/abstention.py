"""Choose the probability below which a classifier abstains, so that the labels that remain have a stated accuracy.

The texts that choose it have gold and were not trained on. Candidates are counts of the texts with the highest
probabilities, fixed before any label is seen. Their accuracies are tested from the fewest texts to all by exact
binomial tests. The levels of some candidates, the starts, add up to `RISK`. A test that passes hands its level to the
next (the fallback procedure: Wiens 2003, https://doi.org/10.1002/pst.64). This is "learn then test" (Angelopoulos et
al. 2021, https://arxiv.org/abs/2110.01052) for selective classification (Geifman & El-Yaniv 2017,
https://arxiv.org/abs/1705.08500). The accuracy holds if texts are independent, new texts come from the same
distribution, and labels of a higher probability are right at least as often.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np

from ..data import NO_GOLD
from ..errors import UserError
from ..labels.pool import StudyLabels
from ..study import Run, Study
from ..training.runs import Runs
from .texts import read_out_of_bag_probs, read_probs

RISK = 0.05  # of a threshold whose accuracy is below the stated one
NUM_STARTS = 10
STEPS = 10  # from a start to the next


@dataclass(frozen=True)
class Threshold:
    """A threshold on the highest probability of a text, and what it keeps of the texts that chose it.

    Attributes:
        value (`float`): texts with a lower probability get no label.
        num_kept (`int`), num_right (`int`): the texts at or above it, and those that are right.
        bound (`float`): a lower confidence bound of the accuracy of such texts (Clopper & Pearson 1934).
    """

    value: float
    num_kept: int
    num_right: int
    bound: float


@dataclass(frozen=True)
class HeldOutTexts:
    """Texts with gold that no classifier was trained on.

    Attributes:
        source (`str`): where they come from, in words.
        probs (`np.ndarray` of shape `(n, K)`): the mean of the classifiers' probabilities.
        gold (`np.ndarray` of shape `(n,)`): class indices.
    """

    source: str
    probs: np.ndarray
    gold: np.ndarray


def choose_threshold(probs: np.ndarray, is_right: np.ndarray, accuracy: float) -> Threshold | None:
    """Return the lowest threshold at which the kept texts have an accuracy with confidence 1 - `RISK`.

    Args:
        probs (`np.ndarray` of shape `(n,)`):
            The highest probability of each text.
        is_right (`np.ndarray` of shape `(n,)`, bool):
            Whether its label is right.
        accuracy (`float`):
            The stated accuracy, between 0 and 1.

    Returns:
        `Threshold`, *optional*: None where no candidate passes.
    """
    from scipy import stats

    num_texts = len(probs)
    if not num_texts:
        return None
    # Fewer texts than `fewest` cannot pass a test at the level of a start, even if all are right.
    fewest = int(np.ceil(np.log(RISK / NUM_STARTS) / np.log(accuracy)))
    spaced = np.linspace(min(fewest, num_texts), num_texts, (NUM_STARTS - 1) * STEPS + 1).round().astype(int)
    counts, places = np.unique(spaced, return_inverse=True)  # few texts have several starts at one count
    starts = np.bincount(places[::STEPS], minlength=len(counts))
    sorted_probs = np.sort(probs)[::-1]
    lowest, level = None, 0.0
    for count, num_starts in zip(counts, starts, strict=True):
        level += RISK * num_starts / NUM_STARTS
        value = sorted_probs[count - 1]
        is_kept = probs >= value
        num_kept, num_right = int(is_kept.sum()), int(is_right[is_kept].sum())
        bound = float(stats.beta.ppf(level, num_right, num_kept - num_right + 1)) if level and num_right else 0.0
        if bound >= accuracy:
            lowest = Threshold(float(value), num_kept, num_right, bound)
        else:
            level = 0.0
    return lowest


def find_best_accuracy(probs: np.ndarray, is_right: np.ndarray) -> float | None:
    """Return the highest accuracy in hundredths for which there is a threshold; None without any."""
    hundredths = [percent / 100 for percent in range(99, 0, -1)]
    return next((accuracy for accuracy in hundredths if choose_threshold(probs, is_right, accuracy)), None)


def require_threshold(texts: HeldOutTexts, accuracy: float) -> Threshold:
    """Return the threshold of some texts for an accuracy.

    Raises:
        UserError: none has it. The message names the best accuracy that they support.
    """
    highest, is_right = texts.probs.max(axis=1), texts.probs.argmax(axis=1) == texts.gold
    threshold = choose_threshold(highest, is_right, accuracy)
    if threshold is None:
        best = find_best_accuracy(highest, is_right)
        most = f"at most {best:g}" if best else "lower than the texts can show"
        raise UserError(
            f"`--accuracy` must be {most} with {1 - RISK:.0%} confidence, by {len(texts.gold):,} {texts.source}. Got "
            f"{accuracy:g}. Lower it, or add texts with gold."
        )
    return threshold


def read_held_out(
    study: Study, labels: StudyLabels, runs: Runs, chosen: list[Run], predict: Callable[[list[str]], np.ndarray]
) -> HeldOutTexts:
    """Return texts with gold that none of the chosen runs trained on.

    These are the validation rows (unless they chose the checkpoint), the runs' common out-of-bag texts or the test
    texts, whichever are most.

    Args:
        study (`Study`), labels (`StudyLabels`), runs (`Runs`):
            A trained study.
        chosen (`list[Run]`):
            The classifiers.
        predict (`Callable`):
            Returns their mean probabilities of some texts.
    """
    pool = labels.training_pool
    validation = labels.validation[pool.gold[labels.validation] != NO_GOLD]
    if study.training.checkpoint == "best":
        validation = validation[:0]
    rows = reduce(np.intersect1d, [runs.out_of_bag(run) for run in chosen])
    by_run = [read_out_of_bag_probs(study, run) for run in chosen]
    out_of_bag = np.array([row for row in rows if all(pool.ids[row] in probs for probs in by_run)], dtype=int)
    tested = np.flatnonzero(labels.test_gold != NO_GOLD)
    most = max(len(validation), len(out_of_bag), len(tested))
    if len(validation) == most:
        return HeldOutTexts("validation rows", predict([pool.texts[row] for row in validation]), pool.gold[validation])
    if len(out_of_bag) == most:
        probs = np.mean([[probs[pool.ids[row]] for row in out_of_bag] for probs in by_run], axis=0)
        return HeldOutTexts("out-of-bag texts", probs, pool.gold[out_of_bag])
    probs = np.mean([read_probs(study, run, labels.test) for run in chosen], axis=0)
    return HeldOutTexts("test texts", probs[tested], labels.test_gold[tested])
