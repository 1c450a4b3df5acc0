"""Measure an LLM's labels against gold labels in a visitor's CSV table."""

import functools
from pathlib import Path
from typing import Any

import gradio as gr
import limited
import measuring
import numpy as np
import pandas as pd
import uploads
from pages import FILES, ONE_AT_A_TIME, PRIVATE, Page
from scipy import stats
from uploads import UploadError
from words import chip, notes, safe, table

EXAMPLE = (Path(__file__).parent / "example_labels.csv").read_text(encoding="utf-8")
#: The names that each column may have, in lower case, the preferred one first.
COLUMNS = {
    "gold": ("gold", "gold_label", "y_true", "true", "true_label", "target", "reference", "human", "label", "class"),
    "llm": ("llm", "llm_label", "prediction", "predicted", "predicted_label", "y_pred", "pred", "annotation", "label"),
    "text": ("text", "sentence", "content", "document", "review", "tweet", "comment", "question", "title"),
    "probability": ("probability", "prob", "confidence", "llm_probability", "llm_confidence", "score"),
}
REQUIRED = ("gold", "llm")
MAX_NAME = 100  # characters of a class name
MAX_TEXT = 1_000  # characters of a text that are shown
MAX_MATRIX = 8  # classes of a confusion matrix; with more the largest confusions are listed
NUM_CONFUSIONS = 10
NUM_ERRORS = 20
STYLE = """
section { min-height: 60rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .7rem; }
.tile { border: 1px solid var(--line); border-radius: 10px; padding: .7rem .9rem; display: grid; gap: .1rem; }
.tile b { font-size: 1.5rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile i { font-style: normal; font-variant-numeric: tabular-nums; color: var(--quiet); }
"""


def read(path: str | None, pasted: str) -> dict[str, pd.Series]:
    """Return the columns of a visitor's table, read in the limited process.

    Raises:
        UploadError: the table is too large, or lacks a column of labels.
    """
    return limited.call("uploads.read_columns", path, pasted, COLUMNS, REQUIRED)


def measure(columns: dict[str, pd.Series]) -> dict[str, Any]:
    """Measure the LLM's labels in the rows that have a gold label.

    Args:
        columns (`dict`): cells as strings, by the keys of `COLUMNS`; `gold` and `llm` are required.

    Returns:
        `dict`: the figures with 95% intervals, `confusion` with a row for each gold class, `per_class` sorted by F1,
        the largest `confusions`, and the `errors` that the LLM is most confident of.

    Raises:
        UploadError: a cell or a column is invalid.
    """
    gold_words, llm_words = _labels(columns["gold"]), _labels(columns["llm"])
    has_gold = (gold_words != "").to_numpy()
    rows = np.flatnonzero(has_gold)
    if not len(rows):
        raise UploadError(f"`{gold_words.name}` must have a label. Got empty cells only. Try a table with gold labels.")
    _check_cells(llm_words, has_gold & (llm_words == "").to_numpy(), "have a label where gold has one", "`none`")
    gold_words, llm_words = gold_words[has_gold], llm_words[has_gold]
    names = sorted({*gold_words, *llm_words}, key=uploads.natural_order)
    if not {*gold_words} & {*llm_words}:
        raise UploadError(
            f"`{llm_words.name}` must have the class names of `{gold_words.name}`. Got `{llm_words.iloc[0]}` and "
            f"`{gold_words.iloc[0]}`. Try one spelling in both columns."
        )
    if not 2 <= len(names) <= uploads.MAX_CLASSES:
        raise UploadError(
            f"`{gold_words.name}` and `{llm_words.name}` must have 2 to {uploads.MAX_CLASSES} classes. Got "
            f"{len(names):,}. Try a column of class names."
        )
    place = {name: k for k, name in enumerate(names)}
    gold, llm = (words.map(place).to_numpy() for words in (gold_words, llm_words))
    probs = _probabilities(columns["probability"], has_gold)[has_gold] if "probability" in columns else None
    # The module takes distributions; a label is a distribution with all mass on one class.
    scores = measuring.without_nan(measuring.metric("annotation_uncertainty")(np.eye(len(names))[llm], gold))
    matrix = np.array(scores["confusion"])
    kappa, kappa_interval = _kappa(matrix)
    largest = np.bincount(gold).argmax()
    pairs = [(g, k) for g in range(len(names)) for k in range(len(names)) if g != k and matrix[g, k]]
    texts = columns["text"].to_numpy() if "text" in columns else None
    chosen, chosen_by = _confident_errors(matrix, gold, llm, probs)
    return {
        **{"n": len(rows), "right": int(matrix.trace()), "without_gold": int((~has_gold).sum()), "classes": names},
        "columns": {key: str(column.name)[:MAX_NAME] for key, column in columns.items()},
        "majority": {"label": names[largest], "right": int((gold == largest).sum())},
        **{key: scores[key] for key in ("accuracy", "accuracy_interval", "macro_f1", "macro_f1_interval")},
        **{"kappa": kappa, "kappa_interval": kappa_interval, "confusion": matrix.tolist()},
        "per_class": sorted(_per_class(matrix, names), key=lambda entry: (entry["f1"] is None, entry["f1"])),
        "confusions": [
            {"gold": names[g], "llm": names[k], "n": int(matrix[g, k])}
            for g, k in sorted(pairs, key=lambda pair: -matrix[pair])[:NUM_CONFUSIONS]
        ],
        "errors_by": chosen_by,
        "errors": [
            {
                **{"row": int(rows[i]) + 1, "text": "" if texts is None else str(texts[rows[i]])[:MAX_TEXT]},
                **{"gold": names[gold[i]], "llm": names[llm[i]]},
                "probability": None if probs is None else float(probs[i]),
            }
            for i in chosen
        ],
    }


def _labels(column: pd.Series) -> pd.Series:
    """Return labels as class names: `1.0` is `1`, as pandas writes whole numbers beside a gap, and `nan` is a gap."""
    words = column.str.strip().str.replace(r"^([+-]?[0-9]+)\.0+$", r"\1", regex=True)
    words = words.mask(words.str.fullmatch(uploads.NOT_A_LABEL.pattern, case=False), "")
    _check_cells(words, (words.str.len() > MAX_NAME).to_numpy(), f"have names of at most {MAX_NAME} characters")
    return words


def _check_cells(column: pd.Series, is_bad: np.ndarray, rule: str, example: str = "the name of a class") -> None:
    """Raise if a cell is bad. Row 1 is the row below the header."""
    if is_bad.any():
        row = int(is_bad.argmax())
        value = f"`{column.iloc[row][:50]}`" if column.iloc[row] else "an empty cell"
        raise UploadError(f"`{column.name}` must {rule}. Got {value} in row {row + 1:,}. Try {example}.")


def _probabilities(column: pd.Series, has_gold: np.ndarray) -> np.ndarray:
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
    _check_cells(column, has_gold & ~((values >= 0) & (values <= 1)), "be a number from 0 to 1", "0.85")
    return values


def _kappa(matrix: np.ndarray) -> tuple[float, list[float]]:
    """Return Cohen's (1960) kappa with its interval.

    The variance is that of the infinitesimal jackknife, as in Fleiss, Cohen and Everitt (1969), and at least that of
    one row each way like the row that moves kappa most. Few rows without an error do not prove a kappa of 1.
    """
    n = matrix.sum()
    gold, llm = matrix.sum(axis=1) / n, matrix.sum(axis=0) / n
    agreement, by_chance = matrix.trace() / n, gold @ llm
    kappa = (agreement - by_chance) / (1 - by_chance)
    moves = (np.eye(len(matrix)) - agreement) / (1 - by_chance)
    moves -= (1 - agreement) / (1 - by_chance) ** 2 * (gold[None, :] + llm[:, None] - 2 * by_chance)
    largest = np.abs(moves[matrix > 0]).max()
    largest = largest if largest > 1e-9 else 1 / (1 - by_chance)
    variance = max((matrix * moves**2).sum() / n / max(n - 1, 1), 2 * largest**2 / (n * (n + 1)))
    half = stats.norm.ppf(0.975) * variance**0.5
    return float(kappa), [float(max(kappa - half, -1)), float(min(kappa + half, 1))]


def _per_class(matrix: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
    gold, llm = matrix.sum(axis=1), matrix.sum(axis=0)
    return [
        {
            **{"label": name, "gold": int(gold[k]), "llm": int(llm[k])},
            "f1": float(2 * matrix[k, k] / (gold[k] + llm[k])) if gold[k] else None,
        }
        for k, name in enumerate(names)
    ]


def _confident_errors(
    matrix: np.ndarray, gold: np.ndarray, llm: np.ndarray, probs: np.ndarray | None
) -> tuple[np.ndarray, str]:
    """Return the errors of the highest probability; without probabilities those of the most one-sided confusion."""
    wrong = np.flatnonzero(gold != llm)
    if probs is not None:
        return wrong[np.argsort(-probs[wrong], kind="stable")][:NUM_ERRORS], "probability"
    g, k = np.unravel_index((matrix - matrix.T).argmax(), matrix.shape)
    if g == k:  # No confusion is more frequent than its reverse.
        return wrong[:NUM_ERRORS], "row"
    return wrong[(gold[wrong] == g) & (llm[wrong] == k)][:NUM_ERRORS], "confusion"


def page(data: Any, study: Any) -> Page:
    """Build the page that measures a visitor's labels. An example is measured when the page opens."""
    gr.HTML(
        "<h3>Check your own labels</h3><p>Upload a <b>CSV table</b> with a row for each text, a column of gold labels "
        "and a column of the LLM's labels. Columns of texts and of the LLM's probabilities are optional.</p>"
        "<details><summary>Names of the columns</summary><ul>"
        + "".join(f"<li><b>{key}</b>: {', '.join(names)}</li>" for key, names in COLUMNS.items())
        + f"</ul></details><p class='caption'>At most {uploads.MAX_BYTES / 1e6:.0f} MB, {uploads.MAX_TEXTS:,} rows and "
        f"{uploads.MAX_CLASSES} classes. The app measures the table and does not store it. Uploaded files are deleted "
        "within the hour.</p>"
    )
    with gr.Row():
        pasted = gr.Textbox(EXAMPLE, lines=8, max_lines=8, label="Paste a CSV table", min_width=280)
        file = gr.File(label="or upload one", file_types=[".csv"], min_width=280)
    run = gr.Button("Check the labels", variant="primary")
    with gr.Column(elem_id="checked"):
        # The page draws the example again when a visitor returns to it, which must not replace the visitor's result.
        example = gr.HTML("<section></section>", css_template=STYLE)
        result = gr.HTML(css_template=STYLE, visible=False)

    def show_result(path: str | None, text: str) -> tuple[Any, Any]:
        return gr.update(visible=False), gr.update(value=_result(data.check(path, text)), visible=True)

    run.click(show_result, [file, pasted], [example, result], **PRIVATE, **ONE_AT_A_TIME)
    endpoint = gr.Button(visible=False)
    endpoint.click(data.check, [file, pasted], gr.JSON(visible=False), api_name="check", **FILES)
    return Page(_example, [], [example])


@functools.cache
def _example() -> tuple[str]:
    return (_result(measure(uploads.read_columns(None, EXAMPLE, COLUMNS, REQUIRED))),)


def _result(data: dict[str, Any]) -> str:
    """Write the measurements. The first sentence is the answer."""
    names, n = data["classes"], data["n"]
    titles = {"gold": "gold", "llm": "LLM", "text": "text", "probability": "probability"}
    columns = ", ".join(f"{titles[key]} <code>{safe(name)}</code>" for key, name in data["columns"].items())
    lines = [f"The {data['without_gold']:,} rows without a gold label are left out."] if data["without_gold"] else []
    tiles = "".join(
        f'<div class="tile"><span>{title}</span><b>{data[key]:.3f}</b><i>{_interval(data[f"{key}_interval"])}</i></div>'
        for key, title in (("accuracy", "accuracy"), ("macro_f1", "macro-F1"), ("kappa", "Cohen's kappa"))
    )
    per_class = table(
        ["class", "gold", "LLM", "F1"],
        [
            [
                chip(entry["label"], names),
                f"{entry['gold'] / n:.3f} <small>({entry['gold']:,})</small>",
                f"{entry['llm'] / n:.3f} <small>({entry['llm']:,})</small>",
                "–" if entry["f1"] is None else f"{entry['f1']:.3f}",
            ]
            for entry in data["per_class"]
        ],
        "Shares and F1 of the classes",
        "numbers",
    )
    if len(names) <= MAX_MATRIX:
        title, confusions = "Gold against LLM", _matrix(data["confusion"], names)
    else:
        title = f"The {len(data['confusions'])} largest confusions"
        confusions = table(
            ["gold", "LLM", "texts"],
            [[chip(pair["gold"], names), chip(pair["llm"], names), f"{pair['n']:,}"] for pair in data["confusions"]],
            title,
            "numbers",
        )
    return (
        f'<section><p class="count" role="status"><b>The LLM is right on {data["right"]:,} of {n:,} texts.</b> '
        f"The most frequent class alone, {chip(data['majority']['label'], names)}, would be right on "
        f"{data['majority']['right']:,}.</p>"
        f'<div class="tiles">{tiles}</div><p class="caption">95% intervals over {n:,} texts. Macro-F1 is the mean '
        f"over the classes in gold. Columns: {columns}.</p>{notes(lines)}"
        f"<h3>{title}</h3>{confusions}<h3>Class shares and F1, the lowest F1 first</h3>{per_class}"
        f"{_errors(data)}</section>"
    )


def _matrix(counts: list[list[int]], names: list[str]) -> str:
    """Write counts of gold against LLM, shaded by their share of the gold class."""
    rows = []
    for name, row in zip(names, counts, strict=True):
        cells = [f'<span class="heat" style="--share:{count / (sum(row) or 1):.2f}">{count:,}</span>' for count in row]
        rows.append([f"<b>{safe(name)}</b>", *cells])
    head = ["gold ↓ LLM →", *(safe(name) for name in names)]
    return table(head, rows, "Confusion of gold and LLM labels", "confusion")


def _errors(data: dict[str, Any]) -> str:
    num_errors, names = data["n"] - data["right"], data["classes"]
    if not num_errors:
        return "<h3>Errors</h3><p class='nothing'>The LLM agrees with gold on all texts.</p>"
    order = {
        "probability": "The errors that the LLM is most confident of",
        "confusion": "Errors of the most one-sided confusion",
        "row": "The first errors",
    }[data["errors_by"]]
    rows = [
        [
            f'<div class="text" dir="auto">{safe(error["text"])}</div>',
            f"{error['row']:,}",
            chip(error["gold"], names),
            chip(error["llm"], names),
            "–" if error["probability"] is None else f"{error['probability']:.3f}",
        ]
        for error in data["errors"]
    ]
    return (
        f"<h3>{order}</h3><p class='caption'>{len(rows):,} of {num_errors:,} errors. Row 1 is the row below the "
        "header.</p>" + table(["text", "row", "gold", "LLM", "probability"], rows, order, "texts")
    )


def _interval(bounds: list[float]) -> str:
    return f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"
