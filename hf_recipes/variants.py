"""The variants: every source of training labels that a recipe can name, with its control and what it requires.

To add a variant, add an entry here, a function to `labels/rules.py` and a test. docs/remedies.md explains each variant.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Variant:
    """One source of training labels.

    Attributes:
        name (`str`): the name in recipes, configs, run folders and tables.
        labels (`str`): where its labels come from: `gold`, `llm` (the first pass alone), `mixed` (the first pass and
            gold), `passes` (several passes), `annotator` (one of the people who labelled a text) or `noise` (gold,
            made wrong at random).
        line (`str`): the training labels in a line for people; `{share}` is the recipe's `replace_share`.
        colour (`str`): its colour in figures, from palettes for the colour-blind (Okabe & Ito, Tol).
        control (`str`, *optional*): the variant without which its gain is not a result.
        compared_with (`tuple[str, ...]`): the variants that it is compared with besides its control.
        num_passes (`int`): the annotation passes that it requires.
        num_models (`int`): how many different models these passes require.
        gold (`str`): the gold labels that it requires: for `all` texts, for a random `sample` of them, or `none`.
        is_partial (`bool`): it requires that `replace_share` is neither no text nor all.
        uses_probabilities (`bool`): it depends on more of the LLM's probabilities than the label.
    """

    name: str
    labels: Literal["gold", "llm", "mixed", "passes", "annotator", "noise"]
    line: str
    colour: str
    control: str | None = None
    compared_with: tuple[str, ...] = ("llm",)
    num_passes: int = 1
    num_models: int = 1
    gold: Literal["all", "sample", "none"] = "none"
    is_partial: bool = False
    uses_probabilities: bool = False

    @property
    def uses_passes(self) -> bool:
        """Whether its labels depend on the annotation pass."""
        return self.labels not in ("gold", "annotator")

    def describe(self, share: float, has_audit: bool = False) -> str:
        """Return the training labels in a line for people, with the recipe's `replace_share` or the audit's texts."""
        from_audit = has_audit and self.gold == "sample"
        return self.line.format(share="the audited texts" if from_audit else f"{100 * share:g}%")

    @property
    def comparisons(self) -> tuple[str, ...]:
        """All variants that it is compared with."""
        return (*self.compared_with, *([self.control] if self.control else []))


_ALL = (
    Variant("gold", "gold", "the source's own labels", "#000000", compared_with=(), gold="all"),
    Variant("llm", "llm", "the LLM's labels", "#D55E00", compared_with=("gold", "noise-fixed")),
    Variant("llm-soft", "llm", "the LLM's probabilities (`llm_probs`)", "#E69F00", uses_probabilities=True),
    Variant("llm-majority", "passes", "the most frequent label of all passes", "#CC79A7", num_passes=2),
    Variant(
        "llm-dawid-skene",
        "passes",
        "all passes combined by Dawid and Skene's model",
        "#AA4499",
        num_passes=3,
        num_models=3,
    ),
    Variant(
        "one-annotator",
        "annotator",
        "the label of one of a text's annotators, drawn at random",
        "#5D5D5D",
        compared_with=("llm", "gold"),
    ),
    Variant(
        "llm-entropy-replace",
        "mixed",
        "the LLM's labels, with gold for the {share} with the highest entropy",
        "#0072B2",
        control="llm-random-replace",
        compared_with=("llm", "gold-only"),
        gold="all",
        uses_probabilities=True,
    ),
    Variant(
        "llm-random-replace",
        "mixed",
        "the LLM's labels, with gold for {share} drawn at random",
        "#009E73",
        compared_with=("llm", "gold-only"),
        gold="sample",
    ),
    Variant(
        "llm-audit",
        "mixed",
        "the LLM's labels, with gold for {share} drawn at random, weighted to remove the LLM's bias",
        "#DDAA33",
        control="llm-random-replace",
        compared_with=("llm", "gold-only"),
        gold="sample",
        is_partial=True,
    ),
    Variant(
        "llm-flip-replace",
        "mixed",
        "the LLM's labels, with gold where the passes differ",
        "#56B4E9",
        control="llm-flip-random-replace",
        num_passes=2,
        gold="all",
    ),
    Variant(
        "llm-flip-random-replace",
        "mixed",
        "the LLM's labels, with gold for as many texts drawn at random",
        "#117733",
        num_passes=2,
        gold="all",
    ),
    Variant(
        "llm-entropy-drop",
        "llm",
        "the LLM's labels without the {share} with the highest entropy",
        "#882255",
        control="llm-random-drop",
        is_partial=True,
        uses_probabilities=True,
    ),
    Variant("llm-random-drop", "llm", "the LLM's labels without {share} drawn at random", "#999933", is_partial=True),
    Variant(
        "llm-confident-drop",
        "llm",
        "the LLM's labels without those that confident learning calls wrong",
        "#44AA99",
        control="llm-confident-random-drop",
    ),
    Variant("llm-confident-random-drop", "llm", "the LLM's labels without as many drawn at random", "#B8860B"),
    Variant(
        "gold-only",
        "gold",
        "gold for {share}, no other texts, for as many optimiser steps",
        "#777777",
        gold="sample",
        is_partial=True,
    ),
    Variant(
        "noise-fixed",
        "noise",
        "gold, made wrong at random with the LLM's confusion matrix",
        "#F0E442",
        compared_with=("gold",),
        gold="all",
    ),
)
#: The variants by name, in the order of tables and figures.
VARIANTS = {variant.name: variant for variant in _ALL}
#: The variants that have a control, each with its control.
CONTROLS = {variant.name: variant.control for variant in _ALL if variant.control is not None}
#: The variants whose rows training finds out, the second being the control of the first.
CONFIDENT = ("llm-confident-drop", "llm-confident-random-drop")
