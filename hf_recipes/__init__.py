"""Label text with an open-weight LLM, fine-tune small encoders on those labels, and measure what that costs.

    hf-recipes run hf_recipes/recipes/tweets-demo.yaml

One package for each step, in the order in which data flows: `annotation` -> `labels` -> `training` -> `analysis` ->
`report` -> `hub`. docs/dev/code.md is the map.
"""

__version__ = "0.1.0"
