"""One switch for all noise: `--verbose`, or `HF_RECIPES_VERBOSITY=debug` (which child processes inherit)."""

import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from .child import INTERRUPTED
from .recipe import UserError, first_line
from .redact import redact

BAD_INPUT = 2  # the exit code of a step that says itself what the user can mend
NOT_FORESEEN = 70  # and of one that ends by a fault of its own, or without memory


def verbose() -> bool:
    return os.environ.get("HF_RECIPES_VERBOSITY") == "debug"


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def set_up(be_verbose: bool = False) -> None:
    """Sets the loggers of this project and of the libraries below it; to be called before they are imported."""
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
    """Ends the process with one line in place of a traceback, unless all is to be shown."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if verbose():
            print(redact(traceback.format_exc()), file=sys.stderr)
            sys.exit(1)
        foreseen = isinstance(error, (UserError, OSError))
        said = str(error)
        if isinstance(error, MemoryError):
            said = "memory ran out; what is done stays: free some, then run again"
        elif not foreseen:
            said = (
                f"{type(error).__name__}: {first_line(error)}. This should have been foreseen; what is done stays, and "
                "--verbose shows where it comes from. If files were changed by hand, delete these and run again"
            )
        said = "".join(c if c.isprintable() else " " for c in said)  # what a file says may hold anything
        print(f"error: {redact(' '.join(said.split()))}", file=sys.stderr)
        sys.exit(BAD_INPUT if foreseen else NOT_FORESEEN)


@contextmanager
def hush() -> Iterator[None]:
    """Hides what native code and libraries print while the block runs, unless all is to be shown.

    Works on the file descriptors, as C++ code does not go through `sys.stderr`.
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
