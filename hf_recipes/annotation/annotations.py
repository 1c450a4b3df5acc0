"""Read the annotations of a study, without the LLM."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import parquet
from ..data import RowFiles, Rows
from ..errors import UserError
from ..recipe import Annotate
from ..study import Study, read_json
from .passes import hash_passes
from .store import (
    CONTENT_FREE,
    CONTENT_FREE_FILE,
    REPEAT_FILE,
    REPEAT_SCHEMA,
    SCHEMA,
    STATUSES,
    PartFiles,
    to_matrix,
)


@dataclass(frozen=True)
class Annotations:
    """The annotations of one pass over the pool, or of the first pass over the test texts, in the order of the rows.

    Attributes:
        key (`str`): the name of their folder.
        section (`Annotate`): the pass's section of the recipe.
        logprobs (`np.ndarray` of shape `(n, K)`): natural log over the full vocabulary (of votes and guided answers: of
            their shares, -inf without votes); nan without a label.
        status (`list[str]`): `ok`, `null_text`, `empty_text`, `demonstration`, `no_label` or `engine_error`.
        truncated (`np.ndarray` of shape `(n,)`, bool): the text was cut to fit.
        content_free (`np.ndarray` of shape `(3, K)`): the log-probabilities for inputs without content; empty for votes
            and guided answers.
    """

    key: str
    section: Annotate
    logprobs: np.ndarray
    status: list[str]
    truncated: np.ndarray
    content_free: np.ndarray


def load_annotations(study: Study, pool: Rows) -> list[Annotations]:
    """Return the finished annotations of a study, pass by pass.

    Raises:
        UserError: these rows have no finished annotations yet.
    """
    current = read_json(study.annotations_root / "current.json") or {}
    if current.get("asked") != hash_passes(study):
        raise _not_finished(study)
    passes = zip(current["keys"], study.recipe.annotate.all_passes(), strict=True)
    return [_load_pass(study, key, section, pool) for key, section in passes]


def load_test_annotations(study: Study, test: Rows) -> Annotations | None:
    """Return the first pass over the test texts of an annotated study; None where a test text was not asked about.

    Studies of earlier versions have no annotations of test texts.
    """
    key = read_json(study.annotations_root / "current.json")["keys"][0]
    if (PartFiles(study.annotations(key)).statuses(pa.array(test.ids, pa.string())) < 0).any():
        return None
    return _load_pass(study, key, study.recipe.annotate.all_passes()[0], test)


def load_repeat(study: Study, key: str, files: RowFiles) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions in the pool of the texts that a pass asked about twice, and their second answers.

    The answers have the shape `(m, K)`; a missing one is nan. Without `annotate.repeat_check` both arrays are empty.
    """
    file = study.annotations(key) / REPEAT_FILE
    if not file.exists():
        return np.zeros(0, int), np.zeros((0, len(files.label_names)))
    table = parquet.read(file, REPEAT_SCHEMA)
    rows = pc.index_in(table["id"].combine_chunks(), value_set=files.column("id")).fill_null(-1).to_numpy(False)
    return rows[rows >= 0], to_matrix(table["logprobs"], len(files.label_names))[rows >= 0]


def count_examples(study: Study, passes: list[Annotations]) -> int:
    """Return the number of few-shot examples over all passes. Each uses up a gold label."""
    manifests = [read_json(study.annotations(annotations.key) / "manifest.json") for annotations in passes]
    return len(set().union(*(manifest["ingredients"].get("shown", ()) for manifest in manifests)))


def _load_pass(study: Study, key: str, section: Annotate, rows: Rows) -> Annotations:
    folder, ids = study.annotations(key), pa.array(rows.ids, pa.string())
    num_labels = len(rows.label_names)
    parts = PartFiles(folder)
    codes = parts.statuses(ids)
    if (codes < 0).any() or not (folder / CONTENT_FREE_FILE).exists():
        raise _not_finished(study)
    truncated = np.zeros(len(ids), dtype=bool)
    logprobs = np.full((len(ids), num_labels), np.nan)
    for table, places in parts.read(ids, "logprobs", "truncated"):
        logprobs[places] = to_matrix(table["logprobs"], num_labels)
        truncated[places] = table["truncated"].fill_null(False).to_numpy()
    # A pulled study brings this file from elsewhere.
    content_free = parquet.read(folder / CONTENT_FREE_FILE, SCHEMA, ["id", "logprobs"])
    if content_free["id"].to_pylist() != (CONTENT_FREE if section.has_label_mass else []):
        raise UserError(f"`{folder / CONTENT_FREE_FILE}` must contain inputs without content. Delete it and run again.")
    return Annotations(
        key=key,
        section=section,
        logprobs=logprobs,
        status=[STATUSES[code] for code in codes],
        truncated=truncated,
        content_free=to_matrix(content_free["logprobs"], num_labels),
    )


def _not_finished(study: Study) -> UserError:
    return UserError(
        f"`{study.root}` has no finished annotations for this recipe. Run hf-recipes annotate first, with the same "
        "settings."
    )
