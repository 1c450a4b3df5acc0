"""Make prompts: all texts of a pass share a frame, and the text comes last so that the engine can reuse the prefix."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import cache, cached_property
from itertools import permutations
from typing import Any

import numpy as np
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from tokenizers import Tokenizer

from ..data import NO_GOLD, RowFiles, strings
from ..errors import UserError, first_line
from ..hashing import hash_order
from ..recipe import Annotate, Data, Prompt
from ..row_reader import one_line

_TEXT = "\x00text\x00"  # the text while a frame is rendered; a text on one line cannot contain it
_PROMPT = "\x00prompt\x00"  # the whole prompt while the chat template is rendered
_THOUGHTS_END = "</think>"
_END = "\n"  # the end of an answer, where one label begins like another
_BYTE = re.compile("<0x[0-9A-F]{2}>")  # the tokens that byte fallback looks up by name

#: Beginnings of texts. If no token of these merges with the frame before it, no token of any text does (tested).
_PROBES = (
    "",
    *(chr(code) for code in range(33, 127)),
    *(
        "word",
        "Word",
        "1999",
        "'s",
        "...",
        "--",
        "\u2019",
        "\u201c",
        "\u00e9t\u00e9",
        "\u00df",
        "\u4e2d\u6587",
        "\u3042",
        "\ud55c",
        "\u0645\u0631\u062d\u0628\u0627",
    ),
    *(
        "\U0001f600",
        "\U0001f468\u200d\U0001f469",
        "\u200dx",
        "\u0301a",
        "\u0915\u094d\u0937",
        "\u0e01\u0e33",
        "<|im_start|>",
        "<bos>",
        "</s>",
        "[INST]",
    ),
)


@dataclass(frozen=True)
class Label:
    """A class for a template. It prints as its name.

    Attributes: `name` and `description` as in the recipe, `answer`: the LLM's answer for it.
    """

    name: str
    description: str
    answer: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Demonstrations:
    """The few-shot examples that every prompt shows with their labels.

    Attributes:
        rows (`np.ndarray` of shape `(m,)`): their positions in the pool; empty for `examples` of the recipe.
        ids (`list[str]`), texts (`list[str]`), gold (`list[int]`)
    """

    rows: np.ndarray
    ids: list[str]
    texts: list[str]
    gold: list[int]


def draw_demonstrations(files: RowFiles, prompt: Prompt) -> Demonstrations:
    """Return the few-shot examples of a prompt: those of the recipe, or rows of the pool in a seeded order.

    Raises:
        UserError: the pool has too few gold rows, or an example has an unknown label.
    """
    names = files.label_names
    if prompt.examples is not None:
        for example in prompt.examples:
            if example.label not in names:
                raise UserError(f"annotate.prompt.examples: '{example.label}' is none of {', '.join(names)}")
        shown = [names.index(example.label) for example in prompt.examples]
        return Demonstrations(np.zeros(0, np.int64), [], [one_line(e.text) for e in prompt.examples], shown)
    gold = files.column("gold").to_numpy()
    able = np.flatnonzero((gold != NO_GOLD) & files.column("text_id").is_valid().to_numpy(False))
    per_class = prompt.shots_per_class
    if per_class is None:
        per_class = 1 if len(able) and prompt.random_shots is None else 0
    ids = files.column("id")
    order = able[hash_order(strings(ids, able), f"demonstrations:{prompt.seed}")]
    if prompt.random_shots is not None:
        if len(order) < prompt.random_shots:
            raise UserError(f"annotate.prompt.random_shots: {prompt.random_shots} asked for of {len(order)} gold rows")
        chosen = order[: prompt.random_shots]
    else:
        chosen = _per_class(order, gold, names, per_class)
    texts = [one_line(text) for text in files.texts(chosen)]
    return Demonstrations(chosen, list(strings(ids, chosen)), texts, gold[chosen].tolist())


def _per_class(order: np.ndarray, gold: np.ndarray, names: list[str], count: int) -> np.ndarray:
    chosen = np.zeros(len(order), dtype=bool)
    for k, name in enumerate(names):
        rows = np.flatnonzero(gold[order] == k)
        if len(rows) < count:
            raise UserError(
                f"annotate.prompt.shots_per_class: {count} asked for, but class '{name}' has {len(rows)} gold rows in "
                "the pool; ask for fewer, or write demonstrations as annotate.prompt.examples"
            )
        chosen[rows[:count]] = True
    return order[chosen]


@dataclass(frozen=True)
class Frame:
    """The prompt around the text: `before` and `after` are the chat template's, `head` and `tail` the recipe's.

    Only `before` and `after` may have control tokens; in `head` and `tail` their names are plain text.
    """

    before: str
    head: str
    tail: str
    after: str

    def __str__(self) -> str:
        return f"{self.before}{self.head}{{text}}{self.tail}{self.after}"


@cache
def tokenizer_of_texts(tokenizer: Any) -> tuple[Tokenizer, frozenset[int]]:
    """Return a tokenizer for which nothing is a control token, and the ids that it never gives.

    `split_special_tokens` spares only added tokens with `special: true`, but many models add `<think>` or their role
    markers without it. Here every added token gets a name that no text can contain, and keeps its id. It is renamed in
    the model's vocabulary as well: a whole word may be looked up there, and a Unigram model reads `</s>` as a piece.
    Runs of white space (GPT-NeoX, Gemma) and the bytes of byte fallback keep their names, as ordinary text needs them.

    Args:
        tokenizer (`PreTrainedTokenizerFast`):
            The model's.
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
    texts = Tokenizer.from_str(json.dumps({**content, "truncation": None, "padding": None}))
    texts.encode_special_tokens = True
    return texts, frozenset(control_ids) - {tokenizer.unk_token_id}  # An unknown character has this id, too.


class Prompter:
    """Turn texts into model inputs for one pass, and labels into the tokens that the engine is asked about.

    Args:
        section (`Annotate`):
            The pass.
        data (`Data`):
            The section with the labels' descriptions.
        names (`list[str]`):
            The classes.
        demonstrations (`Demonstrations`):
            The few-shot examples of every prompt.
        tokenizer (`PreTrainedTokenizerFast`):
            The model's.
        day (`date`):
            The current date for the chat template.

    Attributes:
        answers (`list[str]`): the LLM's answer for each class.
        answer_ids (`list[list[int]]`): the tokens of each answer after the prompt; no sequence begins another.
        choices (`list[str]`): the answers for constrained decoding, with a blank before them if needed.
        frame (`Frame`): the part that all prompts share.
        has_open_tokens (`bool`): the model's own tokenizer takes an added token in a text for a control token.
        is_dated (`bool`): the chat template asked for the date.

    Raises:
        UserError: the template does not render, lacks `{{ text }}` or hides what an answer means; no rule
            distinguishes the labels; the model has no chat template or no fast tokenizer.
    """

    def __init__(
        self,
        section: Annotate,
        data: Data,
        names: list[str],
        demonstrations: Demonstrations,
        tokenizer: Any,
        day: date | None = None,
    ):
        self._section, self._tokenizer, self._demonstrations = section, tokenizer, demonstrations
        self._names, self._descriptions = names, data.descriptions
        self._day, self.is_dated = day or date.today(), False
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                f"`annotate.model` must have a fast tokenizer (tokenizer.json). Got {type(tokenizer).__name__} for "
                f"{section.model}. Try another model."
            )
        added = [token.content for token in tokenizer.added_tokens_decoder.values()]
        split = tokenizer(added, add_special_tokens=False, split_special_tokens=True)["input_ids"] if added else []
        self.has_open_tokens = any(not self._control_ids.isdisjoint(ids) for ids in split)
        self._examples = self._cut_examples(demonstrations.texts)
        self.answers, joint, self.answer_ids = self._choose_answers()
        self.frame = self._render(self.answers, joint)
        longest = max(len(ids) for ids in self.answer_ids)
        last = self.frame.after if section.prompt.chat else self.frame.tail
        self.choices = [_blank(last) + answer for answer in self.answers]
        self.longest_choice = 1 + max(len(choice.encode()) for choice in self.choices)  # it may write byte by byte
        room = {"distribution": longest, "guided": self.longest_choice, "votes": section.max_tokens}
        self._limit = section.max_model_len - room[section.scoring]
        self._encode_one("")  # This raises an error if there is no room for a text.

    @property
    def _texts(self) -> Tokenizer:
        return tokenizer_of_texts(self._tokenizer)[0]

    @property
    def _control_ids(self) -> frozenset[int]:
        return tokenizer_of_texts(self._tokenizer)[1]

    def encode(self, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        """Return the model inputs for texts: token ids, and whether the text was cut to fit. The frame is never cut.

        Texts are put on one line. The frame is tokenised once where that gives the same tokens.
        """
        lines = [one_line(text) for text in texts]
        if not lines:
            return []
        if self._prefix is None:
            return [self._encode_one(line) for line in lines]
        prefix, rest, suffix = self._prefix
        tail, limit = self.frame.tail, self._limit - len(prefix) - len(suffix)
        short = [line if len(line) <= self._longest_text else "" for line in lines]
        encodings = self._texts.encode_batch([rest + line + tail for line in short], add_special_tokens=False)
        encoded = []
        for line, encoding in zip(lines, encodings, strict=True):
            ids, cut = encoding.ids, False
            if len(ids) > limit or len(line) > self._longest_text:
                ids, cut = self._fit(rest, line, tail, limit)
            encoded.append((prefix + ids + suffix, cut))
        return encoded

    def read(self, answer: str) -> int | None:
        """Return the class that a sampled answer names at its beginning, after its thoughts; None without a name."""
        if self._section.thinking:
            if _THOUGHTS_END not in answer:
                return None
            answer = answer.rpartition(_THOUGHTS_END)[2]
        first, *_ = answer.strip().splitlines() or [""]
        words = {name: k for k, name in enumerate(self._names)} | {word: k for k, word in enumerate(self.answers)}
        if first.strip() in words:
            return words[first.strip()]
        for flag in (0, re.IGNORECASE):  # Two names may differ in their case only.
            for word in sorted(words, key=len, reverse=True):  # A longer name may contain a shorter one.
                if re.match(rf"\W*{re.escape(word)}(\W*$|\s*[.,:;)])", first, flag):
                    return words[word]
        return None

    @cached_property
    def _longest_text(self) -> int:
        """Return the characters of a prompt of the vocabulary's longest tokens: no longer text fits."""
        return self._limit * max(len(token) for token in self._tokenizer.get_vocab())

    @cached_property
    def _prefix(self) -> tuple[list[int], str, list[int]] | None:
        """Return the tokens up to the last blank of the head, the end of the head, and the tokens after the tail.

        Return None where tokens of a text may merge with them: then every prompt is tokenised as a whole.
        """
        frame = self.frame
        cut = len(frame.head.rstrip(" ")) if frame.head.endswith(" ") else len(frame.head)
        shared, rest = frame.head[:cut], frame.head[cut:]
        prefix, suffix = self._special(frame.before) + self._plain(shared), self._special(frame.after, start=False)
        for probe in _PROBES:
            whole = self._plain(frame.head + probe + frame.tail)
            if self._plain(shared) + self._plain(rest + probe + frame.tail) != whole:
                return None
        return prefix, rest, suffix

    def _encode_one(self, line: str) -> tuple[list[int], bool]:
        frame = self.frame
        before, after = self._special(frame.before), self._special(frame.after, start=False)
        ids, cut = self._fit(frame.head, line, frame.tail, self._limit - len(before) - len(after))
        return before + ids + after, cut

    def _fit(self, head: str, line: str, tail: str, limit: int) -> tuple[list[int], bool]:
        """Return the tokens of head, line and tail, and whether the line was cut to fit."""
        cut = len(line) > self._longest_text
        line = line[: self._longest_text]
        ids = self._plain(head + line + tail)
        if len(ids) <= limit:
            return ids, cut
        if (bare := len(self._plain(head + tail))) > limit:
            raise UserError(
                f"annotate.max_model_len: the prompt without any text takes {self._limit + bare - limit} tokens, "
                f"but {self._limit} is the most; raise it or show fewer demonstrations"
            )
        ends = [end for _, end in self._texts.encode(line, add_special_tokens=False).offsets]
        keep = len(ends) - (len(ids) - limit)
        while len(ids) > limit:  # Tokens may merge differently at the cut: a second round is rare.
            ids = self._plain(head + (line[: ends[keep - 1]] if keep > 0 else "") + tail)
            keep -= 1
        return ids, True

    def _plain(self, text: str) -> list[int]:
        """Return the token ids of a text in which control tokens (`<|im_end|>` in a tweet) are plain text."""
        return list(self._texts.encode(text, add_special_tokens=False).ids)

    def _special(self, text: str, start: bool = True) -> list[int]:
        """Return the token ids of a part of the chat template; without a template, the tokens that start any text."""
        if self._section.prompt.chat:
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._start if start else []

    @cached_property
    def _start(self) -> list[int]:
        ids = list(self._tokenizer("a")["input_ids"])
        bare = self._plain("a")
        return ids[: next((i for i in range(len(ids)) if ids[i : i + len(bare)] == bare), 0)]

    def _cut_examples(self, texts: list[str]) -> list[str]:
        """Return the texts of few-shot examples. If together they exceed 3/4 of the limit, each is cut to its share."""
        encodings = self._texts.encode_batch(texts, add_special_tokens=False)
        ends = [[end for _, end in encoding.offsets] for encoding in encodings]
        most = self._section.max_model_len * 3 // 4
        if sum(map(len, ends)) <= most:
            return texts
        room = most // len(texts)
        return [text if len(e) <= room else text[: e[room - 1]] for text, e in zip(texts, ends, strict=True)]

    def _render(self, answers: list[str], joint: str, with_examples: bool = True) -> Frame:
        prompt, gold = self._section.prompt, self._demonstrations.gold
        examples = list(zip(self._examples, gold, strict=True)) if with_examples else []
        labels = [
            Label(name, self._descriptions.get(name, ""), answer)
            for name, answer in zip(self._names, answers, strict=True)
        ]
        try:
            rendered = self._template.render(
                instruction=prompt.instruction,
                labels=labels,
                show_labels=answers != self._names or bool(self._descriptions),
                demonstrations=[{"text": text, "label": answers[k]} for text, k in examples],
                text=_TEXT,
            )
        except Exception as error:  # A template is a program and can fail in any way.
            raise UserError(f"annotate.prompt.template: {first_line(error)}") from None
        if rendered.count(_TEXT) != 1:
            raise UserError("annotate.prompt.template: it must hold {{ text }} once, after the demonstrations")
        head, tail = rendered.split(_TEXT)
        before, after = self._chat
        return Frame(before, head, tail, after + joint) if prompt.chat else Frame(before, head, tail + joint, after)

    @cached_property
    def _template(self) -> Any:
        try:
            environment = SandboxedEnvironment(undefined=StrictUndefined)
            return environment.from_string(self._section.prompt.template.rstrip())
        except Exception as error:
            raise UserError(f"annotate.prompt.template: {first_line(error)}") from None

    @cached_property
    def _chat(self) -> tuple[str, str]:
        """Return the parts of the model's chat template before and after the user's message."""
        if not self._section.prompt.chat:
            return "", ""
        if not self._tokenizer.chat_template:
            raise UserError(f"annotate.prompt.chat: {self._section.model} has no chat template; set it to false")

        def strftime_now(form: str) -> str:
            """Format the date of the study, in place of transformers' function of this name, which uses the clock."""
            self.is_dated = True
            return datetime.combine(self._day, time()).strftime(form)

        try:
            rendered = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": _PROMPT}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=self._section.thinking,
                strftime_now=strftime_now,
            )
            before, after = rendered.split(_PROMPT)
        except Exception as error:
            raise UserError(
                f"annotate.prompt.chat: {self._section.model}'s template fails: {first_line(error)}"
            ) from None
        return before, after

    def _choose_answers(self) -> tuple[list[str], str, list[list[int]]]:
        """Return answers, joint and tokens by the first rule that gives each class its own token, else by whole names.

        The joint is a blank at the end of the prompt, for tokenizers that do not join it to a digit.
        """
        names, rule = self._names, self._section.prompt.answers
        rules = {
            "names": names,
            "integers": [str(i) for i in range(len(names))],
            "letters": [chr(ord("A") + i) for i in range(len(names))] if len(names) <= 26 else [],
        }
        for name, answers in rules.items():
            if rule not in ("auto", name) or not answers:
                continue
            for joint in ("", " "):
                frame = self._render(answers, joint)
                hidden = self._hidden(answers) if answers != names else []
                ids = self._continuations(frame, answers)
                if hidden and rule != "auto":
                    raise UserError(
                        f"annotate.prompt.template: the model is to answer {' or '.join(answers)}, but the prompt does "
                        f"not say which is '{hidden[0]}'; loop over labels and show label.answer and label.name"
                    )
                if not hidden and all(len(i) == 1 for i in ids) and len({i[0] for i in ids}) == len(names):
                    return answers, joint, ids
        if rule not in ("auto", "sequences"):
            raise UserError(
                f"annotate.prompt.answers: {rule} for {', '.join(names)} are not {len(names)} distinct tokens after "
                "the prompt's last line for this model; set it to auto"
            )
        frame = self._render(names, "")
        for end in ("", _END):
            ids = self._continuations(frame, [name + end for name in names])
            if all(ids) and not any(a == b[: len(a)] for a, b in permutations(ids, 2)):
                return names, "", ids
        raise UserError(f"data.label_names: two of {', '.join(names)} are the same tokens for this model; rename them")

    def _hidden(self, answers: list[str]) -> list[str]:
        """Return the classes whose answer is not in the prompt beside their name, few-shot examples left out."""
        frame = self._render(answers, "", with_examples=False)
        words = set(re.findall(r"\w+", frame.head + frame.tail))
        pairs = zip(self._names, answers, strict=True)
        return [name for name, answer in pairs if name not in frame.head + frame.tail or answer not in words]

    def _continuations(self, frame: Frame, answers: list[str]) -> list[list[int]]:
        """Return the tokens of each answer after the prompt. An answer that merges with it is tokenised alone."""
        tokens, last = (self._special, frame.after) if self._section.prompt.chat else (self._plain, frame.tail)
        before = tokens(last)
        sequences = []
        for answer in answers:
            ids = tokens(last + _blank(last) + answer)
            # A label with the name of a control token is plain text, too.
            alone = ids[: len(before)] != before or not self._control_ids.isdisjoint(ids[len(before) :])
            sequences.append(self._plain(_blank(last) + answer) if alone else ids[len(before) :])
        return sequences


def _blank(last: str) -> str:
    """Return the blank between the end of a prompt and its answer, if it needs one."""
    return "" if not last or last[-1].isspace() else " "
