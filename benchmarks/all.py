"""Every benchmark, small, one after the other, and what each found as one table; some 40 minutes on two idle cores.

    .venv/bin/python benchmarks/all.py [PART ...]

With PARTs only those whose command has one of them in it. Sizes are smaller than those of the docs' tables, and so is
what the figures are worth. A ratio is ours / the reference, of what is named first: of time and memory, less is better.
"""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = [
    "metrics.py",
    "variants.py --rows=300000",
    "annotate.py engine --repeats=3",
    "annotate.py host --rows=100000 --resume-rows=0",
    "annotate.py source --rows=100000",
    "annotate.py ray --texts=128 --repeats=2",
    "annotators.py",
    "injection.py --texts=60",
    "train.py grid --size=200 --seeds=2 --repeats=2",
    "train.py loop --size=200 --repeats=3",
    "train.py levers --size=200 --seeds=3",
    "heads.py --seeds=50",
    "push.py --rows=5000 --repeats=3",
    "space.py --texts=500 --seeds=5 --repeats=7 --clients=10",
    "cost.py check",
    "simulate.py table --studies=100",
]


def run(command: str) -> tuple[list[str], bool]:
    """Rows of the table, and whether all went well; what the command says is shown."""
    print(f"\n## {command}\n", flush=True)
    start, ratios = time.monotonic(), []
    with subprocess.Popen(
        [sys.executable, *f"benchmarks/{command}".split()], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as child:
        for line in child.stdout or ():
            print(line, end="", flush=True)
            if line.startswith("ratio | "):
                ratios.append(f"{line.strip().removeprefix('ratio | ')} |")
    said = f"exit code {child.returncode}, {time.monotonic() - start:.0f} s"
    print(f"\n{command}: {said}", flush=True)
    if child.returncode or not ratios:
        ratios.append(f"**failed or found nothing**: {said} | | |")
    return [f"| {command} | {ratio}" for ratio in ratios], not child.returncode


def main() -> int:
    parts = sys.argv[1:] or [""]
    found = [run(command) for command in COMMANDS if any(part in command for part in parts)]
    print("\n| benchmark | what is compared | reference | ratio |\n|---|---|---|---|")
    print("\n".join(row for rows, _ in found for row in rows))
    return 0 if all(well for _, well in found) else 1


if __name__ == "__main__":
    sys.exit(main())
