"""Make prompts: all texts of a pass share a frame, and the text comes last so that the engine can reuse the prefix."""

from collections.abc import Sequence
from datetime import date
from functools import cached_property
from typing import Any

from ..errors import UserError
from ..recipe import Annotate, Data
from ..row_reader import one_line
from .answers import choose_answers
from .few_shot import FewShotExamples
from .frames import FrameRenderer
from .tokens import PromptTokenizer

# Beginnings of texts. If no token of these merges with the frame before it, no token of any text does (tested).
_WORDS = (
    "word Word 1999 's ... -- \u2019 \u201c \u00e9t\u00e9 \u00df \u4e2d\u6587 \u3042 \ud55c "
    "\u0645\u0631\u062d\u0628\u0627 \U0001f600 \U0001f468\u200d\U0001f469 \u200dx \u0301a \u0915\u094d\u0937 "
    "\u0e01\u0e33 <|im_start|> <bos> </s> [INST]"
)
_PROBES = ["", *map(chr, range(33, 127)), *_WORDS.split()]


class Prompts:
    """The prompts of a pass: texts become model inputs, and labels the tokens that the engine scores.

    Chat templates are rendered with `day` as the current date.

    Attributes:
        names (`list[str]`): the classes.
        answers (`list[str]`): the LLM's answer for each class.
        answer_ids (`list[list[int]]`): the tokens of each answer after the prompt; no sequence begins another.
        choices (`list[str]`): the answers for constrained decoding, with a blank before them if needed.
        max_choice_tokens (`int`): the number of tokens that a choice may take.
        frame (`Frame`): the part that all prompts share.
        has_open_tokens (`bool`): the model's own tokenizer reads an added token in a text as a control token.
        is_dated (`bool`): the chat template contains the date.

    Raises:
        UserError: the template does not render, lacks `{{ text }}` or hides the meaning of an answer; no rule
            distinguishes the labels; the model has no chat template or no fast tokenizer; a text has no room.
    """

    def __init__(
        self,
        section: Annotate,
        data: Data,
        names: list[str],
        examples: FewShotExamples,
        tokenizer: Any,
        day: date,
    ):
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                f"`annotate.model` must have a fast tokenizer (tokenizer.json). Got {type(tokenizer).__name__} for "
                f"{section.model}. Try another model."
            )
        self.names = names
        self._tokenizer = PromptTokenizer(tokenizer, section.asked.chat)
        self.has_open_tokens = self._tokenizer.has_open_tokens

        # If the few-shot examples together exceed 3/4 of the limit, each is cut to its share.
        texts, max_tokens = examples.texts, section.max_model_len * 3 // 4
        ends = [self._tokenizer.find_ends(text) for text in texts]
        if sum(map(len, ends)) > max_tokens:
            share = max_tokens // len(texts)
            texts = [text if len(e) <= share else text[: e[share - 1]] for text, e in zip(texts, ends, strict=True)]

        shown = list(zip(texts, examples.gold, strict=True))
        renderer = FrameRenderer(section, names, data.descriptions, shown, tokenizer, day)
        self.is_dated = renderer.is_dated
        self.answers, self.frame, self.answer_ids = choose_answers(
            section.asked.answers, names, renderer, self._tokenizer
        )
        self.choices = [self.frame.separator + answer for answer in self.answers]
        self.max_choice_tokens = 1 + max(len(choice.encode()) for choice in self.choices)  # It may write byte by byte.

        answer_room = {
            "distribution": max(len(ids) for ids in self.answer_ids),
            "guided": self.max_choice_tokens,
            "votes": section.max_tokens,
        }
        self._limit = section.max_model_len - answer_room[section.scoring]
        self._before, self._after = self._tokenizer.encode_ends(self.frame)
        bare = self._tokenizer.encode_plain(self.frame.head + self.frame.tail)
        num_tokens = len(self._before) + len(bare) + len(self._after)
        if num_tokens > self._limit:
            raise UserError(
                f"`annotate.max_model_len` must leave room for a text. Got {section.max_model_len}, and the prompt "
                f"without any text takes {num_tokens} of {self._limit} tokens. Try a higher limit or fewer few-shot "
                "examples."
            )

    def encode(self, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        """Return the model inputs for texts: token ids, and whether the text was cut to fit. The frame is never cut.

        Texts are put on one line. The frame is tokenised once where that gives the same tokens.
        """
        prefix, head = self._prefix
        tail = self.frame.tail
        limit = self._limit - len(prefix) - len(self._after)
        # The start of a text is enough, as no longer text fits: that of a prompt of the vocabulary's longest tokens.
        lines = [one_line(text) for text in texts]
        starts = [line[: self._limit * self._tokenizer.max_token_chars] for line in lines]
        batch = self._tokenizer.encode_batch([head + start + tail for start in starts])
        encoded = []
        for line, start, whole in zip(lines, starts, batch, strict=True):
            ids = whole
            if len(whole) > limit:
                ends = [0, *self._tokenizer.find_ends(start)]
                num_kept = max(0, len(ends) - 1 - (len(whole) - limit))
                while len(ids) > limit:  # Tokens may merge differently at the cut: a second round is rare.
                    ids = self._tokenizer.encode_plain(head + start[: ends[num_kept]] + tail)
                    num_kept -= 1
            is_cut = len(whole) > limit or len(start) < len(line)
            encoded.append((prefix + ids + self._after, is_cut))
        return encoded

    @cached_property
    def _prefix(self) -> tuple[list[int], str]:
        """Return the tokens that all inputs begin with, and the end of the head, which is tokenised with each text.

        The tokens reach to the last blank of the head. Where tokens of a text may merge with them, the whole head is
        tokenised with each text.
        """
        head, tail, encode = self.frame.head, self.frame.tail, self._tokenizer.encode_plain
        shared = head.rstrip(" ")
        rest = head[len(shared) :]
        shared_ids = encode(shared)
        for probe in _PROBES:
            if shared_ids + encode(rest + probe + tail) != encode(head + probe + tail):
                return self._before, head
        return self._before + shared_ids, rest
