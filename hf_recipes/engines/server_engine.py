"""Running vLLM servers, asked over their OpenAI-compatible route; this side needs no vLLM.

vllm serve MODEL --max-model-len 1024

Several servers of the same model share the work: each takes the next request when it is free. A server's key, if it has
one, is read from the environment (`VLLM_API_KEY`).
"""

import asyncio
import functools
import logging
import os
import random
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np

from ..recipe import Annotate, UserError
from ..redact import redact
from . import EngineError

logger = logging.getLogger(__name__)
T = TypeVar("T")

MAX_TOKEN_IDS = 128  # of one request: vLLM's limit
BATCH = 32  # prompts in a request, at most
IN_FLIGHT = 8  # requests of prompts that a server works on at a time
SEEDED_IN_FLIGHT = 64  # the same where each prompt is a request of its own
TIMEOUT = 1800.0  # seconds: a small server may think for long over what is in flight
ATTEMPTS = 8  # with the waits between them, a server has two minutes to come back
ATTEMPTS_AT_500 = 3  # of a request that breaks a server which answers others
FIRST_WAIT = 1.0  # seconds; it doubles
LONGEST_WAIT = 120.0  # seconds, whatever the server asks for

GIVEN_UP = "annotate.base_url: %s does not answer (%s); its work goes to the others"
NEUTRAL = {  # else the server takes these from the model's generation_config.json
    "top_p": 1,
    "top_k": 0,
    "min_p": 0,
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
}


@dataclass
class _Server:
    url: str
    alive: bool = True
    works: bool = False  # it has answered a request for completions
    trouble: str = ""  # what it last failed with


class _TroubleError(Exception):
    """May pass: no connection, no answer in time, 408, 429, 5xx."""

    def __init__(self, reason: str, wait: float = 0, status: int = 0):
        super().__init__(reason)
        self.wait, self.status = wait, status


class _RefusedError(Exception):
    """Will not pass: the server does not take this request."""


def identity(annotate: Annotate) -> dict[str, Any]:
    """What of the servers changes an answer: their vLLM version and the model they serve.

    Raises:
        UserError: no server answers at `annotate.base_url`; they are not of one version and model, or take shorter
            prompts than the recipe.
    """
    return {"engine": "server", **_wait_for(_find(annotate))[1]}


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Runs it to its end, also from a notebook, whose thread has a loop that runs already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


async def _find(annotate: Annotate) -> tuple[list[_Server], dict[str, Any]]:
    """The servers, those that do not answer marked as such, and what all others run."""
    urls = [annotate.base_url] if isinstance(annotate.base_url, str) else annotate.base_url
    if not urls:
        raise UserError("annotate.base_url: lists no server; write one like http://127.0.0.1:8000")
    servers = [_Server(url) for url in dict.fromkeys(map(_root_url, urls))]
    async with _client(timeout=30) as client:
        found = await asyncio.gather(*(_inspect(client, server, annotate) for server in servers))
    alive = [(server, model) for server, model in zip(servers, found, strict=True) if server.alive]
    if not alive:
        asked = ", ".join(f"{server.url}/version ({server.trouble})" for server in servers)
        raise UserError(f"annotate.base_url: no vLLM server answers at {asked}; start one, or use engine: vllm")
    for server in servers:
        if not server.alive:
            logger.warning(GIVEN_UP, server.url, server.trouble)
    first, model = alive[0]
    for other, runs in alive[1:]:
        if runs != model:
            one, two = (" ".join(f"{k}={v}" for k, v in described.items()) for described in (model, runs))
            raise UserError(
                f"annotate.base_url: {first.url} runs {one}, but {other.url} runs {two}; list servers of one vLLM "
                "version and one model"
            )
    return servers, model


def _root_url(url: str) -> str:
    try:
        parsed = httpx.URL("" if " " in url.strip() else url.strip())
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host or (parsed.port or 0) >= 2**16:
        shown = url.rpartition("@")[2]  # not a password, if there is one
        raise UserError(f"annotate.base_url: {shown!r} is no address of a server; write one like http://127.0.0.1:8000")
    if parsed.userinfo:
        raise UserError(
            f"annotate.base_url: leave user and password out of the address of {parsed.host}; a server's key is read "
            "from the environment variable VLLM_API_KEY"
        )
    return str(parsed).rstrip("/").removesuffix("/v1")


_certificates = functools.cache(httpx.create_ssl_context)  # reading them takes longer than the rest of a client


def _client(timeout: float) -> httpx.AsyncClient:
    key = os.environ.get("VLLM_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError("VLLM_API_KEY: has characters that are in no key; set it again")
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else None,
        verify=_certificates(),
        timeout=httpx.Timeout(timeout, connect=min(timeout, 10)),
        limits=httpx.Limits(keepalive_expiry=2),  # a vLLM server closes idle connections after five seconds
    )


async def _inspect(client: httpx.AsyncClient, server: _Server, annotate: Annotate) -> dict[str, Any]:
    """Version and model of a server; of one that does not answer, nothing."""
    try:
        version = (await _send(client, f"{server.url}/version")).get("version")
        served = (await _send(client, f"{server.url}/v1/models")).get("data")
    except _TroubleError as trouble:
        server.alive, server.trouble = False, str(trouble)
        return {}
    except _RefusedError as refusal:
        raise UserError(f"annotate.base_url: {server.url} is no vLLM server: it answered {refusal}") from None
    try:
        models = {str(entry["id"]): entry for entry in served or []}
    except (LookupError, TypeError):
        models = {}
    if not isinstance(version, str) or not models:
        raise UserError(f"annotate.base_url: what answers at {server.url} is no vLLM server")
    if annotate.model not in models and len(models) > 1:
        raise UserError(
            f"annotate.base_url: {server.url} serves {', '.join(models)}; set annotate.model to one of these"
        )
    name = annotate.model if annotate.model in models else next(iter(models))
    length = models[name].get("max_model_len")
    if length is not None and length < annotate.max_model_len:
        raise UserError(
            f"annotate.max_model_len is {annotate.max_model_len}, but {server.url} takes {length} tokens; lower it, or "
            "start the server with a larger --max-model-len"
        )
    return {"vllm": version, "id": name, "root": models[name].get("root")}


async def _send(client: httpx.AsyncClient, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request, asked once."""
    try:
        response = await (client.get(url) if body is None else client.post(url, json=body))
    except httpx.RequestError as error:
        raise _TroubleError(f"{type(error).__name__} {error}".strip()) from None
    status = response.status_code
    if status in (408, 429) or status >= 500:
        raise _TroubleError(_said(response), _retry_after(response), status)
    if status in (401, 403):
        key = "does not take the key in VLLM_API_KEY" if "Authorization" in client.headers else "wants a key"
        raise UserError(
            f"annotate.base_url: {url} {key} ({status}); set the environment variable VLLM_API_KEY to the server's key"
        )
    if status in (404, 405) or status < 200 or 300 <= status < 400:
        raise UserError(f"annotate.base_url: {url} answered {_said(response)}; give the address of a vLLM server")
    if status >= 400:
        raise _RefusedError(_said(response))
    try:
        content = response.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"annotate.base_url: {url} is no vLLM server: it answered {_said(response)}")
    return content


def _said(response: httpx.Response) -> str:
    """The status and the server's words, in a line."""
    try:
        text = response.json()["error"]["message"]
    except (ValueError, LookupError, TypeError):
        text = response.text
    return redact(" ".join([str(response.status_code), *str(text).split()]))[:300]


def _retry_after(response: httpx.Response) -> float:
    with suppress(ValueError):  # a date: the ordinary wait will do
        return min(max(0.0, float(response.headers.get("Retry-After", 0))), LONGEST_WAIT)
    return 0.0


async def _insist(client: httpx.AsyncClient, server: _Server, body: dict[str, Any]) -> dict[str, Any]:
    """A request for completions, asked again while the trouble may pass."""
    attempt = 0
    while True:
        try:
            answer = await _send(client, f"{server.url}/v1/completions", body)
            server.works = True
            return answer
        except _TroubleError as trouble:
            attempt += 1
            if trouble.status == 500 and server.works and attempt >= ATTEMPTS_AT_500:  # the request is the trouble
                raise _RefusedError(str(trouble)) from None
            if not server.trouble:  # said once: a server that limits its rate has this trouble all the time
                logger.warning("annotate.base_url: %s: %s; trying again", server.url, trouble)
            server.trouble = str(trouble)
            if attempt >= ATTEMPTS or not server.alive:
                raise
            back_off = FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.5, 1)  # noqa: S311
            await asyncio.sleep(trouble.wait + min(back_off, LONGEST_WAIT))


async def _share(
    servers: list[_Server],
    jobs: list[range],
    in_flight: int,
    do: Callable[[httpx.AsyncClient, _Server, range], Awaitable[list[range]]],
) -> None:
    """Has every job done by the server that is free first; jobs that `do` returns are to be done as well.

    Raises:
        EngineError: no server answers any more.
    """
    queue: asyncio.Queue[range] = asyncio.Queue()
    for job in jobs:
        queue.put_nowait(job)

    def check() -> None:
        if not any(server.alive for server in servers):
            troubles = ", ".join(f"{server.url} ({server.trouble})" for server in servers)
            raise EngineError(f"annotate.base_url: no server answers any more: {troubles}")

    async def work(server: _Server) -> None:
        async with _client(TIMEOUT) as client:  # its own: a shared pool of many connections is six times slower
            while server.alive:
                job = await queue.get()
                further = [job]
                if server.alive:  # or another of its workers gave it up while this one waited for a job
                    try:
                        further = await do(client, server, job)
                    except _TroubleError as trouble:
                        first, server.alive = server.alive, False
                        check()
                        if first:
                            logger.warning(GIVEN_UP, server.url, trouble)
                for part in further:
                    queue.put_nowait(part)
                queue.task_done()

    check()
    try:
        async with asyncio.TaskGroup() as crew:
            workers = [crew.create_task(work(server)) for server in servers for _ in range(in_flight)]
            await queue.join()
            for worker in workers:
                worker.cancel()
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


class Engine:
    """A connection to the servers.

    Args:
        annotate (`Annotate`):
            The recipe's section.
        model_folder (`Path`):
            Not read: the servers have their own.

    Raises:
        UserError: see `identity`.
    """

    def __init__(self, annotate: Annotate, model_folder: Path):
        servers, model = _wait_for(_find(annotate))
        self._servers = servers
        self._model = model["id"]
        names = {Path(str(name)).name for name in (model["id"], model["root"])}
        if Path(annotate.model).name not in names:
            logger.warning(
                "annotate.model is %s and the server serves %s (%s): labels are right only if they are the same model",
                annotate.model,
                model["id"],
                model["root"],
            )

    def score(self, prompts: list[list[int]], token_ids: list[int]) -> tuple[np.ndarray, dict[int, str]]:
        """Log-probabilities of tokens as the next one, of shape `(len(prompts), len(token_ids))`, and the refusals.

        Raises:
            EngineError: no server answers any more.
            UserError: a server wants a key, knows no such model, or gives no log-probabilities.
        """
        scores = np.full((len(prompts), len(token_ids)), np.nan)
        refused: dict[int, str] = {}
        for start in range(0, len(token_ids), MAX_TOKEN_IDS):
            ids = token_ids[start : start + MAX_TOKEN_IDS]

            def read(choices: list[dict[str, Any]], ids: list[int] = ids) -> list[float]:
                found = choices[0]["logprobs"]["top_logprobs"][0]
                return [float(found[f"token_id:{i}"]) for i in ids]

            parameters = {
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": len(ids),
                "logprob_token_ids": ids,
                "return_tokens_as_token_ids": True,
            }
            rows, no = _wait_for(self._complete(prompts, parameters, read))
            refused |= no
            for i, row in rows.items():
                scores[i, start : start + MAX_TOKEN_IDS] = row
        scores[list(refused)] = np.nan
        return scores, refused

    def sample(
        self,
        prompts: list[list[int]],
        samples: int,
        temperature: float,
        max_tokens: int,
        seeds: list[int],
        choices: list[str] | None = None,
    ) -> tuple[list[list[str]], dict[int, str]]:
        """Sampled answers, `samples` for each prompt, each prompt with a seed of its own, and the refusals.

        Raises:
            EngineError: no server answers any more.
            UserError: a server wants a key, or knows no such model.
        """

        def read(answers: list[dict[str, Any]]) -> list[str]:
            return [str(answer["text"]) for answer in answers]

        parameters: dict[str, Any] = {"n": samples, "temperature": temperature, "max_tokens": max_tokens}
        if choices:
            parameters["structured_outputs"] = {"choice": choices}
        drawn = seeds if temperature > 0 else None  # without chance there is nothing to seed
        texts, refused = _wait_for(self._complete(prompts, parameters, read, drawn))
        return [texts.get(i, []) for i in range(len(prompts))], refused

    async def _complete(
        self,
        prompts: list[list[int]],
        parameters: dict[str, Any],
        read: Callable[[list[dict[str, Any]]], T],
        seeds: list[int] | None = None,
    ) -> tuple[dict[int, T], dict[int, str]]:
        """What is read from the answers to each prompt, and the refusals, by the prompts' indices."""
        done: dict[int, T] = {}
        refused: dict[int, str] = {}
        in_flight = SEEDED_IN_FLIGHT if seeds else IN_FLIGHT
        room = in_flight * sum(server.alive for server in self._servers)
        size = 1 if seeds else min(BATCH, max(1, len(prompts) // max(1, room)))
        n = parameters.get("n", 1)

        async def do(client: httpx.AsyncClient, server: _Server, part: range) -> list[range]:
            body = {"model": self._model, **NEUTRAL, **parameters, "prompt": [prompts[i] for i in part]}
            if seeds:
                body["seed"] = seeds[part[0]]
            try:
                content = await _insist(client, server, body)
            except _RefusedError as refusal:
                if len(part) > 1:  # one of them is the culprit
                    return [part[: len(part) // 2], part[len(part) // 2 :]]
                refused[part[0]] = str(refusal)
                return []
            try:
                choices = sorted(content["choices"], key=lambda choice: choice["index"])
                if len(choices) != n * len(part):
                    raise LookupError(f"{len(choices)} answers in place of {n * len(part)}")
                done.update({i: read(choices[k * n : (k + 1) * n]) for k, i in enumerate(part)})
            except (LookupError, TypeError, ValueError) as error:
                raise UserError(
                    f"annotate.base_url: {server.url} answered without what was asked for ({error!r}); it needs "
                    "vLLM 0.32 or newer, which knows logprob_token_ids and structured_outputs"
                ) from None
            return []

        every = range(len(prompts))
        await _share(self._servers, [every[k : k + size] for k in every[::size]], in_flight, do)
        return done, refused
