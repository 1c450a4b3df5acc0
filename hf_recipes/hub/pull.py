"""Pull a published study. A repo may be from anyone, so its content and its cost are limited."""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from .. import parquet
from ..annotation.store import CONTENT_FREE_FILE, REPEAT_FILE, REPEAT_SCHEMA
from ..data import SCHEMA as ROWS
from ..errors import UserError, first_line
from ..recipe import Recipe, drop_addresses
from ..study import FORMAT, Study, whole_folder, write_json, write_text
from ..training.grid import list_runs
from ..training.runs import FAST, PREDICTIONS
from .bundle import ANNOTATIONS, BASELINE_PREDICTIONS, HOME, PREFIX, path_in_repo
from .hub_errors import explain_error

MAX_JSON_BYTES = 16 * 2**20  # of each JSON file
MAX_TABLE_BYTES = 4 * 2**30  # of each parquet file
MAX_DECODED_BYTES = 8 * 2**30  # of each table in memory
MAX_EXPANSION = 512  # decoded bytes for each byte of a table; guided labels of 1,000 classes have 141
MIN_DECODED_BYTES = 32 * 2**20  # a table may always have these
MAX_BATCH_ROWS = 1024  # decoded at a time
MAX_RECIPE_CHARS = 200_000  # as JSON
MAX_RUNS = 100_000  # of the grid
MAX_TEMPLATE_CHARS = 10_000
MAX_NAMES = 10  # of studies in a message


def pull_study(repo: str, folder: Path | None = None, name: str | None = None, revision: str | None = None) -> Path:
    """Make a study folder of a published study.

    Args:
        repo (`str`):
            `owner/name` of the dataset repo.
        folder (`Path`, *optional*):
            The study folder, which must not exist; `studies/<name>` by default.
        name (`str`, *optional*):
            The study, if the repo has several.
        revision (`str`, *optional*):
            Branch, tag or commit.

    Returns:
        `Path`: the study folder. Its `recipe.yaml` is the recipe to continue with.

    Raises:
        UserError: the repo or study does not exist or is damaged, or the folder exists.
    """
    from huggingface_hub import HfApi, snapshot_download

    api: Any = HfApi()
    try:
        info = api.repo_info(repo, repo_type="dataset", revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size for file in info.siblings}

        def fetch(*paths: str) -> Path:
            for path in paths:
                limit = MAX_TABLE_BYTES if path.endswith(".parquet") else MAX_JSON_BYTES
                if path not in sizes:
                    raise UserError(f"{repo}: `{HOME}/{name}` is damaged. `{path}` is missing.")
                if sizes[path] > limit:
                    raise UserError(f"{repo}: `{path}` must have at most {limit:,} bytes. It has {sizes[path]:,}.")
            return Path(snapshot_download(repo, repo_type="dataset", revision=info.sha, allow_patterns=[*paths]))

        studies = list_studies(sizes)
        if not studies:
            raise UserError(f"{repo}: must have a study of hf-recipes. It has no `{HOME}/*/study.json`.")
        if (name or studies[0]) not in studies or (name is None and len(studies) > 1):
            raise UserError(f"{repo}: has the studies {list_names(studies)}. Choose one with --study.")
        name = name or studies[0]
        folder = folder or Path("studies", name)
        if folder.exists():
            raise UserError(f"`{folder}` exists. Name another --output_dir.")
        if "::" in str(folder):
            raise UserError(f"--output_dir must be a local folder without '::'. Got {folder}. Try studies/{name}.")
        home = f"{HOME}/{name}"
        manifest_file = fetch(f"{home}/study.json") / home / "study.json"
        with _damage_named(repo, name):
            manifest = _read_manifest(manifest_file, repo, name)
            predictions = _prediction_tables(manifest)
            if f"{manifest['prefix']}baseline_runs" in manifest["configs"]:
                predictions += ["baseline_runs", "baseline_predictions"]
        wanted = [f"{home}/rows-train.parquet", f"{home}/rows-test.parquet"]
        wanted += [
            path_in_repo(manifest["prefix"], table, "train")
            for table in ("annotations", *(("runs", *predictions) if predictions else ()))
        ]
        if manifest["rows"].get("source_columns"):
            wanted += [f"{home}/rows-train-source.parquet", f"{home}/rows-test-source.parquet"]
        optional = ["results.json", "labels.json", "audit-sample.json", "audit-labels.json"]
        optional += [f"repeat-{entry['key']}.parquet" for entry in manifest["passes"]]
        where = fetch(*wanted, *(f"{home}/{file}" for file in optional if f"{home}/{file}" in sizes))
    except UserError:
        raise
    except Exception as error:  # the Hub's own errors, and all that a network can do
        raise UserError(f"{repo}: {explain_error(error)}") from None
    with _damage_named(repo, name), whole_folder(folder) as made:
        _unpack(where, where / home, manifest, Recipe.model_validate(manifest["recipe"]), made)
    return folder


@contextmanager
def _damage_named(repo: str, name: str) -> Iterator[None]:
    """Raise a UserError for all errors that the content of a repo can cause. It may be from anyone."""
    kinds = (LookupError, TypeError, AttributeError, ValueError, RecursionError, OSError, pa.ArrowException)
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        raise UserError(f"{repo}: `{HOME}/{name}` is damaged. {first_line(error)}") from None


def _read_manifest(file: Path, repo: str, name: str) -> dict[str, Any]:
    """Return the content of a study.json, with a recipe that is safe to use and has no addresses and no folder."""
    manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    # The prompts of passes have texts of the source, and no command prints them.
    shown = ("prompt", "ingredients")
    manifests = [
        {key: value for key, value in entry["manifest"].items() if key not in shown} for entry in manifest["passes"]
    ]
    _check_printable(file, [{**manifest, "passes": []}, *manifests])
    if manifest["format"] != FORMAT:
        raise UserError(
            f"{repo}: must have format {FORMAT} of hf-recipes. Got {manifest['format']}. Try another version."
        )
    if len(json.dumps(manifest["recipe"])) > MAX_RECIPE_CHARS:
        raise UserError(f"{repo}: `recipe` must have at most {MAX_RECIPE_CHARS:,} characters.")
    recipe = Recipe.model_validate(manifest["recipe"])
    if grid := recipe.grid:
        crossed = grid.crossed.levels ** len(grid.vary) * len(grid.crossed.variants) if grid.crossed else 0
        if len(grid.variants) * len(grid.sizes) * len(grid.seeds) + crossed > MAX_RUNS:
            raise UserError(f"{repo}: `grid` must have at most {MAX_RUNS:,} runs.")
    keys = [entry["key"] for entry in manifest["passes"]]
    passes = recipe.annotate.all_passes()
    if not set(manifest["current"]["keys"]) <= set(keys) or len(manifest["current"]["keys"]) != len(passes):
        raise ValueError("A pass is missing.")
    if recipe.name != name or not all(re.fullmatch("[0-9a-f]{16}", key) for key in keys):
        raise ValueError("A name is not valid.")
    if not re.fullmatch(PREFIX, manifest["prefix"]):
        raise ValueError("`prefix` is not valid.")
    for section in passes:
        if section.prompt:
            _check_template("annotate.prompt.template", section.prompt.template, ("labels", "demonstrations"))
    if recipe.data.text_template is not None:
        _check_template("data.text_template", recipe.data.text_template, ())
    drop_addresses(manifest["recipe"]["annotate"])
    manifest["recipe"].pop("output_dir", None)
    return manifest


def _prediction_tables(manifest: dict[str, Any]) -> list[str]:
    """Return the tables of what runs predicted: none without runs, and one where no out-of-bag text was classified."""
    prefix, configs = manifest["prefix"], manifest["configs"]
    if f"{prefix}runs" not in configs:
        return []
    return ["predictions", "out_of_bag"] if f"{prefix}out_of_bag" in configs else ["predictions"]


def _check_template(key: str, template: str, lists: tuple[str, ...]) -> None:
    """Check that what a pulled template renders grows with its parts, and not with their product.

    A template is a program: nested loops, arithmetic and calls can take for ever. What remains is enough for a prompt.

    Raises:
        UserError: it is too long, loops over something else than `lists` or inside a loop, or does more than print,
            compare and loop.
    """
    from jinja2 import TemplateError, nodes
    from jinja2.sandbox import SandboxedEnvironment

    try:
        tree = SandboxedEnvironment().parse(template if len(template) <= MAX_TEMPLATE_CHARS else "")
    except TemplateError as error:
        raise UserError(f"`{key}` must be a jinja2 template. {first_line(error)}") from None
    simple = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.Const, nodes.Name, nodes.Getattr, nodes.Getitem)
    logic = (nodes.If, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.Not, nodes.And, nodes.Or, nodes.Test)
    wrong = f"it has {len(template):,} characters" if len(template) > MAX_TEMPLATE_CHARS else ""
    for node in tree.find_all(nodes.Node):
        if isinstance(node, nodes.Filter):
            is_allowed = node.name in ("trim", "lower", "upper", "capitalize", "title", "length", "default")
            wrong = wrong or ("" if is_allowed else f"it has the filter {node.name}")
        elif isinstance(node, nodes.For):
            is_allowed = isinstance(node.iter, nodes.Name) and node.iter.name in lists
            is_nested = next(node.find_all(nodes.For), None) is not None
            wrong = wrong or ("it has a loop inside a loop" if is_nested else "")
            inside = {
                name.name
                for part in node.body
                for name in [part, *part.find_all(nodes.Name)]
                if isinstance(name, nodes.Name)
            }
            wrong = wrong or ("it prints a whole list inside a loop" if inside & {*lists} else "")
            wrong = wrong or (
                "" if is_allowed else f"it has a loop over something else than {' or '.join(lists) or '-'}"
            )
        elif not isinstance(node, (*simple, *logic)):
            wrong = wrong or f"it has {type(node).__name__}"
    if wrong:
        raise UserError(f"`{key}` must be a simple template in a pulled study (docs/hub.md). Here {wrong}.")


def _check_printable(file: Path, content: Any) -> None:
    """Refuse control characters in the texts of a JSON file, as terminals obey them."""
    parts = [content]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            parts += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            parts += part
        elif isinstance(part, str) and re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", part.replace("\r\n", "\n")):
            raise ValueError(f"`{file.name}` must not have control characters.")


def _copy_json(source: Path, target: Path) -> None:
    content = json.loads(source.read_text(encoding="utf-8"))
    _check_printable(source, content)
    write_json(target, content)


def _batches(path: Path, schema: pa.Schema, *compressions: str) -> Iterator[pa.Table]:
    """Decode a table of a repo, some rows at a time; a small file may stand for more than fits into memory.

    Raises:
        ValueError: it has other columns, a compression that this library does not write there, or more than the limits.
    """
    if not pq.read_schema(path).equals(schema):
        raise ValueError(f"`{path.name}` has other columns.")
    # A dictionary holds a text once, however many rows have it: it is counted before it is multiplied.
    leaves = pq.read_metadata(path).schema
    texts = [leaf.path for leaf in map(leaves.column, range(len(leaves))) if leaf.physical_type == "BYTE_ARRAY"]
    file = pq.ParquetFile(path, read_dictionary=texts)
    limit = min(MAX_DECODED_BYTES, max(MIN_DECODED_BYTES, MAX_EXPANSION * path.stat().st_size))
    total = 0
    for group in range(file.num_row_groups):
        described = file.metadata.row_group(group)
        columns = [described.column(i) for i in range(described.num_columns)]
        # Snappy makes at most some twenty bytes of one, others thousands.
        if any(column.compression not in ("SNAPPY", "UNCOMPRESSED", *compressions) for column in columns):
            raise ValueError(f"`{path.name}` has an unexpected compression.")
        # The footer may be wrong, and it only refuses early.
        if sum(max(column.num_values, column.total_uncompressed_size) for column in columns) > limit:
            raise ValueError(f"`{path.name}` has more than {limit:,} bytes.")
    for batch in file.iter_batches(MAX_BATCH_ROWS, use_threads=False):
        total += sum(map(_decoded_size, batch.columns))
        if total > limit:
            raise ValueError(f"`{path.name}` has more than {limit:,} bytes.")
        yield pa.Table.from_batches([batch]).cast(schema)


def _decoded_size(column: pa.Array) -> int:
    if pa.types.is_struct(column.type):
        return sum(map(_decoded_size, column.flatten()), len(column))
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _decoded_size(column.flatten()) + 8 * len(column)
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = pa.compute.binary_length(column.dictionary)
    return int(pa.compute.sum(lengths.take(column.indices)).as_py() or 0) + 8 * len(column)


RUNS = pa.schema({"run": pa.string(), "record": pa.string()})
BASELINE_RUNS = pa.schema({"method": pa.string(), **dict(zip(RUNS.names, RUNS.types, strict=True))})


def _unpack(where: Path, home: Path, manifest: dict[str, Any], recipe: Recipe, made: Path) -> None:
    def table(config: str, schema: pa.Schema) -> pa.Table:
        return pa.concat_tables(
            [schema.empty_table(), *_batches(where / path_in_repo(manifest["prefix"], config, "train"), schema)]
        )

    study = Study(recipe.model_copy(update={"output_dir": str(made)}))
    recipe_content = {"format": manifest["format"], "recipe": manifest["recipe"]}
    write_text(study.recipe_file, yaml.safe_dump(recipe_content, sort_keys=False, allow_unicode=True))
    if manifest["revisions"]:
        write_json(study.revisions_file, manifest["revisions"])
    _unpack_rows(home, manifest["rows"], study.rows)
    rows = table("annotations", ANNOTATIONS)
    for entry in manifest["passes"]:
        folder = study.annotations(entry["key"])
        folder.mkdir(parents=True)
        part = rows.filter(pa.compute.equal(rows["key"], entry["key"])).drop_columns(["pass", "key"])
        parquet.write(folder / "part-00000.parquet", part)
        parquet.write(folder / CONTENT_FREE_FILE, pa.Table.from_pylist(entry["free"], part.schema))
        if (repeat := home / f"repeat-{entry['key']}.parquet").exists():
            parquet.write(
                folder / REPEAT_FILE, pa.concat_tables([REPEAT_SCHEMA.empty_table(), *_batches(repeat, REPEAT_SCHEMA)])
            )
        write_json(folder / "manifest.json", entry["manifest"])
    write_json(study.annotations_root / "current.json", manifest["current"])
    predictions = {name: table(name, PREDICTIONS) for name in _prediction_tables(manifest)}
    if predictions:
        runs = {str(run): run for run in list_runs(study.grid, study.training, study.training.method)}
        for row in table("runs", RUNS).to_pylist():
            _write_run(study.run(runs[row["run"]]), row, predictions)
    if f"{manifest['prefix']}baseline_runs" in manifest["configs"]:
        all_predictions = table("baseline_predictions", BASELINE_PREDICTIONS)
        runs_of = {method: list_runs(study.grid, study.training, method) for method in FAST}
        baselines = {(run.method, str(run)): run for run in chain.from_iterable(runs_of.values())}
        for row in table("baseline_runs", BASELINE_RUNS).to_pylist():
            is_of_method = pa.compute.equal(all_predictions["method"].cast(pa.string()), row["method"])
            of_method = all_predictions.filter(is_of_method).drop_columns(["method"])
            _write_run(study.run(baselines[row["method"], row["run"]]), row, {"predictions": of_method})
    for name in ("sample", "labels"):
        if (home / f"audit-{name}.json").exists():
            study.audit.mkdir(exist_ok=True)
            _copy_json(home / f"audit-{name}.json", study.audit / f"{name}.json")
    study.report.mkdir()
    for file in (study.results_file, study.labels_file):
        if (home / file.name).exists():
            _copy_json(home / file.name, file)
    study.checksums.adopt()


def _write_run(folder: Path, row: dict[str, Any], predictions: dict[str, pa.Table]) -> None:
    """Write the folder of a run by its row in the table of records, and the tables of what all runs predicted."""
    folder.mkdir(parents=True)
    for name, table in predictions.items():
        part = table.filter(pa.compute.equal(table["run"].cast(pa.string()), row["run"]))
        if len(part):
            parquet.write(folder / f"{name}.parquet", part.unify_dictionaries())
    write_json(folder / "run.json", json.loads(row["record"]))


def _unpack_rows(home: Path, manifest: dict[str, Any], folder: Path) -> None:
    folder.mkdir()
    columns = manifest.get("source_columns", [])
    for split in ("train", "test"):
        schemas = {f"{split}.parquet": ROWS}
        if columns:
            # The source's own columns may have any type.
            schema = pq.read_schema(home / f"rows-{split}-source.parquet")
            if schema.names != columns:
                raise ValueError(f"`rows-{split}-source.parquet` has other columns.")
            schemas[f"{split}-source.parquet"] = schema
        for name, schema in schemas.items():
            for _ in _batches(home / f"rows-{name}", schema, "ZSTD"):
                pass  # it decodes within the limits, and later steps read it whole
            shutil.copyfile(home / f"rows-{name}", folder / name)
    write_json(folder / "manifest.json", manifest)


def list_studies(paths: Iterable[str]) -> list[str]:
    """Return the names of the studies among a repo's files."""
    return sorted(path.split("/")[1] for path in paths if re.fullmatch(rf"{HOME}/[A-Za-z0-9._-]+/study\.json", path))


def list_names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
