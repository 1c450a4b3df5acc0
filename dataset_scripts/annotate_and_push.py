# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets>=5.2,<6",
#     "huggingface_hub>=2.4,<3",
#     "pyyaml>=6,<7",
#     "transformers>=5.16,<6",
#     "vllm>=0.32,<0.33",
# ]
# ///
"""Label a Hub dataset with an open-weight LLM and push the labels back to the Hub as configs, in one command.

With this project installed:

    python dataset_scripts/annotate_and_push.py stanfordnlp/imdb --model Qwen/Qwen2.5-3B-Instruct \\
        --instruction "Is each review positive or negative?" --repo me/imdb-labels

Without it, on a machine with a GPU (ADDRESS: of this repository, as git+https://...; this file may be a web address):

    uv run --with "hf-recipes @ ADDRESS" dataset_scripts/annotate_and_push.py ...

On the Hub's own machines:

    hf jobs uv run --flavor a10g-small --timeout 6h --attempts 3 --image vllm/vllm-openai:v0.32.0 \\
        --secrets HF_TOKEN --with "hf-recipes @ ADDRESS" dataset_scripts/annotate_and_push.py ...

Add any setting of a recipe, as --data.pool_size=4000 --annotate.dtype=bfloat16 --data.label_column=null
--data.label_names="[yes, no]". The result equals a recipe with these settings and `hf-recipes annotate`, `hf-recipes
push dataset`. Labels with a label mass near zero are neither saved nor published. The script checks that the token can
write before it labels.

After an interruption the same command continues. Every 10 minutes it saves the labels so far on a branch of the repo,
from which it continues on another machine, and which it deletes after the push. With --no-texts the branch has none.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import yaml
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

try:
    from hf_recipes import parquet
    from hf_recipes.annotate_section import Annotate
    from hf_recipes.annotation.store import SCHEMA
    from hf_recipes.child import PARENT, handle_interrupts
    from hf_recipes.launch import CHILD, interrupt
    from hf_recipes.logs import BAD_INPUT, in_a_line
    from hf_recipes.recipe import load_recipe
    from hf_recipes.report.label_quality import read_label_quality
    from hf_recipes.study import Study, write_text
except ModuleNotFoundError as error:
    sys.exit(f"error: hf-recipes must be installed. Got {error}. Try --with 'hf-recipes @ git+https://...'.")

MIN_LABEL_MASS = Annotate.model_fields["min_label_mass"].default
HF_RECIPES = [sys.executable, "-m", "hf_recipes.cli"]
SAVED = "annotations-so-far"  # the folder on the branch


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a Hub dataset id, or a local folder or file")
    parser.add_argument("--model", required=True, help="the LLM: a Hub id or a folder")
    parser.add_argument("--instruction", required=True, help="what the LLM is asked")
    parser.add_argument("--repo", required=True, help="owner/name of the dataset repo to push to")
    parser.add_argument("--name", help="of the study; that of the repo by default")
    parser.add_argument("--private", action="store_true", help="make a new repo private")
    parser.add_argument("--no-texts", action="store_true", help="publish ids, labels and probabilities alone")
    parser.add_argument("--checkpoint-minutes", type=float, default=10, help="between two saves of the labels so far")
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

    study, branch = Study(load_recipe(recipe, settings)), f"labelling-{name}"
    min_label_mass = 0.0 if args.allow_low_label_mass else MIN_LABEL_MASS
    study.check()  # a child does not compare the checksums again
    restore(study, args.repo, branch)
    command = [*CHILD, "hf_recipes.cli", "annotate", str(recipe), *settings]
    annotation = subprocess.Popen(command, env={**os.environ, PARENT: str(os.getpid())})
    code = None
    while code is None:
        try:
            code = annotation.wait(60 * args.checkpoint_minutes)
        except subprocess.TimeoutExpired:
            save(study, args.repo, branch, args.no_texts, min_label_mass)
    if code == BAD_INPUT:
        # A prompt that fails is such an error. The other ones keep what was saved.
        if find_label_mass(study) < min_label_mass:
            delete_branch(args.repo, branch)
        sys.exit(code)
    if code:
        save(study, args.repo, branch, args.no_texts, min_label_mass)
        sys.exit(code)
    labels = read_label_quality(study)
    if labels.annotator and labels.annotator.label_mass_mean < min_label_mass:
        delete_branch(args.repo, branch)
        sys.exit(
            f"error: the mean label mass must be at least {min_label_mass} to publish. Got "
            f"{labels.annotator.label_mass_mean:.3f}: the LLM does not answer with a label. Try another --instruction, "
            "or --annotate.prompt.shots_per_class=1."
        )
    push = [*HF_RECIPES, "push", "dataset", str(recipe), "--repo", args.repo, *flags, *settings]
    code = subprocess.run(push, check=False).returncode
    if code == 0:
        delete_branch(args.repo, branch)
    sys.exit(code)


def list_branches(repo):
    return [branch.name for branch in HfApi().list_repo_refs(repo, repo_type="dataset").branches]


def delete_branch(repo, branch):
    if branch in list_branches(repo):
        HfApi().delete_branch(repo, repo_type="dataset", branch=branch)


def find_label_mass(study):
    """Return the mean label mass of the labels so far, of several passes the lowest; 1 without labels."""
    means = []
    for folder in study.annotations_root.glob("*/"):
        parts = folder.glob("part-*.parquet")
        logprobs = [parquet.read(part, SCHEMA, ["logprobs"])["logprobs"].drop_null() for part in parts]
        if num_labels := sum(map(len, logprobs)):
            means.append(sum(np.exp(pc.list_flatten(column)).sum() for column in logprobs) / num_labels)
    return min(means, default=1.0)


def restore(study, repo, branch):
    """Download the labels that an earlier job saved, unless this disk has labels."""
    if study.annotations_root.exists() or branch not in list_branches(repo):
        return
    with study.lock(), tempfile.TemporaryDirectory() as folder:
        kind = {"repo_type": "dataset", "revision": branch}
        written = [f"{SAVED}/annotations/*", f"{SAVED}/revisions.json"]
        snapshot_download(repo, **kind, allow_patterns=written, local_dir=folder)
        saved = Path(folder, SAVED)
        if not (saved / "annotations").exists():
            return  # The earlier job ended between the branch and the first upload.
        if (saved / "revisions.json").exists():
            write_text(study.revisions_file, (saved / "revisions.json").read_text(encoding="utf-8"))
        # The annotations appear last and whole: with a part of them, the next save would delete the others.
        with study.whole_folder(study.annotations_root) as temporary:
            shutil.copytree(saved / "annotations", temporary, dirs_exist_ok=True)


def save(study, repo, branch, no_texts, min_label_mass):
    """Upload the labels so far, in place of those saved before. The manifest of a pass has few-shot texts."""
    if not list(study.annotations_root.glob("*/part-*.parquet")):
        return
    ignored = ["*/.tmp-*", *(["*/manifest.json"] if no_texts else [])]
    try:
        if find_label_mass(study) < min_label_mass:
            return
        HfApi().create_branch(repo, repo_type="dataset", branch=branch, exist_ok=True)
        HfApi().upload_folder(
            repo_id=repo,
            repo_type="dataset",
            revision=branch,
            folder_path=study.root,
            path_in_repo=SAVED,
            allow_patterns=["annotations/*", "revisions.json"],
            ignore_patterns=ignored,
            delete_patterns="*",
            commit_message="Labels so far",
        )
    except Exception as error:
        # A save must not end the labelling: the network, a part that was merged meanwhile (a ValueError of
        # huggingface_hub, as are errors of LFS), and hf_xet's own errors.
        print(f"The labels so far were not saved: {error}. The next attempt follows.", file=sys.stderr)


if __name__ == "__main__":
    handle_interrupts(interrupt)
    with in_a_line():
        main()
