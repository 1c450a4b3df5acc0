"""Make the content of each page as plain data, which the app's endpoints return and its pages draw."""

from typing import Any

import numpy as np
from published import Study
from schema import Results

ROWS = 25  # on a page of a table
KINDS = {
    "all": "all texts",
    "wrong": "LLM differs from gold",
    "right": "LLM agrees with gold",
    "flips": "passes differ",
    "changed": "variant does not take the LLM's label",
}
ORDERS = {"study": "as published", "unsure": "most uncertain first", "sure": "most certain first"}
SEEDS = {
    "flips": "seeds disagree",
    "worse": "seeds disagree more than with gold labels",
    "wrong": "most seeds are wrong",
    "all": "all texts",
}


#: The fields of a variant, and those of the annotator, that the pages and the API show.
RESULT_FIELDS = {
    *("size", "R", "n", "n_gold", "chance_level_runs", "macro_f1_mean", "macro_f1_mean_interval", "macro_f1_runs"),
    *("accuracy_mean", "accuracy_mean_interval", "accuracy_runs", "macro_f1_sd", "macro_f1_sd_interval"),
    *("pairwise_disagreement", "pairwise_disagreement_interval", "unanimity", "unanimity_interval"),
}
ANNOTATOR_FIELDS = {"model", "accuracy", "accuracy_interval", "n"}


def choices(study: Study) -> dict[str, Any]:
    """Return the possible values of the pages' filters.

    Returns:
        `dict` with `classes`, `variants` (with labels), `cells` (variants and sizes with runs), `sizes`, `passes`, and
        whether there are `texts`, `gold` and `runs`.
    """
    cells = study.test.cells() if study.test else []
    measured = [(result.variant, result.size) for result in study.results.variants] if study.results else []
    both = list(dict.fromkeys([*measured, *cells]))
    return {
        "classes": study.classes,
        "variants": list(study.pool.variants),
        "trained": list(dict.fromkeys(variant for variant, _ in both)),
        "sizes": sorted({size for _, size in both}),
        "passes": study.pool.votes.shape[1] or 1,
        **{"texts": study.texts, "gold": bool((study.pool.gold >= 0).any()), "runs": bool(cells)},
    }


def about(study: Study) -> dict[str, Any]:
    """Return the study's repo, commit, dataset, models and counts."""
    recipe = study.manifest.get("recipe") or {}
    model = str((recipe.get("annotate") or {}).get("model") or "")
    return {
        **{"repo": study.where, "study": study.name, "sha": study.sha},
        **{"studies": study.studies, "prefix": study.prefix},
        **{"data": str((recipe.get("data") or {}).get("path") or ""), "annotator": model},
        "encoder": str((recipe.get("train") or {}).get("encoder") or "") if recipe.get("train") else "",
        **{"pool": len(study.pool.ids), "test": len(study.test.ids) if study.test else 0},
        "runs": len(study.test.runs) if study.test else 0,
        "missing": missing(study),
    }


def missing(study: Study) -> list[str]:
    """Return sentences on the parts that are missing."""
    sentences = []
    if not study.texts:
        sentences.append("The texts are not published with this study: rows are known by their ids.")
    if not (study.pool.gold >= 0).any():
        sentences.append(
            "There are no gold labels for the training texts: which of the LLM's labels are wrong is not known."
        )
    if study.test is None or not study.test.runs:
        sentences.append("No classifiers were trained in this study: there is nothing to say of scores and seeds.")
    elif not study.results:
        sentences.append("The study's results are not published: not all of its runs were trained.")
    return sentences


def verdict(study: Study) -> dict[str, Any]:
    """Return the answer in words, its numbers with their intervals, and the figures of every variant and size."""
    results, findings = study.results, study.findings
    return {
        "about": about(study),
        "decision": results.verdict.decision if results else None,
        **{name: findings.get(name, []) for name in ("findings", "more", "limits", "labels")},
        "methods": findings.get("methods", ""),
        "criteria": results.verdict.model_dump(mode="json")["criteria"] if results else [],
        "tiles": _tiles(results) if results else [],
        **{name: getattr(results, name, None) for name in ("R", "n", "confidence_level")},
        "annotator": results.annotator.model_dump(mode="json", include=ANNOTATOR_FIELDS) if results else None,
        "variants": [
            {
                **result.model_dump(mode="json", include=RESULT_FIELDS),
                "variant": result.variant,
                "gold_labels": result.gold_labels,
                "says": findings.get("variants", {}).get(result.variant, ""),
                "control": findings.get("controls", {}).get(result.variant),
            }
            for result in (results.variants if results else [])
        ],
    }


def _tiles(results: Results) -> list[dict[str, Any]]:
    """Return the main figures: LLM labels and gold labels at the largest size, and their difference."""
    top, variants = results.top, results.at_top
    tiles: list[dict[str, Any]] = []
    for figure, field, title in (
        ("macro_f1", "macro_f1_mean", "macro-F1"),
        ("pairwise_disagreement", "pairwise_disagreement", "two seeds disagree on"),
    ):
        for variant in ("llm", "gold"):
            if variant in variants and getattr(variants[variant], field) is not None:
                values = {
                    "value": getattr(variants[variant], field),
                    "interval": getattr(variants[variant], f"{field}_interval"),
                }
                name = "LLM labels" if variant == "llm" else "gold labels"
                tiles.append({"title": f"{title}, {name}", "of": f"{top:,} training texts", **values})
        if comparison := results.find("llm", "gold", figure):
            values = {"value": comparison.difference, "interval": comparison.interval, "verdict": comparison.verdict}
            texts = "test and out-of-bag texts" if comparison.test_only else "test texts"
            tiles.append({"title": f"{title}, LLM less gold", "of": f"paired by text, {texts}", **values})
    return tiles


def labels(
    study: Study,
    label: str = "",
    kind: str = "all",
    search: str = "",
    order: str = "study",
    variant: str = "",
    page: int = 1,
) -> dict[str, Any]:
    """Return a page of the training texts that pass the filters, with confusion and risk of all that pass.

    Args:
        label (`str`): a class that the LLM or gold gives; empty for all.
        kind (`str`): one of `KINDS`.
        search (`str`): words that the text contains, in any case.
        order (`str`): one of `ORDERS`.
        variant (`str`): whose labels are set beside the LLM's; empty for none.
    """
    pool = study.pool
    gold, llm = pool.gold, pool.llm
    has_gold = gold >= 0
    flips = _flips(pool.votes)
    keep = np.ones(len(pool.ids), dtype=bool)
    if label in study.classes:
        keep &= (llm == study.classes.index(label)) | (gold == study.classes.index(label))
    changed = np.zeros(len(llm), dtype=bool)
    if config := pool.variants.get(variant):
        changed = (config.labels != llm) | (config.sources != "llm")
    masks = {"wrong": has_gold & (gold != llm), "right": has_gold & (gold == llm), "flips": flips, "changed": changed}
    keep &= masks.get(kind, True)
    if word := search.strip().lower()[:200]:
        keep &= np.array([word in text.lower() for text in pool.texts], dtype=bool)
    rows = np.flatnonzero(keep)
    if order != "study":
        sign = -1 if order == "unsure" else 1
        rows = rows[np.argsort(sign * pool.entropy[rows], kind="stable")]
    pages = max(-(-len(rows) // ROWS), 1)
    page = min(max(page, 1), pages)
    rank = _ranks(pool.entropy)
    page_rows = [_row(study, i, rank, flips, variant) for i in rows[(page - 1) * ROWS : page * ROWS]]
    gold_rows = rows[has_gold[rows]]
    coverage, wrong = _risk(pool.entropy[gold_rows], gold[gold_rows] != llm[gold_rows])
    return {
        **{"total": len(pool.ids), "found": len(rows), "page": page, "pages": pages, "rows": page_rows},
        **{"classes": study.classes, "judged": len(gold_rows), "wrong": int((gold[gold_rows] != llm[gold_rows]).sum())},
        "confusion": _confusion(gold[gold_rows], llm[gold_rows], len(study.classes)),
        "risk_coverage": {"kept": coverage, "wrong": wrong},
        "variant": _variant(study, variant),
        "missing": [sentence for sentence in missing(study) if "texts" in sentence or "gold" in sentence],
    }


def _row(study: Study, i: int, rank: np.ndarray, flips: np.ndarray, variant: str) -> dict[str, Any]:
    pool, names = study.pool, study.classes

    def name(index: int) -> str | None:
        return None if index < 0 else names[index]

    row = {
        **{"id": pool.ids[i], "text": pool.texts[i], "gold": name(pool.gold[i]), "llm": name(pool.llm[i])},
        **{"probs": [round(float(p), 4) for p in pool.probs[i]], "entropy": round(float(pool.entropy[i]), 4)},
        **{"rank": int(rank[i]), "votes": [name(v) for v in pool.votes[i]], "flips": bool(flips[i])},
    }
    if config := pool.variants.get(variant):
        row |= {"variant_label": name(config.labels[i]), "variant_source": str(config.sources[i]) or None}
        row["why"] = _why(row, len(pool.ids))
    return row


def _why(row: dict[str, Any], total: int) -> str:
    """Explain why a row has another label in a variant, or none. The variant's description has the rule."""
    if row["variant_source"] == "llm" and row["variant_label"] == row["llm"]:
        return "kept: the LLM's label"
    descriptions = {
        **{None: "left out", "gold": "gold label"},
        **{"annotator": "an annotator's label", "noise": "a label made wrong at random"},
    }
    reason = descriptions.get(row["variant_source"], f"label from {row['variant_source']}")
    facts = [f"entropy {row['entropy']:.2f}, rank {row['rank']:,} of {total:,}"]
    if row["votes"]:
        facts.append("the passes differ" if row["flips"] else "the passes agree")
    return f"{reason} ({'; '.join(facts)})"


def _variant(study: Study, variant: str) -> dict[str, Any] | None:
    """Return a variant's description, and its number of labels by source."""
    if not (config := study.pool.variants.get(variant)):
        return None
    kinds, counts = np.unique(config.sources.astype(str), return_counts=True)
    return {
        **{"variant": variant, "says": study.findings.get("variants", {}).get(variant, "")},
        "sources": {str(kind) or "left out": int(count) for kind, count in zip(kinds, counts, strict=True)},
    }


def _flips(votes: np.ndarray) -> np.ndarray:
    """Return for each row whether two of its passes gave different labels."""
    if not votes.shape[1]:
        return np.zeros(len(votes), dtype=bool)
    high = votes.max(axis=1)
    low = np.where(votes >= 0, votes, high[:, None]).min(axis=1)
    return high != low


def _ranks(entropy: np.ndarray) -> np.ndarray:
    """Return the rank of each text by entropy; 1 is the most uncertain text."""
    rank = np.empty(len(entropy), dtype=int)
    rank[np.argsort(-entropy, kind="stable")] = np.arange(1, len(entropy) + 1)
    return rank


def _confusion(gold: np.ndarray, llm: np.ndarray, classes: int) -> list[list[int]]:
    """Return counts with a row for each gold class and a column for each label of the LLM."""
    use = llm >= 0
    flat = np.bincount(gold[use] * classes + llm[use], minlength=classes * classes)
    return [[int(count) for count in row] for row in flat.reshape(classes, classes)]


def _risk(entropy: np.ndarray, wrong: np.ndarray) -> tuple[list[float], list[float]]:
    """Return at most 60 shares of kept texts, least uncertain first, and of wrong labels. Ties stay together."""
    if not len(entropy):
        return [], []
    order = np.argsort(entropy, kind="stable")
    total = np.cumsum(wrong[order])
    ends = np.flatnonzero(np.append(np.diff(entropy[order]) > 0, True))
    ends = ends[ends >= min(20, len(order)) - 1]  # of the first few texts a share says nothing
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, 60).astype(int))]
    return [float((i + 1) / len(order)) for i in ends], [float(total[i] / (i + 1)) for i in ends]


def seeds(
    study: Study, variant: str = "", size: int = 0, only: str = "flips", text: str = "", page: int = 1
) -> dict[str, Any]:
    """Return the test texts on which the seeds of a variant disagree, and one text's predictions over all runs.

    Args:
        variant (`str`): `llm` by default.
        size (`int`): of the training set; 0 for the largest.
        only (`str`): one of `SEEDS`.
        text (`str`): the id of a test text to be shown over all variants, sizes and runs.
    """
    test = study.test
    if test is None or not test.runs:
        return {"missing": missing(study), "rows": [], "found": 0, "page": 1, "pages": 1, "one": None}
    variant, size = pick_cell(study, variant, size)
    runs = test.of(variant, size)
    votes = test.labels[runs]
    share = disagreement(votes, len(study.classes))
    control, gold_runs = None, test.of("gold", size)
    if len(gold_runs) > 1 and variant != "gold":
        control = disagreement(test.labels[gold_runs], len(study.classes))
    has_gold = test.gold >= 0
    wrong = np.where(has_gold, (votes != test.gold).mean(axis=0), np.nan)
    keep = {
        "flips": share > 0,
        "worse": share > control if control is not None else share > 0,
        "wrong": np.nan_to_num(wrong) > 0.5,
    }.get(only, np.ones(len(share), dtype=bool))
    rows = np.flatnonzero(keep)
    rows = rows[np.argsort(-share[rows], kind="stable")]
    pages = max(-(-len(rows) // ROWS), 1)
    page = min(max(page, 1), pages)
    names = study.classes
    page_rows = [
        {
            **{"id": test.ids[i], "text": test.texts[i], "gold": names[test.gold[i]] if has_gold[i] else None},
            **{"disagreement": round(float(share[i]), 4), "labels": [names[k] for k in votes[:, i]]},
            "gold_disagreement": None if control is None else round(float(control[i]), 4),
        }
        for i in rows[(page - 1) * ROWS : page * ROWS]
    ]
    return {
        **{
            "variant": variant,
            "size": size,
            "runs": len(runs),
            "seeds": [test.runs[r][2] for r in runs],
            "total": len(share),
        },
        **{"found": len(rows), "page": page, "pages": pages, "rows": page_rows, "classes": names},
        "flipped": int((share > 0).sum()),
        "gold_flipped": None if control is None else int((control > 0).sum()),
        "mean": float(share.mean()) if len(runs) > 1 else None,
        "one": _one_text(study, text),
        "missing": [sentence for sentence in missing(study) if "texts" in sentence],
    }


def pick_cell(study: Study, variant: str, size: int) -> tuple[str, int]:
    """Return a variant and a size that have runs: the arguments, or else the LLM labels and the largest size."""
    cells = study.test.cells() if study.test else []
    variants = [name for name, _ in cells]
    if variant not in variants:
        variant = "llm" if "llm" in variants else variants[0]
    sizes = [n for name, n in cells if name == variant]
    return variant, size if size in sizes else max(sizes)


def disagreement(votes: np.ndarray, classes: int) -> np.ndarray:
    """Return for each text the share of pairs of runs that give it different labels."""
    runs = len(votes)
    if runs < 2:
        return np.zeros(votes.shape[1])
    counts = np.stack([(votes == k).sum(axis=0) for k in range(classes)])
    return 1 - (counts * (counts - 1)).sum(axis=0) / (runs * (runs - 1))


def _one_text(study: Study, text: str) -> dict[str, Any] | None:
    test = study.test
    if not text or test is None or text not in test.ids:
        return None
    i, names = test.ids.index(text), study.classes
    cells = []
    for variant, size in test.cells():
        runs = test.of(variant, size)
        predictions = [
            {
                "seed": test.runs[r][2],
                "label": names[test.labels[r, i]],
                "probability": round(float(test.top_probs[r, i]), 3),
            }
            for r in runs
        ]
        cells.append({"variant": variant, "size": size, "runs": predictions})
    gold = names[test.gold[i]] if test.gold[i] >= 0 else None
    return {"id": text, "text": test.texts[i], "gold": gold, "cells": cells}


FIGURES = {"macro_f1": "macro-F1", "accuracy": "accuracy", "pairwise_disagreement": "two seeds disagree on"}
FIELDS = {"macro_f1": "macro_f1_mean", "accuracy": "accuracy_mean", "pairwise_disagreement": "pairwise_disagreement"}


def compare(
    study: Study, second: Study | None = None, variant: str = "", against: str = "", size: int = 0, test: Any = None
) -> dict[str, Any]:
    """Return two variants of a study, or of two studies, side by side, with the test of their difference.

    Args:
        second (`Study`, *optional*): where `against` is from; the same study by default.
        test (function, *optional*): tests two variants' labels against gold, for pairs that the study did not test.

    Returns:
        `dict` with `sides` (two), `tests` (for each figure `difference`, `interval`, `p_value`, `p_holm`, `verdict`,
        `by`: the `study` or this `app`) and `said`, sentences.
    """
    is_same = second is None
    second = second or study
    if not study.results or not second.results:
        return {"sides": [], "tests": [], "said": [*missing(study), *([] if is_same else missing(second))]}
    variant = _pick_variant(study.results, variant, "llm")
    default = "gold" if is_same and variant != "gold" else "llm"
    against = _pick_variant(second.results, against, default)
    first_side, second_side = _side(study, study.results, variant, size), _side(second, second.results, against, size)
    notes, tests = [], []
    if is_same and variant == against:
        notes = ["These are the same labels: choose two."]
    elif is_same and first_side["size"] == second_side["size"]:
        tests = _find_comparisons(study.results, variant, against, first_side["size"])
    if not tests and not notes:
        tests, notes = _test_here(study, second, first_side, second_side, test)
    return {"sides": [first_side, second_side], "tests": tests, "said": notes, "same_study": is_same}


def _pick_variant(results: Results, variant: str, default: str) -> str:
    names = [result.variant for result in results.variants]
    return next((name for name in (variant, default) if name in names), names[0])


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
        "says": study.findings.get("variants", {}).get(variant, ""),
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
    study: Study, second: Study, first_side: dict[str, Any], second_side: dict[str, Any], test: Any
) -> tuple[list[dict[str, Any]], list[str]]:
    """Test a pair that the study did not test, if runs with the same seeds have the same test texts."""
    a, b = study.test, second.test
    if a is None or b is None or not a.runs or not b.runs:
        return [], ["This pair was not tested in the study, and without its predictions it cannot be here."]
    if a.ids != b.ids or study.classes != second.classes or (a.gold != b.gold).any():
        return [], ["The two have different test texts: nothing compares them but the eye."]
    if (a.gold < 0).any():
        return [], ["This pair was not tested in the study, and not all test texts have gold labels to test it here."]
    runs1, runs2 = a.of(first_side["variant"], first_side["size"]), b.of(second_side["variant"], second_side["size"])
    by_seed = {b.runs[r][2]: r for r in runs2}
    pairs = [(r, by_seed[a.runs[r][2]]) for r in runs1 if a.runs[r][2] in by_seed]
    if len(pairs) < 3 or test is None:
        return [], [f"The two have {len(pairs)} seeds in common; a test wants three."]
    if len(pairs) * len(a.ids) > MAX_TESTED:
        return [], ["This pair was not tested in the study, and is too large to be tested here."]
    first, last = (np.array(rows) for rows in zip(*pairs, strict=True))
    tests = test(a.labels[first].astype(int), b.labels[last].astype(int), a.gold, len(study.classes))
    note = (
        f"This pair was not tested in the study: it was tested here, on {len(pairs)} seeds and {len(a.ids):,} texts, "
        "and its p-values are not corrected."
    )
    return tests, [note]


def use(study: Study, variant: str = "llm") -> dict[str, str]:
    """Return complete lines of code that load a variant of the study and measure its runs."""
    variant = variant if variant in study.pool.variants else next(iter(study.pool.variants))
    at = f', revision="{study.sha}"' if study.sha else ""
    config = f"{study.prefix}{variant}"
    load = (
        "from datasets import load_dataset\n\n"
        f'data = load_dataset("{study.where}", "{config}"{at})\n'
        'print(data["train"][0])'
    )
    predictions = ""
    if study.test is not None and study.test.runs:
        cell = pick_cell(study, variant, 0)
        predictions = (
            "import evaluate\nimport numpy as np\nfrom datasets import load_dataset\n\n"
            f'runs = load_dataset("{study.where}", "{study.prefix}predictions", split="train"{at})\n'
            f'mine = runs.filter(lambda row: row["run"].startswith("{cell[0]}/n{cell[1]}/"))\n'
            f'labels = np.array(mine["probs"]).argmax(axis=1).reshape(-1, {len(study.test.ids)})\n'
            'seed_instability = evaluate.load("METRICS/seed_instability")\n'
            'print(seed_instability.compute(predictions=labels)["pairwise_disagreement"])'
        )
    command = ""
    if study.manifest and study.sha:
        more = f" --study {study.name}" if len(study.studies) > 1 else ""
        command = (
            f"hf-recipes pull {study.where}{more} --revision {study.sha}\n"
            f"hf-recipes report studies/{study.name}/recipe.yaml"
        )
    return {"load_dataset": load, "evaluate": predictions, "hf_recipes": command}
