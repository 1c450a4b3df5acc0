"""How much two seeds disagree, from the runs of any study: no training, the stored predictions are enough.

python hf_recipes/examples/by_feature/multiple_seeds.py studies/tweets-demo llm 200
"""

import argparse
from pathlib import Path

import evaluate
import numpy as np
import pyarrow.parquet as pq


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("study")
    parser.add_argument("variant")
    parser.add_argument("size")
    parser.add_argument("--metric", default="metrics/seed_instability", help="its folder, or its Hub id")
    args = parser.parse_args()

    # One predictions.parquet a run: id, gold, and the probability of each class
    folder = Path(args.study, "runs", args.variant, f"n{args.size}")
    files = sorted(folder.glob("[0-9]*/predictions.parquet"))
    if len(files) < 2:
        parser.error(
            f"`{folder}` must have two or more runs. Got {len(files)}. Try the folder, variant and size of a study."
        )
    if args.metric == parser.get_default("metric") and not Path(args.metric).exists():
        parser.error(
            f"`--metric` must be a folder or a Hub id. Got {args.metric}. Try it in the root of the repository."
        )
    tables = [pq.read_table(file) for file in files]
    labels = [np.array(table["probs"].to_pylist()).argmax(axis=1) for table in tables]
    gold = tables[0]["gold"].to_numpy()
    classes = len(tables[0]["probs"][0])
    found = evaluate.load(args.metric).compute(predictions=labels, references=gold, num_classes=classes)
    low, high = found["pairwise_disagreement_interval"]
    sure = "no interval from two runs" if found["R"] == 2 else f"95% interval {low:.3f} to {high:.3f}"
    print(
        f"{args.variant}, {args.size} training texts: two of R = {found['R']} runs disagree on "
        f"{found['pairwise_disagreement']:.3f} of n = {found['n']} test texts ({sure})"
    )


if __name__ == "__main__":
    main()
