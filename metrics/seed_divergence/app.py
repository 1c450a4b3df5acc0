"""A page for seed_divergence: paste or upload the runs' probabilities, see how far they differ.   python app.py"""

import json
from pathlib import Path

import gradio as gr
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from seed_divergence import runs_and_gold, seed_divergence

EXAMPLE = """\
{"references": [0, 1, 1],
 "predictions": [[[0.9, 0.1], [0.3, 0.7], [0.4, 0.6]],
                 [[0.8, 0.2], [0.2, 0.8], [0.6, 0.4]],
                 [[0.9, 0.1], [0.1, 0.9], [0.5, 0.5]]]}
"""
MOST_RUNS = 50
ABOUT = """\
# Seed divergence
How far do the probabilities of several training runs differ, and what does averaging them gain? Give **JSON with
`predictions`**: for each run, for each text, the probability of each class; `references`, the gold classes, add
calibration. At least two runs, at most 20 MB.
"""


def measure(pasted, file):
    """The table of figures, a plot, and what they stand on."""
    try:
        given = json.loads(Path(file).read_text(encoding="utf-8") if file else pasted)
        predictions, gold = runs_and_gold(given["predictions"], given.get("references"))
        if len(predictions) > MOST_RUNS:
            raise ValueError(f"{len(predictions)} runs; every pair is looked at, and this page takes {MOST_RUNS}")
        result = seed_divergence(predictions, gold, return_items=True)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise gr.Error(f"This is not JSON: {error}") from None
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise gr.Error('Expected an object {"predictions": [...], "references": [...]}.') from None
    except ValueError as error:
        raise gr.Error(str(error)) from None
    names = ["js_divergence", "total_variation", "mutual_information"]
    if gold is not None:
        names += ["ensemble_accuracy", "accuracy_gain", "ensemble_nll", "nll_gain", "ensemble_ece"]
    rows = [[name.replace("_", " "), result[name], *result.get(f"{name}_interval", [None, None])] for name in names]
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.hist(result["item_js_divergence"], bins=20, range=(0, float(np.log(2))), color="#4477aa")
    axes.set(xlabel="Jensen-Shannon divergence of two runs on a text, nats", ylabel="texts")
    said = f"R = {result['R']} runs, n = {result['n']} texts. Mutual information and the ensemble hold for this R only."
    return pd.DataFrame(rows, columns=["figure", "value", "from", "to"]).round(4), figure, said


with gr.Blocks(title="Seed divergence", analytics_enabled=False) as page:
    gr.Markdown(ABOUT)
    with gr.Row():
        pasted = gr.Textbox(EXAMPLE, lines=8, label="Paste JSON")
        file = gr.File(label="or upload it", file_types=[".json"])
    button = gr.Button("Measure", variant="primary")
    table = gr.Dataframe(label="Figures, with 95% intervals", interactive=False)
    said = gr.Markdown()
    plot = gr.Plot(label="Divergence")
    button.click(measure, [pasted, file], [table, plot, said], api_name="measure")

if __name__ == "__main__":
    page.launch(max_file_size="20mb")
