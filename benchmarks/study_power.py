"""The statistical power of a planned study, by the variances of the committed ones.

    .venv/bin/python benchmarks/study_power.py [FILE ...] [--runs 10 20] [--texts 1000]

Prints a table: for each primary question of a study, the probability that another one with R runs and n test texts
finds a true difference of 0.02 in macro-F1, or of 0.03 in disagreement. The variance over runs is divided by R, that
over texts by n. "Corrected" is the level that Holm's correction requires of the smallest p-value. By default the
studies are those with 200 training texts, where runs differ more than on 400 and more. With results of linear heads as
FILE they are a pilot: fine-tuned runs vary more than heads (docs/heads.md).
"""

import argparse
import json
from pathlib import Path

from hf_recipes.analysis.metric_modules import LEVEL
from hf_recipes.metric_loading import load_metric

ROOT = Path(__file__).resolve().parent.parent
DISTANCES = {"macro_f1": 0.02, "pairwise_disagreement": 0.03}
NAMES = {"macro_f1": "macro-F1, 0.02", "pairwise_disagreement": "disagreement, 0.03"}
MIN_POWER = 0.8


def list_questions(file: Path, num_runs: int, num_texts: int) -> list[str]:
    """Return a row of the table for each primary comparison of a study's results."""
    results = json.loads(file.read_text())
    primary = [comparison for comparison in results["comparisons"] if comparison["primary"]]
    rows = []
    for comparison in primary:
        parts = comparison.get("variance") or {  # Results of earlier versions have standard errors.
            "runs": comparison["seed_se"] ** 2,
            "items": comparison["item_se"] ** 2,
            "both": 0.0,
            "skew": 0.0,
            "run_freedom": comparison["R"] - 1,
            "item_freedom": comparison["n"] - 1,
        }
        variance = load_metric("instability_comparison").variance(**parts)
        variance = variance.scaled(num_runs / comparison["R"], num_texts / comparison["n"])
        distance = DISTANCES[comparison["figure"]]
        alone, corrected = (variance.power(distance, level) for level in (LEVEL, 1 - (1 - LEVEL) / len(primary)))
        question = f"{comparison['variant']} against {comparison['against']}"
        answer = "yes" if alone >= MIN_POWER else "no"
        cells = [file.parts[-3], question, NAMES[comparison["figure"]], f"{alone:.2f}", f"{corrected:.2f}", answer]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[10, 20], help="planned runs of a variant and size")
    parser.add_argument("--texts", type=int, default=1000, help="planned test texts")
    files = [
        ROOT / "docs" / "study" / name / "report" / "results.json" for name in ("tweets", "manifestos", "sms-spam")
    ]
    parser.add_argument("files", type=Path, nargs="*", default=files, metavar="FILE", help="results.json of a study")
    arguments = parser.parse_args()
    for num_runs in arguments.runs:
        print(f"R = {num_runs}, n = {arguments.texts}\n")
        print("| study | question | difference | power | power, corrected | power of 80% |\n|---|---|---|---|---|---|")
        for file in arguments.files:
            print(*list_questions(file, num_runs, arguments.texts), sep="\n")
        print()


if __name__ == "__main__":
    main()
