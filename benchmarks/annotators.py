"""How well small LLMs label: the recipes in hf_recipes/recipes/annotators with four models, under every calibration.

    .venv/bin/python dataset_scripts/fetch_demo_models.py models --small --gemma --qwen
    .venv/bin/python dataset_scripts/build_sms_spam.py data/sms_spam
    .venv/bin/python benchmarks/annotators.py [--data manifestos=FILE] [--data toxic=FILE] [--output studies]
        [--model NAME]
    .venv/bin/python benchmarks/annotators.py --best docs/study/annotators.md

The first form prints the table of docs/study/annotators.md. Texts are labelled once; calibrations are derived from what
is kept. A set that is not at hand is left out. The second form prints the table of docs/annotators.md from it.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from ratio import show

ROOT = Path(__file__).resolve().parent.parent
MODELS = {
    "SmolLM2-135M": "models/SmolLM2-135M-Instruct",
    "Gemma-3-270M": "models/gemma-3-270m",
    "Qwen2.5-Coder-0.5B": "models/Qwen2.5-Coder-0.5B-Instruct",
    "Qwen2.5-Coder-1.5B": "models/Qwen2.5-Coder-1.5B-Instruct",
}
RECIPES = ["tweets", "sms-spam", "manifestos", "toxic"]
CALIBRATIONS = ["none", "contextual", "batch", "auto"]


def measure(name: str, model: str, folder: str, settings: list[str]) -> tuple[list[str], list[tuple[str, float]]]:
    """One row of the table for each calibration, and its accuracy / that of the commonest class."""
    from hf_recipes.labels.pool import read_labels
    from hf_recipes.recipe import load_recipe
    from hf_recipes.report.first_screen.numbers import estimate, number
    from hf_recipes.report.label_quality import write_labels
    from hf_recipes.study import Study

    recipe = ROOT / "hf_recipes" / "recipes" / "annotators" / f"{name}.yaml"
    label = f"annotator-{name}-{model}"
    settings = [f"--annotate.model={MODELS[model]}", f"--name={label}", f"--output_dir={folder}/{label}", *settings]
    subprocess.run([sys.executable, "-m", "hf_recipes.cli", "annotate", recipe, *settings], check=True, cwd=ROOT)
    rows, ratios = [], []
    for calibration in CALIBRATIONS:
        study = Study(load_recipe(recipe, [*settings, f"--annotate.calibration={calibration}"]), accept_changes=True)
        labels = write_labels(study, read_labels(study))
        annotator = labels.annotator
        fitted = labels.calibrations[0]
        how = f"auto: {fitted.method}, T = {fitted.temperature:.2f}" if calibration == "auto" else calibration
        at = annotator.alphas.index(0.25)
        figures = [
            estimate(annotator, figure) for figure in ("accuracy", "macro_f1", "entropy_auroc", "within_class_auroc")
        ]
        cells = [
            *(name, model, how, str(annotator.n_gold), figures[0], figures[1], number(annotator.ece)),
            *(number(annotator.label_mass_mean), figures[2], number(annotator.error_capture[at]), figures[3]),
            *(number(annotator.class_share), number(annotator.majority_accuracy)),
        ]
        rows.append(f"| {' | '.join(cells)} |")
        what = f"accuracy, {name} by {model}, calibration {calibration}"
        ratios.append((what, annotator.accuracy / annotator.majority_accuracy))
    return rows, ratios


def print_best(page: Path) -> None:
    """Print the best calibration without gold by macro-F1: a row for each data set, a column for each model."""
    tables = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if line.startswith("| ")]
    cells, shares = {}, {}
    for data, model, calibration, _, accuracy, macro_f1, *_, share in (row for row in tables if row[0] in RECIPES):
        if not calibration.startswith("auto") and float(macro_f1.split()[0]) > cells.get((data, model), (0.0,))[0]:
            text = f"{macro_f1}; accuracy {accuracy.split()[0]}; `{calibration}`"
            cells[data, model], shares[data] = (float(macro_f1.split()[0]), text), share
    print(f"| data | {' | '.join(MODELS)} | most common class |\n{'|---' * (len(MODELS) + 2)}|")
    for data in RECIPES:
        best = [cells[data, model][1] if (data, model) in cells else "not run" for model in MODELS]
        print(f"| {data} | {' | '.join(best)} | {shares[data]} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PATH", help="where a recipe's data lie")
    parser.add_argument("--output", default="studies", help="the folder of the studies")
    parser.add_argument("--model", action="append", choices=MODELS, help="one of the models; all by default")
    parser.add_argument("--best", type=Path, metavar="FILE", help="the page with the full table")
    arguments = parser.parse_args()
    if arguments.best:
        print_best(arguments.best)
        return
    paths = dict(pair.split("=", 1) for pair in arguments.data)
    columns = ["data", "annotator", "calibration", "n", "accuracy", "macro-F1", "ECE", "on labels", "entropy AUROC"]
    columns += ["errors in top 25%", "AUROC within classes", "class share of errors", "commonest class"]
    ratios = []
    table = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in RECIPES:
        settings = [f"--data.path={paths[name]}"] if name in paths else []
        for model in arguments.model or MODELS:
            try:
                rows, more = measure(name, model, arguments.output, settings)
                table, ratios = table + rows, ratios + more
            except subprocess.CalledProcessError:
                print(f"{name} with {model} left out", file=sys.stderr)
    print("\n".join(table))
    for what, ratio in ratios:
        show(what, "always the commonest class", ratio)


if __name__ == "__main__":
    main()
