"""A page for learning_plateau: paste or upload scores by size, see whether more data still helps.   python app.py"""

import io

import gradio as gr
import numpy as np
import pandas as pd
from learning_plateau import learning_plateau
from matplotlib.figure import Figure

EXAMPLE = """\
size,seed 0,seed 1,seed 2,seed 3
500,0.712,0.698,0.721,0.705
1000,0.744,0.738,0.751,0.729
2000,0.749,0.752,0.747,0.741
4000,0.752,0.749,0.754,0.747
"""
MOST_SIZES = 100
ABOUT = """\
# Learning plateau
Does more training data still help? Give a **CSV table with a column named `size` and a column of scores for each
seed**, a row for each training-set size. At least three seeds for an interval, at most 20 MB.
"""


def measure(pasted, file, delta):
    """The table of figures, the curve, and the verdict."""
    try:
        table = pd.read_csv(file or io.StringIO(pasted), skipinitialspace=True)
    except (ValueError, OSError) as error:
        raise gr.Error(f"This is not a CSV table: {error}") from None
    if not isinstance(table.index, pd.RangeIndex):
        raise gr.Error("A row has more cells than the header.")
    if len(table) > MOST_SIZES:
        raise gr.Error(f"{len(table)} sizes; this page takes {MOST_SIZES}.")
    if "size" not in table:
        raise gr.Error("No column is named size.")
    table = table.sort_values("size")
    sizes = table.pop("size").to_numpy()
    try:
        result = learning_plateau(sizes, table.to_numpy(), delta=delta, asymptote=True)
    except ValueError as error:
        raise gr.Error(str(error)) from None
    rows = [[name.replace("_", " "), result[name], *result[f"{name}_interval"]] for name in ("gain", "asymptote")]
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(sizes, table.to_numpy(), color="#4477aa", alpha=0.3)
    axes.plot(sizes, table.mean(axis=1), "o-", color="#cc6677", label="mean")
    axes.set(xscale="log", xlabel="training texts", ylabel="score", xticks=sizes, xticklabels=sizes)
    axes.minorticks_off()
    axes.legend()
    low, high = np.round(result["gain_interval"], 4)
    said = (
        f"**{result['verdict']}**: the last doubling gains {result['gain']:+.4f}, 95% interval [{low:+}, {high:+}], "
        f"R = {result['R']} seeds, against a gain worth having of {delta}. Asymptote: {result['asymptote_status']}."
    )
    return pd.DataFrame(rows, columns=["figure", "value", "from", "to"]).round(4), figure, said


with gr.Blocks(title="Learning plateau", analytics_enabled=False) as page:
    gr.Markdown(ABOUT)
    with gr.Row():
        pasted = gr.Textbox(EXAMPLE, lines=8, label="Paste a table")
        file = gr.File(label="or upload one", file_types=[".csv"])
    delta = gr.Number(0.01, label="Gain that would be worth doubling the data for", minimum=0, step=0.005)
    button = gr.Button("Measure", variant="primary")
    said = gr.Markdown()
    table = gr.Dataframe(label="Figures, with 95% intervals", interactive=False)
    plot = gr.Plot(label="Learning curve")
    button.click(measure, [pasted, file, delta], [table, plot, said], api_name="measure")

if __name__ == "__main__":
    page.launch(max_file_size="20mb")
