"""The study folder: the only module that knows its paths, and how anything is written into it.

    recipe.yaml                       the recipe with every default filled in
    revisions.json                    the shas that branches and tags on the Hub stood for at first use
    rows/                             train.parquet, test.parquet, manifest.json
    annotations/current.json          which of the following the later steps read
    annotations/<key>/                part-*.parquet (append-only), content_free.parquet, manifest.json (last)
    dataset/  dataset.json            what the Hub gets, and the key it was made under
    runs/<variant>/n<size>/<seed>/        predictions.parquet, run.json (or failed.json)
    runs/<variant>/n<size>/.<seed>.lock   held while the run is trained
    audit/                            sample.json, labels.json: a random sample, and what people said
    tracking/                         what accelerate's trackers keep in files
    report/                           report.md, report.html, figures, results.json
    checksums.json                    the sha256 of the above, which every command compares

Whatever is half-written has a name that starts with `.tmp-`; nobody reads such names, and the step that left one
writes over it when it runs again. docs/CONTRACT.md describes every file.
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
from typing import Any

import yaml
from filelock import FileLock, Timeout

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
#: What may change around runs that stay valid, and how they are made rather than what.
GROWS = (
    *("grid.variants", "grid.sizes", "grid.seeds", "grid.curves", "grid.crossed", "accept", "annotate.passes"),
    *(
        "annotate.ray",
        "annotate.min_label_mass",
        "train.trackers",
        "train.save_models",
        "train.accelerate_config",
    ),
)


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
    """

    variant: str
    size: int
    name: str
    subset_seed: int
    init_seed: int
    order_seed: int
    annotation_pass: int = 0

    def __str__(self) -> str:
        return f"{self.variant}/n{self.size}/{self.name}"


class Study:
    """The folder of one recipe.

    Args:
        recipe (`Recipe`):
            The study's recipe.
        accept_changes (`bool`, *optional*, defaults to `False`):
            Take over a folder whose recipe differs. Nothing stale can be read: every result is kept under a key of all
            that made it, so what the change touches is made again and the rest stays.
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
            raise UserError(f"{self.recipe.name}: the recipe has no grid of runs; add the sections grid and train")
        return self.recipe.grid

    @property
    def training(self) -> Train:
        """The recipe's `train` section; raises like `grid`."""
        if self.recipe.train is None:
            raise UserError(f"{self.recipe.name}: the recipe has no training; add the sections grid and train")
        return self.recipe.train

    def annotations(self, key: str) -> Path:
        return self.annotations_root / key

    def run(self, run: Run) -> Path:
        return self.root / "runs" / run.variant / f"n{run.size}" / run.name

    def run_lock(self, run: Run) -> FileLock:
        """Whoever trains a run holds this."""
        folder = self.run(run)
        folder.parent.mkdir(parents=True, exist_ok=True)
        return _file_lock(folder.with_name(f".{folder.name}.lock"))

    def check(self) -> bool:
        """Whether the folder holds this very recipe already. Variants, sizes, seeds and passes may come and go.

        The first call also compares the files with their checksums.

        Raises:
            UserError: the folder was made by another recipe, is not a study, or holds a changed file.
        """
        if not self.recipe_file.exists():
            if self.root.exists() and any(not entry.name.startswith(".") for entry in self.root.iterdir()):
                raise UserError(f"{self.root}: holds other files and is no study; choose another --output_dir=")
            return False
        theirs = _read_kept_recipe(self.recipe_file)
        if theirs is None:
            if self.accept_changes:
                return False
            raise UserError(
                f"{self.recipe_file}: damaged; pass --accept-changes to write it anew: what this recipe has made stays"
            )
        if theirs["format"] != FORMAT:
            raise UserError(f"{self.root}: made by another version of hf-recipes; choose another --output_dir=")
        changed = sorted(_differences(theirs["recipe"], self._recipe_as_kept()))
        foreign = [key for key in changed if not key.startswith(GROWS)]
        if foreign and not self.accept_changes:
            raise UserError(
                f"{self.root}: made by another recipe (differs in {', '.join(foreign)}); "
                "choose another --output_dir=, or pass --accept-changes to redo what the change touches"
            )
        if not self._verified:
            self.checksums.verify()
            self._verified = True
        return not changed

    def _recipe_as_kept(self) -> dict[str, Any]:
        """The recipe without what may differ from place to place: where it lies, where a server or cluster listens."""
        return self.recipe.model_dump(
            mode="json",
            exclude={
                "output_dir": True,
                "annotate": {"base_url": True, "ray": {"address"}, "passes": {"__all__": {"base_url"}}},
            },
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Whoever writes into the study holds this; others wait. A killed process leaves no lock behind.

        The folder becomes this recipe's: `recipe.yaml` is written if it is not there or the grid has grown.

        Raises:
            UserError: see `check`; and where the file system has no locks.
        """
        self.check()
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            logger.warning("%s: another hf-recipes process is at work here; waiting for it", self.root)
            self._lock.acquire()
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise UserError(
                f"{self.root}: its file system has no locks ({error.strerror}); choose another --output_dir=, or mount "
                "it with locks (NFS: version 4, or 3 with rpc.statd; Lustre: -o flock)"
            ) from None
        try:
            if not self.check():
                content = {"format": FORMAT, "recipe": self._recipe_as_kept()}
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


def _read_kept_recipe(file: Path) -> dict[str, Any] | None:
    """The content of a study's `recipe.yaml`; None if it is damaged."""
    try:
        content = parse_yaml(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    whole = isinstance(content, dict) and content.keys() == {"format", "recipe"} and isinstance(content["recipe"], dict)
    return content if whole else None


def _file_lock(path: Path) -> FileLock:
    """A lock that goes with its process; no file that a lost machine would leave for ever stands in for it."""
    return FileLock(path, fallback_to_soft=False)


def _differences(one: Any, other: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in one.keys() | other.keys():
            yield from _differences(one.get(name), other.get(name), f"{prefix}.{name}" if prefix else name)
    elif one != other:
        yield prefix


def versions(*packages: str) -> dict[str, str]:
    """The installed versions of packages, local tags included; packages that are not installed are left out."""
    found = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def cpu_threads() -> int:
    """The threads that torch and vLLM use on the CPU here: the cores that this process may use.

    Sums depend on it, so it is part of the keys of what is computed on a CPU. `LOKY_MAX_CPU_COUNT` lowers it.
    """
    from joblib import cpu_count

    return int(cpu_count())


def cpu_capability() -> str:
    """The instructions by which torch computes here, named as `torch.backends.cpu.get_cpu_capability()` does on x86.

    Sums depend on them, so they are part of the keys of what is computed on a CPU. Importing torch would take seconds.
    """
    if chosen := os.environ.get("ATEN_CPU_CAPABILITY"):
        return chosen.upper()
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
    """The file appears whole; ValueError for a number that JSON has not, as nan."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", rename)


def read_json(path: Path) -> Any:
    """The mapping that a file holds, or None if there is no such file.

    Raises:
        UserError: the file holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged; delete it and run again")
    return content


@contextmanager
def whole_folder(path: Path, rename: Rename = replace_path) -> Iterator[Path]:
    """Yields a temporary folder that takes the name `path` when the block ends, replacing what was there."""
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
