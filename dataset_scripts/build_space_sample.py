"""Build the study that the Space shows by default, spaces_app/sample: a finished study, published and downloaded.

    python dataset_scripts/build_space_sample.py RECIPE [--key=value ...] [--output spaces_app/sample]

The script pushes the study with `hf-recipes push dataset` to a Hub in miniature (tests/hub_server.py) and downloads it
with the stock client, so the folder equals a repo of the study byte for byte. The texts are published with this
project, so their licence has to allow it; the tweets' is MIT (hf_recipes/sample/vader_tweets).

The sample is the study of tweets with the 0.5B model (docs/study.md), by linear heads and ten seeds. To make it again:

    python benchmarks/keep_labels.py restore tweets-0.5b
    S="--name=tweets --output_dir=studies/tweets-0.5b --accept-changes --data.keep_columns=none"
    S="$S --train.out_of_bag=400 --grid.sizes=[400,1600]"
    S="$S --grid.seeds=[0,1,2,3,4,5,6,7,8,9] --grid.curves=[gold,llm] --grid.variants=[gold,llm,noise-fixed"
    S="$S,llm-entropy-replace,llm-random-replace,llm-flip-replace,llm-flip-random-replace,one-annotator]"
    hf-recipes train studies/tweets-0.5b/recipe.yaml $S
    hf-recipes report studies/tweets-0.5b/recipe.yaml $S
    python dataset_scripts/build_space_sample.py studies/tweets-0.5b/recipe.yaml $S
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FETCH = """
import sys
from huggingface_hub import snapshot_download
snapshot_download("me/sample", repo_type="dataset", local_dir=sys.argv[1])
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="of a finished study")
    parser.add_argument("--output", type=Path, default=ROOT / "spaces_app" / "sample")
    args, settings = parser.parse_known_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, ROOT / "tests" / "hub_server.py", str(port)])
    try:
        time.sleep(3)
        with tempfile.TemporaryDirectory() as folder:
            env = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_TOKEN": "hf_secret"}
            env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_HOME": f"{folder}/home"}
            push = ["-m", "hf_recipes.cli", "push", "dataset", args.recipe, "--repo", "me/sample", *settings]
            subprocess.run([sys.executable, *push], check=True, env=env)
            subprocess.run([sys.executable, "-c", FETCH, f"{folder}/sample"], check=True, env=env)
            shutil.rmtree(args.output, ignore_errors=True)
            ignored = shutil.ignore_patterns(".cache", ".gitattributes")
            shutil.copytree(f"{folder}/sample", args.output, ignore=ignored)
    finally:
        server.terminate()
    size = sum(path.stat().st_size for path in args.output.rglob("*") if path.is_file())
    print(f"{args.output}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
