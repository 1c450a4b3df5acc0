"""Are the labels of a larger LLM steadier, or only better? Compare the runs of two studies of the same test texts.

    .venv/bin/python benchmarks/study_annotators.py [--studies studies]

Reads the predictions of the six studies with 100 seeds (docs/study.md says how to make them) and writes
docs/study/llms-compared.json, which study_tables.py shows: runs on labels of the 1.5B model less those on labels of the
0.5B model, in macro-F1 and disagreement at the largest size. Runs are not paired, as the pools differ a little.
"""

import argparse
import json
from pathlib import Path

from hf_recipes.analysis.texts import Texts, compare, read_texts
from hf_recipes.labels.pool import read_labels
from hf_recipes.recipe import load_recipe
from hf_recipes.study import Study
from hf_recipes.training.runs import Runs

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "study" / "llms-compared.json"


def read(folder: Path) -> tuple[int, Texts]:
    """Return the largest size of a study, and its test texts with what runs predict."""
    study = Study(load_recipe(folder / "recipe.yaml", [f"--output_dir={folder}"]))
    labels = read_labels(study)
    return study.grid.sizes[-1], read_texts(study, labels, Runs(study, labels))[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, default=Path("studies"), help="the folder with the six studies")
    studies = parser.parse_args().studies
    records = {}
    for data in ("tweets", "manifestos", "toxic"):
        (size, larger), (_, smaller) = (read(studies / f"{data}-{llm}") for llm in ("1.5b", "0.5b"))
        if larger.rows.ids != smaller.rows.ids:
            raise SystemExit(f"{data}: both studies must have the same test texts, in the same order.")
        first, second = larger.labels["llm", size], smaller.labels["llm", size]
        comparison = compare(first, second, larger.rows.gold, larger.clusters)
        above_chance = [texts.score(("llm", size))["above_chance"] for texts in (larger, smaller)]
        records[data] = {"R": comparison["R"], "n": comparison["n"], "above_chance": all(above_chance)}
        for figure in ("macro_f1", "pairwise_disagreement"):
            records[data] |= {name: comparison[name] for name in (f"{figure}_difference", f"{figure}_interval")}
    OUTPUT.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
