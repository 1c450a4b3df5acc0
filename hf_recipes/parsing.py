"""Parse and write YAML, explain what pydantic rejects in it, and fold blanks."""

import difflib
import math
import re
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class Section(BaseModel):
    """A section of a recipe. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def fold_blanks(text: str) -> str:
    """Return a text without white space at its ends, and with one blank for other white space."""
    return " ".join(text.split())


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML text.

    Raises:
        ValueError: the text is not YAML, or a mapping has a key twice. PyYAML itself raises errors of many types.
    """
    try:
        _refuse_repeated_keys(yaml.compose(text, yaml.SafeLoader), set())
        return yaml.safe_load(text)
    except Exception as error:  # a KeyError for `!!bool x`, a RecursionError for what is deeply nested
        message = " ".join(str(error).split()) or type(error).__name__
        if "mapping values are not allowed here" in message:
            message += ". Quote texts that contain a colon and a blank."
        raise ValueError(message) from None


def to_yaml(value: Any) -> str:
    """Return a value in one line of YAML."""
    return yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=math.inf).strip()[1:-1]


def _refuse_repeated_keys(node: yaml.Node | None, visited: set[int]) -> None:
    """Raise ValueError for a key that a mapping has twice, where PyYAML keeps the last value."""
    if node is None or id(node) in visited:
        return
    visited.add(id(node))  # an anchor's node has several parents
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(item, visited)
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        for place, (key, value) in enumerate(node.value):
            if isinstance(key, yaml.ScalarNode) and key.value in keys[:place]:
                line = key.start_mark.line + 1
                raise ValueError(f"`{key.value}` is set twice, again in line {line}. Merge the two.")
            _refuse_repeated_keys(value, visited)


def explain_errors(errors: ValidationError, root: type[BaseModel]) -> list[str]:
    """Return sentences on each wrong key, which start with the key. Unknown keys come first.

    A value that may have several types has an error for each: the first one counts.
    """
    # A default that depends on other keys cannot be made where one of these is wrong.
    own = [error for error in errors.errors() if error["type"] != "default_factory_not_called"]
    ordered = sorted(own, key=lambda error: error["type"] != "extra_forbidden")
    sentences: dict[str, str] = {}
    for sentence in (_explain_error(error, root) for error in ordered):
        sentences.setdefault(sentence.split("`")[1], sentence)
    return list(sentences.values())


def _explain_error(error: Any, root: type[BaseModel]) -> str:
    """Return sentences on a pydantic error, which start with the recipe key. A validator's own keys are kept."""
    is_unknown = error["type"] == "extra_forbidden"
    # Names of types, as `list[str]`, are no keys. An unknown key is the user's, and may look like one.
    *parents, last = [part for part in error["loc"] if isinstance(part, str)] or [""]
    location = [part for part in parents if "[" not in part] + ([last] if is_unknown or "[" not in last else [])
    key = ".".join(location)
    if is_unknown:
        section: Any = root
        for part in location[:-1]:
            kinds = [section.model_fields[part].annotation, *get_args(section.model_fields[part].annotation)]
            kinds += [inner for kind in kinds for inner in get_args(kind)]
            section = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
        near = difflib.get_close_matches(last, section.model_fields, n=1, cutoff=0.5)
        if near:
            return f"`{key}` is not a key. Did you mean `{'.'.join([*location[:-1], near[0]])}`?"
        return f"`{key}` is not a key. Try one of {', '.join(section.model_fields)}."
    if error["type"] == "missing":
        return f"`{key}` is missing. Add it."

    message = error["msg"].removeprefix("Value error, ")
    if message.startswith("`"):  # a validator of several keys
        return message
    message = re.sub(r"^(Input|List|Dictionary|String) should ", "must ", message)
    message = re.sub(r" after validation, not \d+$|, unable to parse .*", "", message)
    hint = ""
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        near = difflib.get_close_matches(error["input"], choices, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
    if error["type"] == "string_type" and isinstance(error["input"], bool):
        hint = " Quote it: YAML reads yes, no, on and off as true and false."
    elif error["type"] == "string_type" and isinstance(error["input"], dict):
        hint = " Quote it: YAML reads a text with a colon and a blank as a mapping."
    value = "" if isinstance(error["input"], dict) else f" Got {error['input']!r}."
    first, _, advice = message.partition(". ")
    return f"`{key}` {first.removesuffix('.')}.{value}{hint}{' ' * bool(advice)}{advice}"
