"""Compute label probabilities from the raw log-probabilities of the annotations.

* `none`: renormalise over the labels.
* `contextual`: subtract the mean for inputs without content, which is the preference that the prompt creates (Zhao
  et al. 2021, "Calibrate Before Use", section 5, with the mean taken over log-probabilities).
* `batch`: subtract the log of the mean label probabilities over all texts (Zhou et al. 2024, "Batch Calibration"). This
  assumes that the texts are not nearly all of one class.
* `temperature`: divide by the temperature of least log-loss on gold (Guo et al. 2017, section 4.2). No label changes.
* `auto`: of the first three take the one with the least log-loss on gold, each at its best temperature.

The last two consume gold labels, which are counted.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from ..errors import UserError
from ..recipe import Annotate

MIN_LOGPROB = -700.0  # in a mean: a probability of zero would make it infinite
GOLD_FREE = ("none", "contextual", "batch")
ON_GOLD = {"temperature": ("none",), "auto": GOLD_FREE}


def not_enough_gold(section: Annotate, num_gold: int) -> UserError:
    """Return the error where all gold rows, or more than all, would be consumed by a calibration."""
    return UserError(
        f"`annotate.calibration_rows` must be less than the number of gold rows, {num_gold}. Got "
        f"{section.calibration_rows} for calibration: {section.calibration}. Try fewer, or `annotate.calibration`: "
        "contextual, batch or none."
    )


@dataclass(frozen=True)
class Calibration:
    """The calibration of a pass.

    Attributes:
        method (`str`): one of `GOLD_FREE`.
        temperature (`float`): the divisor of the log-probabilities; 1 if none was fitted.
        log_loss (`dict[str, float]`): of each method tried on gold, in nats at its best temperature.
        gold_rows (`np.ndarray`): the rows whose gold labels were consumed.
    """

    method: str
    temperature: float
    log_loss: dict[str, float]
    gold_rows: np.ndarray


def shift(
    logprobs: np.ndarray, content_free: np.ndarray, method: str, fitted_on: np.ndarray | None = None
) -> np.ndarray:
    """Return log-probabilities of shape `(n, K)` without the bias that a gold-free method estimates.

    Args:
        logprobs (`np.ndarray` of shape `(n, K)`):
            Raw, over the full vocabulary; nan rows stay nan.
        content_free (`np.ndarray` of shape `(m, K)`):
            The same for inputs without content.
        method (`str`):
            One of `GOLD_FREE`.
        fitted_on (`np.ndarray` of shape `(m, K)`, *optional*):
            The log-probabilities whose mean `batch` subtracts, `logprobs` by default.
    """
    if method == "contextual":
        return logprobs - content_free.mean(axis=0)
    if method == "batch":
        texts = logprobs if fitted_on is None else fitted_on
        with np.errstate(divide="ignore", invalid="ignore"):  # a class without any probability keeps none
            shifted = log_softmax(logprobs, axis=1) - np.log(np.nanmean(softmax(texts, axis=1), axis=0))
        return np.where(np.isneginf(logprobs), -np.inf, shifted)
    return logprobs


def calibrate(
    logprobs: np.ndarray,
    content_free: np.ndarray,
    method: str,
    gold: np.ndarray | None = None,
    gold_rows: np.ndarray | None = None,
) -> tuple[np.ndarray, Calibration]:
    """Return label probabilities.

    Args:
        logprobs (`np.ndarray` of shape `(n, K)`), content_free (`np.ndarray` of shape `(m, K)`):
            See `shift`.
        method (`str`):
            `none`, `contextual`, `batch`, `temperature` or `auto`.
        gold (`np.ndarray` of shape `(n,)`, *optional*), gold_rows (`np.ndarray`, *optional*):
            Class indices, and the rows that `temperature` and `auto` are fitted on.

    Returns:
        `tuple[np.ndarray, Calibration]`: probabilities of shape `(n, K)` whose rows sum to one.
    """
    if method in GOLD_FREE or gold is None or gold_rows is None:
        return softmax(shift(logprobs, content_free, method), axis=1), Calibration(method, 1.0, {}, np.zeros(0, int))
    losses, temperatures = {}, {}
    for name in ON_GOLD[method]:
        if name == "contextual" and not len(content_free):
            continue  # labels made elsewhere have no inputs without content
        scores = shift(logprobs, content_free, name)[gold_rows]
        labels = gold[gold_rows]

        def loss(log_temperature: float, scores: np.ndarray = scores, labels: np.ndarray = labels) -> float:
            tempered = log_softmax(scores / np.exp(log_temperature), axis=1)
            return -float(np.maximum(tempered[np.arange(len(labels)), labels], MIN_LOGPROB).mean())

        best = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
        losses[name], temperatures[name] = float(best.fun), float(np.exp(best.x))
    chosen = min(losses, key=losses.__getitem__)
    probs = softmax(shift(logprobs, content_free, chosen) / temperatures[chosen], axis=1)
    return probs, Calibration(chosen, temperatures[chosen], losses, gold_rows)
