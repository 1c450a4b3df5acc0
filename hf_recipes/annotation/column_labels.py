"""Read labels made elsewhere: columns of the texts' own dataset that have an LLM's labels and perhaps probabilities.

A row whose label or probabilities are not valid has the status `no_label` and an error. If that holds for more than
half of the labels, the recipe is wrong rather than the rows, and nothing is written.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

from ..annotate_section import Columns
from ..data import NO_GOLD, RowFiles
from ..errors import UserError
from ..logs import Progress
from ..parsing import fold_blanks, to_yaml
from ..recipe import Data
from ..row_reader import find_class, map_label, one_line, suggest_case, text_id
from ..study import Study
from .answers import read_answer
from .passes import Pass, write_manifest
from .store import CONTENT_FREE_FILE, MAX_PART_ROWS, PartRow, write_rows

MAX_LENGTH = 60  # of a value in an error
MAX_EXAMPLES = 10  # unknown values in an error
MAX_VALUES = 100_000  # different unknown values that are counted
ROUNDING = 0.005  # of a probability with two digits
TIE = 1e-9  # added to the log-probability of the label, where another class has the same


class Answer(NamedTuple):
    """The log-probability of each class, or why a row has none: no label, an unknown one, probabilities at fault."""

    logprobs: list[float] | None
    fault: Literal["missing", "unknown", "probabilities", "order"] | None = None
    error: str | None = None


class ColumnReader:
    """Reads the columns of a pass.

    Raises:
        UserError: `annotate.columns.probs` names other classes than there are.
    """

    def __init__(self, data: Data, columns: Columns, files: RowFiles):
        from datasets import ClassLabel, Features

        self._files, self._columns, self._label_map = files, columns, data.label_map
        self.names = files.label_names
        features = Features.from_arrow_schema(files.source_schema())
        label = features[columns.label]
        self._class_label = label if isinstance(label, ClassLabel) else None
        self._is_json = columns.label in files.manifest["json_columns"]
        self._indices: dict[str, int | None] = {}
        if isinstance(columns.probs, dict):
            classes = [self._find_class(name) for name in columns.probs]
            if set(classes) != set(range(len(self.names))):
                raise UserError(
                    f"`annotate.columns.probs` must name a column for each of the classes {', '.join(self.names)}. Got "
                    f"{', '.join(columns.probs)}."
                )

    def read(self, split: str) -> Iterator[tuple[Any, Answer]]:
        """Yield the label as the column has it, and the answer, of each row of `train` or `test`."""
        columns = self._columns
        for batch in self._files.source_batches(list(dict.fromkeys(columns.names)), split):
            labels = batch[columns.label].to_pylist()
            probs: list[Any] = [None] * len(batch)
            if isinstance(columns.probs, str):
                probs = batch[columns.probs].to_pylist()
            elif columns.probs:
                by_class = [batch[column].to_pylist() for column in columns.probs.values()]
                probs = [dict(zip(columns.probs, row, strict=True)) for row in zip(*by_class, strict=True)]
            for cell, row in zip(labels, probs, strict=True):
                label = self._name(cell)
                yield label, self._answer(label, row)

    def _name(self, cell: Any) -> Any:
        """Return the label in a cell: of a `ClassLabel` its name, of JSON text its value."""
        if cell is None:
            return None
        if self._is_json:
            return json.loads(cell)
        if self._class_label is not None:
            if cell == NO_GOLD:
                return None
            return self._class_label.int2str(cell) if 0 <= cell < self._class_label.num_classes else cell
        return cell

    def _answer(self, label: Any, probs: Any) -> Answer:
        index = self._find_class(label)
        if index is None:
            error = f"`{_shorten(label)}` is not a class.{suggest_case(label, self.names)}"
            return Answer(None, "unknown", error.removesuffix("."))
        if index == NO_GOLD:
            return Answer(None, "missing", "the label is missing")
        if self._columns.probs is None:
            return Answer([0.0 if k == index else -math.inf for k in range(len(self.names))])
        try:
            values = self._read_probs(probs)
        except ValueError as error:
            return Answer(None, "probabilities", str(error))
        if values[index] < max(values):
            best = self.names[values.index(max(values))]
            return Answer(
                None, "order", f"the label is `{self.names[index]}`, but `{best}` has the highest probability"
            )
        total = sum(values)
        logprobs = [math.log(value / total) if value else -math.inf for value in values]
        if values.count(values[index]) > 1:
            logprobs[index] += TIE
        return Answer(logprobs)

    def _read_probs(self, probs: Any) -> list[float]:
        """Return the probability of each class.

        Raises:
            ValueError: they are not probabilities of the classes.
        """
        if isinstance(probs, str):
            try:
                probs = json.loads(probs)
            except ValueError:
                raise ValueError("the probabilities are not JSON") from None
        values = [0.0] * len(self.names)
        if isinstance(probs, list):
            if len(probs) != len(values):
                raise ValueError(f"there are {len(probs)} probabilities for {len(values)} classes")
            values = [_read_number(value) for value in probs]
        elif isinstance(probs, dict) and any(value is not None for value in probs.values()):
            for name, value in probs.items():
                index = self._find_class(name)
                if index is None or index == NO_GOLD:
                    raise ValueError(f"`{_shorten(name)}` in the probabilities is not a class")
                values[index] += 0.0 if value is None else _read_number(value)
        else:
            raise ValueError("the probabilities are missing")
        if min(values) < 0:
            raise ValueError("a probability is below 0")
        total = sum(values)
        if abs(total - 1) > max(2, sum(value > 0 for value in values)) * ROUNDING + TIE:
            raise ValueError(f"the probabilities sum to {total:.3g}")
        return values

    def _find_class(self, label: Any) -> int | None:
        """Return the class of a label, spelled as gold labels may be; see `find_class`."""
        spelling = repr(label)
        if spelling not in self._indices:
            if len(self._indices) == MAX_VALUES:
                self._indices.clear()
            self._indices[spelling] = find_class(map_label(label, self._label_map), self.names)
        return self._indices[spelling]


def copy_labels(study: Study, files: RowFiles, plan: Pass) -> None:
    """Write the annotations of a pass that reads columns.

    Args:
        study (`Study`):
            The study; `annotations/<key>/` gains parts and a manifest.
        files (`RowFiles`), plan (`Pass`):
            The rows, and the pass.

    Raises:
        UserError: no row has a label, or more than half of the labels are not valid.
    """
    columns = plan.section.columns
    assert columns is not None  # noqa: S101  (the engine's)
    start = time.monotonic()
    reader = ColumnReader(study.recipe.data, columns, files)
    _check(reader, study.recipe.data, columns, plan.splits)
    folder = study.annotations(plan.key)
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / CONTENT_FREE_FILE, [], study.checksums)
    total = sum(files.manifest["rows"][split] for split in plan.splits)
    with Progress(total=total, desc="read labels", unit=" texts", delay=10) as progress:
        rows = chain.from_iterable(_make_rows(files, reader, split) for split in plan.splits)
        # The same part has the same rows after a kill.
        for number in range(-(-total // MAX_PART_ROWS)):
            part = list(islice(rows, MAX_PART_ROWS))
            write_rows(folder / f"part-{number:05d}.parquet", part, study.checksums)
            progress.update(len(part))
    write_manifest(study, files, plan, {"texts": 0, "seconds": round(time.monotonic() - start, 1), "start_seconds": 0})


def _make_rows(files: RowFiles, reader: ColumnReader, split: str) -> Iterator[PartRow]:
    batches = files.batches("id", "text", splits=[split])
    rows = chain.from_iterable(
        zip(*(batch[name].to_pylist() for name in ("id", "text")), strict=True) for batch in batches
    )
    for (row_id, text), (_, answer) in zip(rows, reader.read(split), strict=True):
        if text_id(text) is None:
            yield PartRow(row_id, "null_text" if text is None else "empty_text")
        else:
            status = "ok" if answer.error is None else "no_label"
            yield PartRow(row_id, status, logprobs=answer.logprobs, error=answer.error)


def _check(reader: ColumnReader, data: Data, columns: Columns, splits: tuple[str, ...]) -> None:
    """Raise `UserError` if no row has a label, or if more than half of the labels are not valid."""
    faults: Counter[str] = Counter()
    examples: dict[str, str] = {}
    unknown: Counter[str] = Counter()
    for label, answer in chain.from_iterable(map(reader.read, splits)):
        fault = answer.fault or "none"
        faults[fault] += 1
        examples.setdefault(fault, str(answer.error))
        if fault == "unknown" and len(unknown) < MAX_VALUES:
            unknown[fold_blanks(str(label))] += 1
    num_labels = faults.total() - faults["missing"]
    if not num_labels:
        raise UserError(
            f"`annotate.columns.label` must name a column with labels. Got {columns.label}, which has none."
        )
    if 2 * faults["unknown"] > num_labels:
        values = dict(unknown.most_common(MAX_EXAMPLES))
        listed = ", ".join(f"{_shorten(value)} ({count:,} rows)" for value, count in values.items())
        guesses = (data.label_map or {}) | {_shorten(value): _guess_class(value, reader.names) for value in values}
        raise UserError(
            f"`annotate.columns.label` must name a column with the classes {', '.join(reader.names)}. Got "
            f"{columns.label} with {listed}. Try `data.label_map: {to_yaml(guesses)}`."
        )
    if 2 * faults["order"] > num_labels:
        raise UserError(
            f"`annotate.columns.probs` must have the highest probability for the label. Got {faults['order']:,} of "
            f"{num_labels:,} rows without, for example: {examples['order']}. Try probabilities in the order of the "
            f"classes: {', '.join(reader.names)}."
        )
    if 2 * faults["probabilities"] > num_labels:
        raise UserError(
            "`annotate.columns.probs` must have probabilities of the classes that sum to 1. Got "
            f"{faults['probabilities']:,} of {num_labels:,} rows without, for example: {examples['probabilities']}. "
            "Try exp() of log-probabilities, divided by their sum."
        )


def _guess_class(value: str, names: list[str]) -> str:
    """Return the class that a value most likely means, or CLASS."""
    index = read_answer(value, names, names)
    if index is not None:
        return names[index]
    near = [name for name in names if value and name.casefold().startswith(value.casefold())]
    return near[0] if len(near) == 1 else "CLASS"


def _shorten(value: Any) -> str:
    text = one_line(str(value))
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}..."


def _read_number(value: Any) -> float:
    """Return a number.

    Raises:
        ValueError: it is something else, or not finite.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"`{_shorten(value)}` is not a probability")
    return number
