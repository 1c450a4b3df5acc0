"""Find plateaus of learning curves: does more training data still help, and does it stop helping some labels early?

evaluate.load("metrics/learning_plateau").compute(sizes=[500, 1000], scores=[[0.71, 0.70, 0.72], [0.74, 0.75, 0.74]])
"""

import datasets
import evaluate
import numpy as np
from scipy import stats

from .shared import CrossedVariance, Direct, check_level, check_numbers

_CITATION = """\
@article{viering2023shape, title={The Shape of Learning Curves: A Review}, author={Viering, Tom and Loog, Marco},
  journal={IEEE TPAMI}, year={2023}}
@article{lu2025feeding, title={Feeding LLM Annotations to BERT Classifiers at Your Own Risk},
  author={Lu, Yucheng and Smith, Kazimier}, journal={arXiv:2504.15432}, year={2025}}
"""

_DESCRIPTION = """\
The gain of the last doubling of a learning curve, whether it is a plateau, the difference of two curves' gains, and the
asymptote of a power law where the data identify one.
"""

_KWARGS_DESCRIPTION = """
Args:
    sizes (`list` of S `int`):
        Training-set sizes, all different.
    scores (`list` of S lists of R `float`):
        For each size the scores of R runs, shares from -1 to 1, higher is better. Run r of all sizes is one curve: the
        same seed, nested subsets. R is at least 2, and 3 for an interval.
    against (`list` of S lists of R `float`, *optional*):
        Another variant's scores at the same sizes and seeds: the one that may still gain (gold labels).
    delta (`float`, *optional*, defaults to 0.01):
        The gain that would still be worth doubling the data for, in the unit of the scores.
    item_se, against_item_se, difference_item_se (`float`, *optional*, default to 0):
        Standard errors, over test items, of the mean gain of `scores`, of `against`, and of the difference of the two.
        Without them intervals speak of this test set. The first two are the square root of `items` in the
        `{score}_variance` that `instability_comparison` returns for a variant's size N against its size N / 2.
    asymptote (`bool`, *optional*, defaults to `False`):
        Also fit a power law to 1 - score, for scores in [0, 1]; takes seven sizes or more, log-spaced, the largest
        eight times the smallest.
    confidence_level (`float`, *optional*, defaults to 0.95):
        Of all intervals.

Returns:
    `dict`: an `_interval` is a `list` of 2 `float`; nan at R = 2.
    - **last_doubling** (`list` of 2 `float`): from which size to which; half the largest size is interpolated, linearly
      in its logarithm, where it was not run.
    - **gain** (`float`), **gain_interval**: the mean gain of the last doubling, over whole curves (t with R - 1 degrees
      of freedom, more where item_se has a share).
    - **verdict** (`str`): `plateau` if the upper limit of the gain is below delta; `gains` if its lower limit is above
      0; else `inconclusive`. A gain that is merely not significant is no plateau.
    - **enough_size** (`int`): the smallest size whose mean score is within delta of the largest size's.

    with against
    - **against_gain**, **against_gain_interval**, **against_verdict**: the same of the other variant.
    - **gain_difference** (`float`), **gain_difference_interval**: the other variant's less this one's, by curve.
    - **premature_plateau** (`str`): `yes` if this variant is at a plateau, the other one gains, and the lower limit of
      the difference is above 0; `no` if the other is at a plateau too or this one gains; else `inconclusive`.

    with asymptote
    - **asymptote** (`float`), **asymptote_interval**: of the score, by the fit error = a n^-b + c to the means,
      weighted by their standard errors over curves; nan where the data do not identify it.
    - **asymptote_status** (`str`): `identified`, or why not.
    - **exponent** (`float`): b. **held_out_error** (`float`): the mean score of the largest size less what a fit to the
      smaller sizes predicts; **held_out_interval**: of that prediction.

    and **R**, **S** (`int`), **delta**, **confidence_level** (`float`)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class LearningPlateau(Direct, evaluate.Measurement):
    def _info(self):
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"sizes": datasets.Value("float64"), "scores": datasets.Sequence(datasets.Value("float64"))}
            ),
        )

    def _compute(self, **kwargs):
        return learning_plateau(**kwargs)


MIN_SIZES = 7  # of a power law: six to fit, one held out


def learning_plateau(
    sizes,
    scores,
    against=None,
    delta=0.01,
    item_se=0.0,
    against_item_se=0.0,
    difference_item_se=0.0,
    asymptote=False,
    confidence_level=0.95,
):
    """Compute what `_KWARGS_DESCRIPTION` lists."""
    sizes = check_numbers("sizes", sizes, "S sizes")
    if (sizes < 1).any() or not np.isfinite(sizes).all() or (sizes != np.floor(sizes)).any():
        raise ValueError(f"`sizes` must be whole numbers from 1 on. Got {sizes.tolist()}. Try [500, 1000].")
    count = len(sizes)
    scores = _check_scores("scores", scores, count, "R runs")
    runs = scores.shape[1]
    if len(set(sizes.tolist())) < count or sizes.max() < 2 * sizes.min():
        raise ValueError(f"`sizes` must differ and span a doubling. Got {sizes.tolist()}. Try [500, 1000].")
    if runs < 2:
        raise ValueError("`scores` must have at least 2 runs for each size. Got 1. Try runs with other seeds.")
    if delta is None or not delta > 0:
        raise ValueError(f"`delta` must be a gain above 0. Got {delta}. Try 0.01.")
    check_level(confidence_level)
    order = np.argsort(sizes)
    sizes, scores = sizes[order], scores[order]
    gains = _last_gains(sizes, scores)
    interval = _t_interval(gains, item_se, confidence_level)
    means = scores.mean(axis=1)
    result = {
        "last_doubling": [float(sizes[-1] / 2), float(sizes[-1])],
        "gain": float(gains.mean()),
        "gain_interval": interval,
        "verdict": _verdict(interval, delta),
        "enough_size": int(sizes[(means >= means[-1] - delta).argmax()]),
        "delta": float(delta),
        "R": runs,
        "S": count,
        "confidence_level": confidence_level,
    }
    if against is not None:
        against_gains = _last_gains(sizes, _check_scores("against", against, count, runs)[order])
        against_interval = _t_interval(against_gains, against_item_se, confidence_level)
        difference = _t_interval(against_gains - gains, difference_item_se, confidence_level)
        verdict = _verdict(against_interval, delta)
        result |= {
            "against_gain": float(against_gains.mean()),
            "against_gain_interval": against_interval,
            "against_verdict": verdict,
            "gain_difference": float((against_gains - gains).mean()),
            "gain_difference_interval": difference,
            "premature_plateau": _premature(result["verdict"], verdict, difference),
        }
    if asymptote:
        if scores.min() < 0 or scores.max() > 1:
            got = f"{scores.min():g} to {scores.max():g}"
            raise ValueError(f"`scores` must be in [0, 1] for an asymptote. Got {got}. Try asymptote=False.")
        result |= _asymptote(sizes, scores, confidence_level)
    return result


def _check_scores(key, scores, *shape):
    scores = check_numbers(key, scores, *shape).astype(np.float64)
    if not np.isfinite(scores).all():
        raise ValueError(f"`{key}` must be finite. Got nan or inf. Try leaving failed runs out, at all sizes.")
    if (largest := np.abs(scores).max()) > 1:  # `delta` is a share
        raise ValueError(f"`{key}` must be shares from -1 to 1. Got {largest:g}. Try dividing percentages by 100.")
    return scores


def _last_gains(sizes, scores):
    """Return the gain of each curve between half the largest size and the largest."""
    half = [np.interp(np.log(sizes[-1] / 2), np.log(sizes), run) for run in scores.T]
    return scores[-1] - half


def _verdict(interval, delta):
    low, high = interval
    return "plateau" if high < delta else "gains" if low > 0 else "inconclusive"


def _premature(verdict, against_verdict, difference):
    if verdict == "plateau" and against_verdict == "gains" and difference[0] > 0:
        return "yes"
    return "no" if verdict == "gains" or against_verdict == "plateau" else "inconclusive"


def _t_interval(values, item_se, level):
    """Return the interval of the mean over runs and items; nan at R = 2."""
    runs = len(values)
    over_runs = values.var(ddof=1) / runs if runs > 2 else np.nan
    return CrossedVariance(over_runs, item_se**2, 0.0, runs - 1, np.inf).interval(values.mean(), level)


def _asymptote(sizes, scores, level):
    """Fit error = a n^-b + c by least squares weighted with the standard errors of the means over curves.

    A curve's own height (its seed's luck at all sizes) shifts c and nothing else, so it is taken out of the weights and
    added to the interval. That is the profile of c: all c at which the best a and b fit no worse than t^2 allows. c is
    not identified where the profile holds an error of 0, or where the law fails on the largest size held out.
    """
    count, runs = scores.shape
    nothing = {"exponent": np.nan, "held_out_error": np.nan, "held_out_interval": [np.nan, np.nan]}
    missing = {"asymptote": np.nan, "asymptote_interval": [np.nan, np.nan]}
    errors = 1 - scores.mean(axis=1)
    heights = scores.mean(axis=0)
    apart = (scores - heights).var(axis=1, ddof=1) * count / (count - 1)
    height = max(heights.var(ddof=1) - apart.mean() / count, 0) / runs
    apart = np.sqrt(apart * stats.gmean(apart))  # a size whose few runs happen to agree is not certain
    if count < MIN_SIZES or sizes[-1] < 8 * sizes[0]:
        status = f"needs {MIN_SIZES} sizes or more, the largest eight times the smallest"
    elif runs < 3 or not apart.all():
        status = "needs 3 runs or more, whose curves differ in shape"
    else:
        sds, t = np.sqrt(apart / runs), stats.t.ppf(0.5 + level / 2, runs - 1)
        law, shorter = _power_laws(sizes, errors, sds), _power_laws(sizes[:-1], errors[:-1], sds[:-1])
        predicted = shorter["a"] * float(sizes[-1]) ** -shorter["b"] + shorter["c"]
        allowed = predicted[shorter["squares"] <= shorter["squares"].min() + t**2]
        best = np.unravel_index(shorter["squares"].argmin(), shorter["squares"].shape)
        profile = law["c"][law["squares"].min(axis=1) <= law["squares"].min() + t**2, 0]
        at = np.unravel_index(law["squares"].argmin(), law["squares"].shape)
        value = law["c"][at[0], 0]
        nothing = {
            "exponent": float(law["b"][at[1]]),
            "held_out_error": float(predicted[best] - errors[-1]),
            "held_out_interval": [float(1 - allowed.max()), float(1 - allowed.min())],
        }
        if not allowed.min() - t * sds[-1] <= errors[-1] <= allowed.max() + t * sds[-1]:
            status = "the power law fails on the largest size"
        elif profile[0] == 0:
            status = "not identified: the error may go on falling to 0"
        else:
            status = "identified"
            low, high = (np.hypot(value - bound, t * np.sqrt(height)) for bound in (profile[-1], profile[0]))
            missing = {
                "asymptote": float(1 - value),
                "asymptote_interval": [float(1 - value - low), float(1 - value + high)],
            }
    return missing | nothing | {"asymptote_status": status}


def _power_laws(sizes, errors, sds):
    """Return the laws on a grid of `c` (C, 1) and `b` (B,) with their best `a` >= 0 and the `squares` left, (C, B)."""
    c = np.linspace(0, errors.max() + 3 * sds.max(), 801)[:, None]
    b = np.geomspace(0.02, 3, 1000)
    falls = (sizes.astype(float) ** -b[:, None] / sds).T  # (S, B)
    residuals = (errors - c) / sds  # (C, S)
    dots, norms = residuals @ falls, (falls**2).sum(axis=0)
    a = np.maximum(dots / norms, 0)
    return {"c": c, "b": b, "a": a, "squares": (residuals**2).sum(axis=1)[:, None] - 2 * a * dots + a**2 * norms}
