"""The checksums of a study's files, to find a file that changed after hf-recipes wrote it before a step reads it."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from filelock import FileLock

from .errors import UserError
from .hashing import hash_file

#: The files that steps read, the part of the name that is made as a whole, and the command that makes it.
COVERED = (
    ("rows/*", 1, "annotate"),
    ("annotations/current.json", 2, "annotate"),
    ("annotations/servers.json", 2, "annotate"),
    ("annotations/*/part-*.parquet", 3, "annotate"),
    ("annotations/*/content_free.parquet", 3, "annotate"),
    ("annotations/*/repeat.parquet", 3, "annotate"),
    ("annotations/*/manifest.json", 3, "annotate"),
    ("audit/sample.json", 2, "audit sample"),
    ("audit/labels.json", 2, "audit import"),
    ("runs/*/*/*/predictions.parquet", 4, "train"),
    ("runs/*/*/*/out_of_bag.parquet", 4, "train"),
    ("runs/*/*/*/run.json", 4, "train"),
    ("heads/*/*/*/*", 4, "train"),
    ("tfidf/*/*/*/*", 4, "train"),
    ("features/*/part-*.parquet", 3, "train"),
    ("report/labels.json", 2, "annotate"),
    ("report/results.json", 2, "report"),
    ("report/heads/results.json", 3, "report"),
    ("dataset/*", 1, "variants"),
)


Rename = Callable[[Path, Path], None]


class Checksums:
    """The SHA-256 of every file that `COVERED` names, kept in `checksums.json` of the study folder.

    A covered file that is not listed was renamed into place just before its process was killed. It is complete, as
    every file appears by a rename, and `adopt` lists it.

    Args:
        root (`Path`):
            The study folder.
    """

    def __init__(self, root: Path):
        self._root = root
        self._file = root / "checksums.json"
        self._lock = FileLock(root / ".checksums.lock", fallback_to_soft=False)

    def publish(self, temporary: Path, path: Path) -> None:
        """Rename a complete file or folder to `path` in place of what is there, and list its checksums.

        The old checksums go first, so that a kill at any moment leaves no checksum of another content.
        """
        self.publish_all({path: temporary})

    def publish_all(self, temporaries: dict[Path, Path]) -> None:
        """Publish several files or folders, each by its final path, and write the list once."""
        with self._lock:
            self._forget(list(temporaries))
            for path, temporary in temporaries.items():
                replace_path(temporary, path)
            files = itertools.chain.from_iterable([p] if p.is_file() else p.rglob("*") for p in temporaries)
            self._write(self._read() | self._hash(files))

    def delete(self, paths: list[Path]) -> None:
        """Delete files with their checksums."""
        with self._lock:
            self._forget(paths)
            for path in paths:
                path.unlink()

    def adopt(self) -> None:
        """List the covered files that are not listed yet, but for those of `dataset/`, which are made again."""
        with self._lock:
            listed = self._read()
            patterns = [pattern for pattern, _, _ in COVERED if pattern != "dataset/*"]
            files = itertools.chain.from_iterable(map(self._root.glob, patterns))
            new = [file for file in files if self._name(file) not in listed]
            if digests := self._hash(new):
                self._write(listed | digests)

    def verify(self) -> None:
        """Compare all files but those of `dataset/`, which `is_intact` compares.

        Raises:
            UserError: a file differs from what was written. It names the file, what to delete and what to run.
        """
        for name, digest in self._read().items():
            if name.startswith("dataset/") or not self._differs(name, digest):
                continue
            latest = self._read().get(name)  # another process may have replaced the file meanwhile
            if latest is None or not self._differs(name, latest):
                continue
            depth, command = next((depth, command) for pattern, depth, command in COVERED if fnmatchcase(name, pattern))
            whole = self._root.joinpath(*Path(name).parts[:depth])
            raise UserError(
                f"`{self._root / name}` differs from what hf-recipes wrote. Delete `{whole}` and run "
                f"hf-recipes {command} again."
            )

    def is_intact(self, folder: Path) -> bool:
        """Return whether a folder has just the listed files, all as they were written."""
        inside = f"{self._name(folder)}/"
        listed = {name: digest for name, digest in self._read().items() if name.startswith(inside)}
        return listed == self._hash(folder.rglob("*"))

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _differs(self, name: str, digest: str) -> bool:
        try:
            return hash_file(self._root / name) != digest
        except FileNotFoundError:  # the step that makes the file makes it again
            return False

    def _hash(self, paths: Iterable[Path]) -> dict[str, str]:
        """Return the digests of the files that are covered, by name."""
        digests = {}
        for path in paths:
            name = self._name(path)
            hidden = any(part.startswith(".") for part in name.split("/"))
            if not hidden and path.is_file() and any(fnmatchcase(name, pattern) for pattern, _, _ in COVERED):
                digests[name] = hash_file(path)
        return digests

    def _forget(self, paths: list[Path]) -> None:
        listed = self._read()
        names = [self._name(path) for path in paths]
        kept = {
            name: digest
            for name, digest in listed.items()
            if name not in names and not name.startswith(tuple(f"{folder}/" for folder in names))
        }
        if kept != listed:
            self._write(kept)

    def _read(self) -> dict[str, str]:
        try:
            listed = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            listed = None
        if not isinstance(listed, dict) or not all(isinstance(digest, str) for digest in listed.values()):
            raise UserError(f"`{self._file}` is damaged. Delete it and run again.")
        return listed

    def _write(self, listed: dict[str, str]) -> None:
        temporary = self._file.with_name(f".tmp-{self._file.name}")
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(dict(sorted(listed.items())), stream, indent=0)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self._file)


def replace_path(temporary: Path, path: Path) -> None:
    """Rename a complete file or folder to `path`, in place of what is there."""
    if path.is_dir():
        old = path.with_name(f".tmp-old-{path.name}")
        path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.replace(path)
