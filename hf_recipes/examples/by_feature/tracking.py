"""The curves of a study's runs in a tracker of accelerate's, grouped by variant, after the fact.

    python hf_recipes/examples/by_feature/tracking.py studies/tweets-demo --log_with tensorboard

A study tracks its runs while they train with `train.trackers: [tensorboard]` (or `trackio`, `wandb`).
"""

import argparse
import json
from pathlib import Path

from accelerate import Accelerator


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("study")
    parser.add_argument("--log_with", default="tensorboard", choices=["tensorboard", "trackio", "wandb"])
    parser.add_argument("--logging_dir", default="tracking")
    args = parser.parse_args()

    for file in sorted(Path(args.study, "runs").glob("*/*/[!.]*/run.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        name = f"{run['variant']}/n{run['size']}/{run['seed']}"
        accelerator = Accelerator(cpu=True, log_with=args.log_with, project_dir=str(Path(args.logging_dir, name)))
        group = {"group": run["variant"], "name": name}
        accelerator.init_trackers(
            Path(args.study).name,
            config={"variant": run["variant"], "size": run["size"], "learning_rate": run["train"]["learning_rate"]},
            init_kwargs={"wandb": group, "trackio": group},
        )
        curves = run["curves"]
        for i, step in enumerate(curves["step"]):
            accelerator.log({figure: values[i] for figure, values in curves.items() if figure != "step"}, step=step)
        accelerator.end_training()
        print(name)


if __name__ == "__main__":
    main()
