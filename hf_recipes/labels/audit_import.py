"""Import the labels that people gave to an audit's sample: `hf-recipes audit import`.

An entry of the file belongs to the row with its `id`, else to the rows with its `text`: exports of labelling tools
replace ids by their own. The label that more than half of the annotators of a row gave counts. Other rows are reported.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path
from typing import Any

from ..data import RowFiles, open_rows
from ..errors import UserError, first_line
from ..row_reader import one_line, spell, suggest_case
from ..study import Study, read_json

NOT_SUBMITTED = ("discarded", "draft", "pending", "skipped")


@dataclass(frozen=True)
class ImportCounts:
    """How many rows of the sample have a label after an import.

    Attributes:
        labelled (`int`), missing (`int`): rows of the sample.
        changed (`int`): rows whose label differs from the one that was imported before.
        conflicts (`int`): rows of the file to which no label was given by more than half of their annotators.
        foreign (`int`): entries of the file that are not in the sample.
    """

    labelled: int
    missing: int
    changed: int
    conflicts: int
    foreign: int

    def __str__(self) -> str:
        return ", ".join(f"{getattr(self, field.name):,} {field.name}" for field in fields(self))


@dataclass(frozen=True)
class Entry:
    """One annotator's label of one text, as it may be spelled, or a text without a label."""

    place: int
    id: str | None
    text: str | None
    spellings: list[str]


def import_audit(study: Study, file: Path, replace: bool = False) -> ImportCounts:
    """Read people's labels from a CSV, TSV, JSON or JSONL file, exports of Label Studio included.

    Args:
        study (`Study`):
            A study with a sample; gains `audit/labels.json`.
        file (`Path`):
            Entries with `label` and `id` or `text`, or Label Studio's tasks with annotations.
        replace (`bool`, *optional*, defaults to `False`):
            Replace labels that were imported before.

    Raises:
        UserError: no sample was drawn; the file cannot be read or has no label; an id and a text belong to different
            rows; a label is not a class; two choices of one annotator; another label than before.
    """
    sample = read_json(study.audit / "sample.json")
    if sample is None:
        raise UserError(f"{study.root}: has no sample. Run hf-recipes audit sample first.")
    ids = {row_id for part in sample["parts"].values() for row_id in part["ids"]}
    texts = _texts(open_rows(study), ids)
    ids_of_text: dict[str, list[str]] = {}
    for row_id, row_text in texts.items():
        ids_of_text.setdefault(row_text, []).append(row_id)

    votes: dict[str, Counter[str]] = {}
    num_foreign = 0
    for entry in _read(file):
        text = None if entry.text is None else one_line(entry.text)
        if entry.id is None or entry.id not in ids:
            rows = ids_of_text.get(text or "", [])
        elif text == texts.get(entry.id) or text not in ids_of_text:  # spreadsheets change texts, as 12 to 12.0
            rows = [entry.id]
        else:
            raise UserError(
                f"{file}: entry {entry.place} must have the text of its id {entry.id}. Got '{text:.40}'. Were ids "
                "sorted apart from texts? Try removing the column `id`."
            )
        num_foreign += not rows
        if not entry.spellings:
            continue
        name = next((spelling for spelling in entry.spellings if spelling in sample["label_names"]), None)
        if rows and name is None:
            names = ", ".join(sample["label_names"])
            label = entry.spellings[0]
            hint = suggest_case(label, sample["label_names"])
            raise UserError(f"{file}: the label of entry {entry.place} must be one of {names}. Got {label}.{hint}")
        for row_id in rows:
            votes.setdefault(row_id, Counter())[str(name)] += 1
    if not votes:
        problem = f"{num_foreign} entries are of other texts, and " if num_foreign else ""
        raise UserError(
            f"{file}: {problem}no entry of the sample has a label. Try a file of hf-recipes audit sample with its "
            "column `label` filled in."
        )
    majorities = {row_id: counts.most_common(1)[0] for row_id, counts in votes.items()}
    labels = {row_id: name for row_id, (name, num) in majorities.items() if 2 * num > votes[row_id].total()}
    conflicts = votes.keys() - labels.keys()

    with study.lock():
        earlier = read_json(study.audit / "labels.json") or {}
        changed = [row_id for row_id, name in labels.items() if earlier.get(row_id, name) != name]
        if changed and not replace:
            raise UserError(
                f"{file}: {len(changed)} labels differ from those imported before (for example {changed[0]}: "
                f"{earlier[changed[0]]} before, {labels[changed[0]]} now). Try --replace."
            )
        labels = {row_id: name for row_id, name in {**earlier, **labels}.items() if row_id in ids}
        if replace:
            labels = {row_id: name for row_id, name in labels.items() if row_id not in conflicts}
        study.write_json(study.audit / "labels.json", labels)
    return ImportCounts(len(labels), len(ids) - len(labels), len(changed), len(conflicts), num_foreign)


def _texts(files: RowFiles, ids: set[str]) -> dict[str, str]:
    """Return the texts of the sample by id, folded as `one_line` does: spreadsheets change white space."""
    texts = {}
    for batch in files.batches("id", "text", splits=("train", "test")):
        for row_id, text in zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True):
            if row_id in ids and text is not None:
                texts[row_id] = one_line(text)
    return texts


def _read(file: Path) -> Iterator[Entry]:
    """Yield the entries of the file, whatever its form."""
    try:
        content = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() in (".csv", ".tsv"):
            records: list[Any] = _read_table(file, content)
        elif file.suffix.lower() == ".jsonl":
            records = [json.loads(line) for line in content.split("\n") if line.strip()]
        else:
            records = json.loads(content)
        for place, record in enumerate(records, 1):
            yield from _entries(file, place, record)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or first_line(error)}") from None
    except UserError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise UserError(
            f"{file}: must have entries with id, text and label, or be an export of Label Studio ({first_line(error)})"
        ) from None


def _entries(file: Path, place: int, record: dict[str, Any]) -> Iterator[Entry]:
    """Yield the labels of one record, or an entry without a label."""
    data = record["data"] if "annotations" in record else record  # Label Studio's JSON, or any table
    row_id, text = data.get("id"), data.get("text")
    if "annotations" in record:
        labels = [_choice(file, place, annotation) for annotation in record["annotations"]]
    elif "label" not in record:
        raise UserError(f"{file}: entry {place} must have `label`. Got {', '.join(map(str, record))}.")
    else:
        labels = [] if record.get("status") in NOT_SUBMITTED else [_only_choice(file, place, record["label"])]
    if row_id is None and text is None:
        raise UserError(f"{file}: entry {place} must have `id` or `text`. Got {', '.join(map(str, data))}.")
    if isinstance(text, list | dict):
        raise UserError(f"{file}: entry {place} must have a text in `text`. Got {text!r:.60}.")
    text = None if text is None else str(text)
    row_id = None if row_id is None else str(row_id)
    answers = [spellings for spellings in map(spell, labels) if spellings]
    for spellings in answers or [[]]:
        yield Entry(place, row_id, text, spellings)


def _read_table(file: Path, content: str) -> list[dict[str, str]]:
    csv.field_size_limit(2**31 - 1)  # a text may be a book
    header = content.partition("\n")[0]
    separator = max(",;\t", key=header.count)  # spreadsheets of some countries write semicolons
    rows = list(csv.reader(StringIO(content, newline=""), delimiter=separator))
    names = [name.strip() for name in rows[0]] if rows else []
    for name in ("id", "text", "label"):
        if names.count(name) > 1:
            raise UserError(f"{file}: must have one column `{name}`. Got {names.count(name)}. Try renaming the others.")
    if "label" not in names:
        raise UserError(f"{file}: must have a column `label`. Got {', '.join(names)}.")
    records = [row for row in rows[1:] if row]
    for place, row in enumerate(records, 1):
        if len(row) != len(names):
            raise UserError(f"{file}: entry {place} must have {len(names)} cells like the header. Got {len(row)}.")
    return [dict(zip(names, row, strict=True)) for row in records]


def _choice(file: Path, place: int, annotation: dict[str, Any]) -> Any:
    """Return the choice of one annotator in Label Studio, whose results can have comments and further questions."""
    if annotation.get("was_cancelled"):
        return None
    results = [result for result in annotation["result"] if "choices" in result["value"]]
    named = [result for result in results if result.get("from_name") == "label"] or results
    if len(named) > 1:
        raise UserError(
            f"{file}: entry {place} has {len(named)} questions with choices. Try naming one of them `label`."
        )
    return _only_choice(file, place, named[0]["value"] if named else None)


def _only_choice(file: Path, place: int, value: Any) -> Any:
    """Return the one label that was ticked; None where none was."""
    choices = value.get("choices") if isinstance(value, dict) else value
    if not isinstance(choices, list):
        return choices
    if len(choices) > 1:
        raise UserError(f"{file}: entry {place} must have one label. Got {', '.join(map(str, choices))}.")
    return choices[0] if choices else None
