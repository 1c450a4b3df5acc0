"""Engines: token-id prompts in, label log-probabilities out.

An engine is a module of this package with two names:

* `identity(annotate) -> dict`: what of the engine changes an answer (version, dtype, threads); known without starting
  it, as it is part of the annotations' key;
* `Engine(annotate, model_folder)`: the running engine, with one method, `score(prompts, label_ids)`, which returns for
  each prompt the log-probability of each label token as the next token, over the full vocabulary (not renormalised):
  an array of shape `(n, K)`, natural log.
"""

from importlib import import_module
from typing import Any


def engine_module(name: str) -> Any:
    """The module of the engine that a recipe names (`vllm` or `server`)."""
    return import_module(f"hf_recipes.engines.{name}_engine")
