"""Ask an engine about prompts: the log-probability of each label, from label tokens or from sampled answers."""

import hashlib
from array import array
from typing import Any, NamedTuple

import numpy as np

from ..recipe import Annotate
from .answers import read_answer
from .engines import MAX_TOKEN_IDS
from .prompts import Prompts
from .store import FAILED

MASK_VALUE = -9999.0  # what a vLLM server writes for minus infinity
MAX_LOGPROB = 1e-6  # of one label: rounding may exceed 0
MAX_LABEL_MASS = 1.1  # of all labels: those of different requests are rounded separately


class Refusal(NamedTuple):
    """The status and the error of a prompt without an answer."""

    status: str
    error: str


NO_LABEL = Refusal("no_label", "no answer named a label")


def ask(
    engine: Any, section: Annotate, prompts: Prompts, inputs: dict[str, list[int]], by_length: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, Refusal]]:
    """Return the log-probabilities of the labels, or the refusal, of each model input by its id.

    The engine gets the inputs `by_length`, or in their order.
    """
    prompt_ids = sorted(inputs, key=lambda prompt_id: len(inputs[prompt_id])) if by_length else list(inputs)
    ordered = [inputs[prompt_id] for prompt_id in prompt_ids]
    if section.scoring == "distribution":
        logprobs, errors = score_answers(engine, ordered, prompts.answer_ids)
        for i in range(len(ordered)):
            if i not in errors and (error := _find_error(logprobs[i])):
                errors[i] = error
    else:
        logprobs, errors = _sample_shares(engine, section, prompts, prompt_ids, ordered)
    answers, refusals = {}, {}
    for i, prompt_id in enumerate(prompt_ids):
        if i in errors:
            refusals[prompt_id] = Refusal(FAILED, errors[i])
        elif np.isneginf(logprobs[i]).all():
            refusals[prompt_id] = NO_LABEL
        else:
            answers[prompt_id] = logprobs[i]
    return answers, refusals


def hash_prompt(token_ids: list[int]) -> str:
    """Return the id of a model input. Inputs with the same id are scored once."""
    return hashlib.blake2b(array("q", token_ids).tobytes(), digest_size=12).hexdigest()


def score_answers(engine: Any, inputs: list[list[int]], answers: list[list[int]]) -> tuple[np.ndarray, dict[int, str]]:
    """Return the log-probability of each answer, a sequence of tokens, after each model input: the sum over its tokens.

    Answers of one token take one call. Longer answers take one more call for each beginning, which the engine's prefix
    cache makes cheap. The sum is not normalised by length.

    Args:
        engine (`Engine`), inputs (`list[list[int]]`), answers (`list[list[int]]`):
            No answer is the beginning of another one.

    Returns:
        `tuple[np.ndarray, dict[int, str]]`: an array of shape `(n, K)`, and the errors of refused inputs by index.
    """
    # All tokens that continue each beginning of an answer.
    next_tokens: dict[tuple[int, ...], list[int]] = {}
    for answer in answers:
        for length, token in enumerate(answer):
            tokens = next_tokens.setdefault(tuple(answer[:length]), [])
            if token not in tokens:
                tokens.append(token)
    total = np.zeros((len(inputs), len(answers)))
    errors: dict[int, str] = {}
    for beginning, tokens in next_tokens.items():
        longer_inputs = [[*token_ids, *beginning] for token_ids in inputs]
        blocks = []
        for first in range(0, len(tokens), MAX_TOKEN_IDS):
            logprobs, call_errors = engine.score(longer_inputs, tokens[first : first + MAX_TOKEN_IDS])
            blocks.append(logprobs)
            errors |= call_errors
        logprobs = np.concatenate(blocks, axis=1)
        for k, answer in enumerate(answers):
            if tuple(answer[: len(beginning)]) == beginning and len(answer) > len(beginning):
                total[:, k] += logprobs[:, tokens.index(answer[len(beginning)])]
    return total, errors


def _find_error(logprobs: np.ndarray) -> str | None:
    """Return why these are not the log-probabilities of labels, or None.

    A softmax over the vocabulary gives every label some probability. Minus infinity is a label that the engine masks.
    """
    if np.isnan(logprobs).any():
        return "a log-probability is not a number"
    if (logprobs <= MASK_VALUE).any():
        return "the engine masks a label: its log-probability is minus infinity"
    if (logprobs > MAX_LOGPROB).any():
        return "a log-probability is above 0"
    if np.exp(logprobs).sum() > MAX_LABEL_MASS:
        return "the probabilities of the labels sum to more than 1"
    return None


def _sample_shares(
    engine: Any, section: Annotate, prompts: Prompts, prompt_ids: list[str], inputs: list[list[int]]
) -> tuple[np.ndarray, dict[int, str]]:
    """Return the log of each label's share among the sampled answers, or of the single constrained answer."""
    if section.scoring == "guided":
        num_samples, temperature = 1, 0.0
        max_tokens, choices = prompts.max_choice_tokens, prompts.choices
    else:
        num_samples, temperature = section.samples, section.temperature
        max_tokens, choices = section.max_tokens, None
    # Each input has its own seed, so that no answer depends on the other inputs of a call.
    seeds = [int(hashlib.sha256(f"{section.seed}\0{i}".encode()).hexdigest()[:7], 16) for i in prompt_ids]
    answers, errors = engine.sample(inputs, num_samples, temperature, max_tokens, seeds, choices)
    counts = np.zeros((len(inputs), len(prompts.answers)))
    for i, texts in enumerate(answers):
        for text in texts:
            label = read_answer(text, prompts.names, prompts.answers, section.thinking)
            if label is not None:
                counts[i, label] += 1
    with np.errstate(divide="ignore"):
        return np.log(counts / num_samples), errors
