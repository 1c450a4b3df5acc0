"""Render the frame of a pass's prompts: everything around the text."""

from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from ..errors import UserError, first_line
from ..recipe import Annotate

# No text on one line contains these placeholders.
_TEXT = "\x00text\x00"
#: What opens and closes a model's thoughts.
THOUGHTS = {"<think>": "</think>", "[THINK]": "[/THINK]", "<|channel|>analysis": "<|end|>"}
_MESSAGE = "\x00prompt\x00"


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
class Frame:
    """The prompt around the text: `before` and `after` are the chat template's, `head` and `tail` the recipe's.

    Only `before` and `after` may have control tokens; in `head` and `tail` their names are plain text.

    Attributes:
        end (`str`): the part of the frame that the answer follows: `tail`, or `after` in a chat.
    """

    before: str
    head: str
    tail: str
    after: str
    end: str

    def __str__(self) -> str:
        return f"{self.before}{self.head}{{text}}{self.tail}{self.after}"

    @property
    def separator(self) -> str:
        """The blank between the prompt and the answer, if one is needed."""
        return "" if not self.end or self.end[-1].isspace() else " "


class FrameRenderer:
    """Render frames with the recipe's template and the model's chat template.

    Attributes:
        is_dated (`bool`): the chat template contains the date.

    Raises:
        UserError: the model has no chat template, it does not render, or it begins thoughts without `thinking`.
    """

    def __init__(
        self,
        section: Annotate,
        names: list[str],
        descriptions: dict[str, str],
        examples: list[tuple[str, int]],
        tokenizer: Any,
        day: date,
    ):
        self._section, self._names, self._descriptions, self._examples = section, names, descriptions, examples
        self.is_dated = False
        self._before, self._after = "", ""
        if not section.asked.chat:
            return
        if not tokenizer.chat_template:
            raise UserError(f"`annotate.prompt.chat` must be false: {section.model} has no chat template.")

        def strftime_now(form: str) -> str:
            """Format the date of the study, in place of transformers' function of this name, which uses the clock."""
            self.is_dated = True
            return datetime.combine(day, time()).strftime(form)

        try:
            rendered = tokenizer.apply_chat_template(
                [{"role": "user", "content": _MESSAGE}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=section.thinking,
                strftime_now=strftime_now,
            )
            self._before, self._after = rendered.split(_MESSAGE)
        except Exception as error:  # A template is a program and can fail in any way.
            raise UserError(
                f"`annotate.prompt.chat` must be false: the template of {section.model} fails: {first_line(error)}"
            ) from None
        for start, end in THOUGHTS.items():
            if not section.thinking and self._after.rfind(start) > self._after.rfind(end):
                raise UserError(
                    f"`annotate.thinking` must be true with the chat template of {section.model}, whose prompt ends "
                    f"inside {start}. Got false, and no answer would begin with a label. Set `annotate.thinking: true` "
                    "with `scoring: votes`, or try `annotate.prompt.chat: false`."
                )

    def render(self, answers: list[str], joint: str = "", with_examples: bool = True) -> Frame:
        """Return the frame for the answers of the classes. `joint` ends the prompt.

        Raises:
            UserError: the template does not render, or does not contain `{{ text }}` once.
        """
        prompt = self._section.asked
        labels = [
            Label(name, self._descriptions.get(name, ""), answer)
            for name, answer in zip(self._names, answers, strict=True)
        ]
        examples = self._examples if with_examples else []
        try:
            template = SandboxedEnvironment(undefined=StrictUndefined).from_string(prompt.template.rstrip())
            rendered = template.render(
                instruction=prompt.instruction,
                labels=labels,
                show_labels=answers != self._names or bool(self._descriptions),
                demonstrations=[{"text": text, "label": answers[k]} for text, k in examples],
                text=_TEXT,
            )
        except Exception as error:
            raise UserError(
                f"`annotate.prompt.template` must be a jinja2 template that renders. Got {first_line(error)}."
            ) from None
        if rendered.count(_TEXT) != 1:
            raise UserError(
                "`annotate.prompt.template` must contain {{ text }} once, after the few-shot examples. "
                f"Got it {rendered.count(_TEXT)} times."
            )
        head, tail = rendered.split(_TEXT)
        if prompt.chat:
            after = self._after + joint
            return Frame(self._before, head, tail, after, end=after)
        return Frame("", head, tail + joint, "", end=tail + joint)
