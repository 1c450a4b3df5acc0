"""Judge labels made elsewhere without a recipe: `hf-recipes certify DATASET --text text --labels llm_label`."""

import logging
from collections.abc import Iterator
from pathlib import Path

from .annotation.passes import read_progress
from .data import find_hub_sha
from .errors import UserError
from .labels.audit import MIN_LABELS, draw_audit
from .labels.audit_import import import_audit
from .labels.pool import read_labels
from .new_recipe import name_study, write_recipe
from .recipe import load_recipe
from .study import Study, read_json

logger = logging.getLogger(__name__)

NUM_AUDITED = 200  # texts for people to label where the dataset has no gold labels


def find_recipe(
    dataset: str, text: str | None, labels: str, gold: str | None, config: str | None
) -> tuple[Path, list[str]]:
    """Return the recipe of an earlier call for the same columns, else a new one, and what it was written for.

    Raises:
        UserError: the file has other columns, the dataset has changed since, or it cannot be read.
    """
    if gold == labels:
        raise UserError(f"`--gold` must name another column than `--labels`. Got {gold}.")
    path = Path(f"certify-{name_study(dataset)}.yaml")
    if path.exists() and not load_recipe(path, []).folder.exists():
        path.unlink()  # an earlier call failed before it read the labels
    if not path.exists():
        path, notes = write_recipe(dataset, text, gold, config, path, labels, certify=True)
        return path, [*notes, f"Recipe, with all settings: {path}."]
    recipe = load_recipe(path, [])
    data, columns = recipe.data, recipe.annotate.columns
    before = (data.path, columns and columns.label, data.label_column, data.name)
    if before != (dataset, labels, gold, config) or text not in (None, data.text_column):
        raise UserError(
            f"`{path}` of an earlier call is for `--labels {before[1]}` of {data.path}, or has another --text, --gold "
            f"or --config. Repeat that call, delete {path} and {recipe.folder}, or call hf-recipes certify in another "
            "folder."
        )
    judged = (read_json(Study(recipe).rows / "manifest.json") or {}).get("source", {}).get("sha")
    if judged is not None and judged != find_hub_sha(data):
        raise UserError(
            f"`{dataset}` has changed since an earlier call. Delete {path} and {recipe.folder} to judge the new labels."
        )
    return path, []


def describe_invalid(study: Study) -> Iterator[str]:
    """Yield a warning if texts have no valid label: their spelling may differ from that of the classes."""
    for progress in read_progress(study):
        if num_invalid := progress.statuses.get("no_label", 0):
            error, count = next(iter(progress.errors.items()))
            yield (
                f"Warning: {num_invalid:,} of {progress.num_rows:,} texts have no valid label and do not count. The "
                f"most frequent reason ({count:,} texts): {error}. `--data.label_map='{{VALUE: CLASS}}'` with "
                "--accept-changes gives a value a class."
            )


def prepare_audit(study: Study, audited: Path | None) -> str | None:
    """Import people's labels, or draw texts for people to label where the study has no gold labels.

    Args:
        study (`Study`):
            A labelled study.
        audited (`Path`, *optional*):
            The file that people labelled. Labels that it changed since an earlier call are replaced.

    Returns:
        `str`: what to do next, if people have to label first; None if the study can go on.

    Raises:
        UserError: too few texts have a label; the file cannot be read, or was not drawn; see `import_audit`.
    """
    if not study.recipe.few_gold:
        if audited is not None:
            raise UserError(f"`--audited` must be omitted where `--gold` names gold labels. Got {audited}.")
        return None
    sample = read_json(study.audit / "sample.json")
    if audited is not None:
        if sample is None:
            raise UserError("`--audited` must name a file that this command drew. Call it without --audited first.")
        logger.info("%s: %s", audited, import_audit(study, audited, replace=True))
    file = Path(f"{study.recipe.name}-to_label.csv")
    labelled = read_json(study.audit / "labels.json")
    if not labelled:
        if not file.exists():
            labels = read_labels(study)
            sizes = len(labels.pool.ids), len(labels.test.ids)
            smallest = min(sizes)
            if smallest < MIN_LABELS:
                raise UserError(
                    f"`--labels` must have a label for at least {MIN_LABELS} texts to train on and {MIN_LABELS} to "
                    f"test on, of which people label a sample. Got {sizes[0]} and {sizes[1]}."
                )
            draw_audit(study, min(NUM_AUDITED, 2 * smallest), file)
        return (
            "Without gold labels, people have to label a random sample. (If a column has gold labels, name it with "
            f"--gold.)\nNext: fill in the column `label` of {file}. Then repeat the command with --audited {file}."
        )
    assert sample is not None  # noqa: S101  (the labels are of its texts)
    counts = [sum(row_id in labelled for row_id in part["ids"]) for part in sample["parts"].values()]
    if min(counts) < MIN_LABELS:
        total = sum(len(part["ids"]) for part in sample["parts"].values())
        return (
            f"{sum(counts)} of {total} texts have a label. At least {MIN_LABELS} texts to train on and {MIN_LABELS} to "
            f"test on must have one; they are mixed in {file}.\nNext: label more texts. Then repeat the command with "
            f"--audited {file}."
        )
    return None
