"""Show the page of a metric: paste or upload a table, see the figures.   python app.py

`hf-recipes push metric` copies this file beside a module, whose page it then is.
"""

import io
import json
from functools import partial
from pathlib import Path

import evaluate
import gradio as gr
import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from theme import THEME

MAX_RUNS, MAX_PROBABILITY_RUNS, MAX_LABELS, MAX_SIZES, MAX_BARS = 200, 50, 1000, 100, 30

LABELS = """\
gold,run 0,run 1,run 2,run 3,run 4,run 5
positive,positive,positive,positive,positive,positive,positive
negative,negative,neutral,negative,negative,negative,negative
neutral,neutral,positive,positive,neutral,neutral,positive
positive,positive,positive,positive,positive,positive,positive
negative,negative,negative,negative,negative,negative,negative
neutral,positive,neutral,neutral,neutral,neutral,neutral
"""
DISTRIBUTIONS = """\
gold,negative,neutral,positive
negative,0.80,0.15,0.05
neutral,0.30,0.45,0.25
positive,0.05,0.15,0.80
neutral,0.40,0.35,0.25
negative,0.60,0.30,0.10
positive,0.10,0.20,0.70
"""
CURVE = """\
size,seed 0,seed 1,seed 2,seed 3
500,0.712,0.698,0.721,0.705
1000,0.744,0.738,0.751,0.729
2000,0.749,0.752,0.747,0.741
4000,0.752,0.749,0.754,0.747
"""
PROBABILITIES = """\
{"references": [0, 1, 1],
 "predictions": [[[0.9, 0.1], [0.3, 0.7], [0.4, 0.6]],
                 [[0.8, 0.2], [0.2, 0.8], [0.6, 0.4]],
                 [[0.9, 0.1], [0.1, 0.9], [0.5, 0.5]]]}
"""


def read_table(text, **options):
    """Read CSV; a column `Gold ` is `gold`."""
    try:
        table = pd.read_csv(io.StringIO(text), skipinitialspace=True, keep_default_na=False, **options)
    except ValueError as error:
        raise gr.Error(f"The table must be CSV. Got: {error}. Try a header and commas.") from None
    if not isinstance(table.index, pd.RangeIndex):
        raise gr.Error("Each row must be as long as the header. Got a longer one. Try quotes around cells with commas.")
    if table.shape[1] > MAX_RUNS:
        raise gr.Error(f"The table must have at most {MAX_RUNS} columns. Got {table.shape[1]}. Try fewer runs.")
    return table.rename(columns={name: "gold" for name in table if str(name).strip().lower() == "gold"})


def read_labels(text, needs_gold):
    """Return the labels of all runs (R, n), gold labels (n,) or None, and the names of the labels."""
    table = read_table(text, dtype=str)
    if (table == "").any(axis=None):
        row = int((table == "").any(axis=1).argmax()) + 1
        raise gr.Error(f"Each cell must have a label. Got an empty one in row {row}. Try leaving that row out.")
    names, codes = np.unique(table.to_numpy(), return_inverse=True)
    if len(names) > MAX_LABELS:
        raise gr.Error(f"A table must have at most {MAX_LABELS} labels. Got {len(names)}. Try without the texts.")
    if needs_gold and "gold" not in table:
        raise gr.Error("A column must be named gold. Got none. Try gold in the header.")
    codes = pd.DataFrame(codes.reshape(table.shape), columns=table.columns)
    gold = codes.pop("gold").to_numpy() if "gold" in codes else None
    return codes.to_numpy().T, gold, list(names)


def read_runs(text, needs_gold=False):
    runs, gold, names = read_labels(text, needs_gold)
    return {"predictions": runs, "references": gold, "num_classes": len(names)}, names


def read_pair(text):
    runs, gold, names = read_labels(text, needs_gold=True)
    if len(runs) % 2:
        raise gr.Error(f"Both variants must have the same number of runs. Got {len(runs)} in all. Try the same seeds.")
    first, second = np.split(runs, 2)
    return {"predictions1": first, "predictions2": second, "references": gold, "num_classes": len(names)}, names


def read_probabilities(text):
    try:
        inputs = json.loads(text)
        inputs = {"predictions": inputs["predictions"], "references": inputs.get("references")}
        runs = len(inputs["predictions"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise gr.Error('The input must be JSON. Got something else. Try {"predictions": [...]}.') from None
    if runs > MAX_PROBABILITY_RUNS:
        raise gr.Error(f"`predictions` must have at most {MAX_PROBABILITY_RUNS} runs. Got {runs}. Try fewer.")
    return inputs, None


def read_distributions(text):
    table = read_table(text, dtype={"gold": str})
    gold = table.pop("gold") if "gold" in table else [""] * len(table)
    names = list(table.columns)
    if unknown := set(gold) - {*names, ""}:
        raise gr.Error(f"`gold` must be one of {', '.join(names)}. Got {min(unknown)}. Try the names of the columns.")
    codes = {name: code for code, name in enumerate(names)} | {"": -1}
    return {"predictions": table.to_numpy(), "references": [codes[label] for label in gold]}, names


def read_curve(text):
    table = read_table(text)
    if "size" not in table or len(table) > MAX_SIZES:
        raise gr.Error(f"A column must be named size, with at most {MAX_SIZES} rows. Got {len(table)} rows.")
    sizes = table.pop("size").to_numpy()
    return {"sizes": sizes, "scores": table.to_numpy(), "asymptote": True}, None


#: For each module: how its input is read, an example, and what to paste.
PAGES = {
    "seed_instability": (
        read_runs,
        LABELS,
        "a CSV table with **a column of labels for each run** and a row for each text of one test set. A column named "
        "`gold` adds figures by class. Two runs or more.",
    ),
    "seed_scores": (
        partial(read_runs, needs_gold=True),
        LABELS,
        "a CSV table with **a column of labels for each run, a column named `gold`** and a row for each test "
        "text. Two runs or more.",
    ),
    "seed_divergence": (
        read_probabilities,
        PROBABILITIES,
        "JSON with **`predictions`**: for each run, for each text, the probability of each class. Gold classes as "
        "`references` add calibration. Two runs or more.",
    ),
    "learning_plateau": (
        read_curve,
        CURVE,
        "a CSV table with **a column named `size` and a column of scores for each seed**, a row for each training-set "
        "size. Three seeds or more for an interval.",
    ),
    "instability_comparison": (
        read_pair,
        LABELS.replace("run 0,run 1,run 2,run 3,run 4,run 5", "a 0,a 1,a 2,b 0,b 1,b 2"),
        "a CSV table with **a column named `gold`, the runs of the first variant, then those of the second in the same "
        "order of seeds**. Three runs each or more for an interval.",
    ),
    "annotation_uncertainty": (
        read_distributions,
        DISTRIBUTIONS,
        "a CSV table with **a column of probabilities for each label** and a row for each text. A column named `gold`, "
        "with names of labels, adds accuracy and calibration; leave it empty where there is no gold.",
    ),
}
HERE = Path(__file__).parent
NAME = next(name for name in PAGES if (HERE / f"{name}.py").is_file())
MODULE = evaluate.load(str(HERE / f"{NAME}.py"))
CARD = yaml.safe_load((HERE / "README.md").read_text(encoding="utf-8").split("---")[1])
READ, EXAMPLE, INPUT = PAGES[NAME]
ABOUT = f"# {CARD['title']}\n{CARD['description']}\n\nThe result below is for the example. Give {INPUT} At most 20 MB."


def list_figures(result, names):
    """Yield the name, value and interval of each figure, and those of each class."""
    for name, value in result.items():
        keys = (f"{name}_interval", f"{name.removesuffix('_difference')}_interval")
        interval = next((result[key] for key in keys if key in result), None)
        title = name.replace("_", " ")
        if isinstance(value, str | int | float):
            yield title, value, *(interval or [None, None])
        elif name.startswith("per_class_") and not name.endswith("_interval"):
            for k in value if isinstance(value, dict) else range(len(value)):
                yield f"{title}, {names[k]}", value[k], *(interval[k] if interval else [None, None])


def draw(table):
    """Plot the first figures that have intervals."""
    shown = table[table["from"].notna() & table["value"].notna()].head(MAX_BARS)[::-1]
    value, low, high = (shown[name].astype(float).to_numpy() for name in ("value", "from", "to"))
    figure = Figure(figsize=(7, 1 + 0.25 * len(shown)), layout="constrained")
    axes = figure.subplots()
    axes.errorbar(value, range(len(shown)), xerr=[value - low, high - value], fmt="o", color="#4477aa", capsize=3)
    axes.set(yticks=range(len(shown)), yticklabels=shown["figure"].str.replace("$", r"\$"), xlabel="95% interval")
    axes.margins(y=0.05)
    return figure


def measure(pasted, file, delta=0.01):
    """Return the table of figures, and a plot."""
    try:
        inputs, names = READ(Path(file).read_text(encoding="utf-8") if file else pasted)
        result = MODULE.compute(**inputs, **({"delta": delta} if "sizes" in inputs else {}))
    except ValueError as error:
        raise gr.Error(str(error)) from None
    table = pd.DataFrame(list_figures(result, names), columns=["figure", "value", "from", "to"])
    return table.map(lambda cell: round(cell, 4) if isinstance(cell, float) else cell), draw(table)


FIGURES, PLOT = measure(EXAMPLE, None)

with gr.Blocks(title=CARD["title"], analytics_enabled=False) as page:
    gr.Markdown(ABOUT)
    with gr.Row():
        pasted = gr.Textbox(EXAMPLE, lines=8, label="Paste the input")
        file = gr.File(label="or upload it", file_types=[".csv", ".json"])
    delta = gr.Number(0.01, label="Gain worth doubling the data for", visible=NAME == "learning_plateau")
    button = gr.Button("Measure", variant="primary")
    table = gr.Dataframe(FIGURES, label="Figures, with 95% intervals", interactive=False)
    plot = gr.Plot(PLOT, label="Intervals")
    # The old result goes first, so that none is left next to an error.
    cleared = button.click(lambda: (None, None), None, [table, plot], api_visibility="private")
    cleared.then(measure, [pasted, file, delta], [table, plot], api_name="measure")

if __name__ == "__main__":
    page.launch(theme=THEME, max_file_size="20mb")
