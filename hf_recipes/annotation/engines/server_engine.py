"""Ask running vLLM servers over their OpenAI-compatible route; this side needs no vLLM.

vllm serve MODEL --max-model-len 1024 --hf-overrides '{"head_dtype": "float32"}'

Servers of the same model share the work: the next request goes to the next one that is free. The openai client retries.
A server's key, if it has one, is read from the environment (`VLLM_API_KEY`).
"""

import asyncio
import functools
import logging
import os
import re
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from ...errors import UserError
from ...models import Model
from ...recipe import Annotate
from ...redact import redact
from . import EngineError

try:
    import openai
except ImportError:
    raise UserError(
        "`annotate.engine` must be installed. Got server without openai. Try pip install 'hf-recipes[server]'."
    ) from None

logger = logging.getLogger(__name__)
T = TypeVar("T")
Choices = list[dict[str, Any]]

MAX_REQUESTS = 8  # of several prompts, that a server works on at a time
MIN_BATCH, MAX_BATCH = 32, 512  # prompts in a request: 4,096 keep a GPU busy, and the server queues them
MIN_TURNS = 4  # requests for each that a server works on at a time, so that a slow server gets fewer
MAX_SEEDED_REQUESTS = 128  # of one prompt, as it has its own seed; with more, httpx takes all of a core
TIMEOUT = 1800.0  # seconds for an answer: a small server may need long for all requests that it works on
MAX_SECONDS = 3600.0  # with all retries
MAX_RETRIES = 20  # openai waits for at most 8 seconds before each, so a server has two minutes to restart
MAX_RETRIES_AT_500 = 2  # a request may break a server that answers other requests
# Without these the server takes them from the model's generation_config.json.
NEUTRAL = {"top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}
HEADERS = {"host", "content-type", "content-length", "x-stainless-retry-count"}  # A server gets these and its key.


class _RequestError(Exception):
    """A server did not answer (`status` 0), or answered with an error that the user did not cause."""

    def __init__(self, reason: str, status: int = 0):
        super().__init__(redact(" ".join(reason.split()))[:300])
        self.status = status


def identity(annotate: Annotate) -> dict[str, Any]:
    """Return the servers' vLLM version and the model that they serve."""
    return {"engine": "server", **_wait_for(_find(annotate))[1]}


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """Return an event loop in a thread, as the main thread of a notebook has its own loop."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine; an interrupt cancels it."""
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    finally:
        future.cancel()


async def _find(annotate: Annotate) -> tuple[list[str], dict[str, Any]]:
    """Return the addresses of the servers that answer, and the version and model that all of them run.

    Raises:
        UserError: no server answers, or they differ in version or model.
    """
    addresses = [annotate.base_url] if isinstance(annotate.base_url, str) else annotate.base_url
    if not addresses:
        raise UserError("`annotate.base_url` must contain an address. Got an empty list. Try http://127.0.0.1:8000.")
    running: dict[str, dict[str, Any]] = {}
    silent: dict[str, str] = {}
    for url in dict.fromkeys(map(_root, addresses)):
        try:
            running[url] = await _inspect(url, annotate)
        except _RequestError as error:
            silent[url] = str(error)
    if not running:
        reasons = ", ".join(f"{url}/version ({reason})" for url, reason in silent.items())
        raise UserError(
            f"`annotate.base_url` must be a running server. No vLLM server answers at {reasons}. Start one, or use "
            "engine: vllm."
        )
    for url, reason in silent.items():
        logger.warning("annotate.base_url: %s does not answer (%s). The other servers take its work.", url, reason)
    descriptions = {url: " ".join(f"{k}={v}" for k, v in model.items()) for url, model in running.items()}
    first, *later = running
    for url in later:
        if descriptions[url] != descriptions[first]:
            raise UserError(
                "`annotate.base_url` must list servers of one vLLM version and one model. Got "
                f"{descriptions[first]} at {first} and {descriptions[url]} at {url}."
            )
    return list(running), running[first]


def _root(address: str) -> str:
    """Return an address without the path of the API."""
    root = address.strip().rstrip("/").removesuffix("/v1")
    try:
        is_valid = re.fullmatch(r"https?://[^\s@?#]+", root) and urlsplit(root).hostname and urlsplit(root).port != 0
    except ValueError:  # The port or the brackets are wrong.
        is_valid = False
    if not is_valid:
        raise UserError(
            f"`annotate.base_url` must be the address of a server. Got {address.rpartition('@')[2]!r}. Try one like "
            "http://127.0.0.1:8000, without a password, and a key in the environment variable VLLM_API_KEY."
        )
    return root


def _client(url: str, timeout: float, max_retries: int) -> openai.AsyncOpenAI:
    """Return a client that sends the key in `VLLM_API_KEY` to this server, and nothing else of the environment."""
    key = os.environ.get("VLLM_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError("`VLLM_API_KEY` must have printable ASCII characters only. Set it again.")

    async def set_headers(request: Any) -> None:
        # The client adds headers from OPENAI_CUSTOM_HEADERS, OPENAI_ORG_ID and other variables.
        for name in request.headers.keys() - HEADERS:
            del request.headers[name]
        if key:
            request.headers["Authorization"] = f"Bearer {key}"

    async def limit_retries(response: Any) -> None:
        # The client obeys this header.
        if response.status_code == 500:
            num_retries = int(response.request.headers["x-stainless-retry-count"])
            response.headers["x-should-retry"] = str(num_retries < MAX_RETRIES_AT_500).lower()

    hooks: dict[str, list[Callable[..., Any]]] = {"request": [set_headers], "response": [limit_retries]}
    return openai.AsyncOpenAI(
        api_key="EMPTY",  # not that in OPENAI_API_KEY
        base_url=f"{url}/v1",
        timeout=openai.Timeout(timeout, connect=min(timeout, 10)),
        max_retries=max_retries,
        http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, event_hooks=hooks),
    )


async def _inspect(url: str, annotate: Annotate) -> dict[str, Any]:
    """Return version and model of a server."""
    async with _client(url, timeout=30, max_retries=0) as client:
        version = (await _send(client, f"{url}/version")).get("version")
        served = (await _send(client, f"{url}/v1/models")).get("data")
    try:
        models = {str(entry["id"]): entry for entry in served or []}
    except (LookupError, TypeError):
        models = {}
    if not isinstance(version, str) or not models:
        raise UserError(f"`annotate.base_url` must be a vLLM server. Got no version or no models from {url}.")
    if annotate.model not in models and len(models) > 1:
        raise UserError(f"`annotate.model` must be served at {url}. Got {annotate.model}. Try {' or '.join(models)}.")
    name = annotate.model if annotate.model in models else next(iter(models))
    length = models[name].get("max_model_len")
    if length is not None and length < annotate.max_model_len:
        raise UserError(
            f"`annotate.max_model_len` must be at most that of {url}, {length} tokens. Got {annotate.max_model_len}. "
            "Try fewer, or start the server with a larger --max-model-len."
        )
    return {"vllm": version, "id": name, "root": models[name].get("root")}


async def _send(client: openai.AsyncOpenAI, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the JSON object that a server answers.

    Raises:
        _RequestError: the server may answer later, or refuses the body.
        UserError: the key is wrong or missing, or the server is not a vLLM server.
    """
    content: object = "no JSON"
    try:
        async with asyncio.timeout(MAX_SECONDS):
            call = client.get(url, cast_to=object) if body is None else client.post(url, cast_to=object, body=body)
            content = await call
    except TimeoutError:
        raise _RequestError(f"no answer within {MAX_SECONDS:g} seconds") from None
    except openai.APIConnectionError as error:
        raise _RequestError(f"{type(error.__cause__).__name__} {error.__cause__}") from None
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        key = "a wrong key" if os.environ.get("VLLM_API_KEY") else "no key"
        raise UserError(
            f"`VLLM_API_KEY` must be the key of {url}. Got {key} ({error.status_code}). Set this environment variable."
        ) from None
    except openai.APIStatusError as error:
        status = error.status_code
        message = error.body.get("message") if isinstance(error.body, dict) else None
        failure = _RequestError(f"{status} {message or error.response.text}", status)
        is_refusal = status < 500 and status not in (408, 409, 429)
        if status < 400 or status in (404, 405) or (is_refusal and body is None):
            raise UserError(f"`annotate.base_url` must be a vLLM server. Got {failure} from {url}.") from None
        raise failure from None
    except ValueError:  # The server declares JSON, and its answer is not.
        pass
    if not isinstance(content, dict):
        answer = _RequestError(str(content))
        raise UserError(f"`annotate.base_url` must be a vLLM server. Got {answer} from {url}.")
    return content


class Engine:
    """A connection to the servers, which have their own model: `model` is not read."""

    cache_salt = ""

    def __init__(self, annotate: Annotate, model: Model):
        urls, served = _wait_for(_find(annotate))
        self._model = served["id"]
        self._clients = {url: _client(url, TIMEOUT, MAX_RETRIES) for url in urls}
        self._answered: set[str] = set()  # servers that have answered a request for completions
        self._failed: dict[str, str] = {}  # servers that are not asked again, with the reason
        if Path(annotate.model).name not in {Path(str(served[name])).name for name in ("id", "root")}:
            logger.warning(
                "annotate.model is %s and the server serves %s (%s). Labels are right only if they are the same model.",
                *(annotate.model, served["id"], served["root"]),
            )

    def score(self, prompts: list[list[int]], token_ids: list[int]) -> tuple[np.ndarray, dict[int, str]]:
        """Return log-probabilities of tokens, and the errors of refused prompts; see `annotation.engines`."""

        def read(choices: Choices) -> list[float]:
            logprobs = choices[0]["logprobs"]["top_logprobs"][0]
            return [float(logprobs[f"token_id:{i}"]) for i in token_ids]

        parameters = {"max_tokens": 1, "temperature": 0, "logprobs": len(token_ids), "logprob_token_ids": token_ids}
        parameters["return_tokens_as_token_ids"] = True
        rows, errors = _wait_for(self._complete(prompts, parameters, read, None))
        scores = np.full((len(prompts), len(token_ids)), np.nan)
        for i, row in rows.items():
            scores[i] = row
        return scores, errors

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

        def read(answers: Choices) -> list[str]:
            return [str(answer["text"]) for answer in answers]

        parameters: dict[str, Any] = {"n": samples, "temperature": temperature, "max_tokens": max_tokens}
        if choices:
            parameters["structured_outputs"] = {"choice": choices}
        # At temperature 0 no seed is needed, and several prompts go into a request.
        texts, errors = _wait_for(self._complete(prompts, parameters, read, seeds if temperature > 0 else None))
        return [texts.get(i, []) for i in range(len(prompts))], errors

    async def _complete(
        self,
        prompts: list[list[int]],
        parameters: dict[str, Any],
        read: Callable[[Choices], T],
        seeds: list[int] | None,
    ) -> tuple[dict[int, T], dict[int, str]]:
        """Return the values that `read` finds in the answers, and the errors of refused prompts, by prompt index."""
        values: dict[int, T] = {}
        errors: dict[int, str] = {}
        num_answers = parameters.get("n", 1)
        turns = (MAX_SEEDED_REQUESTS if seeds else MAX_REQUESTS) * [u for u in self._clients if u not in self._failed]
        num_turns = max(1, len(turns))
        min_size = min(MIN_BATCH, max(1, len(prompts) // num_turns))
        size = 1 if seeds else min(MAX_BATCH, max(min_size, len(prompts) // (MIN_TURNS * num_turns)))
        free: asyncio.Queue[str] = asyncio.Queue()  # It has a server once for each request that it may get.
        for url in turns:
            free.put_nowait(url)

        async def ask(part: range) -> None:
            body = {"model": self._model, **NEUTRAL, **parameters, "prompt": [prompts[i] for i in part]}
            if self.cache_salt:
                body["cache_salt"] = self.cache_salt
            if seeds:
                body["seed"] = seeds[part[0]]
            try:
                url, content = await self._ask_in_turn(free, body)
            except _RequestError as refusal:
                if len(part) == 1:
                    errors[part[0]] = str(refusal)
                else:  # One of the prompts is the cause.
                    for i in part:
                        group.create_task(ask(range(i, i + 1)))
                return
            try:
                choices = sorted(content["choices"], key=lambda choice: choice["index"])
                if len(choices) != num_answers * len(part):
                    raise LookupError(f"{len(choices)} answers in place of {num_answers * len(part)}")
                for k, i in enumerate(part):
                    values[i] = read(choices[k * num_answers : (k + 1) * num_answers])
            except (LookupError, TypeError, ValueError) as error:
                raise UserError(
                    "`annotate.base_url` must run vLLM 0.32 or newer, with logprob_token_ids and structured_outputs. "
                    f"Got an incomplete answer from {url} ({error!r})."
                ) from None

        try:
            async with asyncio.TaskGroup() as group:
                for start in range(0, len(prompts), size):
                    group.create_task(ask(range(start, min(start + size, len(prompts)))))
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        return values, errors

    async def _ask_in_turn(self, free: asyncio.Queue[str], body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the address of the next free server and its answer. If the server fails, the next one is asked.

        Raises:
            _RequestError: the request is refused.
            EngineError: all servers failed.
        """
        while len(self._failed) < len(self._clients):
            url = await free.get()
            if url in self._failed:
                continue
            try:
                content = await _send(self._clients[url], f"{url}/v1/completions", body)
                self._answered.add(url)
                return url, content
            except _RequestError as error:
                is_trouble = error.status in (0, 408, 409, 429) or error.status >= 500
                if not is_trouble or (error.status == 500 and url in self._answered):
                    raise
                if url not in self._failed:
                    self._failed[url] = str(error)
                    logger.warning("annotate.base_url: %s failed (%s). It gets no further requests.", url, error)
            finally:
                free.put_nowait(url)
        reasons = ", ".join(f"{url} ({reason})" for url, reason in self._failed.items())
        raise EngineError(f"annotate.base_url: all servers failed: {reasons}")
