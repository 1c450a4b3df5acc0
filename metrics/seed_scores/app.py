"""A page for seed_scores: paste or upload the runs' labels and gold, see the scores.   python app.py"""

import io

import gradio as gr
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from seed_scores import seed_scores

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
# Seed scores
How good are several training runs, and how far do they vary? Give a **CSV table with a column for each run, a column
named `gold`** and a row for each text of the test set. At least two runs, at most 20 MB.
"""


def measure(pasted, file):
    """The table of figures, a plot, and what they stand on."""
    try:
        table = pd.read_csv(file or io.StringIO(pasted), dtype=str, skipinitialspace=True, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise gr.Error(f"This is not a CSV table: {error}") from None
    table = table.rename(columns={name: "gold" for name in table if str(name).strip().lower() == "gold"})
    if not isinstance(table.index, pd.RangeIndex):
        raise gr.Error("A row has more cells than the header.")
    if table.shape[1] > MOST_RUNS:
        raise gr.Error(f"{table.shape[1]} columns; a column is a run, and this page takes {MOST_RUNS}.")
    if "gold" not in table:
        raise gr.Error("No column is named gold; scores need gold labels.")
    if (table == "").any(axis=None):
        raise gr.Error(f"Row {int((table == '').any(axis=1).argmax()) + 1} has an empty cell.")
    names, codes = np.unique(table.to_numpy(), return_inverse=True)
    if len(names) > MOST_LABELS:
        raise gr.Error(f"{len(names)} different labels; this page takes {MOST_LABELS}. Is there a column of texts?")
    codes = pd.DataFrame(codes.reshape(table.shape), columns=table.columns)
    gold = codes.pop("gold").to_numpy()
    try:
        result = seed_scores(codes.to_numpy().T, gold, num_classes=len(names))
    except ValueError as error:
        raise gr.Error(str(error)) from None
    rows = [
        [name.replace("_", " "), result[name], *result[f"{name}_interval"]]
        for name in ("accuracy_mean", "accuracy_sd", "macro_f1_mean", "macro_f1_sd", "accuracy_distribution_variance")
    ]
    figure = Figure(figsize=(6, 2.5), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(("accuracy", "macro_f1")):
        scores = result[f"{name}_runs"]
        axes.plot(scores, [place] * len(scores), "o", color="#4477aa", alpha=0.5)
        mean, limits = result[f"{name}_mean"], np.array(result[f"{name}_mean_interval"])
        axes.errorbar(mean, place + 0.2, xerr=np.abs(limits - mean)[:, None], fmt="s", color="#cc6677", capsize=3)
    axes.set(yticks=[0, 1], yticklabels=["accuracy", "macro-F1"], xlabel="runs; above them the mean, 95% interval")
    axes.margins(y=0.4)
    said = (
        f"R = {result['R']} runs, n = {result['n']} texts. Runs no better than the commonest class: "
        f"{result['failed_runs']}; no better than chance: {result['chance_level_runs']}; one class throughout: "
        f"{result['single_class_runs']}."
    )
    return pd.DataFrame(rows, columns=["figure", "value", "from", "to"]).round(5), figure, said


with gr.Blocks(title="Seed scores", analytics_enabled=False) as page:
    gr.Markdown(ABOUT)
    with gr.Row():
        pasted = gr.Textbox(EXAMPLE, lines=8, label="Paste a table")
        file = gr.File(label="or upload one", file_types=[".csv"])
    button = gr.Button("Measure", variant="primary")
    table = gr.Dataframe(label="Figures, with 95% intervals", interactive=False)
    said = gr.Markdown()
    plot = gr.Plot(label="Scores")
    button.click(measure, [pasted, file], [table, plot, said], api_name="measure")

if __name__ == "__main__":
    page.launch(max_file_size="20mb")
