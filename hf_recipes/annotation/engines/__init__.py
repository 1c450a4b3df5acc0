"""Engines: token-id prompts in; log-probabilities of tokens, or sampled texts, out.

An engine is a module of this package with two names:

* `identity(annotate) -> dict`: everything in the engine that changes an answer (version, model, dtype, threads). It is
  part of the annotations' key, so it does not need a running engine.
* `Engine(annotate, model)`: the running engine, with two methods. Both return the answers, and by index the error of
  each prompt that the engine refused.

    * `score(prompts, token_ids) -> (logprobs, errors)`: the natural log-probability of each token as the next one,
      over the full vocabulary (not renormalised), in an array of shape `(len(prompts), len(token_ids))`; the row of a
      refused prompt is nan. There are at most `MAX_TOKEN_IDS` tokens.
    * `sample(prompts, samples, temperature, max_tokens, seeds, choices) -> (texts, errors)`: for each prompt a list of
      `samples` generated texts without special tokens, drawn with the prompt's own seed, `seeds[i]`; with `choices`,
      each text is one of these strings, by constrained decoding. A refused prompt has an empty list.

Answers for prompts with another `cache_salt`, an attribute of the engine, take nothing from the engine's prefix cache.

An engine raises a `UserError` for errors that only the user can correct, and an `EngineError` when it is dead.
"""

from importlib import import_module
from typing import Any

MAX_TOKEN_IDS = 128  # vLLM's limit for one request


class EngineError(RuntimeError):
    """The engine is dead. All parts are kept, and a new engine may continue."""


def import_engine(name: str) -> Any:
    """Return the module of the engine that a recipe names (`vllm`, `server` or `ray`)."""
    return import_module(f"hf_recipes.annotation.engines.{name}_engine")
