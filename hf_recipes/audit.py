"""The audit: a random sample of the pool for people to label, and what they say back. Few gold labels, known odds.

hf-recipes audit sample RECIPE --n 200 --output to_label.csv
hf-recipes audit import RECIPE labelled.csv
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from .annotate import load_annotations
from .arms import Pool, build_pool
from .data import NO_GOLD, hash_order, open_rows
from .recipe import UserError, first_line
from .study import Study, read_json, write_json, write_text

Form = Literal["csv", "jsonl", "label-studio", "argilla"]
FORMS: tuple[Form, ...] = get_args(Form)


def draw_audit(study: Study, n: int, file: Path, form: Form = "csv") -> int:
    """Writes texts for people to label: `n` of those that can be trained on, each as likely as any other.

    A larger `n` later has the texts of a smaller one, so that no label is lost. The LLM's labels are not shown: people
    tend to agree with what they see.

    Args:
        study (`Study`):
            An annotated study; gains `audit/sample.json`.
        n (`int`):
            Texts of the sample, all in all.
        file (`Path`):
            The file to write; texts that have their label already are left out.
        form (`str`, *optional*, defaults to `"csv"`):
            `csv` and `jsonl` have the columns `id`, `text` and an empty `label`; `label-studio` is a JSON file for its
            import, `argilla` one for `Dataset.records.from_json`.

    Returns:
        `int`: the texts written.

    Raises:
        UserError: there are fewer texts, the file is there already, or the texts are not here.
    """
    files = open_rows(study)
    files.need_texts()
    rows = files.load("train")
    pool = build_pool(rows, load_annotations(study, rows), with_gold=False)
    if not 0 < n <= len(pool.ids):
        raise UserError(f"--n: {n} asked for, of {len(pool.ids):,} texts that can be drawn")
    if file.exists():
        raise UserError(f"{file}: exists; somebody may have labelled it: name another --output")
    drawn = hash_order(pool.ids, "audit")[:n]
    with study.lock():
        study.audit.mkdir(exist_ok=True)
        known = read_json(study.audit / "labels.json") or {}
        sample = {"population": len(pool.ids), "ids": [pool.ids[i] for i in drawn], "label_names": pool.label_names}
        write_json(study.audit / "sample.json", sample)
    texts = {pool.ids[i]: pool.texts[i] for i in drawn if pool.ids[i] not in known}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "".join(_render(texts, pool.label_names, form)))
    return len(texts)


def _render(texts: dict[str, str], names: list[str], form: Form) -> Iterator[str]:
    if form == "csv":
        from io import StringIO

        sheet = StringIO()
        writer = csv.writer(sheet, lineterminator="\n")
        writer.writerows([("id", "text", "label"), *((i, text, "") for i, text in texts.items())])
        yield sheet.getvalue()
    elif form == "jsonl":
        for i, text in texts.items():
            yield json.dumps({"id": i, "text": text, "label": None}, ensure_ascii=False) + "\n"
    else:
        records: list[dict[str, Any]] = (
            [{"data": {"id": i, "text": text, "labels": names}} for i, text in texts.items()]
            if form == "label-studio"
            else [{"id": i, "fields": {"text": text}, "metadata": {}} for i, text in texts.items()]
        )
        yield json.dumps(records, indent=1, ensure_ascii=False) + "\n"


def import_audit(study: Study, file: Path) -> dict[str, int]:
    """Takes back what people said: a CSV or JSONL file of the sample, or an export of Label Studio or Argilla.

    Args:
        study (`Study`):
            A study with a sample; gains `audit/labels.json`.
        file (`Path`):
            Rows with `id` and `label`, or tasks with annotations (Label Studio), or records with responses (Argilla).

    Returns:
        `dict`: how many of the sample are `labelled` now, `missing`, and `changed` since the last import.

    Raises:
        UserError: no sample was drawn, the file cannot be read, a text that is not in the sample, a label that is no
            class, two labels for one text.
    """
    sample = read_json(study.audit / "sample.json")
    if sample is None:
        raise UserError(f"{study.root}: no sample was drawn; run hf-recipes audit sample first")
    ids, names = set(sample["ids"]), sample["label_names"]
    found: dict[str, str] = {}
    for place, (i, label) in enumerate(_read(file), 1):
        if label is None or not str(label).strip():
            continue
        name = str(label).strip()
        if i not in ids:
            raise UserError(f"{file}: entry {place} has the id {i!r}, which is not in the sample")
        if name not in names:
            raise UserError(f"{file}: entry {place} has the label {name!r}, which is none of {', '.join(names)}")
        if found.setdefault(i, name) != name:
            raise UserError(f"{file}: the text {i} has two labels, {found[i]} and {name}; leave one")
    with study.lock():
        before = read_json(study.audit / "labels.json") or {}
        labels = {i: label for i, label in {**before, **found}.items() if i in ids}
        write_json(study.audit / "labels.json", labels)
    changed = sum(before.get(i, name) != name for i, name in found.items())
    return {"labelled": len(labels), "missing": len(ids) - len(labels), "changed": changed}


def _read(file: Path) -> Iterator[tuple[Any, Any]]:
    """Id and label of each entry, whatever the file's form."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".csv":
            entries: list[Any] = list(csv.DictReader(text.splitlines(keepends=True)))
        elif file.suffix == ".jsonl":
            entries = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            entries = json.loads(text)
        for entry in entries:
            yield _id_and_label(entry)
    except OSError as error:
        raise UserError(f"{file}: {first_line(error)}") from None
    except (ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(
            f"{file}: neither rows with id and label nor an export of Label Studio or Argilla ({first_line(error)})"
        ) from None


def _id_and_label(entry: Any) -> tuple[Any, Any]:
    if "annotations" in entry:  # Label Studio
        given = [one for one in entry["annotations"] if not one.get("was_cancelled")]
        results = [one["result"][0]["value"]["choices"][0] for one in given if one["result"]]
        return entry["data"]["id"], results[-1] if results else None
    if "responses" in entry:  # Argilla
        answers = [one["value"] for question in entry["responses"].values() for one in question]
        return entry["id"], answers[-1] if answers else None
    return entry["id"], entry["label"]


def audited_gold(study: Study, pool: Pool) -> tuple[np.ndarray, int] | None:
    """The people's labels of the pool's rows, `NO_GOLD` for all that were not asked for, and how many were drawn.

    None where there was no audit. Labels that the source brings are left out: they are no random sample.
    """
    labels, sample = (read_json(study.audit / f"{name}.json") for name in ("labels", "sample"))
    if not labels:
        return None
    number = {name: k for k, name in enumerate(pool.label_names)}
    return np.array([number[labels[i]] if i in labels else NO_GOLD for i in pool.ids]), len(sample["ids"])
