"""Are the labels of a larger LLM steadier, or only better? Compare the runs of two studies of the same texts and seeds.

    .venv/bin/python benchmarks/study_annotators.py studies/heads/tweets-1.5b studies/heads/tweets-0.5b

Prints a row of the table in docs/study.md: the first study's runs on LLM labels less the second's at the largest size,
paired by seed and test text, in macro-F1 and disagreement.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from hf_recipes.analysis.schema import read_results
from hf_recipes.metric_loading import load_metric


def read_predictions(study: Path, size: int, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes that the runs on LLM labels predict, of shape `(R, n)`, and the gold of the test texts."""
    tables = [pq.read_table(study / "heads" / "llm" / f"n{size}" / str(seed) / "predictions.parquet") for seed in seeds]
    if any(table["id"] != tables[0]["id"] for table in tables):
        raise SystemExit(f"{study}: the runs must have the same test texts in the same order.")
    probabilities = [np.array(table["probs"].to_pylist()) for table in tables]
    return np.array([p.argmax(axis=1) for p in probabilities]), tables[0]["gold"].to_numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="the study of the larger LLM")
    parser.add_argument("second", type=Path, help="the study of the smaller LLM")
    arguments = parser.parse_args()
    results = read_results((arguments.first / "report" / "results.json").read_bytes())
    first, gold = read_predictions(arguments.first, results.top, results.seeds)
    second, _ = read_predictions(arguments.second, results.top, results.seeds)
    clusters = pq.read_table(arguments.first / "rows" / "test.parquet", columns=["cluster"])["cluster"].to_pylist()
    compared = load_metric("instability_comparison").compute(
        predictions1=first,
        predictions2=second,
        references=gold,
        clusters=None if None in clusters else clusters,
    )
    cells = [arguments.first.name, arguments.second.name]
    for figure in ("macro_f1", "pairwise_disagreement"):
        low, high = compared[f"{figure}_interval"]
        cells.append(f"{compared[f'{figure}_difference']:+.3f} [{low:.3f}, {high:.3f}]")
    print(f"| {' | '.join([*cells, str(compared['R']), str(compared['n'])])} |")


if __name__ == "__main__":
    main()
