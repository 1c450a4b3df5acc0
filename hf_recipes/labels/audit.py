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
    """Writes texts for people to label: a simple random sample of those that can be trained on.

    Where the recipe trains without gold, `test_share` of the texts are a sample of the test texts instead: the pool's
    labels serve training and tell the quality of the LLM's labels, those of test texts only ever evaluate. A larger `n`
    later has the texts of a smaller one, so that no label is lost. The LLM's labels are not shown: people tend to agree
    with what they see.

    Args:
        study (`Study`):
            An annotated study; gains `audit/sample.json`.
        n (`int`):
            Texts of the sample, all in all.
        file (`Path`):
            The file to write; texts that have their label already are left out.
        form (`str`, *optional*, defaults to `"csv"`):
            `csv` and `jsonl` have the columns `id`, `text` and an empty `label`; `label-studio` is a JSON file for its
            import.
        test_share (`float`, *optional*, defaults to .5):
            In [0, 1]; rounded down to whole texts.

    Returns:
        `int`: the texts written.

    Raises:
        UserError: there are fewer texts, the file is there already, a part would lose texts that it has, or the texts
            are not here.
    """
    if not 0 <= test_share <= 1:
        raise UserError(f"--test-share: {test_share} is no share; give a number from 0 to 1")
    files = open_rows(study)
    files.need_texts()
    labels = read_labels(study, files)
    pool, test = labels.pool, labels.test
    able: dict[Part, tuple[list[str], list[str]]] = {"pool": (pool.ids, pool.texts)}
    sizes: dict[Part, int] = {"pool": n}
    if study.recipe.few_gold:
        able["test"], sizes["test"] = (test.ids, [str(text) for text in test.texts]), int(n * test_share)
        sizes["pool"] = n - sizes["test"]
    had = (read_json(study.audit / "sample.json") or {}).get("parts", {})
    for part, size in sizes.items():
        if n < 1 or size > len(able[part][0]):
            what = "texts" if part == "pool" else "texts of the test"
            raise UserError(f"--n: {size} asked for, of {len(able[part][0]):,} {what} that can be drawn")
        if size < len(had.get(part, {}).get("ids", [])):
            raise UserError(
                f"--n: the sample has {len(had[part]['ids'])} texts of the {part} already, and {size} would be left; "
                "ask for as many or more"
            )
    if file.exists():
        raise UserError(f"{file}: exists; somebody may have labelled it: name another --output")
    drawn = {part: hash_order(able[part][0], "audit")[:size] for part, size in sizes.items()}
    parts = {
        part: {
            "population": len(able[part][0]),
            "pi": sizes[part] / len(able[part][0]),
            "ids": [able[part][0][i] for i in chosen],
        }
        for part, chosen in drawn.items()
    }
    with study.lock():
        study.audit.mkdir(exist_ok=True)
        known = read_json(study.audit / "labels.json") or {}
        study.write_json(study.audit / "sample.json", {"label_names": pool.label_names, "parts": parts})
    texts = {able[part][0][i]: able[part][1][i] for part, chosen in drawn.items() for i in chosen}
    texts = {i: text for i, text in texts.items() if i not in known}
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
