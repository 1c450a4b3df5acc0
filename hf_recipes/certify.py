"""Judge labels made elsewhere without a recipe: `hf-recipes certify DATASET --text text --labels llm_label`."""

from pathlib import Path

from .data import open_rows
from .errors import UserError
from .labels.audit import draw_audit
from .labels.audit_import import import_audit
from .new_recipe import name_study, write_recipe
from .recipe import Recipe, load_recipe
from .study import Study, read_json

NUM_AUDITED = 200  # texts for people to label where the dataset has no gold labels


def find_recipe(
    dataset: str, text: str | None, labels: str, gold: str | None, config: str | None
) -> tuple[Path, list[str]]:
    """Return the recipe of an earlier call for the same columns, else a new one, and what was guessed for it.

    Raises:
        UserError: the file has other columns, or the dataset cannot be read.
    """
    path = Path(f"certify-{name_study(dataset)}.yaml")
    if not path.exists():
        return write_recipe(dataset, text, gold, config, path, labels, certify=True)
    recipe = load_recipe(path, [])
    if _find_difference(recipe, dataset, text, labels, gold, config):
        raise UserError(
            f"`{path}` is of an earlier call with other columns. Delete it, or call hf-recipes certify in another "
            "folder."
        )
    return path, []


def _find_difference(
    recipe: Recipe, dataset: str, text: str | None, labels: str, gold: str | None, config: str | None
) -> bool:
    """Return whether a recipe is for another dataset or other columns. Columns that were guessed do not count."""
    data, columns = recipe.data, recipe.annotate.columns
    named = [(dataset, data.path), (labels, columns.label if columns else None), (config, data.name)]
    named += [(name, column) for name, column in ((text, data.text_column), (gold, data.label_column)) if name]
    return any(name != column for name, column in named)


def needs_audit(study: Study, audited: Path | None) -> str | None:
    """Import people's labels, or draw texts for people to label where the study has no gold labels.

    Args:
        study (`Study`):
            A labelled study.
        audited (`Path`, *optional*):
            The file that people labelled.

    Returns:
        `str`: what to do next, if people have to label first; None if the study can go on.

    Raises:
        UserError: the file cannot be read, or labels people did not draw; see `import_audit`.
    """
    if audited is not None:
        import_audit(study, audited)
        return None
    if not study.recipe.few_gold or read_json(study.audit / "labels.json"):
        return None
    file, rows = Path(f"{study.recipe.name}-to_label.csv"), open_rows(study).manifest["rows"]
    if not file.exists():
        draw_audit(study, min(NUM_AUDITED, 2 * min(rows["train"], rows["test"])), file)
    return (
        f"The dataset has no gold labels, so people have to label a sample. Fill in the column `label` of {file}.\n"
        f"Then repeat the command with --audited {file}."
    )
