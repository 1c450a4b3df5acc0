"""Run a step in a process that ends when the one that started it ends.

    python -m hf_recipes.child MODULE [ARGUMENT ...]

`hf-recipes` starts every process of annotation and training this way, launchers included. A parent's death reaches its
own children only, so each process of the chain watches its own parent.
"""

import ctypes
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from types import FrameType

PARENT = "HF_RECIPES_PARENT"  # the environment variable by which a process passes its id to its children
INTERRUPTED = 130  # the exit code after Ctrl-C


def follow_parent() -> None:
    """End this process when its parent ends, however that ends: no orphan keeps a lock or a GPU."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    # The kernel sends no signal for a parent that had ended before the call.
    if PARENT in os.environ and int(os.environ[PARENT]) != os.getppid():
        sys.exit(128 + signal.SIGTERM)


def end(_: int, frame: FrameType | None) -> None:
    """End this process quietly, as a handler of Ctrl-C; the command reports it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(INTERRUPTED)  # native code that is just being imported aborts at an exception
        frame = frame.f_back
    raise SystemExit(INTERRUPTED)


def handle_interrupts(handler: Callable[[int, FrameType | None], None]) -> None:
    """Handle Ctrl-C, unless this process ignores it, as a shell's background job does."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, handler)


def main() -> None:
    """Run `main` of a module. A launcher exits with the code of the process that it started, without a traceback."""
    follow_parent()
    handle_interrupts(end)
    os.environ[PARENT] = str(os.getpid())
    del sys.argv[0]
    if sys.argv[0] == "torch.distributed.run" and os.environ.get("HF_RECIPES_VERBOSITY") != "debug":
        logging.disable(logging.ERROR)  # Its processes print their own errors.
    try:
        import_module(sys.argv[0]).main()
    except subprocess.CalledProcessError as ended:  # accelerate's launcher, of its one process
        sys.exit(ended.returncode)
    except Exception as ended:  # torch's launcher; its errors are recognised by name, as importing torch takes seconds
        if type(ended).__name__ == "ChildFailedError":
            sys.exit(max(1, ended.get_first_failure()[1].exitcode))  # type: ignore[attr-defined]
        if type(ended).__name__ == "SignalException":
            sys.exit(128 + ended.sigval)  # type: ignore[attr-defined]
        raise


if __name__ == "__main__":
    main()
