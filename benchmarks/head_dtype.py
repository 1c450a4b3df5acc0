"""What the type of a language model's head changes in labels: bfloat16 weights with a head in either type.

    .venv/bin/python dataset_scripts/fetch_demo_models.py models
    .venv/bin/python benchmarks/head_dtype.py [--texts 300] [--model models/SmolLM2-135M-Instruct]

Labels tweets by the demo recipe three times: in bfloat16 with a head in bfloat16 (`head_dtype: model`) and in float32
(the default), and in float32. Prints the table of docs/dev/benchmarks.md.
"""

import argparse
import multiprocessing
from pathlib import Path

import numpy as np
from ratio import show
from scipy.special import softmax
from scipy.stats import entropy

ROOT = Path(__file__).resolve().parent.parent
WAYS = {
    "bfloat16, head in bfloat16": ["--annotate.dtype=bfloat16", "--annotate.engine_args.hf_overrides.head_dtype=model"],
    "bfloat16, head in float32": ["--annotate.dtype=bfloat16"],
    "float32": ["--annotate.dtype=float32"],
}


def score(settings: list[str], count: int) -> np.ndarray:
    """Return the raw log-probabilities of the labels, of shape `(count, K)`."""
    from hf_recipes.annotation.engines import import_engine
    from hf_recipes.annotation.passes import plan_passes
    from hf_recipes.annotation.scoring import ask
    from hf_recipes.data import open_rows
    from hf_recipes.recipe import load_recipe
    from hf_recipes.study import Study

    study = Study(load_recipe(ROOT / "hf_recipes" / "recipes" / "tweets-demo.yaml", settings))
    files = open_rows(study)
    (plan, *_) = plan_passes(study, files)
    engine = import_engine("vllm").Engine(plan.section, plan.model)
    places = np.setdiff1d(np.arange(len(files)), plan.examples.rows)
    texts = [text for text in files.texts(places) if text][:count]
    inputs = {str(i): ids for i, (ids, _) in enumerate(plan.prompts.encode(texts))}
    answers, _ = ask(engine, plan.section, plan.prompts, inputs)
    return np.array([answers[str(i)] for i in range(len(texts))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=300, help="how many tweets")
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    arguments = parser.parse_args()
    logprobs = {}
    for way, settings in WAYS.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # An engine's memory is free when its process ends.
            logprobs[way] = pool.apply(score, ([f"--annotate.model={arguments.model}", *settings], arguments.texts))
    print("| weights and head | ties | entropies | labels other than in float32 |\n|---|---|---|---|")
    labels = {way: scores.argmax(axis=1) for way, scores in logprobs.items()}
    for way, scores in logprobs.items():
        top = np.sort(scores, axis=1)[:, -2:]
        num_entropies = len(np.unique(entropy(softmax(scores, axis=1), axis=1)))
        changed = (labels[way] != labels["float32"]).mean()
        print(f"| {way} | {(top[:, 0] == top[:, 1]).mean():.3f} | {num_entropies} of {len(scores)} | {changed:.3f} |")
        if way == "bfloat16, head in float32":
            head = (labels[way] != labels["bfloat16, head in bfloat16"]).mean()
            print(f"\nThe head changes {head:.3f} of the labels.\n")
    errors = {way: np.abs(scores - logprobs["float32"]).mean() for way, scores in logprobs.items()}
    show(
        "error of log-probabilities in bfloat16, head in float32",
        "head in bfloat16",
        errors["bfloat16, head in float32"] / errors["bfloat16, head in bfloat16"],
    )


if __name__ == "__main__":
    main()
