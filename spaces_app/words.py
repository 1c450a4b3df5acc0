"""Write pages as HTML. Every string of a study or an upload goes through `safe`, which makes it plain text."""

import html
from typing import Any

COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#B8860B"]
DECISIONS = {
    "ship within limits": ("good", "✓", "Ship within limits: these labels can be trained on"),
    "do not ship": ("bad", "✕", "Do not train on these labels"),
    "inconclusive": ("open", "?", "Inconclusive: this study does not decide every limit"),
}
CRITERIA = {
    "macro_f1_loss": "macro-F1 lost against gold labels",
    "churn": "what LLM labels add to the disagreement of two seeds",
    "min_class_f1": "F1 of the worst class",
}
LIMITS = {"min_class_f1": "at least"}


def safe(value: Any) -> str:
    """Escape text for HTML. Characters that turn the direction of writing become visible."""
    text = "" if value is None else str(value)
    return html.escape("".join("\N{REPLACEMENT CHARACTER}" if c in TURNING else c for c in text))


TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\0")


def number(value: float | None) -> str:
    """Format three digits without the leading zero, as .123; – for an undefined value."""
    if value is None:
        return "–"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def plus(value: float | None) -> str:
    return f"{'+' if value is not None and value >= 0 else ''}{number(value)}"


def interval(bounds: list[float] | None) -> str:
    return "[not defined]" if bounds is None else f"[{number(bounds[0])}, {number(bounds[1])}]"


def table(head: list[str], rows: list[list[str]], label: str, kind: str = "") -> str:
    """Write a table that scrolls in its own box, also by keyboard. Cells are HTML already."""
    if not rows:
        return '<p class="nothing">Nothing to show.</p>'
    top = "".join(f'<th scope="col">{title}</th>' for title in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll {kind}" tabindex="0" role="region" aria-label="{safe(label)}">'
        f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def notes(sentences: list[str]) -> str:
    return "".join(f'<p class="note">{safe(sentence)}</p>' for sentence in sentences)


def header(about: dict[str, Any], notice: str = "") -> str:
    """Write the line about the study."""
    facts = [f"{about['pool']:,} training texts"]
    if about["annotator"]:
        facts.append(f"labelled by {about['annotator'].rpartition('/')[2] or about['annotator']}")
    if about["runs"]:
        facts.append(f"{about['runs']:,} classifiers")
    if about["test"]:
        facts.append(f"{about['test']:,} test texts")
    sha = f' <span class="sha">@ {safe(about["sha"][:8])}</span>' if about["sha"] else ""
    alert = f'<p class="notice" role="status">{safe(notice)}</p>' if notice else ""
    return (
        f'{alert}<div class="study"><b>{safe(about["study"])}</b> <span class="from">{safe(about["repo"])}</span>{sha}'
        f"<br><span>{safe(' · '.join(facts))}</span></div>"
    )


def verdict_top(data: dict[str, Any]) -> str:
    """Write the answer and its main numbers."""
    if data["decision"] is None:
        items = "".join(f"<li>{safe(sentence)}</li>" for sentence in data["labels"])
        return (
            '<section class="decision open"><span class="mark" aria-hidden="true">?</span><div><h2>No verdict</h2>'
            f"{notes(data['about']['missing'])}</div></section>"
            + (f'<section class="found"><h3>What the labels are worth</h3><ul>{items}</ul></section>' if items else "")
        )
    kind, mark, title = DECISIONS.get(data["decision"], ("open", "?", data["decision"]))
    first = next((text for head, text in data["findings"] if head == "Verdict."), "")
    tiles = "".join(
        f'<div class="tile {_tone(tile)}"><span>{safe(tile["title"])}</span><b>{_value(tile)}</b>'
        f"<i>{interval(tile['interval'])}</i><small>{safe(tile['of'])}</small></div>"
        for tile in data["tiles"]
    )
    return (
        f'<section class="decision {kind}"><span class="mark" aria-hidden="true">{mark}</span>'
        f"<div><h2>{safe(title)}</h2><p>{safe(first)}</p></div></section>"
        f'<div class="tiles">{tiles}</div>{notes(data["about"]["missing"])}'
    )


def _value(tile: dict[str, Any]) -> str:
    return plus(tile["value"]) if "verdict" in tile else number(tile["value"])


def _tone(tile: dict[str, Any]) -> str:
    if "verdict" not in tile:
        return ""
    return "unclear" if tile["verdict"] == "inconclusive" else "clear"


def verdict_rest(data: dict[str, Any]) -> str:
    """Write the findings, the limits and the table of all variants."""
    if data["decision"] is None:
        return ""
    findings = "".join(
        f"<dt>{safe(head.rstrip('.'))}</dt><dd>{safe(text)}</dd>"
        for head, text in data["findings"]
        if head != "Verdict."
    )
    more = "".join(f"<dt>{safe(head.rstrip('.'))}</dt><dd>{safe(text)}</dd>" for head, text in data["more"])
    limits = "".join(f"<li>{safe(sentence)}</li>" for sentence in data["limits"])
    criteria = table(
        ["your limit", "value", "interval", "limit", "status", "certified"],
        [
            [
                safe(CRITERIA.get(criterion["name"], criterion["name"])),
                number(criterion["value"]),
                interval(criterion["interval"]),
                f"{LIMITS.get(criterion['name'], 'at most')} {number(criterion['limit'])}",
                safe(criterion["status"]),
                number(criterion["bound"]),
            ]
            for criterion in data["criteria"]
        ],
        "Limits of the recipe",
    )
    variants = table(
        ["labels", "texts", "gold labels", "macro-F1", "accuracy", "two seeds disagree on", "R", "learnt nothing"],
        [
            [
                f'<span title="{safe(variant["says"])}">{safe(variant["variant"])}</span>',
                f"{variant['size']:,}",
                "–" if variant["gold_labels"] is None else f"{variant['gold_labels']:,}",
                f"{number(variant['macro_f1_mean'])} <i>{interval(variant['macro_f1_mean_interval'])}</i>",
                f"{number(variant['accuracy_mean'])} <i>{interval(variant['accuracy_mean_interval'])}</i>",
                f"{number(variant['pairwise_disagreement'])} "
                f"<i>{interval(variant['pairwise_disagreement_interval'])}</i>",
                str(variant["R"]),
                "–" if variant["chance_level_runs"] is None else f"{variant['chance_level_runs']:,}",
            ]
            for variant in data["variants"]
        ],
        "Scores and disagreement of every variant and size",
        "numbers",
    )
    terms = {variant["variant"]: variant["says"] for variant in data["variants"] if variant["says"]}
    legend = "".join(f"<dt><code>{safe(variant)}</code></dt><dd>{safe(says)}</dd>" for variant, says in terms.items())
    confidence = f"{data['confidence_level']:.0%}" if data["confidence_level"] else ""
    return (
        (f'<section class="found"><h3>What was found</h3><dl>{findings}</dl></section>' if findings else "")
        + (f'<details><summary>More findings</summary><dl class="found">{more}</dl></details>' if more else "")
        + f"<h3>Limits of the recipe</h3>{criteria}"
        + "<h3>All variants and sizes</h3><p class='caption'>Means over R seeds with "
        + f"{confidence} intervals over seeds and {data['n']:,} test texts together.</p>{variants}"
        + (
            f'<details><summary>What each variant trains on</summary><dl class="found">{legend}</dl></details>'
            if legend
            else ""
        )
        + (f"<details open><summary>What cannot be concluded</summary><ul>{limits}</ul></details>" if limits else "")
        + (
            f"<details><summary>How it was made</summary><p>{safe(data['methods'])}</p></details>"
            if data["methods"]
            else ""
        )
    )


def labels_table(data: dict[str, Any]) -> str:
    """Write a page of training texts."""
    names = data["classes"]
    head = ["text", "gold", "LLM", "distribution", "entropy"]
    votes, variant = any(row["votes"] for row in data["rows"]), data["variant"]
    head += (["passes"] if votes else []) + ([f"in {safe(variant['variant'])}"] if variant else [])
    rows = []
    for row in data["rows"]:
        wrong = row["gold"] is not None and row["gold"] != row["llm"]
        cells = [
            f'<div class="text" dir="auto">{_text(row)}</div>',
            chip(row["gold"], names),
            chip(row["llm"], names) + (' <b class="off" title="differs from gold">≠</b>' if wrong else ""),
            bar(row["probs"], names),
            f"{row['entropy']:.2f}<br><small>rank {row['rank']:,}</small>",
        ]
        if votes:
            chips = " ".join(chip(label, names, short=True) for label in row["votes"])
            cells.append(f'<span class="strip few">{chips}</span>{"<small>differ</small>" if row["flips"] else ""}')
        if variant:
            cells.append(f"{chip(row['variant_label'], names)}<br><small>{safe(row['why'])}</small>")
        rows.append(cells)
    return f'<p class="caption keys">{legend(names)}</p>' + table(
        head, rows, "Training texts and their labels", "texts"
    )


def _text(row: dict[str, Any]) -> str:
    """Return the text, or the id if texts are not published."""
    return safe(row["text"]) or f"<code>{safe(row['id'])}</code>"


def labels_count(data: dict[str, Any]) -> str:
    judged = f"; of {data['judged']:,} with gold, {data['wrong']:,} have a wrong label" if data["judged"] else ""
    share = f" ({data['wrong'] / data['judged']:.1%})" if data["judged"] else ""
    note = notes(data["missing"])
    if variant := data["variant"]:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in variant["sources"].items())
        note += f'<p class="note"><b>{safe(variant["variant"])}</b>: {safe(variant["says"])}. '
        note += f"Rows by source of their label: {safe(counts)}.</p>"
    return (
        f'<p class="count" role="status"><b>{data["found"]:,}</b> of {data["total"]:,} texts{judged}{share}.</p>{note}'
    )


def confusion(data: dict[str, Any]) -> str:
    """Write counts of gold against LLM, shaded by their share of the gold class."""
    if not data["judged"]:
        return '<p class="nothing">No gold labels among these texts.</p>'
    names = data["classes"]
    rows = []
    for name, counts in zip(names, data["confusion"], strict=True):
        total = sum(counts) or 1
        rows.append(
            [
                f"<b>{safe(name)}</b>",
                *(_heat(count, total) for count in counts),
            ]
        )
    return table(
        ["gold ↓ LLM →", *(safe(name) for name in names)], rows, "Confusion of gold and LLM labels", "confusion"
    )


def _heat(count: int, total: int) -> str:
    share = count / total
    return f'<span class="heat" style="--share:{share:.2f}">{count:,}<small>{share:.0%}</small></span>'


def legend(names: list[str]) -> str:
    if len(names) > len(COLOURS):
        return ""
    return " ".join(f'<span><i style="background:{_colour(k)}"></i>{safe(name)}</span>' for k, name in enumerate(names))


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def chip(name: str | None, names: list[str], short: bool = False) -> str:
    """Write a class: its colour, and its name or its abbreviation."""
    if name is None:
        return '<span class="chip none">–</span>'
    place = names.index(name) if name in names else 0
    text = abbreviations(names)[place] if short else name
    return f'<span class="chip" style="--class:{_colour(place)}" title="{safe(name)}">{safe(text)}</span>'


def abbreviations(names: list[str]) -> list[str]:
    """Return the shortest beginnings, up to three characters, that differ; else numbers."""
    for length in (1, 2, 3):
        prefixes = [name[:length] for name in names]
        if len(set(prefixes)) == len(names):
            return prefixes
    return [str(i) for i in range(len(names))]


def bar(probs: list[float], names: list[str]) -> str:
    """Write a distribution as a bar with the largest probabilities in words."""
    parts = "".join(
        f'<i style="width:{100 * p:.1f}%;background:{_colour(k)}"></i>' for k, p in enumerate(probs) if p >= 0.005
    )
    top = sorted(range(len(probs)), key=lambda k: -probs[k])[:3]
    text = ", ".join(f"{names[k]} {number(round(probs[k], 2))[:-1]}" for k in top)
    attributes = f'role="img" aria-label="{safe(text)}" title="{safe(text)}"'
    return f'<div class="bar" {attributes}>{parts}</div><small>{safe(text)}</small>'


def seeds_top(data: dict[str, Any]) -> str:
    if not data.get("variant"):
        return notes(data["missing"])
    beside = "" if data["gold_flipped"] is None else f"; with gold labels on {data['gold_flipped']:,}"
    mean = "" if data["mean"] is None else f" Two seeds disagree on {number(data['mean'])} of the texts on average."
    return (
        f'<p class="count" role="status">The {data["runs"]} seeds of <b>{safe(data["variant"])}</b> at '
        f"{data['size']:,} training texts do not all agree on <b>{data['flipped']:,}</b> of "
        f"{data['total']:,} test texts{beside}.{mean} "
        f"Shown: {data['found']:,}.</p>{notes(data['missing'])}"
    )


def seeds_table(data: dict[str, Any]) -> str:
    """Write test texts with the label of each seed. A button opens a text over all variants."""
    if not data.get("variant"):
        return ""
    names = data["classes"]
    head = [
        "text",
        "gold",
        f"by seed ({', '.join(safe(seed) for seed in data['seeds'][:12])}{', …' if len(data['seeds']) > 12 else ''})",
    ]
    head += ["two seeds differ", "... with gold labels"]
    rows = [
        [
            f'<button class="pick" data-id="{safe(row["id"])}" dir="auto">{safe(row["text"] or row["id"])}</button>',
            chip(row["gold"], names),
            f'<span class="strip">{"".join(chip(label, names, short=True) for label in row["labels"])}</span>',
            number(row["disagreement"]),
            "–" if row["gold_disagreement"] is None else number(row["gold_disagreement"]),
        ]
        for row in data["rows"]
    ]
    return f'<p class="caption">{legend(names)}</p>' + table(head, rows, "Test texts on which seeds disagree", "texts")


def one_text(data: dict[str, Any]) -> str:
    """Write one text's predictions over all runs, sizes and variants."""
    if not (details := data.get("one")):
        return '<p class="caption">Choose a text in the table to see what every run of every variant says of it.</p>'
    names = data["classes"]
    rows = [
        [
            safe(cell["variant"]),
            f"{cell['size']:,}",
            f'<span class="strip">{"".join(_run_chip(run, names) for run in cell["runs"])}</span>',
            f"{sum(run['label'] == details['gold'] for run in cell['runs'])} of {len(cell['runs'])}"
            if details["gold"]
            else "–",
        ]
        for cell in details["cells"]
    ]
    content = _text(details)
    return (
        f'<section class="one"><blockquote dir="auto">{content}</blockquote><p>gold: {chip(details["gold"], names)}</p>'
        + table(["labels", "texts", "by seed", "right"], rows, "One text over all runs", "numbers")
        + "</section>"
    )


def _run_chip(run: dict[str, Any], names: list[str]) -> str:
    place = names.index(run["label"])
    title = f"seed {run['seed']}: {run['label']}, {number(run['probability'])}"
    short = abbreviations(names)[place]
    return f'<span class="chip" style="--class:{_colour(place)}" title="{safe(title)}">{safe(short)}</span>'


def compare_table(data: dict[str, Any], figures: dict[str, str]) -> str:
    """Write both sides and the test of their difference."""
    if not data["sides"]:
        return notes(data["said"])
    first, second = data["sides"]
    tests = {test["figure"]: test for test in data["tests"]}

    def name(side: dict[str, Any]) -> str:
        of = "" if data["same_study"] else f"<br><small>{safe(side['study'])}, {safe(side['repo'])}</small>"
        return f"{safe(side['variant'])}<br><small>{side['size']:,} texts, R = {side['R']}</small>{of}"

    rows = []
    for figure, title in figures.items():
        values = [
            f"{number(side['figures'][figure]['value'])} <i>{interval(side['figures'][figure]['interval'])}</i>"
            for side in (first, second)
        ]
        rows.append([f"<b>{safe(title)}</b>", *values, *_test_cells(tests.get(figure))])
    num_labels = ["–" if side["gold_labels"] is None else f"{side['gold_labels']:,}" for side in (first, second)]
    rows.append(["<b>gold labels consumed</b>", *num_labels, "", "", ""])
    head = ["", name(first), name(second), "difference", "p", "by its interval"]
    says = "".join(
        f"<dt><code>{safe(side['variant'])}</code></dt><dd>{safe(side['says'])}</dd>"
        for side in (first, second)
        if side["says"]
    )
    return (
        table(head, rows, "Two sources of labels side by side", "numbers")
        + notes(data["said"])
        + (f'<dl class="found">{says}</dl>' if says else "")
    )


def _test_cells(test: dict[str, Any] | None) -> list[str]:
    if test is None:
        return ["–", "–", "not tested"]
    p = test["p_holm"] if test.get("p_holm") is not None else test["p_value"]
    kind = "Holm" if test.get("p_holm") is not None else "exploratory"
    verdicts = {"higher": "clearly higher", "lower": "clearly lower", "inconclusive": "inconclusive"}
    is_exploratory = test.get("by") == "study" and test.get("p_holm") is None
    return [
        f"{plus(test['difference'])} <i>{interval(test['interval'])}</i>",
        f"{number(p)} <small>({kind})</small>",
        "–" if is_exploratory else safe(verdicts.get(test["verdict"], test["verdict"])),
    ]


def measured_table(data: dict[str, Any]) -> str:
    rows = [
        [
            safe(row["figure"].replace("_", " ")),
            number(row["value"]),
            interval(row["interval"]),
            f"<code>{row['metric']}</code>",
        ]
        for row in data["figures"]
    ]
    summary = _counts(data)
    warning = "" if data["R"] > 2 else " With two runs no interval over runs can be given: three are the least."
    columns = ", ".join(name[:50] for name in data["ignored"][:5])
    not_runs = f" Not read as runs: the columns {columns}." if columns else ""
    return f'<p class="count" role="status">{safe(summary + warning + not_runs)}</p>' + table(
        ["figure", "value", "interval", "module"], rows, "Figures of your predictions", "numbers"
    )


def _counts(data: dict[str, Any]) -> str:
    classes = len(data["classes"])
    return (
        f"{data['R']} runs on {data['n']:,} texts, {classes} classes. Intervals are 95%, over runs and texts together."
    )


def report(data: dict[str, Any]) -> str:
    """Write the figures as a Markdown report, without any text of the upload."""
    lines = [
        "# Predictions of several runs, measured",
        "",
        _counts(data),
        "",
        "| figure | value | interval | module |",
        "|---|---|---|---|",
        *(
            f"| {row['figure'].replace('_', ' ')} | {number(row['value'])} | {interval(row['interval'])} "
            f"| {row['metric']} |"
            for row in data["figures"]
        ),
        "",
        "The modules' cards say what each figure means. Unanimity and vote entropy hold for this number of runs only.",
        "",
    ]
    return "\n".join(lines)
