"""Compare two variants of a study, or of two studies, and test their difference."""

from typing import Any

import numpy as np
from measuring import metric, whole_interval, without_nan
from published import Study
from schema import Results
from tables import missing

FIGURES = {"macro_f1": "macro-F1", "accuracy": "accuracy", "pairwise_disagreement": "disagreement of two seeds"}
FIELDS = {"macro_f1": "macro_f1_mean", "accuracy": "accuracy_mean", "pairwise_disagreement": "pairwise_disagreement"}


def compare(
    study: Study, second: Study | None = None, variant: str = "", against: str = "", size: int = 0
) -> dict[str, Any]:
    """Return two variants of a study, or of two studies, side by side, with the test of their difference.

    Args:
        second (`Study`, *optional*): where `against` is from; the same study by default.

    Returns:
        `dict` with `sides` (two), `tests` (for each figure `difference`, `interval`, `p_value`, `p_holm`, `verdict`,
        `by`: the `study` or this `app`) and `notes`, sentences.
    """
    is_same = second is None
    second = second or study
    if not study.results or not second.results:
        return {"sides": [], "tests": [], "notes": [*missing(study), *([] if is_same else missing(second))]}
    variant = _pick_variant(study.results, variant, "llm")
    against = _pick_variant(second.results, against, "gold" if is_same else "llm", variant if is_same else "")
    first_side, second_side = _side(study, study.results, variant, size), _side(second, second.results, against, size)
    notes, tests = [], []
    if is_same and variant == against:
        notes = ["The two variants must differ. Choose another one."]
    elif is_same and first_side["size"] == second_side["size"]:
        tests = _find_comparisons(study.results, variant, against, first_side["size"])
    if not tests and not notes:
        tests, notes = _test_here(study, second, first_side, second_side)
    return {"sides": [first_side, second_side], "tests": tests, "notes": notes, "same_study": is_same}


def _pick_variant(results: Results, variant: str, default: str, first: str = "") -> str:
    """Return the variant, or else the default, or else any; not the first one unless the study has no other."""
    names = [result.variant for result in results.variants]
    if variant in names:
        return variant
    return next((name for name in (default, *names) if name in names and name != first), names[0])


def _side(study: Study, results: Results, variant: str, size: int) -> dict[str, Any]:
    by_size = {result.size: result for result in results.variants if result.variant == variant}
    result = by_size.get(size) or by_size[max(by_size)]
    values = {
        figure: {"value": getattr(result, field), "interval": getattr(result, f"{field}_interval")}
        for figure, field in FIELDS.items()
    }
    return {
        **{
            "study": study.name,
            "repo": study.where,
            "variant": variant,
            "size": result.size,
            "R": result.R,
            "n": result.n,
        },
        **{"gold_labels": result.gold_labels, "chance_level_runs": result.chance_level_runs, "figures": values},
        "description": study.findings.get("variants", {}).get(variant, ""),
    }


def _find_comparisons(results: Results, variant: str, against: str, size: int) -> list[dict[str, Any]]:
    """Return the study's own comparisons of two variants, turned around where the study has the other order."""
    comparisons = []
    for comparison in results.comparisons:
        if comparison.size != size or {comparison.variant, comparison.against} != {variant, against}:
            continue
        is_turned = comparison.variant != variant
        interval, verdict = comparison.interval, comparison.verdict
        if is_turned:
            interval = interval and (-interval[1], -interval[0])
            verdict = {"higher": "lower", "lower": "higher"}.get(verdict, verdict)
        comparisons.append(
            {
                **comparison.model_dump(include={"figure", "p_value", "p_holm", "detectable", "R", "n"}),
                "difference": -comparison.difference if is_turned else comparison.difference,
                "interval": interval,
                "verdict": verdict,
                "by": "study",
            }
        )
    return comparisons


MAX_TESTED = 60_000  # labels of a variant: seconds


def _test_here(
    study: Study, second: Study, first_side: dict[str, Any], second_side: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Test a pair that the study did not test, if runs with the same seeds have the same test texts."""
    a, b = study.test, second.test
    if a is None or b is None or not a.runs or not b.runs:
        return [], ["The study did not test this pair, and its predictions, which a test requires, are not published."]
    if a.ids != b.ids or study.classes != second.classes or (a.gold != b.gold).any():
        return [], ["The two have different test texts, so their difference is not tested."]
    if (a.gold < 0).any():
        return [], ["The study did not test this pair, and a test requires gold labels of all test texts."]
    runs1, runs2 = a.of(first_side["variant"], first_side["size"]), b.of(second_side["variant"], second_side["size"])
    by_seed = {b.runs[r][2]: r for r in runs2}
    pairs = [(r, by_seed[a.runs[r][2]]) for r in runs1 if a.runs[r][2] in by_seed]
    if len(pairs) < 3:
        return [], [f"The two have {len(pairs)} seeds in common. A test requires three."]
    if len(pairs) * len(a.ids) > MAX_TESTED:
        return [], ["The study did not test this pair, and it is too large to be tested here."]
    first, last = (np.array(rows) for rows in zip(*pairs, strict=True))
    tests = _test_difference(a.labels[first].astype(int), b.labels[last].astype(int), a.gold, len(study.classes))
    note = (
        f"The study did not test this pair. It is tested here, on {len(pairs)} seeds and {len(a.ids):,} texts, "
        "without a correction of the p-values."
    )
    return tests, [note]


def _test_difference(first: Any, second: Any, gold: Any, classes: int) -> list[dict[str, Any]]:
    """Return the paired test of two variants, by the metric module that studies use."""
    result = without_nan(metric("instability_comparison")(first, second, gold, num_classes=classes))
    return [
        {
            "figure": figure,
            "difference": result[f"{figure}_difference"],
            "p_value": result[f"{figure}_p_value"],
            "interval": whole_interval(result[f"{figure}_interval"]),
            "R": result["R"],
            "n": result["n"],
            "p_holm": None,
            "by": "app",
            "verdict": result[f"{figure}_verdict"],
            "detectable": result[f"{figure}_detectable"],
        }
        for figure in FIGURES
    ]
