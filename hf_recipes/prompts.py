"""Prompts: a frame that all texts of a study share, with the text last so that the engine can reuse the prefix."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from .data import NO_GOLD, Rows, hash_order
from .recipe import Prompt, UserError, first_line

_TEXT = "\x00text\x00"  # stands for the text while the frame is rendered; no text can hold it once on one line


def one_line(text: str) -> str:
    """White space and control characters folded to blanks: a text cannot open a line of its own in the frame."""
    return " ".join("".join(c if c.isprintable() or c == "\u200d" else " " for c in text).split())


def draw_demonstrations(pool: Rows, prompt: Prompt) -> np.ndarray:
    """Indices of the pool's rows that serve as demonstrations, `shots_per_class` of each class in a seeded order.

    Raises:
        UserError: a class has fewer gold rows than asked for.
    """
    order = hash_order(pool.ids, f"demonstrations:{prompt.seed}")
    chosen: list[int] = []
    for k, name in enumerate(pool.label_names):
        rows = [i for i in order if pool.gold[i] == k and pool.texts[i] and one_line(pool.texts[i])]
        if len(rows) < prompt.shots_per_class:
            raise UserError(
                f"annotate.prompt.shots_per_class: {prompt.shots_per_class} asked for, but class '{name}' has "
                f"{len(rows)} gold rows in the pool"
            )
        chosen += rows[: prompt.shots_per_class]
    return np.array([i for i in order if i in set(chosen)], dtype=np.int64)


@dataclass(frozen=True)
class Frame:
    """The rendered prompt around the text, and the tokens that stand for the labels.

    Attributes:
        head (`str`), tail (`str`): what stands before and after the text.
        label_ids (`list[int]`): the token with which each label begins after `tail`, one per class, all distinct.
    """

    head: str
    tail: str
    label_ids: list[int]

    def encode(self, tokenizer: Any, text: str, max_tokens: int) -> tuple[list[int], bool]:
        """The model input for a text.

        Args:
            tokenizer (`PreTrainedTokenizerFast`):
                The model's tokenizer.
            text (`str`):
                Any text; it is put on one line.
            max_tokens (`int`):
                The longest input allowed. A longer text loses its last tokens, never the frame.

        Returns:
            `tuple[list[int], bool]`: token ids, and whether the text was cut.
        """
        text = one_line(text)
        ids = _tokenize(tokenizer, self.head + text + self.tail)
        if len(ids) <= max_tokens:
            return ids, False
        if (bare := len(_tokenize(tokenizer, self.head + self.tail))) > max_tokens:
            raise UserError(
                f"annotate.max_model_len: the prompt without any text takes {bare} tokens, one more is for the answer; "
                "raise it or use fewer shots_per_class"
            )
        plain = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
        ends = [end for _, end in plain["offset_mapping"]]
        keep = len(ends) - (len(ids) - max_tokens)
        while len(ids) > max_tokens:  # tokens may merge differently at the cut: a second round is rare
            ids = _tokenize(tokenizer, self.head + (text[: ends[keep - 1]] if keep > 0 else "") + self.tail)
            keep -= 1
        return ids, True


def build_frame(prompt: Prompt, demonstrations: Rows, tokenizer: Any) -> Frame:
    """Renders the template.

    Args:
        prompt (`Prompt`):
            The recipe's prompt.
        demonstrations (`Rows`):
            The rows shown with their gold labels.
        tokenizer (`PreTrainedTokenizerFast`):
            The model's tokenizer, which says what tokens the labels are.

    Returns:
        `Frame`

    Raises:
        UserError: a template that does not render or lacks `{{ text }}`; labels that are not distinct single tokens.
    """
    names = demonstrations.label_names
    shown = [
        {"text": one_line(str(text)), "label": names[gold]}
        for text, gold in zip(demonstrations.texts, demonstrations.gold, strict=True)
        if gold != NO_GOLD
    ]
    try:
        template = SandboxedEnvironment(undefined=StrictUndefined).from_string(prompt.template.rstrip())
        rendered = template.render(instruction=prompt.instruction, labels=names, demonstrations=shown, text=_TEXT)
    except Exception as error:  # a template is a program and can fail in any way
        raise UserError(f"annotate.prompt.template: {first_line(error)}") from None
    if rendered.count(_TEXT) != 1:
        raise UserError("annotate.prompt.template: it must hold {{ text }} once, after the demonstrations")
    head, tail = rendered.split(_TEXT)
    before = _tokenize(tokenizer, tail, add_special_tokens=False)
    label_ids = []
    for name in names:
        tokens = _tokenize(tokenizer, f"{tail} {name}", add_special_tokens=False)
        if len(tokens) != len(before) + 1 or tokens[:-1] != before:
            raise UserError(
                f"data.label_names: '{name}' is not a single token after the prompt's last line for this model; "
                "use short words of which each is one token"
            )
        label_ids.append(tokens[-1])
    if len(set(label_ids)) < len(label_ids):
        raise UserError(f"data.label_names: two of {', '.join(names)} are the same token for this model")
    return Frame(head, tail, label_ids)


def _tokenize(tokenizer: Any, text: str, add_special_tokens: bool = True) -> list[int]:
    """Token ids of plain text: what looks like a control token (`<|im_end|>` in a tweet) stays text."""
    return tokenizer(text, add_special_tokens=add_special_tokens, split_special_tokens=True)["input_ids"]
