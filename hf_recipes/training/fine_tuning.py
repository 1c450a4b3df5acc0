"""Fine-tune an encoder on texts with targets, predict probabilities, and embed texts.

Chance comes from the seeds, whatever ran before in the process. The same arguments give the same bits on a CPU, and
with `train.deterministic` on a GPU. A GPU receives its work in advance, as losses are read at the end of an epoch, and
predictions after many batches.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..recipe import Train

RULES = 2  # to be increased when a change here changes the weights that `fine_tune` returns
MEGABATCH = 32  # batches among which texts are sorted by length: little padding, and still a random order
DIVERGED = "Training diverged: numbers are not finite. Lower `train.learning_rate`."
BLOCK = 10_000  # texts tokenised at a time
NUM_AHEAD = 64  # batches of prediction that a GPU receives before their results are read


class Tokens:
    """The token ids of texts in a memory-mapped file: a million texts need not fit into memory.

    Args:
        texts (`list[str]`):
            The texts.
        tokenizer (`PreTrainedTokenizerBase`):
            The encoder's tokenizer.
        max_length (`int`):
            Tokens; longer texts are cut.
        file (`Path`):
            The file. It loses its name at once, so that it ends with the process.
    """

    def __init__(self, texts: list[str], tokenizer: Any, max_length: int, file: Path):
        if tokenizer.pad_token is None:  # the attention mask hides padding, whatever its token
            tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
        lengths = [np.zeros(0, np.int64)]
        with file.open("wb") as stream:
            for start in range(0, len(texts), BLOCK):
                ids = tokenizer(texts[start : start + BLOCK], truncation=True, max_length=max_length)["input_ids"]
                lengths.append(np.array([len(text_ids) for text_ids in ids]))
                stream.write(np.concatenate(ids).astype(np.int32).tobytes())
        self.lengths = np.concatenate(lengths)
        self._ends = np.cumsum(self.lengths)
        self._ids = np.memmap(file, np.int32, "r") if len(texts) else np.zeros(0, np.int32)
        file.unlink()

    def __getitem__(self, row: int) -> np.ndarray:
        return self._ids[self._ends[row] - self.lengths[row] : self._ends[row]]


@dataclass(frozen=True)
class LabelledTexts:
    """Rows of `Tokens` with their targets.

    Attributes:
        tokens (`Tokens`): the texts.
        rows (`np.ndarray` of shape `(n,)`): indices into `tokens`.
        targets (`np.ndarray` of shape `(n, K)`): see `labels.rules.Labels`.
    """

    tokens: Tokens
    rows: np.ndarray
    targets: np.ndarray

    def token_ids(self) -> Iterator[np.ndarray]:
        """Return the token ids of each text."""
        return (self.tokens[row] for row in self.rows)


@dataclass
class Curves:
    """The mean loss of each epoch and, with validation rows, the scores on them.

    Attributes:
        step (`list[int]`), train_loss (`list[float]`), validation_loss (`list[float]`),
        validation_accuracy (`list[float]`), validation_macro_f1 (`list[float]`)
    """

    step: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    validation_macro_f1: list[float] = field(default_factory=list)

    def add(self, **values: float) -> None:
        for name, value in values.items():
            getattr(self, name).append(value)


def fine_tune(
    accelerator: Any,
    model: Any,
    tokenizer: Any,
    settings: Train,
    order_seed: int,
    train: LabelledTexts,
    validation: LabelledTexts | None,
    micro_batch_size: int,
) -> Curves:
    """Fine-tune a sequence classifier in place. It ends with the weights of the epoch that `settings.checkpoint` names.

    Args:
        accelerator (`Accelerator`):
            An accelerator of a single process; its trackers receive the figures of each epoch.
        model (`PreTrainedModel`):
            The classifier.
        tokenizer (`PreTrainedTokenizerBase`):
            The encoder's tokenizer, which pads.
        settings (`Train`):
            The recipe's section.
        order_seed (`int`):
            Draws the order of batches, and dropout.
        train (`LabelledTexts`), validation (`LabelledTexts`, *optional*):
            The training set, and the texts on which each epoch is scored.
        micro_batch_size (`int`):
            Texts in a forward pass. A batch takes as many passes as necessary.

    Raises:
        FloatingPointError: the loss of an epoch is not finite.
    """
    import torch
    from accelerate.utils import set_seed
    from transformers import get_linear_schedule_with_warmup

    from .embeddings import restore_embeddings, use_embeddings

    model.to(accelerator.device)
    validation_ids = validation.token_ids() if validation else ()
    all_embeddings = use_embeddings(model, chain([[tokenizer.pad_token_id]], train.token_ids(), validation_ids))
    # Biases and the weights of norms do not decay.
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        fused=True,
    )
    targets = torch.tensor(train.targets, dtype=torch.float32)
    lengths = train.tokens.lengths[train.rows]
    curves, best, step, decay = Curves(), None, 0, 1.0
    set_seed(order_seed)
    rng = np.random.default_rng(order_seed)

    # The rate rises from 0 in the warm-up and falls to 0 at the end.
    num_steps = settings.epochs * -(-len(train.rows) // settings.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, round(settings.warmup_ratio * num_steps), num_steps)
    for _ in range(settings.epochs):
        model.train()
        total_loss = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        for batch in bucketed_batches(lengths, settings.batch_size, rng):
            for start in range(0, len(batch), micro_batch_size):
                part = batch[start : start + micro_batch_size]
                with accelerator.autocast():
                    inputs = pad(tokenizer, train.tokens, train.rows[part], accelerator.device)
                    logits = model(**inputs).logits
                loss = torch.nn.functional.cross_entropy(
                    logits.float(), _send(targets[part], accelerator.device), reduction="sum"
                )
                # The parts' gradients add up to that of the mean over the batch.
                accelerator.backward(loss * (1 / len(batch)))
                total_loss += loss.detach()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            decay *= 1 - schedule.get_last_lr()[0] * settings.weight_decay
            schedule.step()
            optimizer.zero_grad()
            step += 1
        mean_loss = total_loss.item() / len(train.rows)
        if not np.isfinite(mean_loss):
            raise FloatingPointError(DIVERGED)

        scores = {"train_loss": mean_loss}
        if validation is not None:
            probs = predict(accelerator, model, tokenizer, validation.tokens, validation.rows, settings.eval_batch_size)
            scores |= _score(validation.targets, probs)
            is_best = scores["validation_macro_f1"] > max(curves.validation_macro_f1, default=-1.0)
            if is_best and settings.checkpoint == "best":
                best = deepcopy(model.state_dict()), decay
        curves.add(step=step, **scores)
        accelerator.log(scores, step=step)

    if best is not None:
        weights, decay = best
        model.load_state_dict(weights)
    if all_embeddings is not None:
        restore_embeddings(model, all_embeddings, decay)
    return curves


def _score(targets: np.ndarray, probs: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import f1_score

    labels, predicted = targets.argmax(axis=1), probs.argmax(axis=1)
    losses = -(targets * np.log(np.clip(probs, 1e-300, None))).sum(axis=1)
    return {
        "validation_loss": float(losses.mean()),
        "validation_accuracy": float((labels == predicted).mean()),
        "validation_macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
    }


def predict(
    accelerator: Any, model: Any, tokenizer: Any, tokens: Tokens, rows: np.ndarray, batch_size: int
) -> np.ndarray:
    """Return the probabilities of a classifier for some rows of `tokens`, of shape `(len(rows), K)`."""
    import torch

    probs = np.empty((len(rows), model.config.num_labels))
    model.eval()
    with torch.no_grad(), accelerator.autocast():
        for batches in _batches_by_length(tokens.lengths[rows], batch_size):
            outputs = []
            for places in batches:
                logits = model(**pad(tokenizer, tokens, rows[places], accelerator.device)).logits
                outputs.append(logits.double().softmax(-1))
            for places, output in zip(batches, outputs, strict=True):
                probs[places] = output.cpu().numpy()
    return probs


def embed(
    accelerator: Any, encoder: Any, tokenizer: Any, tokens: Tokens, rows: np.ndarray, batch_size: int
) -> np.ndarray:
    """Return the mean of an encoder's last hidden states over each text's tokens, of shape `(len(rows), width)`."""
    import torch

    features = np.empty((len(rows), encoder.config.hidden_size))
    encoder.to(accelerator.device).eval()
    with torch.no_grad():
        for batches in _batches_by_length(tokens.lengths[rows], batch_size):
            outputs = []
            for places in batches:
                inputs = pad(tokenizer, tokens, rows[places], accelerator.device)
                mask = inputs["attention_mask"].unsqueeze(-1)
                sums = (encoder(**inputs).last_hidden_state * mask).sum(1)
                outputs.append(sums / mask.sum(1))
            for places, output in zip(batches, outputs, strict=True):
                features[places] = output.cpu().numpy()
    return features


def _batches_by_length(lengths: np.ndarray, batch_size: int) -> Iterator[list[np.ndarray]]:
    """Yield `NUM_AHEAD` batches of similar lengths at a time."""
    order = np.argsort(lengths, kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    for start in range(0, len(batches), NUM_AHEAD):
        yield batches[start : start + NUM_AHEAD]


def pad(tokenizer: Any, tokens: Tokens, rows: np.ndarray, device: Any) -> dict[str, Any]:
    """Return a model's inputs for some rows, padded to the longest."""
    padded = tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="pt")
    return {name: _send(values, device) for name, values in padded.items()}


def _send(tensor: Any, device: Any) -> Any:
    """Return a tensor on a device. A copy from pinned memory to a GPU waits for nothing."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def bucketed_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield one epoch of batches of similar lengths, in random order.

    Texts are shuffled, cut into pieces of `MEGABATCH` batches and sorted by length inside each. Then the batches are
    shuffled: every text comes once, and only the last piece has a smaller batch.

    Args:
        lengths (`np.ndarray` of shape `(n,)`):
            Tokens of each text.
        batch_size (`int`):
            Texts in a batch.
        rng (`np.random.Generator`):
            The source of chance.

    Yields:
        `np.ndarray` of shape `(<= batch_size,)`: indices of the batch's texts.
    """
    order = rng.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), MEGABATCH * batch_size):
        part = order[start : start + MEGABATCH * batch_size]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    for i in rng.permutation(len(batches)):
        yield batches[i]
