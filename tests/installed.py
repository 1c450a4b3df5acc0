"""Whether an installed hf-recipes is whole: run by the Python that it is installed for, from a folder that is no clone.

python -I installed.py MODELS_FOLDER
"""

import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import hf_recipes

INSIDE = Path(hf_recipes.__file__).parent
COMMAND = Path(sysconfig.get_path("scripts"), "hf-recipes")
METRICS = (
    *("annotation_uncertainty", "instability_comparison", "learning_plateau"),
    *("seed_divergence", "seed_instability", "seed_scores"),
)


def call(*arguments: str) -> str:
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"hf-recipes {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


def main(models: str) -> None:
    assert "site-packages" in INSIDE.parts, f"not the installed package: {INSIDE}"
    assert "Usage" in call("--help")
    assert call("--version").strip() == hf_recipes.__version__
    with tempfile.TemporaryDirectory() as folder:
        plan = call(
            *("plan", str(INSIDE / "recipes" / "tweets-demo.yaml"), f"--output_dir={folder}/study"),
            f"--data.path={INSIDE / 'sample' / 'vader_tweets'}",
            f"--annotate.model={Path(models, 'SmolLM2-135M-Instruct').resolve()}",
            f"--train.encoder={Path(models, 'all-MiniLM-L6-v2').resolve()}",
        )
    assert "720 texts" in plan, plan
    import evaluate

    from hf_recipes.metric_loading import metrics_folder

    assert metrics_folder() == INSIDE / "metrics"
    for name in METRICS:
        assert evaluate.load(str(INSIDE / "metrics" / name)).description
        assert (INSIDE / "metrics" / name / "README.md").is_file()
    instability = evaluate.load(str(INSIDE / "metrics" / "seed_instability"))
    assert instability.compute(predictions=[[0, 1], [0, 0]])["pairwise_disagreement"] == 0.5
    print(f"{INSIDE}: help, plan on the sample and {len(METRICS)} metrics work")


if __name__ == "__main__":
    main(sys.argv[1])
