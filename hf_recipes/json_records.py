"""Read the records of JSON Lines and of JSON documents."""

import itertools
import json
from collections.abc import Iterator
from typing import Any, TextIO

from .errors import UserError


def open_text(file: str, encoding: str = "utf-8-sig") -> TextIO:
    import fsspec

    return fsspec.open(file, "rt", encoding=encoding, newline="", compression="infer").open()


def read_json_records(file: str, field: str | None) -> Iterator[tuple[int, Any]]:
    """Yield line and value of JSON Lines, or number and value of the items of a JSON document."""
    with open_text(file) as stream:
        lines = ((number, line) for number, line in enumerate(stream, 1) if line.strip())
        first, second = next(lines, None), next(lines, None)
        if first is None:
            return
        try:
            value = json.loads(first[1])
            is_document = field is not None or isinstance(value, list) or (second is None and _is_of_columns(value))
        except ValueError:
            is_document = True
        if not is_document:
            for number, line in itertools.chain([first], [second] if second else [], lines):
                try:
                    yield number, _complete(json.loads(line))
                except ValueError as error:
                    raise UserError(f"{file}: line {number} is not valid JSON ({error}).") from None
            return
    with open_text(file) as stream:
        try:
            document = json.load(stream)
        except ValueError as error:
            raise UserError(f"{file}: is not valid JSON ({error}). Try one JSON object a line.") from None
    if field:
        document = document[field]
    if _is_of_columns(document):
        columns = [list(values.values() if isinstance(values, dict) else values) for values in document.values()]
        if len({len(values) for values in columns}) > 1:
            raise UserError(f"{file}: the columns of a JSON document must have the same length.")
        document = [dict(zip(document, values, strict=True)) for values in zip(*columns, strict=True)]
    yield from enumerate(map(_complete, document if isinstance(document, list) else [document]), 1)


def _is_of_columns(value: Any) -> bool:
    """Return whether a JSON value maps names to columns: to lists, or as pandas writes them to mappings from rows."""
    return isinstance(value, dict) and bool(value) and all(isinstance(column, list | dict) for column in value.values())


def _complete(value: Any) -> Any:
    """Return a JSON value in which halves of surrogate pairs, which no file can contain, are U+FFFD."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_complete(item) for item in value]
    if isinstance(value, dict):
        return {_complete(key): _complete(item) for key, item in value.items()}
    return value
