"""Engines: token-id prompts in; log-probabilities of tokens, or sampled texts, out.

An engine is a module of this package with two names:

* `identity(annotate) -> dict`: what of the engine changes an answer (version, model, dtype, threads); known without
  starting it, as it is part of the annotations' key;
* `Engine(annotate, model_folder)`: the running engine, with two methods. Both return, beside the answers, the prompts
  that the engine refused: the reason of each by its index.

    * `score(prompts, token_ids) -> (logprobs, refused)`: the natural log-probability of each token as the next one,
      over the full vocabulary (not renormalised), in an array of shape `(len(prompts), len(token_ids))`; the row of a
      refused prompt is nan.
    * `sample(prompts, samples, temperature, max_tokens, seeds, choices) -> (texts, refused)`: for each prompt a list of
      `samples` generated texts without special tokens, drawn with the prompt's own seed, `seeds[i]`; with `choices`,
      each text is one of these strings, by constrained decoding. A refused prompt has an empty list.

`ray` has `stream` in place of `Engine`: the rows go to engines on a cluster, and answers come back as they are there.

Whatever only the user can mend is a `UserError`; an engine that is dead raises an `EngineError`.
"""

from importlib import import_module
from typing import Any


class EngineError(RuntimeError):
    """The engine is gone; what is labelled stays, and a new one may go on."""


def engine_module(name: str) -> Any:
    """The module of the engine that a recipe names (`vllm`, `server` or `ray`)."""
    return import_module(f"hf_recipes.engines.{name}_engine")
