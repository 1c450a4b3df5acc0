"""A running vLLM server, asked over its OpenAI-compatible route; this side needs no vLLM.

vllm serve MODEL --host 127.0.0.1 --max-model-len 1024
"""

from pathlib import Path
from typing import Any

import httpx
import numpy as np

from ..recipe import Annotate, UserError

BATCH = 64  # prompts per request


def identity(annotate: Annotate) -> dict[str, Any]:
    """What of the server changes an answer: its vLLM version and the model it serves.

    Raises:
        UserError: no server answers at `annotate.base_url`.
    """
    version = _call(annotate, "GET", "/version").get("version")
    served = _call(annotate, "GET", "/v1/models").get("data") or [{}]
    model = next((entry for entry in served if entry.get("id") == annotate.model), served[0])
    if not version or "id" not in model:
        raise UserError(f"annotate.base_url: what answers at {annotate.base_url} is no vLLM server")
    return {"engine": "server", "vllm": version, **{name: model.get(name) for name in ("id", "root", "max_model_len")}}


def _call(annotate: Annotate, method: str, route: str, body: dict[str, Any] | None = None) -> Any:
    url = annotate.base_url.rstrip("/") + route
    try:
        response = httpx.request(method, url, json=body, timeout=600)
        response.raise_for_status()
        return dict(response.json())
    except httpx.HTTPStatusError as error:
        raise UserError(
            f"annotate.base_url: {url} answered {error.response.status_code}: {error.response.text:.200}"
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError) as error:
        raise UserError(
            f"annotate.base_url: no vLLM server answers at {url} ({error}); start one, or use engine: vllm"
        ) from None


class Engine:
    """A connection to the server.

    Args:
        annotate (`Annotate`):
            The recipe's section.
        model_folder (`Path`):
            Not read: the server has its own.
    """

    def __init__(self, annotate: Annotate, model_folder: Path):
        self._annotate = annotate
        self._model = identity(annotate)["id"]

    def score(self, prompts: list[list[int]], label_ids: list[int]) -> np.ndarray:
        """Log-probabilities of the labels as the next token, of shape `(len(prompts), len(label_ids))`."""
        rows = []
        for start in range(0, len(prompts), BATCH):
            body = {
                "model": self._model,
                "prompt": prompts[start : start + BATCH],
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": len(label_ids),
                "logprob_token_ids": label_ids,
                "return_tokens_as_token_ids": True,
            }
            choices = _call(self._annotate, "POST", "/v1/completions", body)["choices"]
            for choice in sorted(choices, key=lambda c: c["index"]):
                found = choice["logprobs"]["top_logprobs"][0]
                if missing := [i for i in label_ids if f"token_id:{i}" not in found]:
                    raise UserError(
                        f"annotate.base_url: the server gives no log-probability for the label tokens {missing}; it "
                        "needs vLLM 0.32 or newer, which knows logprob_token_ids"
                    )
                rows.append([found[f"token_id:{i}"] for i in label_ids])
        return np.array(rows)
