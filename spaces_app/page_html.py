"""Write the content of each page as HTML."""

from typing import Any, NamedTuple

from first_screen.charts import draw_interval, draw_scatter
from first_screen.numbers import interval, number, signed
from published import Summary
from words import bar, chip, definitions, estimate, folded, notes, pick, pressed, safe, table, votes

MAX_MATRIX = 8  # classes of a confusion matrix
NUM_CONFUSIONS = 10  # that are listed of more classes


class Decision(NamedTuple):
    kind: str
    mark: str
    title: str


DECISIONS = {
    "ship within limits": Decision("good", "✓", "ship within limits"),
    "do not ship": Decision("bad", "✕", "do not ship"),
    "inconclusive": Decision("open", "?", "inconclusive"),
}


def cards(summaries: list[Summary]) -> str:
    """Write the published studies as cards."""
    return f'<div class="cards">{"".join(_card(summary) for summary in summaries)}</div>'


def _card(summary: Summary) -> str:
    decision = DECISIONS.get(summary.decision or "", Decision("open", "–", "no verdict"))
    loss = '<span class="loss">Macro-F1 loss vs. gold: unknown</span>'
    if summary.loss is not None:
        value = number(summary.loss, summary.interval)
        loss = f'<span class="loss">Macro-F1 loss vs. gold: <b>{value}</b> <i>{interval(summary.interval)}</i></span>'
    models = " → ".join(safe(name.rpartition("/")[2]) for name in (summary.model, summary.encoder) if name)
    sizes = ", ".join(f"{size:,}" for size in summary.sizes)
    facts = f"{sizes} training texts · {summary.seeds} seeds · {summary.texts:,} test texts" if sizes else "labels only"
    mark = f'<span class="mark {decision.kind}" title="{decision.title}" aria-hidden="true">{decision.mark}</span>'
    return pick(
        summary.spec,
        f'{mark}<span class="facts"><b class="name">{safe(summary.name)}</b> <small>{decision.title}</small>'
        f'<small class="from">{safe(summary.spec)}</small>{loss}<small>{models}</small><small>{facts}</small></span>',
        "card",
    )


def header(about: dict[str, Any], spec: str) -> str:
    """Write the line about the study, with buttons of the other studies in its repo."""
    sha = f' <span class="sha">@ {safe(about["sha"][:8])}</span>' if about["sha"] else ""
    studies = [f"{about['repo']}/{name}" for name in about["studies"]]
    others = " ".join(pick(key, safe(key.rpartition("/")[2]), "other") for key in studies if key != spec)
    return (
        f'<div class="study"><b>{safe(about["study"])}</b> <span class="from">{safe(about["repo"])}</span>{sha}'
        f"{f' · In the same repo: {others}' if others else ''}</div>"
    )


def no_verdict(data: dict[str, Any]) -> str:
    """Write the page of a study without results."""
    items = "".join(f"<li>{safe(sentence)}</li>" for sentence in data["labels"])
    return f"<h2>No verdict</h2>{notes(data['about']['missing'])}{f'<ul>{items}</ul>' if items else ''}"


def variants_table(data: dict[str, Any]) -> str:
    """Write the scores and the disagreement of every variant and size."""
    rows = [
        [
            f'<span title="{safe(variant["description"])}">{safe(variant["variant"])}</span>',
            f"{variant['size']:,}",
            "–" if variant["gold_labels"] is None else f"{variant['gold_labels']:,}",
            *(
                estimate(variant[name], variant[f"{name}_interval"])
                for name in ("macro_f1_mean", "accuracy_mean", "pairwise_disagreement")
            ),
            str(variant["R"]),
            "–" if variant["chance_level_runs"] is None else f"{variant['chance_level_runs']:,}",
        ]
        for variant in data["variants"]
    ]
    head = ["variant", "training texts", "gold labels", "macro-F1", "accuracy", "disagreement of two seeds", "seeds"]
    caption = (
        f"<p class='caption'>Means over seeds, with {data['confidence_level']:.0%} intervals over seeds and "
        f"{data['n']:,} test texts.</p>"
    )
    return caption + table([*head, "chance-level runs"], rows, "Scores and disagreement of all variants", "numbers")


def verdict_details(data: dict[str, Any]) -> str:
    """Write the parts that are not on the first screen, folded."""
    findings = [(head, text) for head, text in data["findings"] if head != "Verdict."]
    variants = {variant["variant"]: variant["description"] for variant in data["variants"] if variant["description"]}
    limits = "".join(f"<li>{safe(sentence)}</li>" for sentence in data["limits"])
    methods = f"<p>{safe(data['methods'])}</p>" if data["methods"] else ""
    return (
        folded("All variants and sizes", variants_table(data))
        + folded("Findings", definitions([*findings, *data["more"]]) if findings else "")
        + folded("What each variant trains on", definitions(list(variants.items())) if variants else "")
        + folded("What cannot be concluded", f"<ul>{limits}</ul>" if limits else "")
        + folded("Methods", methods)
    )


def labels_table(data: dict[str, Any]) -> str:
    """Write a page of training texts."""
    names = data["classes"]
    head = ["text", "gold", "LLM", "distribution"]
    has_votes, variant = any(row["votes"] for row in data["rows"]), data["variant"]
    head += (["passes"] if has_votes else []) + ([f"in {safe(variant['variant'])}"] if variant else [])
    rows = []
    for row in data["rows"]:
        is_wrong = row["gold"] is not None and row["gold"] != row["llm"]
        cells = [
            f'<div class="text" dir="auto">{_text(row)}</div>',
            chip(row["gold"], names),
            chip(row["llm"], names) + (' <b class="off" title="differs from gold">≠</b>' if is_wrong else ""),
            f"{bar(row['probs'], names)}<small>entropy {row['entropy']:.2f}, rank {row['rank']:,}</small>",
        ]
        if has_votes:
            cells.append(votes(row["votes"], names))
        if variant:
            cells.append(f"{chip(row['variant_label'], names)}<br><small>{safe(row['why'])}</small>")
        rows.append(cells)
    return table(head, rows, "Training texts and their labels", "texts")


def _text(row: dict[str, Any]) -> str:
    """Return the text, or the id if texts are not published."""
    return safe(row["text"]) or f"<code>{safe(row['id'])}</code>"


def labels_count(data: dict[str, Any]) -> str:
    wrong = ""
    if data["judged"]:
        share = f"{data['wrong'] / data['judged']:.1%}"
        wrong = f" The LLM differs from gold on {data['wrong']:,} of {data['judged']:,} texts with gold ({share})."
    text = notes(data["missing"])
    if variant := data["variant"]:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in variant["sources"].items())
        text += f'<p class="note"><b>{safe(variant["variant"])}</b>: {safe(variant["description"])}. '
        text += f"Rows by source of their label: {safe(counts)}.</p>"
    return (
        f'<p class="count" role="status"><b>{data["found"]:,}</b> of {data["total"]:,} texts are listed.{wrong}</p>'
        f"{text}"
    )


def confusion(data: dict[str, Any]) -> str:
    """Write the gold and LLM labels as a matrix; of many classes the F1 of each, and the largest confusions.

    Each cell is a button with the indices of its two classes.
    """
    if not data["judged"]:
        return '<p class="nothing">These texts have no gold labels.</p>'
    names, counts = data["classes"], data["confusion"]
    shown = (data["gold"], data["llm"])
    if len(names) > MAX_MATRIX:
        return (
            f'<div class="classes">{_class_table(names, counts, shown)}{_confusion_table(names, counts, shown)}</div>'
        )
    rows = []
    for i, gold in enumerate(names):
        total = sum(counts[i]) or 1
        cells = [
            pick(
                f"{i} {j}",
                f"{count:,}<small>{count / total:.0%}</small>",
                "heat",
                f'style="--share:{count / total:.2f}" aria-label="gold {safe(gold)}, LLM {safe(llm)}: {count}" '
                + pressed(shown == (gold, llm)),
            )
            for j, (llm, count) in enumerate(zip(names, counts[i], strict=True))
        ]
        rows.append([f"<b>{safe(gold)}</b>", *cells])
    head = ["gold ↓ LLM →", *(safe(name) for name in names)]
    return table(head, rows, "Confusion of gold and LLM labels", "confusion")


def _class_table(names: list[str], counts: list[list[int]], shown: tuple[str, str]) -> str:
    """Write precision, recall and F1 of the LLM in each class, lowest F1 first."""
    scores = []
    for k, name in enumerate(names):
        hits, num_gold, num_llm = counts[k][k], sum(counts[k]), sum(row[k] for row in counts)
        if num_gold:
            scores.append((2 * hits / (num_gold + num_llm), k, name, num_gold, hits / num_gold, num_llm, hits))
    rows = [
        [
            pick(f"{k} -1", safe(name), attributes=pressed(shown == (name, ""))),
            f"{num_gold:,}",
            number(hits / num_llm if num_llm else None),
            number(recall),
            number(f1),
        ]
        for f1, k, name, num_gold, recall, num_llm, hits in sorted(scores)
    ]
    return table(["gold class", "texts", "precision", "recall", "F1"], rows, "LLM labels by class", "numbers")


def _confusion_table(names: list[str], counts: list[list[int]], shown: tuple[str, str]) -> str:
    """Write the pairs of classes that the LLM confuses most often."""
    pairs = []
    for i, row in enumerate(counts):
        pairs += [(count, i, j) for j, count in enumerate(row) if count and i != j]
    rows = [
        [
            pick(f"{i} {j}", f"{safe(names[i])} → {safe(names[j])}", attributes=pressed(shown == (names[i], names[j]))),
            f"{count:,}",
        ]
        for count, i, j in sorted(pairs, key=lambda pair: -pair[0])[:NUM_CONFUSIONS]
    ]
    return table(["largest confusions, gold → LLM", "texts"], rows, "Largest confusions", "numbers")


def seeds_top(data: dict[str, Any]) -> str:
    if not data.get("variant"):
        return notes(data["missing"])
    gold = "" if data["gold_flipped"] is None else f" With gold labels: {data['gold_flipped']:,}."
    mean = "" if data["mean"] is None else f" Disagreement of two seeds: {number(data['mean'])}."
    return (
        f'<p class="count" role="status">The {data["runs"]} seeds of <b>{safe(data["variant"])}</b> with '
        f"{data['size']:,} training texts disagree on <b>{data['flipped']:,}</b> of {data['total']:,} test texts."
        f"{gold}{mean} {data['found']:,} texts are listed.</p>{notes(data['missing'])}"
    )


def seeds_table(data: dict[str, Any]) -> str:
    """Write test texts with the labels of the seeds. A button opens a text over all variants."""
    if not data.get("variant"):
        return ""
    names = data["classes"]
    seeds = [f"seed {seed}" for seed in data["seeds"]]
    rows = [
        [
            pick(row["id"], safe(row["text"] or row["id"])),
            chip(row["gold"], names),
            votes(row["labels"], names, seeds),
            number(row["disagreement"]),
            number(row["gold_disagreement"]),
        ]
        for row in data["rows"]
    ]
    head = ["text", "gold", "labels of the seeds", "disagreement of two seeds", "with gold labels"]
    return table(head, rows, "Test texts on which seeds disagree", "texts")


def one_text(data: dict[str, Any]) -> str:
    """Write one text's predictions over all runs, sizes and variants."""
    if not (details := data.get("one")):
        return '<p class="caption">Choose a text to see its label in every run.</p>'
    names = data["classes"]
    rows = []
    for cell in details["cells"]:
        labels = [run["label"] for run in cell["runs"]]
        titles = [f"seed {run['seed']}: {number(run['probability'])}" for run in cell["runs"]]
        right = f"{labels.count(details['gold'])} of {len(labels)}" if details["gold"] else "–"
        rows.append([safe(cell["variant"]), f"{cell['size']:,}", votes(labels, names, titles), right])
    return (
        f'<section class="one"><blockquote dir="auto">{_text(details)}</blockquote>'
        f"<p>gold: {chip(details['gold'], names)}</p>"
        + table(
            ["variant", "training texts", "labels of the seeds", "right"], rows, "One text over all runs", "numbers"
        )
        + "</section>"
    )


def compare_table(data: dict[str, Any], figures: dict[str, str]) -> str:
    """Write both sides and the test of their difference."""
    if not data["sides"]:
        return notes(data["notes"])
    first, second = data["sides"]
    tests = {test["figure"]: test for test in data["tests"]}
    rows = []
    for figure, title in figures.items():
        values = [
            estimate(side["figures"][figure]["value"], side["figures"][figure]["interval"]) for side in (first, second)
        ]
        rows.append([f"<b>{safe(title)}</b>", *values, *_test_cells(figure, tests.get(figure))])
    num_labels = ["–" if side["gold_labels"] is None else f"{side['gold_labels']:,}" for side in (first, second)]
    rows.append(["<b>gold labels consumed</b>", *num_labels, "", "", ""])
    sides = [_side_name(side, data["same_study"]) for side in (first, second)]
    head = ["", *sides, "difference", "p", "the first variant is"]
    variants = [(side["variant"], side["description"]) for side in (first, second) if side["description"]]
    return (
        table(head, rows, "Two variants side by side", "numbers")
        + notes(data["notes"])
        + (definitions(variants) if variants else "")
    )


def _side_name(side: dict[str, Any], is_same_study: bool) -> str:
    study = "" if is_same_study else f"<br><small>{safe(side['study'])}, {safe(side['repo'])}</small>"
    return f"{safe(side['variant'])}<br><small>{side['size']:,} texts, {side['R']} seeds</small>{study}"


def judge(figure: str, verdict: str) -> str:
    """Return `better`, `worse` or `inconclusive`. Less disagreement is better."""
    if verdict not in ("higher", "lower"):
        return verdict
    return "better" if (verdict == "higher") == (figure != "pairwise_disagreement") else "worse"


def _test_cells(figure: str, test: dict[str, Any] | None) -> list[str]:
    if test is None:
        return ["–", "–", "not tested"]
    is_corrected = test["p_holm"] is not None
    kind, p = ("Holm", test["p_holm"]) if is_corrected else ("exploratory", test["p_value"])
    is_exploratory = test["by"] == "study" and not is_corrected
    return [
        f"{signed(test['difference'], test['interval'])} <i>{interval(test['interval'])}</i>",
        f"{number(p)} <small>({kind})</small>",
        "–" if is_exploratory else safe(judge(figure, test["verdict"])),
    ]


def measured_top(data: dict[str, Any]) -> str:
    """Write on how many texts the runs differ, and list these texts."""
    names = data["classes"]
    share = f"{data['differing'] / data['n']:.0%}"
    seeds = [f"run {i + 1}" for i in range(data["R"])]
    has_gold = any(row["gold"] is not None for row in data["rows"])
    rows = [
        [
            f'<div class="text" dir="auto">{safe(row["text"] or "row " + str(row["row"]))}</div>',
            *([chip(row["gold"], names)] if has_gold else []),
            votes(row["labels"], names, seeds),
            number(row["disagreement"]),
        ]
        for row in data["rows"]
    ]
    head = ["text", *(["gold"] if has_gold else []), "labels of the runs", "disagreement of two runs"]
    columns = ", ".join(name[:50] for name in data["ignored"][:5])
    not_runs = f" These columns are not runs: {columns}." if columns else ""
    listed = f" The first {len(rows):,} are listed." if len(rows) < data["differing"] else ""
    return (
        f'<p class="count" role="status"><b class="headline">Your runs differ on {share} of texts</b><br>'
        f"{data['differing']:,} of {data['n']:,} texts, {data['R']} runs, {len(names)} classes.{listed}"
        f"{safe(not_runs)}</p>" + (table(head, rows, "Texts on which your runs differ", "texts") if rows else "")
    )


def measured_table(data: dict[str, Any]) -> str:
    """Write the figures; those between 0 and 1 are drawn."""
    rows = []
    for row in data["figures"]:
        value, bounds, name = row["value"], row["interval"], row["figure"].replace("_", " ")
        is_share = value is not None and 0 <= value <= 1 and (bounds is None or (bounds[0] >= 0 and bounds[1] <= 1))
        picture = draw_interval(value, bounds, (0, 1), "remedy", name) if is_share else ""
        rows.append([safe(name), estimate(value, bounds), picture, f"<code>{row['metric']}</code>"])
    warning = "" if data["R"] > 2 else " Intervals over runs require three runs."
    return (
        f'<h3>Figures</h3><p class="caption">95% intervals over runs and texts. Pictures: from 0 to 1.{warning}</p>'
        '<div class="first-screen">'
        + table(["figure", "value", "", "metric"], rows, "Figures of your predictions", "numbers")
        + "</div>"
    )


def risk(data: dict[str, Any]) -> str:
    """Draw the share of wrong labels among the most confident labels."""
    kept, wrong = data["risk_coverage"]["kept"], data["risk_coverage"]["wrong"]
    if not kept:
        return ""
    line = [(100 * share, risk) for share, risk in zip(kept, wrong, strict=True)]
    half = next(risk for share, risk in zip(kept, wrong, strict=True) if share >= 0.5)
    return (
        "<h3>If you keep only the most confident labels</h3>"
        f'<p class="caption">Wrong labels: {wrong[-1]:.0%} of all, {half:.0%} of the most confident half.</p>'
        f'<div class="first-screen">{draw_scatter([], line, "% of texts kept", "share of wrong labels")}</div>'
    )


def report(data: dict[str, Any]) -> str:
    """Write the figures as a Markdown report, without any text of the upload."""
    lines = [
        "# Predictions of several runs, measured",
        "",
        f"{data['R']} runs on {data['n']:,} texts, {len(data['classes'])} classes. The runs differ on "
        f"{data['differing']:,} texts. Intervals: 95%, over runs and texts.",
        "",
        "| figure | value | interval | metric |",
        "|---|---|---|---|",
        *(
            f"| {row['figure'].replace('_', ' ')} | {number(row['value'], row['interval'])} "
            f"| {interval(row['interval'])} | {row['metric']} |"
            for row in data["figures"]
        ),
        "",
        "Each metric's card defines its figures. Compare unanimity and vote entropy only at the same number of runs.",
        "",
    ]
    return "\n".join(lines)
