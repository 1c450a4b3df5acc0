"""Tokenize prompts so that no text can contain a control token."""

import json
import re
from functools import cache, cached_property
from typing import Any

from tokenizers import Tokenizer

from .frames import Frame

_BYTE = re.compile("<0x[0-9A-F]{2}>")  # the tokens that byte fallback looks up by name


@cache
def make_text_tokenizer(tokenizer: Any) -> tuple[Tokenizer, frozenset[int]]:
    """Return a tokenizer without control tokens, and the ids that it never returns.

    `split_special_tokens` spares only added tokens with `special: true`, but many models add `<think>` or their role
    markers without it. Here every added token gets a name that no text can contain, and keeps its id. It is renamed in
    the model's vocabulary as well: a whole word may be looked up there, and a Unigram model reads `</s>` as a piece.
    Runs of white space (GPT-NeoX, Gemma) and the bytes of byte fallback keep their names, as ordinary text needs them.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    names: dict[str, str] = {}
    control_ids = set()
    for token in content["added_tokens"]:
        if _BYTE.fullmatch(token["content"]):
            token["special"] = True  # not matched in a text, see `encode_special_tokens` below
        elif token["content"].replace("\u2581", " ").strip():
            names[token["content"]] = f"\0{token['id']}\0"
            control_ids.add(token["id"])
            token |= {"content": names[token["content"]], "normalized": False}
    model = content["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(piece, piece): i for piece, i in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if "unk_token" in model:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        # Gemma's vocabulary has merges that end in an added token: without them a text cannot spell it.
        prefix = model["continuing_subword_prefix"] or ""
        model["merges"] = [
            [left, right]
            for left, right in model["merges"]
            if not {left, right, left + right.removeprefix(prefix)} & names.keys()
        ]
    content |= {"truncation": None, "padding": None}
    texts = Tokenizer.from_str(json.dumps(content))
    texts.encode_special_tokens = True
    return texts, frozenset(control_ids) - {tokenizer.unk_token_id}  # An unknown character has this id, too.


class PromptTokenizer:
    """Tokenize the parts of a prompt: plain texts, and the chat template (if `is_chat`) with its control tokens."""

    def __init__(self, tokenizer: Any, is_chat: bool):
        self._tokenizer, self._is_chat = tokenizer, is_chat
        self._texts, self._control_ids = make_text_tokenizer(tokenizer)

    def encode_plain(self, text: str) -> list[int]:
        """Return the token ids of a text in which control tokens (`<|im_end|>` in a tweet) are plain text."""
        return list(self._texts.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of plain texts."""
        return [list(encoding.ids) for encoding in self._texts.encode_batch(texts, add_special_tokens=False)]

    def find_ends(self, text: str) -> list[int]:
        """Return the position in a plain text at which each token ends."""
        return [end for _, end in self._texts.encode(text, add_special_tokens=False).offsets]

    def encode_ends(self, frame: Frame) -> tuple[list[int], list[int]]:
        """Return the tokens before the head and after the tail of a frame.

        They are those of the chat template. Without it they are the tokens with which the model begins any text.
        """
        if self._is_chat:
            return self._encode_template(frame.before), self._encode_template(frame.after)
        ids, bare = list(self._tokenizer("a")["input_ids"]), self.encode_plain("a")
        starts = [i for i in range(len(ids)) if ids[i : i + len(bare)] == bare]
        return ids[: starts[0] if starts else 0], []

    def encode_answers(self, frame: Frame, answers: list[str]) -> list[list[int]]:
        """Return the tokens of each answer after the prompt. An answer that merges with it is tokenised alone."""
        encode = self._encode_template if self._is_chat else self.encode_plain
        before = encode(frame.end)
        sequences = []
        for answer in answers:
            ids = encode(frame.end + frame.separator + answer)
            # A label with the name of a control token is plain text, too.
            if ids[: len(before)] != before or not self._control_ids.isdisjoint(ids[len(before) :]):
                sequences.append(self.encode_plain(frame.separator + answer))
            else:
                sequences.append(ids[len(before) :])
        return sequences

    @cached_property
    def has_open_tokens(self) -> bool:
        """Whether the model's own tokenizer reads an added token in a text as a control token."""
        names = [token.content for token in self._tokenizer.added_tokens_decoder.values()]
        if not names:
            return False
        split = self._tokenizer(names, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return any(not self._control_ids.isdisjoint(ids) for ids in split)

    @cached_property
    def max_token_chars(self) -> int:
        """The characters of the longest token of the vocabulary."""
        return max(len(token) for token in self._tokenizer.get_vocab())

    def _encode_template(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
