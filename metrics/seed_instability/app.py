"""A page for seed_instability: paste or upload the runs' labels, see the figures.   python app.py"""

import io

import gradio as gr
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from seed_instability import seed_instability

EXAMPLE = """\
gold,run 0,run 1,run 2,run 3
positive,positive,positive,positive,positive
negative,negative,neutral,negative,negative
neutral,neutral,positive,neutral,positive
positive,positive,positive,positive,positive
negative,negative,negative,negative,negative
neutral,positive,neutral,neutral,neutral
"""
MOST_RUNS, MOST_LABELS = 200, 1000
ABOUT = """\
# Seed instability
Do the same texts get the same labels when only chance changes? Give a **CSV table with a column for each run** and a
row for each text of one test set; a column named `gold` adds figures per class. At least two runs, at most 20 MB.
"""


def read(pasted, file):
    """Labels of the runs (R, n), gold (n,) or None, and the labels' names."""
    try:
        table = pd.read_csv(file or io.StringIO(pasted), dtype=str, skipinitialspace=True, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise gr.Error(f"This is not a CSV table: {error}") from None
    table = table.rename(columns={name: "gold" for name in table if str(name).strip().lower() == "gold"})
    if not isinstance(table.index, pd.RangeIndex):
        raise gr.Error("A row has more cells than the header.")
    if table.shape[1] > MOST_RUNS:
        raise gr.Error(f"{table.shape[1]} columns; a column is a run, and this page takes {MOST_RUNS}.")
    if (table == "").any(axis=None):
        raise gr.Error(f"Row {int((table == '').any(axis=1).argmax()) + 1} has an empty cell.")
    names, codes = np.unique(table.to_numpy(), return_inverse=True)
    if len(names) > MOST_LABELS:
        raise gr.Error(f"{len(names)} different labels; this page takes {MOST_LABELS}. Is there a column of texts?")
    codes = pd.DataFrame(codes.reshape(table.shape), columns=table.columns)
    gold = codes.pop("gold").to_numpy() if "gold" in codes else None
    return codes.to_numpy().T, gold, names


def measure(pasted, file):
    """The table of figures, a plot, and what they stand on."""
    predictions, gold, names = read(pasted, file)
    try:
        result = seed_instability(predictions, gold, num_classes=len(names), return_items=True)
    except ValueError as error:
        raise gr.Error(str(error)) from None
    rows = [
        [name.replace("_", " "), result[name], *result.get(f"{name}_interval", [None, None])]
        for name in ("pairwise_disagreement", "krippendorff_alpha", "gwet_ac1", "unanimity", "vote_entropy")
    ]
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    if gold is None:
        axes.hist(result["item_disagreement"], bins=20, range=(0, 1), color="#4477aa")
        axes.set(xlabel="disagreement of two runs on a text", ylabel="texts")
    else:
        rows.append(["error consistency", result["error_consistency"], *result["error_consistency_interval"]])
        classes = list(result["per_class_n"])
        values = np.array([result["per_class_disagreement"][k] for k in classes])
        limits = np.array([result["per_class_disagreement_interval"][k] for k in classes]).T
        where = range(len(classes))
        axes.errorbar(values, where, xerr=np.abs(limits - values), fmt="o", color="#4477aa", capsize=3)
        shown = [f"{names[k]} (n = {result['per_class_n'][k]})".replace("$", r"\$") for k in classes]
        axes.set(yticks=where, yticklabels=shown)
        axes.set(xlabel="disagreement of two runs, by gold class, with 95% interval", xlim=(-0.02, 1.02))
        axes.margins(y=0.3)
    said = f"R = {result['R']} runs, n = {result['n']} texts. Unanimity and vote entropy hold for this R only."
    return pd.DataFrame(rows, columns=["figure", "value", "from", "to"]).round(4), figure, said


with gr.Blocks(title="Seed instability", analytics_enabled=False) as page:
    gr.Markdown(ABOUT)
    with gr.Row():
        pasted = gr.Textbox(EXAMPLE, lines=8, label="Paste a table")
        file = gr.File(label="or upload one", file_types=[".csv"])
    button = gr.Button("Measure", variant="primary")
    table = gr.Dataframe(label="Figures, with 95% intervals", interactive=False)
    said = gr.Markdown()
    plot = gr.Plot(label="Disagreement")
    button.click(measure, [pasted, file], [table, plot, said], api_name="measure")

if __name__ == "__main__":
    page.launch(max_file_size="20mb")
