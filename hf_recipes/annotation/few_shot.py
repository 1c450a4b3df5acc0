"""Draw the few-shot examples of a prompt."""

from dataclasses import dataclass

import numpy as np

from ..annotate_section import Prompt
from ..data import RowFiles, strings
from ..errors import UserError
from ..hashing import hash_order
from ..row_reader import one_line


@dataclass(frozen=True)
class FewShotExamples:
    """The texts that every prompt of a pass shows with their labels.

    Attributes:
        rows (`np.ndarray` of shape `(m,)`): their positions in the pool; empty for `examples` of the recipe.
        ids (`list[str]`), texts (`list[str]`), gold (`list[int]`)
    """

    rows: np.ndarray
    ids: list[str]
    texts: list[str]
    gold: list[int]


def draw_examples(files: RowFiles, prompt: Prompt) -> FewShotExamples:
    """Return the few-shot examples of a prompt: those of the recipe, or rows of the pool in a seeded order.

    Raises:
        UserError: the pool has too few gold rows, or an example has an unknown label.
    """
    names = files.label_names
    if prompt.examples is not None:
        for example in prompt.examples:
            if example.label not in names:
                raise UserError(
                    f"`annotate.prompt.examples` must have the labels {', '.join(names)}. Got {example.label!r}."
                )
        gold = [names.index(example.label) for example in prompt.examples]
        return FewShotExamples(np.zeros(0, np.int64), [], [one_line(e.text) for e in prompt.examples], gold)
    ids, labels, gold_rows = files.column("id"), files.column("gold").to_numpy(), files.find_gold_rows()
    order = gold_rows[hash_order(strings(ids, gold_rows), f"demonstrations:{prompt.seed}")]
    if prompt.random_shots is not None:
        if len(order) < prompt.random_shots:
            raise UserError(
                f"`annotate.prompt.random_shots` must be at most the number of gold rows, {len(order)}. "
                f"Got {prompt.random_shots}."
            )
        rows = order[: prompt.random_shots]
    else:
        num_shots = prompt.shots_per_class
        if num_shots is None:
            num_shots = min(1, len(order))
        is_drawn = np.zeros(len(order), dtype=bool)
        for k, name in enumerate(names):
            of_class = np.flatnonzero(labels[order] == k)
            if len(of_class) < num_shots:
                raise UserError(
                    "`annotate.prompt.shots_per_class` must be at most the number of gold rows of each class. Got "
                    f"{num_shots}, and class '{name}' has {len(of_class)}. Try fewer, or write "
                    "`annotate.prompt.examples`."
                )
            is_drawn[of_class[:num_shots]] = True
        rows = order[is_drawn]
    texts = [one_line(text) for text in files.texts(rows)]
    return FewShotExamples(rows, list(strings(ids, rows)), texts, labels[rows].tolist())
