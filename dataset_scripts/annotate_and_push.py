# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Label a Hub dataset with an open-weight LLM and push the labels back to the Hub as configs, in one command.

With this project installed:

    python dataset_scripts/annotate_and_push.py stanfordnlp/imdb --model Qwen/Qwen2.5-3B-Instruct \\
        --instruction "Is each review positive or negative?" --repo me/imdb-labels

Without it, on a machine with a GPU (ADDRESS: of this repository, as git+https://...):

    uv run --with "hf-recipes[vllm] @ ADDRESS" dataset_scripts/annotate_and_push.py ...

On the Hub's own machines:

    hf jobs uv run --flavor a10g-small --secrets HF_TOKEN --with "hf-recipes[vllm] @ ADDRESS" \\
        dataset_scripts/annotate_and_push.py ...

Add any setting of a recipe, as --data.pool_size=4000 --annotate.dtype=bfloat16 --data.label_column=null
--data.label_names="[yes, no]". The result equals a recipe with these settings and `hf-recipes annotate`, `hf-recipes
push dataset`. Labels with a label mass near zero are not published. After an interruption the same command continues,
if the disk is still there. The script checks that the token can write before it labels.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from hf_recipes.annotate_section import Annotate
from hf_recipes.recipe import load_recipe
from hf_recipes.report.label_quality import read_label_quality
from hf_recipes.study import Study

MIN_LABEL_MASS = Annotate.model_fields["min_label_mass"].default


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a Hub dataset id, or a local folder or file")
    parser.add_argument("--model", required=True, help="the LLM: a Hub id or a folder")
    parser.add_argument("--instruction", required=True, help="what the LLM is asked")
    parser.add_argument("--repo", required=True, help="owner/name of the dataset repo to push to")
    parser.add_argument("--name", help="of the study; that of the repo by default")
    parser.add_argument("--private", action="store_true", help="make a new repo private")
    parser.add_argument("--no-texts", action="store_true", help="publish ids, labels and probabilities alone")
    parser.add_argument(
        "--allow-low-label-mass",
        action="store_true",
        help="publish labels to which the LLM gives hardly any probability: for research on prompts that fail",
    )
    args, settings = parser.parse_known_args()
    try:
        HfApi().create_repo(args.repo, repo_type="dataset", private=args.private or None, exist_ok=True)
        HfApi().auth_check(args.repo, repo_type="dataset", write=True)
    except HfHubHTTPError as error:
        sys.exit(f"error: --repo {args.repo}: {error}")
    name = args.name or args.repo.rpartition("/")[2]
    recipe = Path("studies", f"{name}.yaml")
    recipe.parent.mkdir(exist_ok=True)
    content = {
        "name": name,
        "data": {"path": args.data},
        "annotate": {"model": args.model, "prompt": {"instruction": args.instruction}},
    }
    recipe.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    flags = [flag for flag, is_set in (("--private", args.private), ("--no-texts", args.no_texts)) if is_set]
    hf_recipes("annotate", recipe, *settings)
    labels = read_label_quality(Study(load_recipe(recipe, settings)))
    if labels.annotator and labels.annotator.label_mass_mean < MIN_LABEL_MASS and not args.allow_low_label_mass:
        sys.exit(
            f"error: the mean label mass must be at least {MIN_LABEL_MASS} to publish. Got "
            f"{labels.annotator.label_mass_mean:.3f}: the LLM does not answer with a label. Try another --instruction, "
            "or --annotate.prompt.shots_per_class=1."
        )
    hf_recipes("push", "dataset", recipe, "--repo", args.repo, *flags, *settings)


def hf_recipes(*arguments):
    """Run a command of hf-recipes; exit if it fails."""
    process = subprocess.run([sys.executable, "-m", "hf_recipes.cli", *map(str, arguments)], check=False)
    if process.returncode:
        sys.exit(process.returncode)


if __name__ == "__main__":
    main()
