"""Set what is logged: `--verbose`, or `HF_RECIPES_VERBOSITY=debug`, which child processes inherit, shows everything."""

import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from .child import INTERRUPTED
from .errors import UserError, first_line
from .redact import redact

BAD_INPUT = 2  # the exit code of a step whose error the user can fix
UNEXPECTED = 70  # the exit code after another error, or without memory


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
    """End the process with one line in place of a traceback, unless `verbose`."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if verbose():
            print(redact(traceback.format_exc()), file=sys.stderr)
            sys.exit(1)
        is_expected = isinstance(error, (UserError, OSError))
        message = str(error)
        if isinstance(error, MemoryError):
            message = "Memory ran out. Completed work is kept. Free memory, then run again."
        elif not is_expected:
            message = (
                f"{type(error).__name__}: {first_line(error)}. This error is unexpected. Completed work is kept. "
                "`--verbose` shows its source. If files were changed by hand, delete them and run again."
            )
        # A message may quote a file, and so contain control characters.
        message = "".join(c if c.isprintable() else " " for c in message)
        print(f"error: {redact(' '.join(message.split()))}", file=sys.stderr)
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
