"""The audit: random samples of pool and test texts for people to label, and the import of their labels.

hf-recipes audit sample RECIPE --n 200 --output to_label.csv
hf-recipes audit import RECIPE labelled.csv
"""

import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, Literal, get_args

from ..data import open_rows
from ..errors import UserError, first_line
from ..hashing import hash_order
from ..study import Study, read_json, write_text
from .pool import read_labels

Form = Literal["csv", "jsonl", "label-studio"]
FORMS: tuple[Form, ...] = get_args(Form)
Part = Literal["pool", "test"]


def draw_audit(study: Study, n: int, file: Path, form: Form = "csv", test_share: float = 0.5) -> int:
    """Write texts for people to label: a simple random sample of the pool.

    If the recipe trains without gold, `test_share` of the texts are a sample of the test texts: labels of the pool are
    for training and for the quality of the LLM's labels, labels of test texts only for evaluation. A larger `n` later
    includes the texts of a smaller one. The LLM's labels are not shown, as people tend to agree with what they see.

    Args:
        study (`Study`):
            An annotated study; gains `audit/sample.json`.
        n (`int`):
            Texts of the sample in total.
        file (`Path`):
            The file to write, without texts that have a label already.
        form (`str`, *optional*, defaults to `"csv"`):
            `csv` and `jsonl` have the columns `id`, `text` and an empty `label`; `label-studio` is a JSON file for its
            import.
        test_share (`float`, *optional*, defaults to .5):
            In [0, 1]; rounded down to whole texts.

    Returns:
        `int`: the texts written.

    Raises:
        UserError: there are fewer texts, the file exists, a part would lose texts, or the study is without texts.
    """
    if not 0 <= test_share <= 1:
        raise UserError(f"`--test-share` must be from 0 to 1. Got {test_share}.")
    files = open_rows(study)
    files.need_texts()
    labels = read_labels(study, files)
    pool, test = labels.pool, labels.test
    candidates: dict[Part, tuple[list[str], list[str]]] = {"pool": (pool.ids, pool.texts)}
    sizes: dict[Part, int] = {"pool": n}
    if study.recipe.few_gold:
        candidates["test"], sizes["test"] = (test.ids, [str(text) for text in test.texts]), int(n * test_share)
        sizes["pool"] = n - sizes["test"]
    earlier = (read_json(study.audit / "sample.json") or {}).get("parts", {})
    for part, size in sizes.items():
        if n < 1 or size > len(candidates[part][0]):
            raise UserError(f"`--n` must draw 1 to {len(candidates[part][0]):,} texts of the {part}. Got {size}.")
        if size < len(earlier.get(part, {}).get("ids", [])):
            raise UserError(
                f"`--n` must draw at least the {len(earlier[part]['ids'])} texts of the {part} in it. Got {size}."
            )
    if file.exists():
        raise UserError(f"`{file}` exists, and may have labels. Name another --output.")
    drawn = {part: hash_order(candidates[part][0], "audit")[:size] for part, size in sizes.items()}
    parts = {
        part: {
            "population": len(candidates[part][0]),
            "pi": sizes[part] / len(candidates[part][0]),
            "ids": [candidates[part][0][i] for i in chosen],
        }
        for part, chosen in drawn.items()
    }
    with study.lock():
        study.audit.mkdir(exist_ok=True)
        labelled = read_json(study.audit / "labels.json") or {}
        study.write_json(study.audit / "sample.json", {"label_names": pool.label_names, "parts": parts})
    texts = {candidates[part][0][i]: candidates[part][1][i] for part, chosen in drawn.items() for i in chosen}
    texts = {i: text for i, text in texts.items() if i not in labelled}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "".join(_render(texts, pool.label_names, form)))
    return len(texts)


def _render(texts: dict[str, str], names: list[str], form: Form) -> Iterator[str]:
    if form == "csv":
        sheet = StringIO()
        writer = csv.writer(sheet)
        writer.writerows([("id", "text", "label"), *((i, text, "") for i, text in texts.items())])
        yield sheet.getvalue()
    elif form == "jsonl":
        for i, text in texts.items():
            yield json.dumps({"id": i, "text": text, "label": None}, ensure_ascii=False) + "\n"
    else:
        tasks = [{"data": {"id": i, "text": text, "labels": names}} for i, text in texts.items()]
        yield json.dumps(tasks, indent=1, ensure_ascii=False) + "\n"


def import_audit(study: Study, file: Path, replace: bool = False) -> dict[str, int]:
    """Import people's labels: a CSV or JSONL file of the sample, or an export of Label Studio.

    Args:
        study (`Study`):
            A study with a sample; gains `audit/labels.json`.
        file (`Path`):
            Rows with `id` and `label`, or tasks with annotations (Label Studio).
        replace (`bool`, *optional*, defaults to `False`):
            Replace labels that were imported before.

    Returns:
        `dict`: how many of the sample are `labelled`, `missing`, and `changed` since the last import.

    Raises:
        UserError: no sample was drawn, the file cannot be read or has no labels, an id is not in the sample, a label
            is not a class or differs from another one of its text.
    """
    sample = read_json(study.audit / "sample.json")
    if sample is None:
        raise UserError(f"{study.root}: has no sample. Run hf-recipes audit sample first.")
    ids, names = {i for part in sample["parts"].values() for i in part["ids"]}, sample["label_names"]
    labels: dict[str, str] = {}
    for place, (i, label) in enumerate(_read(file), 1):
        if label is None or not str(label).strip():
            continue
        name = str(label).strip()
        if not isinstance(i, str) or i not in ids:
            raise UserError(f"{file}: the id of entry {place} must be in the sample. Got {i!r}.")
        if name not in names:
            raise UserError(
                f"{file}: the label of entry {place} ({i}) must be one of {', '.join(names)}. Got {name!r}."
            )
        if labels.setdefault(i, name) != name:
            raise UserError(f"{file}: the text {i} must have one label. Got {labels[i]} and {name}.")
    if not labels:
        raise UserError(f"{file}: must have labels. Fill in one of {', '.join(names)} for each text.")
    with study.lock():
        before = read_json(study.audit / "labels.json") or {}
        changed = [i for i, name in labels.items() if before.get(i, name) != name]
        if changed and not replace:
            raise UserError(
                f"{file}: {len(changed)} labels differ from those imported before, for example of {changed[0]}: "
                f"{before[changed[0]]}, now {labels[changed[0]]}. Replace them with --replace."
            )
        labels = {i: label for i, label in {**before, **labels}.items() if i in ids}
        study.write_json(study.audit / "labels.json", labels)
    return {"labelled": len(labels), "missing": len(ids) - len(labels), "changed": len(changed)}


def _read(file: Path) -> Iterator[tuple[Any, Any]]:
    """Yield id and label of each entry of a CSV, JSON or JSONL file."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".csv":
            csv.field_size_limit(2**31 - 1)  # a text may be a book
            entries: list[Any] = list(csv.DictReader(StringIO(text, newline="")))
            for name in ("id", "label"):
                if entries and name not in entries[0]:
                    columns = ", ".join(map(str, entries[0]))
                    raise UserError(f"{file}: must have the column `{name}`. It has {columns}.")
        elif file.suffix == ".jsonl":
            entries = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            entries = json.loads(text)
        for entry in entries:
            yield _id_and_label(entry)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or first_line(error)}") from None
    except UserError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise UserError(
            f"{file}: must have rows with id and label, or be an export of Label Studio. {first_line(error)}"
        ) from None


def _id_and_label(entry: Any) -> tuple[Any, Any]:
    if "annotations" in entry:  # Label Studio
        annotations = [annotation for annotation in entry["annotations"] if not annotation.get("was_cancelled")]
        results = [item["result"][0]["value"]["choices"][0] for item in annotations if item["result"]]
        return entry["data"]["id"], results[-1] if results else None
    return entry["id"], entry["label"]
