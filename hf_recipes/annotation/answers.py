"""Choose the answers that stand for the classes, and read the LLM's answers."""

import re
import string
from itertools import permutations

from ..errors import UserError
from .frames import Frame, FrameRenderer
from .tokens import PromptTokenizer

_THOUGHTS_END = "</think>"


def choose_answers(
    rule: str, names: list[str], renderer: FrameRenderer, tokenizer: PromptTokenizer
) -> tuple[list[str], Frame, list[list[int]]]:
    """Return the answer of each class, their frame, and the tokens of each answer; no sequence begins another one.

    The first kind of answers is taken of which each is a token of its own and none occurs in a class's name. Otherwise
    the answers are the whole names.

    Raises:
        UserError: no answers distinguish the classes, or the prompt hides the meaning of an answer.
    """
    kinds = {
        "names": names,
        "integers": [str(i) for i in range(len(names))],
        "letters": list(string.ascii_uppercase[: len(names)]),
    }
    for kind, answers in kinds.items():
        if rule not in ("auto", kind) or len(answers) < len(names):
            continue
        if answers != names and _occur(answers, names):
            if rule == "auto":  # the answer 0 must not stand for `1 star`, nor for the class -1
                continue
            raise UserError(
                f"`annotate.prompt.answers` must not occur in the names of other classes. Got {rule} for "
                f"{', '.join(names)}. Try auto."
            )
        if answers != names:
            # The prompt has to show the name of each class beside its answer, apart from the few-shot examples.
            frame = renderer.render(answers, with_examples=False)
            prompt = frame.head + frame.tail
            words = set(re.findall(r"\w+", prompt))
            pairs = zip(names, answers, strict=True)
            hidden = [name for name, answer in pairs if name not in prompt or answer not in words]
            if hidden and rule == "auto":
                continue
            if hidden:
                raise UserError(
                    f"`annotate.prompt.template` must show the answer of each class, {' or '.join(answers)}. Got none "
                    f"for '{hidden[0]}'. Try a loop over `labels` with `label.answer` and `label.name`."
                )
        # Some tokenizers do not join a blank to a digit. Then the prompt ends with the blank.
        for joint in ("", " "):
            frame = renderer.render(answers, joint)
            ids = tokenizer.encode_answers(frame, answers)
            if all(len(tokens) == 1 for tokens in ids) and len({tokens[0] for tokens in ids}) == len(names):
                return answers, frame, ids
    if rule not in ("auto", "sequences"):
        raise UserError(
            f"`annotate.prompt.answers` must give each class its own token. Got {rule} for {', '.join(names)}. "
            "Try auto."
        )
    frame = renderer.render(names)
    for end in ("", "\n"):  # A line's end, where one label begins like another one.
        ids = tokenizer.encode_answers(frame, [name + end for name in names])
        if all(ids) and not any(first == second[: len(first)] for first, second in permutations(ids, 2)):
            return names, frame, ids
    raise UserError(
        f"`data.label_names` must differ in their tokens. Got {', '.join(names)}, and two are equal for this model. "
        "Try other names."
    )


def _occur(answers: list[str], names: list[str]) -> bool:
    """Return whether an answer occurs in a class's name; of numbers, whether any number does."""
    if answers[0].isdecimal():
        return bool(re.search(r"[0-9]", " ".join(names)))
    return not {word for name in names for word in re.findall(r"\w+", name)}.isdisjoint(answers)


def read_answer(text: str, names: list[str], answers: list[str], has_thoughts: bool = False) -> int | None:
    """Return the class that a sampled answer names at its beginning, after its thoughts; None without a name."""
    if has_thoughts:
        if _THOUGHTS_END not in text:
            return None
        text = text.rpartition(_THOUGHTS_END)[2]
    line = (text.strip().splitlines() or [""])[0].strip()
    words = {name: k for k, name in enumerate(names)} | {answer: k for k, answer in enumerate(answers)}
    if line in words:
        return words[line]
    for flag in (0, re.IGNORECASE):  # Two names may differ in their case only.
        for word in sorted(words, key=len, reverse=True):  # A longer name may contain a shorter one.
            if re.match(rf"\W*{re.escape(word)}(\W*$|\s*[.,:;)])", line, flag):
                return words[word]
    return None
