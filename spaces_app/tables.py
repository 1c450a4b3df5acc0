"""Make the content of each page as plain data, which the app's endpoints return and its pages draw."""

from typing import Any

import numpy as np
from published import Study

ROWS = 25  # on a page of a table
KINDS = {
    "wrong": "wrong labels",
    "right": "right labels",
    "all": "all texts",
    "flips": "passes differ",
    "changed": "variant differs",
}
ORDERS = {"sure": "most confident first", "unsure": "least confident first", "study": "as published"}
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
        sentences.append("The texts are not published with this study. Rows are listed by their ids.")
    if not (study.pool.gold >= 0).any():
        sentences.append("The training texts have no gold labels, so wrong labels of the LLM are unknown.")
    if study.test is None or not study.test.runs:
        sentences.append("This study trained no classifiers, so it has neither scores nor a verdict.")
    elif not study.results:
        sentences.append("The results of this study are not published: some of its runs are missing.")
    return sentences


def verdict(study: Study, limits: dict[str, float] | None = None) -> dict[str, Any]:
    """Return the verdict, its criteria, the findings, and the figures of every variant and size.

    Args:
        limits (`dict`, *optional*): by the names of the criteria; where one is missing, the study's own counts.
    """
    results, findings = study.results, study.findings
    verdict = results.verdict.at(limits or {}) if results else None
    return {
        "about": about(study),
        "decision": verdict.decision if verdict else None,
        **{name: findings.get(name, []) for name in ("findings", "more", "limits", "labels")},
        "methods": findings.get("methods", ""),
        "criteria": verdict.model_dump(mode="json")["criteria"] if verdict else [],
        **{name: getattr(results, name, None) for name in ("R", "n", "confidence_level")},
        "annotator": results.annotator.model_dump(mode="json", include=ANNOTATOR_FIELDS) if results else None,
        "variants": [
            {
                **result.model_dump(mode="json", include=RESULT_FIELDS),
                "variant": result.variant,
                "gold_labels": result.gold_labels,
                "description": findings.get("variants", {}).get(result.variant, ""),
                "control": findings.get("controls", {}).get(result.variant),
            }
            for result in (results.variants if results else [])
        ],
    }


def labels(
    study: Study,
    gold: str = "",
    llm: str = "",
    kind: str = "wrong",
    search: str = "",
    order: str = "sure",
    variant: str = "",
    page: int = 1,
) -> dict[str, Any]:
    """Return a page of the training texts that pass the filters.

    Counts, confusion and risk are of all texts that contain the words, so that no filter changes its own chart.

    Args:
        gold (`str`), llm (`str`): a class; empty for all.
        kind (`str`): one of `KINDS`.
        search (`str`): words that the text contains, in any case.
        order (`str`): one of `ORDERS`.
        variant (`str`): whose labels are added; empty for none.
    """
    pool, names = study.pool, study.classes
    has_gold = pool.gold >= 0
    if not has_gold.any() and kind in ("wrong", "right"):
        kind = "all"
    is_wrong = has_gold & (pool.gold != pool.llm)
    is_match = np.ones(len(pool.ids), dtype=bool)
    if word := search.strip().lower()[:200]:
        is_match = np.array([word in text.lower() for text in pool.texts], dtype=bool)
    flips = _flips(pool.votes)
    changed = np.zeros(len(pool.ids), dtype=bool)
    if config := pool.variants.get(variant):
        changed = (config.labels != pool.llm) | (config.sources != "llm")
    masks = {"wrong": is_wrong, "right": has_gold & ~is_wrong, "flips": flips, "changed": changed}
    keep = is_match & masks.get(kind, True)
    for name, column in ((gold, pool.gold), (llm, pool.llm)):
        if name in names:
            keep &= column == names.index(name)
    rows = np.flatnonzero(keep)
    if order != "study":
        sign = -1 if order == "unsure" else 1
        rows = rows[np.argsort(sign * pool.entropy[rows], kind="stable")]
    pages = max(-(-len(rows) // ROWS), 1)
    page = min(max(page, 1), pages)
    rank = _ranks(pool.entropy)
    page_rows = [_row(study, i, rank, flips, variant) for i in rows[(page - 1) * ROWS : page * ROWS]]
    judged = is_match & has_gold
    coverage, wrong = _risk(pool.entropy[judged], is_wrong[judged])
    return {
        **{"total": len(pool.ids), "found": len(rows), "page": page, "pages": pages, "rows": page_rows},
        **{"classes": names, "judged": int(judged.sum()), "wrong": int(is_wrong[judged].sum())},
        **{"gold": gold if gold in names else "", "llm": llm if llm in names else ""},
        "confusion": _confusion(pool.gold[judged], pool.llm[judged], len(names)),
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
        **{"variant": variant, "description": study.findings.get("variants", {}).get(variant, "")},
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
    ends = ends[ends >= min(20, len(order)) - 1]  # a share of few texts is noise
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
