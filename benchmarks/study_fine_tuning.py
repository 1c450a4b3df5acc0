"""Fine-tune MiniLM on the kept labels of both LLMs, and train heads on the same texts with the same seeds.

    python benchmarks/study_fine_tuning.py tweets --size=400 --seeds=20 [--data.path=FILE ...]

Writes results of fine-tuned encoders to docs/study/<study>/report, and of heads to docs/study/<study>/heads. An
interrupted command goes on. Both LLMs have one pass, so that their pools are equal: `gold` is trained once.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from keep_labels import restore
from study_tables import DATA, FINE_TUNED, FINE_TUNED_SIZES, SAME_SEEDS, STUDIES

VARIANTS = "gold,llm,noise-fixed"


def run(folder: Path, settings: list[str]) -> bytes:
    """Train and measure a study, and return its results."""
    for step in ("train", "report"):
        command = [sys.executable, "-m", "hf_recipes.cli", step, folder / "recipe.yaml", *settings, "--accept-changes"]
        subprocess.run(command, check=True)
    return (folder / "report" / "results.json").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=DATA)
    parser.add_argument("--size", type=int, choices=FINE_TUNED_SIZES, required=True, help="training texts")
    parser.add_argument("--seeds", type=int, required=True, help="runs of a variant")
    arguments, settings = parser.parse_known_args()
    size, gold = arguments.size, None
    settings += [f"--grid.variants=[{VARIANTS}]", f"--grid.seeds={list(range(arguments.seeds))}", "--grid.curves=null"]
    settings += ["--annotate.passes=[]"]
    for llm in ("1.5b", "0.5b"):
        name = f"{arguments.data}-{llm}"
        folder = Path("studies", str(size), name)
        if not folder.exists():
            restore(name, folder.parent, [*settings, f"--grid.sizes=[{size}]"])
        if gold:
            shutil.copytree(gold, folder / "runs" / "gold", dirs_exist_ok=True)
        gold = folder / "runs" / "gold"
        ways = {
            FINE_TUNED: [f"--grid.sizes=[{size}]", "--train.encoder_mode=finetune"],
            SAME_SEEDS: [f"--grid.sizes=[{size // 4},{size}]", "--train.encoder_mode=frozen"],
        }
        for way, more in ways.items():
            results = run(folder, [*settings, *more])
            target = STUDIES / f"{name}{FINE_TUNED_SIZES[size]}" / way / "results.json"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(results)


if __name__ == "__main__":
    main()
