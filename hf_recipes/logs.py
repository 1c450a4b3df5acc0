"""One switch for all noise: `--verbose`, or `HF_RECIPES_VERBOSITY=debug` (which child processes inherit)."""

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def verbose() -> bool:
    return os.environ.get("HF_RECIPES_VERBOSITY") == "debug"


def set_up(be_verbose: bool = False) -> None:
    """Sets the loggers of this project and of the libraries below it; to be called before they are imported."""
    if be_verbose:
        os.environ["HF_RECIPES_VERBOSITY"] = "debug"
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
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
