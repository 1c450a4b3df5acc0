"""Collect what a push publishes of a study: configs, annotations, runs, predictions, results and a manifest."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from .. import parquet
from ..analysis.baselines import find_trained
from ..analysis.measure import measure
from ..analysis.schema import Results
from ..annotation.store import CONTENT_FREE_FILE, REPEAT_FILE, SCHEMA, PartFiles
from ..data import SCHEMA as ROWS
from ..hashing import hash_ids, make_key
from ..labels.pool import StudyLabels
from ..recipe import drop_addresses
from ..source_columns import publish_columns
from ..study import FORMAT, Run, Study, read_json, write_json
from ..training.runs import PREDICTIONS, Runs
from .dataset_card import FIGURE, draw_figure
from .dataset_folder import make_findings

logger = logging.getLogger(__name__)

NOT_PUBLISHED = "(the demonstrations in it are texts, which are not published)"
SHARD = "00000-of-00001.parquet"
HOME = "hf-recipes"  # the folder of a repo that has a folder for each study
PREFIX = "[A-Za-z0-9._-]*"  # the start of the configs' names


def path_in_repo(prefix: str, config: str, split: str) -> str:
    """Return the path of a config's split in a repo. All variants share the test split."""
    return f"data/{prefix}{'test' if split == 'test' else config}/{split}-{SHARD}"


@dataclass(frozen=True)
class Bundle:
    """The files to publish.

    Attributes:
        configs (`dict[str, dict[str, Path]]`): by config (without prefix) and split.
        others (`dict[str, Path]`): by name in the study's own folder of the repo.
        manifest (`dict`): the content of study.json, without the fields that depend on the repo.
    """

    configs: dict[str, dict[str, Path]]
    others: dict[str, Path]
    manifest: dict[str, Any]


def collect(study: Study, labels: StudyLabels, folder: Path, texts: bool) -> Bundle:
    """Return the files to publish. Those that the study folder does not have are written into `folder`."""
    configs: dict[str, dict[str, Path]] = {}
    dropped = ["text", *publish_columns(labels.files.source_columns, study.recipe.data.keep_columns)]
    test = study.dataset / "data" / "test" / f"test-{SHARD}"
    if test.exists() and not texts:
        test = _without_columns(test, folder / "test.parquet", dropped)
    for variant in sorted(path.name for path in (study.dataset / "data").iterdir() if path.name != "test"):
        train = study.dataset / "data" / variant / f"train-{SHARD}"
        configs[variant] = {
            "train": train if texts else _without_columns(train, folder / f"{variant}.parquet", dropped)
        }
        if test.exists():
            configs[variant]["test"] = test
    current = read_json(study.annotations_root / "current.json")
    passes = _collect_passes(study, labels, current["keys"], folder, texts)
    configs["annotations"] = {"train": folder / "annotations.parquet"}
    runs = Runs(study, labels) if study.recipe.grid else None
    wanted = runs.all if runs else []
    trained = [run for run in wanted if runs and runs.is_valid(run)]
    if len(trained) < len(wanted):
        logger.warning(
            "%d of %d runs are not trained. Results are not published.", len(wanted) - len(trained), len(wanted)
        )
    if runs and trained:
        records = [{"run": str(run), "record": _read_record(study, run)} for run in trained]
        parquet.write(folder / "runs.parquet", pa.Table.from_pylist(records))
        configs["runs"] = {"train": folder / "runs.parquet"}
        with_out_of_bag = [run for run in trained if (study.run(run) / "out_of_bag.parquet").exists()]
        for name, runs_with_file in (("predictions", trained), ("out_of_bag", with_out_of_bag)):
            if runs_with_file:
                configs[name] = {"train": _join_predictions(study, runs_with_file, folder / f"{name}.parquet")}
        if baselines := find_trained(study, runs):
            configs |= _collect_baselines(study, list(chain.from_iterable(baselines.values())), folder)
    others = _list_rows(study, folder, texts)
    measured = runs is not None and trained == wanted
    if runs and measured:
        results = measure(study, labels, runs)
        pq.write_table(pa.Table.from_pylist(list(_figures(results)), FIGURE_COLUMNS), folder / "results.parquet")
        configs["results"] = {"train": folder / "results.parquet"}
        others[FIGURE] = draw_figure(results, folder)
    reports = [study.labels_file, *([study.results_file] if measured else [])]
    others |= {file.name: file for file in reports if file.exists()}
    others["findings.json"] = folder / "findings.json"
    write_json(others["findings.json"], make_findings(study, measured))
    audit = {f"audit-{name}.json": study.audit / f"{name}.json" for name in ("sample", "labels")}  # ids and classes
    others |= {name: file for name, file in audit.items() if file.exists()}
    repeats = {f"repeat-{key}.parquet": study.annotations(key) / REPEAT_FILE for key in current["keys"]}
    others |= {name: file for name, file in repeats.items() if file.exists()}
    recipe = yaml.safe_load(study.recipe_file.read_text(encoding="utf-8"))["recipe"]
    drop_addresses(recipe["annotate"])
    manifest = {
        "format": FORMAT,
        "study": study.recipe.name,
        "texts": texts,
        "recipe": recipe,
        "revisions": read_json(study.revisions_file),
        "rows": labels.files.manifest if texts else {**labels.files.manifest, "source_columns": [], "json_columns": []},
        "current": current,
        "passes": passes,
        "runs": len(trained),
        "row_ids": _hash_rows(study),
    }
    return Bundle(configs, others, manifest)


def _collect_passes(
    study: Study, labels: StudyLabels, keys: list[str], folder: Path, texts: bool
) -> list[dict[str, Any]]:
    """Write the annotations of all passes as one table. Return what the manifest contains of each."""
    passes = []
    with parquet.writer(folder / "annotations.parquet", ANNOTATIONS) as writer:
        for number, key in enumerate(dict.fromkeys(keys)):  # passes may differ in their calibration alone
            for rows in final_rows(study, labels.files.column("id", ("train", "test")), key):
                without_errors = rows.set_column(
                    rows.column_names.index("error"), "error", pa.nulls(len(rows), pa.string())
                )
                table = rows if texts else without_errors  # an engine's error may contain the text
                extra = [pa.array([number] * len(table), pa.int32()), pa.array([key] * len(table), pa.string())]
                writer.write_table(pa.table([*extra, *table.columns], schema=ANNOTATIONS))
            free = parquet.read(study.annotations(key) / CONTENT_FREE_FILE, SCHEMA).to_pylist()
            made = read_json(study.annotations(key) / "manifest.json")
            passes.append({"key": key, "manifest": made if texts else without_prompt(made), "free": free})
    return passes


BASELINE_PREDICTIONS = pa.schema([("method", pa.dictionary(pa.int32(), pa.string())), *PREDICTIONS])
FIGURE_COLUMNS = pa.schema(
    [
        *(("variant", pa.string()), ("against", pa.string()), ("size", pa.int32()), ("figure", pa.string())),
        *((name, pa.float64()) for name in ("value", "low", "high")),
        *(("R", pa.int32()), ("n", pa.int32()), ("p_value", pa.float64()), ("p_holm", pa.float64())),
        *(("primary", pa.bool_()), ("verdict", pa.string())),
    ]
)


def _figures(results: Results) -> Iterator[dict[str, Any]]:
    """Yield the results as rows: each figure of a variant that has an interval, and each difference of two variants."""
    for result in results.variants:
        figures = result.model_dump()
        for figure in (name.removesuffix("_interval") for name in figures if name.endswith("_interval")):
            if isinstance(value := figures.get(figure), float):  # not those of each class, which are lists
                low, high = figures[f"{figure}_interval"] or (None, None)
                judged = result.n_gold if figure.startswith(("accuracy", "macro_f1")) else result.n
                yield {**figures, "n": judged, "figure": figure, "value": value, "low": low, "high": high}
    for comparison in results.comparisons:
        low, high = comparison.interval or (None, None)
        yield {**comparison.model_dump(), "value": comparison.difference, "low": low, "high": high}


def _read_record(study: Study, run: Run) -> str:
    return (study.run(run) / "run.json").read_text(encoding="utf-8")


def _join_predictions(study: Study, runs: list[Run], target: Path) -> Path:
    """Write the tables that are named like `target` in the folders of runs as one table."""
    read = [parquet.read(study.run(run) / target.name, PREDICTIONS, delete=study.run(run)) for run in runs]
    parquet.write(target, pa.concat_tables(read).unify_dictionaries())
    return target


def _collect_baselines(study: Study, runs: list[Run], folder: Path) -> dict[str, dict[str, Path]]:
    """Write the tables of the runs of baselines. Return their configs."""
    records, tables = [], []
    for run in runs:
        records.append({"method": run.method, "run": str(run), "record": _read_record(study, run)})
        table = parquet.read(study.run(run) / "predictions.parquet", PREDICTIONS, delete=study.run(run))
        methods = pa.array([run.method] * len(table)).dictionary_encode()
        tables.append(pa.table([methods, *table.columns], schema=BASELINE_PREDICTIONS))
    parquet.write(folder / "baseline_runs.parquet", pa.Table.from_pylist(records))
    parquet.write(folder / "baseline_predictions.parquet", pa.concat_tables(tables).unify_dictionaries())
    return {name: {"train": folder / f"{name}.parquet"} for name in ("baseline_runs", "baseline_predictions")}


def _hash_rows(study: Study) -> str:
    """Return the hash of the rows' ids and gold."""
    read = [
        parquet.read(study.rows / f"{name}.parquet", ROWS, ["id", "gold"], study.rows) for name in ("train", "test")
    ]
    return hash_ids(
        f"{i} {gold}" for t in read for i, gold in zip(t["id"].to_pylist(), t["gold"].to_pylist(), strict=True)
    )


ANNOTATIONS = pa.schema(
    [
        *(("pass", pa.int32()), ("key", pa.string()), ("id", pa.string()), ("prompt_id", pa.string())),
        *(("logprobs", pa.list_(pa.float64())), ("n_tokens", pa.int32()), ("truncated", pa.bool_())),
        *(("status", pa.string()), ("error", pa.string())),
    ]
)


def final_rows(study: Study, ids: pa.Array, key: str) -> Iterator[pa.Table]:
    """Yield the rows of a pass, some parts at a time. Of a row in several parts the last one counts."""
    parts, last, seen = PartFiles(study.annotations(key)), np.full(len(ids), -1), 0
    for _, rows in parts.read(ids):
        last[rows] = np.arange(seen, seen + len(rows))  # of an id that comes again the last counts
        seen += len(rows)
    seen = 0
    for table, rows in parts.read(ids, *(name for name in ANNOTATIONS.names if name not in ("pass", "key", "id"))):
        yield table.filter(pa.array(last[rows] == np.arange(seen, seen + len(rows))))
        seen += len(rows)


def _without_texts(source: Path, target: Path) -> Path:
    """Write a copy of rows with null texts."""
    place = ROWS.get_field_index("text")
    return _copy(source, target, lambda table: table.set_column(place, "text", pa.nulls(len(table), pa.string())))


def _list_rows(study: Study, folder: Path, texts: bool) -> dict[str, Path]:
    """Return the files of the rows; without texts copies that have none, and not the source's own columns."""
    files = {f"rows-{file.name}": file for file in study.rows.glob("*.parquet")}
    if texts:
        return files
    rows = {name: file for name, file in files.items() if not name.endswith("-source.parquet")}
    return {name: _without_texts(file, folder / name) for name, file in rows.items()}


def _without_columns(source: Path, target: Path, names: list[str]) -> Path:
    """Write a copy of a config without some columns."""
    return _copy(source, target, lambda table: _without_features(table, names))


def _copy(source: Path, target: Path, change: Callable[[pa.Table], pa.Table]) -> Path:
    """Write a copy of a file in which each batch is changed."""
    file = pq.ParquetFile(source)
    with pq.ParquetWriter(target, change(file.schema_arrow.empty_table()).schema) as writer:
        for batch in file.iter_batches():
            writer.write_table(change(pa.Table.from_batches([batch])))
    return target


def without_prompt(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a pass with hashes instead of few-shot examples, which are texts."""
    if manifest["prompt"] in (None, NOT_PUBLISHED):
        return manifest
    ingredients = {name: value for name, value in manifest["ingredients"].items() if name != "frame"}
    shown = [make_key(text=text) for text in ingredients["shown"]]
    return {**manifest, "prompt": NOT_PUBLISHED, "ingredients": {**ingredients, "shown": shown}}


def _without_features(table: pa.Table, names: list[str]) -> pa.Table:
    """Return the table without some columns, also in the features that it lists for `datasets`."""
    metadata = dict(table.schema.metadata or {})
    if b"huggingface" in metadata:
        description = json.loads(metadata[b"huggingface"])
        for name in names:
            description["info"]["features"].pop(name)
        metadata[b"huggingface"] = json.dumps(description).encode()
    return table.drop_columns(names).replace_schema_metadata(metadata)
