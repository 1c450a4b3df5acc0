"""Parse YAML, and explain what pydantic rejects in it."""

import difflib
from typing import Any, get_args

import yaml
from pydantic import BaseModel


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML text.

    Raises:
        ValueError: the text is not YAML. PyYAML itself raises errors of many types.
    """
    try:
        return yaml.safe_load(text)
    except Exception as error:  # a KeyError for `!!bool x`, a RecursionError for what is deeply nested
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def explain_error(error: Any, root: type[BaseModel]) -> str:
    """One pydantic error as a sentence that names the recipe key and the fix."""
    unknown = error["type"] == "extra_forbidden"  # its last part is the user's key, the others may be names of types
    ends = error["loc"][-1:] if unknown else ()
    location = [part for part in error["loc"] if isinstance(part, str) and ("[" not in part or part in ends)]
    key = ".".join(location)
    if unknown:
        section: Any = root
        for part in location[:-1]:
            kinds = [section.model_fields[part].annotation, *get_args(section.model_fields[part].annotation)]
            kinds += [inner for kind in kinds for inner in get_args(kind)]
            section = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
        near = difflib.get_close_matches(location[-1], section.model_fields, n=1, cutoff=0.5)
        hint = (
            f"did you mean '{'.'.join([*location[:-1], near[0]])}'?"
            if near
            else f"known keys: {', '.join(section.model_fields)}"
        )
        return f"unknown key '{key}'; {hint}"
    if error["type"] == "missing":
        return f"'{key}' is missing; add it"
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        near = difflib.get_close_matches(
            error["input"], [word.strip("'") for word in error["ctx"]["expected"].split(" or ")[0].split(", ")], n=1
        )
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"'{key}' is '{error['input']}' but must be {error['ctx']['expected']}{hint}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "string_type" and isinstance(error["input"], bool):
        message += "; quote it, as YAML takes words like yes, no, on and off for true and false"
    given = "" if isinstance(error["input"], dict) else f" is {error['input']!r}"
    return f"'{key}'{given}: {message[0].lower()}{message[1:]}" if key else message
