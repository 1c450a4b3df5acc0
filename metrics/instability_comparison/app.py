"""A page for instability_comparison: paste or upload two arms' labels, see the differences.   python app.py"""

import io

import gradio as gr
import numpy as np
import pandas as pd
from instability_comparison import instability_comparison
from matplotlib.figure import Figure

EXAMPLE = """\
gold,a 0,a 1,a 2,b 0,b 1,b 2
positive,positive,positive,positive,positive,positive,positive
negative,negative,neutral,negative,negative,negative,negative
neutral,neutral,positive,positive,neutral,neutral,positive
positive,positive,positive,positive,positive,positive,positive
negative,negative,negative,negative,negative,negative,negative
neutral,positive,neutral,neutral,neutral,neutral,neutral
"""
MOST_RUNS, MOST_LABELS = 200, 1000
ABOUT = """\
# Instability comparison
Two sources of training labels, the same seeds, one test set: which scores higher, and which varies more? Give a **CSV
table with a column named `gold`, then the runs of the first arm, then those of the second in the same order of
seeds**. At least three runs each for an interval, at most 20 MB.
"""
FIGURES = ("accuracy", "macro_f1", "pairwise_disagreement")


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
        raise gr.Error("No column is named gold; a comparison needs gold labels.")
    if table.shape[1] % 2 == 0:
        raise gr.Error(f"There are {table.shape[1] - 1} runs; both arms need the same number.")
    if (table == "").any(axis=None):
        raise gr.Error(f"Row {int((table == '').any(axis=1).argmax()) + 1} has an empty cell.")
    names, codes = np.unique(table.to_numpy(), return_inverse=True)
    if len(names) > MOST_LABELS:
        raise gr.Error(f"{len(names)} different labels; this page takes {MOST_LABELS}. Is there a column of texts?")
    codes = pd.DataFrame(codes.reshape(table.shape), columns=table.columns)
    gold = codes.pop("gold").to_numpy()
    one, two = np.split(codes.to_numpy().T, 2)
    try:
        result = instability_comparison(one, two, gold, num_classes=len(names))
    except ValueError as error:
        raise gr.Error(str(error)) from None
    parts = ("_1", "_2", "_difference", "_p_value", "_detectable", "_verdict")
    rows = [[name.replace("_", " "), *(result[f"{name}{part}"] for part in parts)] for name in FIGURES]
    figure = Figure(figsize=(6, 2.5), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(FIGURES):
        value, limits = result[f"{name}_difference"], np.array(result[f"{name}_interval"])
        axes.errorbar(value, place, xerr=np.abs(limits - value)[:, None], fmt="o", color="#4477aa", capsize=3)
    axes.axvline(0, color="#888888", linewidth=1)
    axes.set(yticks=range(3), yticklabels=[name.replace("_", " ") for name in FIGURES])
    axes.set(xlabel="first arm less the second, with 95% interval")
    axes.margins(y=0.3)
    said = (
        f"R = {result['R']} paired runs, n = {result['n']} texts. *detectable*: the difference that studies like this "
        "one find in 80 of 100 cases."
    )
    columns = ["figure", "first", "second", "difference", "p", "detectable", "verdict"]
    return pd.DataFrame(rows, columns=columns).round(4), figure, said


with gr.Blocks(title="Instability comparison", analytics_enabled=False) as page:
    gr.Markdown(ABOUT)
    with gr.Row():
        pasted = gr.Textbox(EXAMPLE, lines=8, label="Paste a table")
        file = gr.File(label="or upload one", file_types=[".csv"])
    button = gr.Button("Measure", variant="primary")
    table = gr.Dataframe(label="Figures", interactive=False)
    said = gr.Markdown()
    plot = gr.Plot(label="Differences")
    button.click(measure, [pasted, file], [table, plot, said], api_name="measure")

if __name__ == "__main__":
    page.launch(max_file_size="20mb")
