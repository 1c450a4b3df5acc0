"""Set what is logged, and show progress.

`--verbose`, or `HF_RECIPES_VERBOSITY=debug`, which child processes inherit, shows everything.
"""

import logging
import os
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from .child import INTERRUPTED
from .errors import UserError, first_line
from .redact import redact

BAD_INPUT = 2  # the exit code of a step whose error the user can fix
UNEXPECTED = 70  # the exit code after another error, or without memory
LINE_SECONDS = 30.0  # between lines of progress where standard error is not a terminal


def verbose() -> bool:
    """Return whether everything is shown."""
    return os.environ.get("HF_RECIPES_VERBOSITY") == "debug"


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def set_up(be_verbose: bool = False) -> None:
    """Set the log levels of this project and of the libraries below it. Call it before they are imported."""
    if be_verbose:
        os.environ["HF_RECIPES_VERBOSITY"] = "debug"
    handler = logging.StreamHandler()
    handler.setFormatter(_Redacting("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("hf_recipes").setLevel(logging.DEBUG if verbose() else logging.INFO)
    if not verbose():
        warnings.simplefilter("ignore")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DATASETS_VERBOSITY", "critical")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_MININTERVAL", "1")


@contextmanager
def in_a_line() -> Iterator[None]:
    """End the process with a line for each error in place of a traceback, unless `verbose`."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if verbose():
            print(redact(traceback.format_exc()), file=sys.stderr)
            sys.exit(1)
        is_expected = isinstance(error, (UserError, OSError))
        messages = error.args if isinstance(error, UserError) else (str(error),)
        if isinstance(error, MemoryError):
            messages = ("Memory ran out. Completed work is kept. Free memory, then run again.",)
        elif not is_expected:
            messages = (
                f"{type(error).__name__}: {first_line(error)}. This error is unexpected. Completed work is kept. "
                "`--verbose` shows its source. If files were changed by hand, delete them and run again.",
            )
        for message in messages:
            # A message may quote a file, and so contain control characters.
            printable = "".join(c if c.isprintable() else " " for c in message)
            print(f"error: {redact(' '.join(printable.split()))}", file=sys.stderr)
        sys.exit(BAD_INPUT if is_expected else UNEXPECTED)


@contextmanager
def hush() -> Iterator[None]:
    """Hide the output of libraries while the block runs, unless `verbose`.

    It redirects the file descriptors, as C++ code does not use `sys.stderr`.
    """
    if verbose():
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in zip((1, 2), kept, strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)


def format_duration(seconds: float) -> str:
    """Return a duration as 45s, 2m10s or 1h05m."""
    minutes, remainder = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{remainder:02}s" if minutes else f"{remainder}s"
    return f"{minutes // 60}h{minutes % 60:02}m"


class Progress(tqdm):
    """A progress bar. Where standard error is not a terminal, a line every `LINE_SECONDS` replaces it.

    Args:
        arguments: of tqdm.
    """

    def __init__(self, **arguments: Any):
        self._is_closed = threading.Event()
        super().__init__(**arguments)
        if not self.disable and not self.fp.isatty():
            threading.Thread(target=self._print_lines, daemon=True).start()

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar of a terminal. The end of a closed one is a line elsewhere too."""
        if self.fp.isatty():
            super().display(msg, pos)
        elif self._is_closed.is_set():
            self.fp.write(str(self))  # tqdm writes the end of the line

    def close(self) -> None:
        self._is_closed.set()
        super().close()

    def __str__(self) -> str:
        if self.fp.isatty():
            return str(super().__str__())
        seconds, done = time.time() - self.start_t, self.n - self.initial
        line = f"{self.desc}: {self.n:,}" + (f" of {self.total:,}" if self.total else "") + self.unit
        line += f", {format_duration(seconds)} so far"
        if self.total and done and self.n < self.total:
            line += f", about {format_duration(seconds * (self.total - self.n) / done)} left"
        return line

    def _print_lines(self) -> None:
        while not self._is_closed.wait(LINE_SECONDS):
            self.fp.write(f"{self}\n")
            self.fp.flush()
