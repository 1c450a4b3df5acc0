"""The study folder: the only module that knows its paths, and how anything is written into it.

    recipe.yaml                       the recipe with every default filled in
    revisions.json                    the shas that branches and tags on the Hub stood for at first use
    rows/                             train.parquet, test.parquet, manifest.json
    annotations/current.json          which of the following the later steps read
    annotations/<key>/                part-*.parquet (append-only), content_free.parquet, perhaps repeat.parquet,
                                      manifest.json (last)
    dataset/  dataset.json            what the Hub gets, and the key it was made under
    runs/<variant>/n<size>/<seed>/        predictions.parquet, out_of_bag.parquet, run.json (or failed.json)
    runs/<variant>/n<size>/.<seed>.lock   held while the run is trained
    heads/  tfidf/                    the same for linear heads on frozen features, and for TF-IDF
    features/<key>/                   part-*.parquet: what the frozen encoder makes of each text
    audit/                            sample.json, labels.json: a random sample, and people's labels
    tracking/                         what accelerate's trackers keep in files
    report/                           report.md, report.html, figures, results.json
    report/heads/                     the same by heads, with `train.encoder_mode: both`
    checksums.json                    the sha256 of the above, which every command compares

Incomplete files have a name that starts with `.tmp-`. No step reads such names, and the step that left one overwrites
it when it runs again. docs/dev/contract.md describes every file.
"""

import errno
import json
import logging
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout
from pydantic import ValidationError

from .checksums import Checksums, Rename, replace_path
from .child import PARENT
from .errors import UserError
from .parsing import parse_yaml
from .recipe import Grid, Recipe, Train

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).parent
CPU_INFO = Path("/proc/cpuinfo")
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

FORMAT = 3  # the version of the study folder's contract
#: Settings that may change without --accept-changes, as they change no existing run or annotation.
GROWING = (
    *("grid.variants", "grid.sizes", "grid.seeds", "grid.curves", "grid.crossed", "accept", "annotate.passes"),
    *("annotate.ray", "annotate.min_label_mass", "annotate.repeat_check", "train.trackers", "train.save_models"),
    *("train.accelerate_config", "train.out_of_bag", "train.encoder_mode", "train.runs_per_device"),
    "data.keep_columns",
)


#: How a classifier is trained: the whole encoder, a linear head on frozen features, or a linear model of TF-IDF.
Method = Literal["finetune", "frozen", "tfidf"]
RUN_FOLDERS: dict[Method, str] = {"finetune": "runs", "frozen": "heads", "tfidf": "tfidf"}


@dataclass(frozen=True)
class Run:
    """One training run, with a seed for each source of chance.

    Attributes:
        variant (`str`): where the training labels come from.
        size (`int`): the number of training rows.
        name (`str`): the seed as in the recipe; of a crossed run its seeds, as `s0-i1-o0`.
        subset_seed (`int`): which rows are trained on, and what a random variant draws among them.
        init_seed (`int`): the classification head's first weights.
        order_seed (`int`): the order of batches, and dropout.
        annotation_pass (`int`): the pass that labels the rows.
        method (`Method`): how it is trained.
    """

    variant: str
    size: int
    name: str
    subset_seed: int
    init_seed: int
    order_seed: int
    annotation_pass: int = 0
    method: Method = "finetune"

    def __str__(self) -> str:
        return f"{self.variant}/n{self.size}/{self.name}"


class Study:
    """The folder of one recipe.

    Args:
        recipe (`Recipe`):
            The study's recipe.
        accept_changes (`bool`, *optional*, defaults to `False`):
            Accept a folder whose recipe differs. Every result has a key of everything that changes it, so only what the
            change affects is made again.
    """

    def __init__(self, recipe: Recipe, accept_changes: bool = False):
        self.recipe = recipe
        self.accept_changes = accept_changes
        self.root = recipe.folder
        self.recipe_file = self.root / "recipe.yaml"
        self.revisions_file = self.root / "revisions.json"
        self.rows = self.root / "rows"
        self.annotations_root = self.root / "annotations"
        self.dataset = self.root / "dataset"
        self.tracking = self.root / "tracking"
        self.audit = self.root / "audit"
        self.dataset_manifest = self.root / "dataset.json"
        self.report = self.root / "report"
        self.features = self.root / "features"
        self.results_file = self.report / "results.json"
        self.labels_file = self.report / "labels.json"
        self.checksums = Checksums(self.root)
        self._lock = _file_lock(self.root / ".lock")
        self._verified = PARENT in os.environ  # then the command that started this process has compared them

    @property
    def grid(self) -> Grid:
        """The recipe's grid.

        Raises:
            UserError: the recipe only labels texts.
        """
        if self.recipe.grid is None:
            raise UserError(f"{self.recipe.name}: the recipe must have the sections `grid` and `train`. Add them.")
        return self.recipe.grid

    @property
    def training(self) -> Train:
        """The recipe's `train` section; raises like `grid`."""
        if self.recipe.train is None:
            raise UserError(f"{self.recipe.name}: the recipe must have the sections `grid` and `train`. Add them.")
        return self.recipe.train

    def annotations(self, key: str) -> Path:
        return self.annotations_root / key

    def run(self, run: Run) -> Path:
        return self.root / RUN_FOLDERS[run.method] / str(run)

    def report_of(self, method: Method) -> Path:
        """Return the folder of a method's report: `report` for the method that decides the verdict."""
        return self.report if method == self.training.method else self.report / RUN_FOLDERS[method]

    def run_records(self) -> list[Path]:
        """Return the `run.json` of every finished fine-tuning run, whether it is in the recipe or not."""
        return sorted(self.root.glob("runs/*/*/[!.]*/run.json"))  # `.tmp-<seed>` is incomplete

    def run_lock(self, run: Run) -> FileLock:
        """Return the lock of the process that trains a run."""
        folder = self.run(run)
        folder.parent.mkdir(parents=True, exist_ok=True)
        return _file_lock(folder.with_name(f".{folder.name}.lock"))

    def baselines_lock(self) -> FileLock:
        """Return the lock of the process that trains heads and TF-IDF, which takes all of them at once."""
        return _file_lock(self.root / ".baselines.lock")

    def check(self) -> bool:
        """Return whether the folder has this recipe already. Variants, sizes, seeds and passes may change.

        The first call also compares the files with their checksums.

        Raises:
            UserError: the folder was made by another recipe, is not a study, or has a changed file.
        """
        if not self.recipe_file.exists():
            if self.root.exists() and any(not entry.name.startswith(".") for entry in self.root.iterdir()):
                raise UserError(f"`{self.root}` has other files and is not a study. Choose another --output_dir=.")
            return False
        kept = _read_kept_recipe(self.recipe_file)
        if kept is None:
            if self.accept_changes:
                return False
            raise UserError(f"`{self.recipe_file}` is damaged. Write it again with --accept-changes. Results are kept.")
        if kept["format"] != FORMAT:
            raise UserError(
                f"`{self.root}` has the format of another version of hf-recipes. Choose another --output_dir=."
            )
        with suppress(ValidationError):  # where this version does not accept a setting, that setting differs
            # Settings that are newer than the folder get their defaults.
            kept["recipe"] = _as_kept(Recipe.model_validate(kept["recipe"]))
        changed = sorted(_differences(kept["recipe"], _as_kept(self.recipe)))
        foreign = [key for key in changed if not key.startswith(GROWING)]
        if foreign and not self.accept_changes:
            raise UserError(
                f"`{self.root}` was made by another recipe (differs in {', '.join(foreign)}). "
                "Choose another --output_dir=, or redo what the change affects with --accept-changes."
            )
        if not self._verified:
            self.checksums.verify()
            self._verified = True
        return not changed

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the study for writing; other processes wait. A killed process leaves no lock behind.

        `recipe.yaml` is written if it is missing or the grid has grown.

        Raises:
            UserError: see `check`; or the file system has no locks.
        """
        self.check()
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            logger.warning("%s: another hf-recipes process writes here. This one is waiting for it.", self.root)
            self._lock.acquire()
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise UserError(
                f"`{self.root}` must be on a file system with locks. Got {error.strerror}. Choose another "
                "--output_dir=, or mount it with locks (NFS: version 4, or 3 with rpc.statd; Lustre: -o flock)."
            ) from None
        try:
            if not self.check():
                content = {"format": FORMAT, "recipe": _as_kept(self.recipe)}
                write_text(self.recipe_file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
            self.checksums.adopt()
            yield
        finally:
            self._lock.release()

    def write_json(self, path: Path, content: Any) -> None:
        """Write a file of the study, and list its checksum; see `write_json`."""
        write_json(path, content, self.checksums.publish)

    def whole_folder(self, path: Path) -> AbstractContextManager[Path]:
        """Write a folder of the study, and list its checksums; see `whole_folder`."""
        return whole_folder(path, self.checksums.publish)


def _as_kept(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe without its folder and the addresses of servers and clusters, which may differ."""
    return recipe.model_dump(
        mode="json",
        exclude={
            "output_dir": True,
            "annotate": {"base_url": True, "ray": {"address"}, "passes": {"__all__": {"base_url"}}},
        },
    )


def _read_kept_recipe(file: Path) -> dict[str, Any] | None:
    """Return the content of a study's `recipe.yaml`; None if it is damaged."""
    try:
        content = parse_yaml(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    is_whole = (
        isinstance(content, dict) and content.keys() == {"format", "recipe"} and isinstance(content["recipe"], dict)
    )
    return content if is_whole else None


def _file_lock(path: Path) -> FileLock:
    """Return a lock that ends with its process. A lock file would remain after the loss of a machine."""
    return FileLock(path, fallback_to_soft=False)


def _differences(first: Any, second: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        for name in first.keys() | second.keys():
            yield from _differences(first.get(name), second.get(name), f"{prefix}.{name}" if prefix else name)
    elif first != second:
        yield prefix


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of packages, with local tags. Packages that are not installed are left out."""
    installed = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed


def cpu_threads() -> int:
    """Return the threads that torch and vLLM use on the CPU: the cores that this process may use.

    Sums depend on it, so it is part of the keys of what is computed on a CPU. `LOKY_MAX_CPU_COUNT` lowers it.
    """
    from joblib import cpu_count

    return int(cpu_count())


def cpu_capability() -> str:
    """Return the CPU instructions that torch uses, named as `torch.backends.cpu.get_cpu_capability()` does on x86.

    Sums depend on them, so they are part of the keys of what is computed on a CPU. Importing torch would take seconds.
    """
    setting = os.environ.get("ATEN_CPU_CAPABILITY")
    if setting:
        return setting.upper()
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return platform.machine()
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), None)
    if flags is None:  # not x86
        return platform.machine()
    if {"avx512vl", "avx512bw", "avx512dq", "fma"} <= flags:
        return "AVX512"
    return "AVX2" if {"avx2", "fma"} <= flags else "DEFAULT"


def write_text(path: Path, text: str, rename: Rename = replace_path) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".tmp-{path.name}")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    rename(temporary, path)


def write_json(path: Path, content: Any, rename: Rename = replace_path) -> None:
    """Write a JSON file as `write_text` does.

    Raises:
        ValueError: a number is nan or infinite.
    """
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", rename)


def read_json(path: Path) -> Any:
    """Return the mapping in a JSON file; None if the file does not exist.

    Raises:
        UserError: the file has anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"`{path}` is damaged. Delete it and run again.")
    return content


@contextmanager
def whole_folder(path: Path, rename: Rename = replace_path) -> Iterator[Path]:
    """Yield a temporary folder that takes the name `path` when the block ends, replacing what was there."""
    temporary, old = path.with_name(f".tmp-{path.name}"), path.with_name(f".tmp-old-{path.name}")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    rename(temporary, path)
