"""What each page shows of a study, as plain data: the app's endpoints return it, and its pages draw it."""

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
SHOWN = {
    *("size", "R", "n", "n_gold", "chance_level_runs", "macro_f1_mean", "macro_f1_mean_interval", "macro_f1_runs"),
    *("accuracy_mean", "accuracy_mean_interval", "accuracy_runs", "macro_f1_sd", "macro_f1_sd_interval"),
    *("pairwise_disagreement", "pairwise_disagreement_interval", "unanimity", "unanimity_interval"),
}
ANNOTATOR = {"model", "accuracy", "accuracy_interval", "n"}


def choices(study: Study) -> dict[str, Any]:
    """What the filters of the pages can be set to.

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
    """Which study this is: where, at which commit, of what, by which models."""
    recipe = study.manifest.get("recipe") or {}
    model = str((recipe.get("annotate") or {}).get("model") or "")
    return {
        **{"repo": study.where, "study": study.name, "sha": study.sha, "studies": study.others, "prefix": study.prefix},
        **{"data": str((recipe.get("data") or {}).get("path") or ""), "annotator": model},
        "encoder": str((recipe.get("train") or {}).get("encoder") or "") if recipe.get("train") else "",
        **{"pool": len(study.pool.ids), "test": len(study.test.ids) if study.test else 0},
        "runs": len(study.test.runs) if study.test else 0,
        "missing": missing(study),
    }


def missing(study: Study) -> list[str]:
    """What is not there, in sentences."""
    found = []
    if not study.texts:
        found.append("The texts are not published with this study: rows are known by their ids.")
    if not (study.pool.gold >= 0).any():
        found.append(
            "There are no gold labels for the training texts: which of the LLM's labels are wrong is not known."
        )
    if study.test is None or not study.test.runs:
        found.append("No classifiers were trained in this study: there is nothing to say of scores and seeds.")
    elif not study.results:
        found.append("The study's results are not published: not all of its runs were trained.")
    return found


def verdict(study: Study) -> dict[str, Any]:
    """The answer in words, its numbers with their intervals, and the figures of every variant and size."""
    results, findings = study.results, study.findings
    return {
        "about": about(study),
        "decision": results.verdict.decision if results else None,
        **{name: findings.get(name, []) for name in ("findings", "more", "limits", "labels")},
        "methods": findings.get("methods", ""),
        "criteria": results.verdict.model_dump(mode="json")["criteria"] if results else [],
        "tiles": _tiles(results) if results else [],
        **{name: getattr(results, name, None) for name in ("R", "n", "confidence_level")},
        "annotator": results.annotator.model_dump(mode="json", include=ANNOTATOR) if results else None,
        "variants": [
            {
                **result.model_dump(mode="json", include=SHOWN),
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
    found: list[dict[str, Any]] = []
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
                found.append({"title": f"{title}, {name}", "of": f"{top:,} training texts", **values})
        if one := results.find("llm", "gold", figure):
            values = {"value": one.difference, "interval": one.interval, "verdict": one.verdict}
            found.append({"title": f"{title}, LLM less gold", "of": "paired by seed and text", **values})
    return found


def labels(
    study: Study,
    label: str = "",
    kind: str = "all",
    search: str = "",
    order: str = "study",
    variant: str = "",
    page: int = 1,
) -> dict[str, Any]:
    """The training texts that pass the filters, a page of them, with confusion and risk of them all.

    Args:
        label (`str`): a class that the LLM or gold gives; empty for all.
        kind (`str`): one of `KINDS`.
        search (`str`): words that the text holds, in any case.
        order (`str`): one of `ORDERS`.
        variant (`str`): whose labels are set beside the LLM's; empty for none.
    """
    pool = study.pool
    gold, llm = pool.gold, pool.llm
    known = gold >= 0
    flips = _flips(pool.votes)
    keep = np.ones(len(pool.ids), dtype=bool)
    if label in study.classes:
        keep &= (llm == study.classes.index(label)) | (gold == study.classes.index(label))
    one = pool.variants.get(variant)
    changed = (one.labels != llm) | (one.sources != "llm") if one else np.zeros(len(llm), dtype=bool)
    keep &= {"wrong": known & (gold != llm), "right": known & (gold == llm), "flips": flips, "changed": changed}.get(
        kind, True
    )
    if word := search.strip().lower()[:200]:
        keep &= np.array([word in text.lower() for text in pool.texts], dtype=bool)
    rows = np.flatnonzero(keep)
    if order != "study":
        sign = -1 if order == "unsure" else 1
        rows = rows[np.argsort(sign * pool.entropy[rows], kind="stable")]
    pages = max(-(-len(rows) // ROWS), 1)
    page = min(max(page, 1), pages)
    rank = _ranks(pool.entropy)
    shown = [_row(study, i, rank, flips, variant) for i in rows[(page - 1) * ROWS : page * ROWS]]
    judged = rows[known[rows]]
    coverage, wrong = _risk(pool.entropy[judged], gold[judged] != llm[judged])
    return {
        **{"total": len(pool.ids), "found": len(rows), "page": page, "pages": pages, "rows": shown},
        **{"classes": study.classes, "judged": len(judged), "wrong": int((gold[judged] != llm[judged]).sum())},
        "confusion": _confusion(gold[judged], llm[judged], len(study.classes)),
        "risk_coverage": {"kept": coverage, "wrong": wrong},
        "variant": _variant(study, variant),
        "missing": [one for one in missing(study) if "texts" in one or "gold" in one],
    }


def _row(study: Study, i: int, rank: np.ndarray, flips: np.ndarray, variant: str) -> dict[str, Any]:
    pool, names = study.pool, study.classes

    def name(index: int) -> str | None:
        return None if index < 0 else names[index]

    found = {
        **{"id": pool.ids[i], "text": pool.texts[i], "gold": name(pool.gold[i]), "llm": name(pool.llm[i])},
        **{"probs": [round(float(p), 4) for p in pool.probs[i]], "entropy": round(float(pool.entropy[i]), 4)},
        **{"rank": int(rank[i]), "votes": [name(v) for v in pool.votes[i]], "flips": bool(flips[i])},
    }
    if one := pool.variants.get(variant):
        found |= {"variant_label": name(one.labels[i]), "variant_source": str(one.sources[i]) or None}
        found["why"] = _why(found, len(pool.ids))
    return found


def _why(row: dict[str, Any], total: int) -> str:
    """Why a row has another label in a variant, or none, as far as known. The variant's line has the rule."""
    if row["variant_source"] == "llm" and row["variant_label"] == row["llm"]:
        return "kept: the LLM's label"
    told = {
        **{None: "left out", "gold": "gold label"},
        **{"annotator": "an annotator's label", "noise": "a label made wrong at random"},
    }
    done = told.get(row["variant_source"], f"label from {row['variant_source']}")
    facts = [f"entropy {row['entropy']:.2f}, rank {row['rank']:,} of {total:,}"]
    if row["votes"]:
        facts.append("the passes differ" if row["flips"] else "the passes agree")
    return f"{done} ({'; '.join(facts)})"


def _variant(study: Study, variant: str) -> dict[str, Any] | None:
    """What a variant trains on, and how much of it is not the LLM's."""
    if not (one := study.pool.variants.get(variant)):
        return None
    kinds, counts = np.unique(one.sources.astype(str), return_counts=True)
    return {
        **{"variant": variant, "says": study.findings.get("variants", {}).get(variant, "")},
        "sources": {str(kind) or "left out": int(count) for kind, count in zip(kinds, counts, strict=True)},
    }


def _flips(votes: np.ndarray) -> np.ndarray:
    """Whether two of a row's passes gave different labels."""
    if not votes.shape[1]:
        return np.zeros(len(votes), dtype=bool)
    high = votes.max(axis=1)
    low = np.where(votes >= 0, votes, high[:, None]).min(axis=1)
    return high != low


def _ranks(entropy: np.ndarray) -> np.ndarray:
    """1 for the most uncertain text."""
    rank = np.empty(len(entropy), dtype=int)
    rank[np.argsort(-entropy, kind="stable")] = np.arange(1, len(entropy) + 1)
    return rank


def _confusion(gold: np.ndarray, llm: np.ndarray, classes: int) -> list[list[int]]:
    """A row for each gold class, a column for each label of the LLM."""
    use = llm >= 0
    flat = np.bincount(gold[use] * classes + llm[use], minlength=classes * classes)
    return [[int(count) for count in row] for row in flat.reshape(classes, classes)]


def _risk(entropy: np.ndarray, wrong: np.ndarray) -> tuple[list[float], list[float]]:
    """The share of wrong labels among the least uncertain, at up to 60 shares kept; equal entropies stay together."""
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
    """Which test texts the seeds of a variant disagree on; and one text's predictions over all runs.

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
    beside = test.of("gold", size)
    control = disagreement(test.labels[beside], len(study.classes)) if len(beside) > 1 and variant != "gold" else None
    known = test.gold >= 0
    wrong = np.where(known, (votes != test.gold).mean(axis=0), np.nan)
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
    shown = [
        {
            **{"id": test.ids[i], "text": test.texts[i], "gold": names[test.gold[i]] if known[i] else None},
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
        **{"found": len(rows), "page": page, "pages": pages, "rows": shown, "classes": names},
        "flipped": int((share > 0).sum()),
        "gold_flipped": None if control is None else int((control > 0).sum()),
        "mean": float(share.mean()) if len(runs) > 1 else None,
        "one": _one_text(study, text),
        "missing": [one for one in missing(study) if "texts" in one],
    }


def pick_cell(study: Study, variant: str, size: int) -> tuple[str, int]:
    """A variant and a size that have runs: those asked for, or the largest size of LLM labels."""
    cells = study.test.cells() if study.test else []
    variants = [one for one, _ in cells]
    variant = variant if variant in variants else "llm" if "llm" in variants else variants[0]
    sizes = [n for one, n in cells if one == variant]
    return variant, size if size in sizes else max(sizes)


def disagreement(votes: np.ndarray, classes: int) -> np.ndarray:
    """For each text the share of pairs of runs that give it different labels."""
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
    found = []
    for variant, size in test.cells():
        runs = test.of(variant, size)
        seen = [
            {
                "seed": test.runs[r][2],
                "label": names[test.labels[r, i]],
                "probability": round(float(test.sure[r, i]), 3),
            }
            for r in runs
        ]
        found.append({"variant": variant, "size": size, "runs": seen})
    gold = names[test.gold[i]] if test.gold[i] >= 0 else None
    return {"id": text, "text": test.texts[i], "gold": gold, "cells": found}


FIGURES = {"macro_f1": "macro-F1", "accuracy": "accuracy", "pairwise_disagreement": "two seeds disagree on"}
FIELDS = {"macro_f1": "macro_f1_mean", "accuracy": "accuracy_mean", "pairwise_disagreement": "pairwise_disagreement"}


def compare(
    study: Study, other: Study | None = None, variant: str = "", against: str = "", size: int = 0, test: Any = None
) -> dict[str, Any]:
    """Two variants of a study, or of two studies, side by side, with the test of their difference.

    Args:
        other (`Study`, *optional*): where `against` is from; the same study by default.
        test (function, *optional*): tests two variants' labels against gold, for pairs that the study did not test.

    Returns:
        `dict` with `sides` (two), `tests` (for each figure `difference`, `interval`, `p_value`, `p_holm`, `verdict`,
        `by`: the `study` or this `app`) and `said`, sentences.
    """
    second = other or study
    if not study.results or not second.results:
        return {"sides": [], "tests": [], "said": [*missing(study), *(missing(second) if other else [])]}
    variant = _measured(study.results, variant, "llm")
    against = _measured(second.results, against, "llm" if other else "gold" if variant != "gold" else "llm")
    one, two = _side(study, study.results, variant, size), _side(second, second.results, against, size)
    said, tests = [], []
    if other is None and variant == against:
        said = ["These are the same labels: choose two."]
    elif other is None and one["size"] == two["size"]:
        tests = _published(study.results, variant, against, one["size"])
    if not tests and not said:
        tests, said = _tested_here(study, second, one, two, test)
    return {"sides": [one, two], "tests": tests, "said": said, "same_study": other is None}


def _measured(results: Results, variant: str, default: str) -> str:
    names = [result.variant for result in results.variants]
    return variant if variant in names else default if default in names else names[0]


def _side(study: Study, results: Results, variant: str, size: int) -> dict[str, Any]:
    mine = {result.size: result for result in results.variants if result.variant == variant}
    found = mine.get(size) or mine[max(mine)]
    values = {
        figure: {"value": getattr(found, field), "interval": getattr(found, f"{field}_interval")}
        for figure, field in FIELDS.items()
    }
    return {
        **{
            "study": study.name,
            "repo": study.where,
            "variant": variant,
            "size": found.size,
            "R": found.R,
            "n": found.n,
        },
        **{"gold_labels": found.gold_labels, "chance_level_runs": found.chance_level_runs, "figures": values},
        "says": study.findings.get("variants", {}).get(variant, ""),
    }


def _published(results: Results, variant: str, against: str, size: int) -> list[dict[str, Any]]:
    """Return the study's own comparisons of two variants, turned around where the study has the other order."""
    found = []
    for comparison in results.comparisons:
        if comparison.size != size or {comparison.variant, comparison.against} != {variant, against}:
            continue
        turned = comparison.variant != variant
        interval, verdict = comparison.interval, comparison.verdict
        if turned:
            interval = interval and (-interval[1], -interval[0])
            verdict = {"higher": "lower", "lower": "higher"}.get(verdict, verdict)
        found.append(
            {
                **comparison.model_dump(include={"figure", "p_value", "p_holm", "detectable", "R", "n"}),
                "difference": -comparison.difference if turned else comparison.difference,
                "interval": interval,
                "verdict": verdict,
                "by": "study",
            }
        )
    return found


MOST_TESTED = 60_000  # labels of a variant: seconds


def _tested_here(
    study: Study, second: Study, one: dict[str, Any], two: dict[str, Any], test: Any
) -> tuple[list[dict[str, Any]], list[str]]:
    """The test of a pair that the study did not test, where runs are paired by seed on the same texts."""
    a, b = study.test, second.test
    if a is None or b is None or not a.runs or not b.runs:
        return [], ["This pair was not tested in the study, and without its predictions it cannot be here."]
    if a.ids != b.ids or study.classes != second.classes or (a.gold != b.gold).any():
        return [], ["The two have different test texts: nothing compares them but the eye."]
    if (a.gold < 0).any():
        return [], ["This pair was not tested in the study, and not all test texts have gold labels to test it here."]
    runs1, runs2 = a.of(one["variant"], one["size"]), b.of(two["variant"], two["size"])
    by_seed = {b.runs[r][2]: r for r in runs2}
    pairs = [(r, by_seed[a.runs[r][2]]) for r in runs1 if a.runs[r][2] in by_seed]
    if len(pairs) < 3 or test is None:
        return [], [f"The two have {len(pairs)} seeds in common; a test wants three."]
    if len(pairs) * len(a.ids) > MOST_TESTED:
        return [], ["This pair was not tested in the study, and is too large to be tested here."]
    first, last = (np.array(rows) for rows in zip(*pairs, strict=True))
    found = test(a.labels[first].astype(int), b.labels[last].astype(int), a.gold, len(study.classes))
    said = (
        f"This pair was not tested in the study: it was tested here, on {len(pairs)} seeds and {len(a.ids):,} texts, "
        "and its p-values are not corrected."
    )
    return found, [said]


def use(study: Study, variant: str = "llm") -> dict[str, str]:
    """Lines of code for what is shown, that run as they stand."""
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
        more = f" --study {study.name}" if len(study.others) > 1 else ""
        command = (
            f"hf-recipes pull {study.where}{more} --revision {study.sha}\n"
            f"hf-recipes report studies/{study.name}/recipe.yaml"
        )
    return {"load_dataset": load, "evaluate": predictions, "hf_recipes": command}
