"""Draw random samples of pool and test texts for people to label: `hf-recipes audit sample`."""

import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Literal, get_args

from ..data import open_rows
from ..errors import UserError
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
                f"`--n` must keep the {len(earlier[part]['ids'])} texts of the {part} that were drawn before. Got "
                f"{size}."
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
