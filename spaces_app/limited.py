"""Read the files of strangers in a process that may use only so much memory and time.

    found = limited.call("uploads.read", path, pasted)

A file of a kilobyte can unpack to gigabytes, and its own account of its size may be false. The process that reads it
has a limit, and its death is one sentence for the visitor. One file is read at a time, so that two visitors do not
double the limit.

The first call starts this file as a server, which imports the readers once. It forks a process for each call, so a call
takes milliseconds and starts clean. The answer is a pickle. That gives a file no more power: the process runs as the
app's user, so code in it could do everything that the app can. The limits guard against size, not against such code.
"""

import atexit
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import traceback
from multiprocessing.connection import Connection, Pipe
from typing import Any

MAX_MEMORY = 800_000_000  # bytes that a call may use beyond what the server uses
MAX_SECONDS = 30  # that a call may take
MAX_WAIT = 60  # seconds that a call waits for other calls
MAX_ANSWER = 300_000_000  # bytes of a pickled answer
_TURN = threading.Lock()
_SERVER: list[tuple[subprocess.Popen[bytes], socket.socket]] = []


class LimitError(ValueError):
    """Report in a sentence why a file was not read."""


def start() -> None:
    """Start the server, so that the first call does not wait for its imports."""
    with _TURN:
        _start()


def _start() -> None:
    if _SERVER and _SERVER[0][0].poll() is None:
        return
    _SERVER.clear()
    app_end, server_end = socket.socketpair()
    # Arrow's own allocator reserves address space that it does not use, which would count against the limit.
    env = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with server_end:
        command = [sys.executable, __file__, str(server_end.fileno())]
        server = subprocess.Popen(command, env=env, pass_fds=[server_end.fileno()], stdin=subprocess.DEVNULL)
    atexit.register(server.kill)
    _SERVER.append((server, app_end))


def call(reader: str, *arguments: Any) -> Any:
    """Return what a reader returns, or raise what it raises.

    Args:
        reader (`str`): `uploads.read`, `published.read_configs` or `published.read_folder`.

    Raises:
        LimitError: it takes more memory or time than there is, or others are being read.
    """
    if not _TURN.acquire(timeout=MAX_WAIT):
        raise LimitError("Other files are being read. Try again in a minute.")
    try:
        app_end, reader_end = Pipe()
        with app_end:
            with reader_end:
                _start()
                socket.send_fds(_SERVER[0][1], [b"."], [reader_end.fileno()])
            app_end.send((reader, arguments))
            is_value, answer = pickle.loads(app_end.recv_bytes(MAX_ANSWER))  # noqa: S301 (see the docstring of this file)
    except (EOFError, OSError):  # The process ended without an answer, or the answer is too long.
        raise LimitError(
            f"The file takes more than {MAX_MEMORY / 1e6:.0f} MB of memory or {MAX_SECONDS} seconds to read. Try a "
            "smaller one."
        ) from None
    finally:
        _TURN.release()
    if is_value:
        return answer
    raise answer


def _serve(control: socket.socket) -> None:
    """Fork a process for each connection that the app sends, until the app ends."""
    import published
    import uploads

    modules = {"uploads": uploads, "published": published}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that ended processes vanish
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal, which is for the app
    while (received := socket.recv_fds(control, 1, 1))[0]:
        with Connection(received[1][0]) as pipe:
            if os.fork() == 0:
                control.close()
                try:
                    _answer(pipe, modules)
                except MemoryError:
                    os._exit(1)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)


def _answer(pipe: Connection, modules: dict[str, Any]) -> None:
    reader, arguments = pipe.recv()
    module, _, function = reader.partition(".")
    signal.alarm(MAX_SECONDS)  # It ends the process, also within C code.
    if sys.platform == "linux":
        import resource

        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MAX_MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer = (True, getattr(modules[module], function)(*arguments))
    except (modules["uploads"].UploadError, modules["published"].UnreadableError) as error:
        answer = (False, error)
    content = pickle.dumps(answer, protocol=5)
    signal.alarm(0)
    pipe.send_bytes(content)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
