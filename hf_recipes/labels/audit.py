"""Draw random samples of pool and test texts for people to label: `hf-recipes audit sample`."""

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Literal, get_args
from xml.etree import ElementTree

from ..data import open_rows
from ..errors import UserError
from ..hashing import hash_order
from ..study import Study, read_json, write_text
from .pool import read_labels

Form = Literal["csv", "jsonl", "label-studio"]
FORMS: tuple[Form, ...] = get_args(Form)
Part = Literal["pool", "test"]
#: Labels of a part, below which no figures are given: with 30 an accuracy is known to within 0.17.
MIN_LABELS = 30
USES: dict[Part, str] = {"pool": "the LLM's labels", "test": "the classifiers"}


@dataclass(frozen=True)
class Drawn:
    """A sample.

    Attributes:
        sizes (`dict[str, int]`): the texts of each part, `pool` and perhaps `test`.
        num_written (`int`): those without a label so far, which the file has.
    """

    sizes: dict[Part, int]
    num_written: int

    def describe(self) -> Iterator[str]:
        """Yield a sentence on each part: its size, and how exact an accuracy will be."""
        for part, size in self.sizes.items():
            sentence = f"{part.capitalize()}: {size:,} texts, which evaluate {USES[part]}"
            if 0 < size < MIN_LABELS:
                yield f"{sentence}. No figures are given for fewer than {MIN_LABELS}: raise --n."
            elif size:
                yield f"{sentence}. The 95% interval of an accuracy is at most {half_width(size):.2f} to either side."


def half_width(num_labels: int) -> float:
    """Return half the width of the 95% Wilson interval of an accuracy of 0.5, where it is widest."""
    return 1.96 / (2 * math.sqrt(num_labels + 1.96**2))


def draw_audit(study: Study, n: int, file: Path, form: Form = "csv", test_share: float = 0.5) -> Drawn:
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
            `csv` and `jsonl` have the columns `id`, `text`, an empty `label` and `classes`, the allowed labels;
            `label-studio` is a JSON file for its import, with its labelling configuration in an XML file of that name.
        test_share (`float`, *optional*, defaults to .5):
            In [0, 1]; rounded down to whole texts.

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
    outputs = [file, file.with_suffix(".xml")] if form == "label-studio" else [file]
    for output in outputs:
        if output.exists():
            raise UserError(f"`{output}` exists, and may have labels. Name another --output.")
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
    if form == "label-studio":
        write_text(file.with_suffix(".xml"), _make_interface(pool.label_names))
    return Drawn(sizes, len(texts))


def _render(texts: dict[str, str], names: list[str], form: Form) -> Iterator[str]:
    if form == "csv":
        sheet = StringIO()
        writer = csv.writer(sheet)
        classes = " | ".join(names)
        writer.writerow(("id", "text", "label", "classes"))
        writer.writerows((i, text, "", classes) for i, text in texts.items())
        yield sheet.getvalue()
    elif form == "jsonl":
        for i, text in texts.items():
            yield json.dumps({"id": i, "text": text, "label": None, "classes": names}, ensure_ascii=False) + "\n"
    else:
        tasks = [{"data": {"id": i, "text": text, "labels": names}} for i, text in texts.items()]
        yield json.dumps(tasks, indent=1, ensure_ascii=False) + "\n"


def _make_interface(names: list[str]) -> str:
    """Return Label Studio's labelling configuration: one choice of a class for each text."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Text", name="text", value="$text")
    choices = ElementTree.SubElement(view, "Choices", name="label", toName="text", choice="single", required="true")
    for name in names:
        ElementTree.SubElement(choices, "Choice", value=name)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"
