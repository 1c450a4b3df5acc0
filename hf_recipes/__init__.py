"""Label text with an open-weight LLM, fine-tune small encoders on those labels, and measure what that costs.

    hf-recipes run hf_recipes/recipes/tweets-demo.yaml

The steps are plain functions, one module each, in the order in which data flows: [`recipe`] -> [`data`] ->
[`annotate`] -> [`variants`] -> [`variants`] -> [`train`] -> [`measure`] -> [`report`].
"""

__version__ = "0.1.0"
