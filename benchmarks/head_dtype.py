"""What the type of a language model's head changes in labels: bfloat16 weights with a head in either type.

    .venv/bin/python dataset_scripts/fetch_demo_models.py models --small
    .venv/bin/python benchmarks/head_dtype.py [--texts 300] [--model models/SmolLM2-135M-Instruct]

Labels tweets by tweets-small.yaml three times: in bfloat16 with a head in bfloat16 (`head_dtype: model`) and in float32
(the default), and all in float32. Labels have the calibration `contextual`. Prints the table of docs/dev/benchmarks.md.
"""

import argparse
import multiprocessing
from pathlib import Path

import numpy as np
from ratio import show
from scipy.special import softmax
from scipy.stats import entropy

NUM_CONTENT_FREE = 3
ROOT = Path(__file__).resolve().parent.parent
WAYS = {
    "bfloat16, head in bfloat16": ["--annotate.dtype=bfloat16", "--annotate.engine_args.hf_overrides.head_dtype=model"],
    "bfloat16, head in float32": ["--annotate.dtype=bfloat16"],
    "float32": ["--annotate.dtype=float32"],
}


def score(settings: list[str], count: int) -> np.ndarray:
    """Return the raw log-probabilities of the labels of inputs without content, then of texts, of shape `(n, K)`."""
    from hf_recipes.annotation.engines import import_engine
    from hf_recipes.annotation.passes import plan_passes
    from hf_recipes.annotation.scoring import ask
    from hf_recipes.annotation.store import CONTENT_FREE
    from hf_recipes.data import open_rows
    from hf_recipes.recipe import load_recipe
    from hf_recipes.study import Study

    study = Study(load_recipe(ROOT / "hf_recipes" / "recipes" / "tweets-small.yaml", settings))
    files = open_rows(study)
    (plan, *_) = plan_passes(study, files)
    engine = import_engine("vllm").Engine(plan.section, plan.model)
    places = np.setdiff1d(np.arange(len(files)), plan.examples.rows)
    texts = [*CONTENT_FREE, *[text for text in files.texts(places) if text][:count]]
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
    print("| weights and head | ties | within 0.125 | entropies | labels changed |\n|---|---|---|---|---|")
    raw = {way: scores[NUM_CONTENT_FREE:] for way, scores in logprobs.items()}
    bias = {way: scores[:NUM_CONTENT_FREE].mean(axis=0) for way, scores in logprobs.items()}
    labels = {way: (scores - bias[way]).argmax(axis=1) for way, scores in raw.items()}
    for way, scores in raw.items():
        top = np.sort(scores, axis=1)
        gap = top[:, -1] - top[:, -2]
        num_entropies = len(np.unique(entropy(softmax(scores, axis=1), axis=1)))
        cells = [f"{(gap == 0).mean():.3f}", f"{(gap < 0.125).mean():.3f}", f"{num_entropies} of {len(scores)}"]
        print(f"| {way} | {' | '.join(cells)} | {(labels[way] != labels['float32']).mean():.3f} |")
    rounded, fine, exact = raw.values()
    changed = (labels["bfloat16, head in float32"] != labels["bfloat16, head in bfloat16"]).mean()
    print(f"The head changes {changed:.3f} of the labels.")
    ratio = np.abs(fine - exact).mean() / np.abs(rounded - exact).mean()
    show("error of log-probabilities in bfloat16, head in float32", "head in bfloat16", ratio)


if __name__ == "__main__":
    main()
