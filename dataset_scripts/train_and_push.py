# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Train the missing runs of a published study and push them back during training, on a machine that may be lost.

On the Hub's own machines (ADDRESS: of this repository, as git+https://...):

    hf jobs uv run --flavor a10g-small --timeout 6h --attempts 3 --secrets HF_TOKEN --with "hf-recipes @ ADDRESS" \\
        dataset_scripts/train_and_push.py me/my-labels --train.accelerate_config=one-gpu

The study was annotated and pushed before, with its texts (`hf-recipes annotate`, `hf-recipes push dataset`). A job that
is killed or runs out of time loses the runs since the last push. The same command continues.

With several jobs, give each a part of the grid and its own branch. Download the parts with `hf-recipes pull --revision`
and copy their `runs` folders into one (docs/scaling.md):

    ... train_and_push.py me/my-labels --revision part-1 --grid.seeds="[0, 1, 2, 3, 4]"
    ... train_and_push.py me/my-labels --revision part-2 --grid.seeds="[5, 6, 7, 8, 9]"

Add any setting of a recipe. The script continues with a folder that exists.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

HF_RECIPES = [sys.executable, "-m", "hf_recipes.cli"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repo", help="owner/name of the dataset repo that has the study")
    parser.add_argument("--study", help="which, where the repo holds several")
    parser.add_argument("--revision", help="the branch to push to, made of main if it is not there; main by default")
    parser.add_argument("--every", type=float, default=20, help="minutes from push to push")
    parser.add_argument("--go-on", action="store_true", help="train all runs, even if the first ones learn nothing")
    args, settings = parser.parse_known_args()
    try:
        HfApi().auth_check(args.repo, repo_type="dataset", write=True)
        branches = [branch.name for branch in HfApi().list_repo_refs(args.repo, repo_type="dataset").branches]
    except HfHubHTTPError as error:
        sys.exit(f"error: {args.repo}: {error}")
    folder = Path("studies", args.repo.replace("/", "--") + (f"--{args.study}" if args.study else ""))
    recipe = folder / "recipe.yaml"
    if not recipe.exists():
        options = ["--revision", args.revision] if args.revision in branches else []
        options += ["--study", args.study] if args.study else []
        hf_recipes("pull", args.repo, "--output_dir", folder, *options)
    target = ["--repo", args.repo, *(["--revision", args.revision] if args.revision else [])]
    push = [*HF_RECIPES, "push", "dataset", str(recipe), *target, *settings]
    training = subprocess.Popen([*HF_RECIPES, "train", str(recipe), *settings, *(["--go-on"] if args.go_on else [])])
    while True:
        try:
            code = training.wait(60 * args.every)
            break
        except subprocess.TimeoutExpired:
            subprocess.run(push, check=False)  # the next one may find the network again
    if code == 0:
        hf_recipes("report", recipe, *settings)
    pushed = subprocess.run(push, check=False).returncode
    sys.exit(code or pushed)


def hf_recipes(*arguments):
    """Run a command of hf-recipes; exit if it fails."""
    process = subprocess.run([*HF_RECIPES, *map(str, arguments)], check=False)
    if process.returncode:
        sys.exit(process.returncode)


if __name__ == "__main__":
    main()
