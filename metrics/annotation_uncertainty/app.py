"""A page for annotation_uncertainty: paste or upload label distributions, see what they are worth.   python app.py"""

import io

import gradio as gr
import numpy as np
import pandas as pd
from annotation_uncertainty import annotation_uncertainty, class_indices, distributions
from matplotlib.figure import Figure

EXAMPLE = """\
gold,negative,neutral,positive
negative,0.80,0.15,0.05
neutral,0.30,0.45,0.25
positive,0.05,0.15,0.80
neutral,0.40,0.35,0.25
negative,0.60,0.30,0.10
positive,0.10,0.20,0.70
"""
ABOUT = """\
# Annotation uncertainty
How unsure is an LLM annotator, and does its uncertainty find its errors? Give a **CSV table with a column of
probabilities for each label** and a row for each text; a column named `gold`, with the labels' names, adds accuracy,
calibration and error detection (empty where there is no gold). At most 20 MB.
"""


def measure(pasted, file):
    """The table of figures, a plot, and what they stand on."""
    try:
        table = pd.read_csv(
            file or io.StringIO(pasted), dtype={"gold": str}, skipinitialspace=True, keep_default_na=False
        )
    except (ValueError, OSError) as error:
        raise gr.Error(f"This is not a CSV table: {error}") from None
    if not isinstance(table.index, pd.RangeIndex):
        raise gr.Error("A row has more cells than the header.")
    gold = table.pop("gold") if "gold" in table else [""] * len(table)
    names = {name: code for code, name in enumerate(table.columns)} | {"": -1}
    if unknown := set(gold) - set(names):
        raise gr.Error(f"gold: {min(unknown)} is none of the labels {', '.join(table.columns)}.")
    codes = np.array([names[label] for label in gold])
    try:
        probs = distributions(table.to_numpy())
        result = annotation_uncertainty(probs, class_indices("gold", codes, (len(probs),), probs.shape[1]))
    except ValueError as error:
        raise gr.Error(str(error)) from None
    shown = ["entropy_mean", "normalised_entropy_mean", "margin_mean"]
    if result["n_gold"]:
        shown += ["accuracy", "macro_f1", "ece", "entropy_auroc", "within_class_auroc", "class_share"]
    rows = [[name.replace("_", " "), result[name], *result.get(f"{name}_interval", [None, None])] for name in shown]
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    if result["n_gold"]:
        coverage, risk = np.array(result["risk_coverage"]).T
        axes.plot(coverage, risk, ".-", color="#4477aa")
        axes.set(xlabel="share of least uncertain texts", ylabel="wrong among them", ylim=(-0.02, 1.02))
    else:
        axes.bar([str(name).replace("$", r"\$") for name in table], result["label_share"], color="#4477aa")
        axes.set(ylabel="share of texts with this label")
    said = f"n = {result['n']} texts, {result['n_gold']} with gold."
    return pd.DataFrame(rows, columns=["figure", "value", "from", "to"]).round(4), figure, said


with gr.Blocks(title="Annotation uncertainty", analytics_enabled=False) as page:
    gr.Markdown(ABOUT)
    with gr.Row():
        pasted = gr.Textbox(EXAMPLE, lines=8, label="Paste a table")
        file = gr.File(label="or upload one", file_types=[".csv"])
    button = gr.Button("Measure", variant="primary")
    table = gr.Dataframe(label="Figures, with 95% intervals", interactive=False)
    said = gr.Markdown()
    plot = gr.Plot(label="Errors by uncertainty")
    button.click(measure, [pasted, file], [table, plot, said], api_name="measure")

if __name__ == "__main__":
    page.launch(max_file_size="20mb")
