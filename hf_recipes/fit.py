"""One classifier: an encoder fine-tuned on the targets of some texts, and its probabilities for others.

A fit is a function of its arguments: chance comes from the two seeds alone, whatever ran before it in the process.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .recipe import Train

RULES = 1  # counted up when a change here changes what comes out of a fit
MEGABATCH = 32  # batches among which texts are sorted by length: little padding, and still a random order
DIVERGED = "it diverged: not all numbers are finite; lower train.learning_rate"
BLOCK = 10_000  # texts tokenised at a time


class Tokens:
    """The token ids of texts, in a file that is mapped and not read: a million texts need not fit into memory.

    Args:
        texts (`list[str]`):
            The texts.
        tokenizer (`PreTrainedTokenizerBase`):
            The encoder's.
        max_length (`int`):
            Tokens; longer texts are cut.
        file (`Path`):
            Where they are kept. It loses its name at once, and is gone with the process.
    """

    def __init__(self, texts: list[str], tokenizer: Any, max_length: int, file: Path):
        lengths = [np.zeros(0, np.int64)]
        with file.open("wb") as stream:
            for start in range(0, len(texts), BLOCK):
                ids = tokenizer(texts[start : start + BLOCK], truncation=True, max_length=max_length)["input_ids"]
                lengths.append(np.array([len(one) for one in ids]))
                stream.write(np.concatenate(ids).astype(np.int32).tobytes())
        self.lengths = np.concatenate(lengths)
        self._ends = np.cumsum(self.lengths)
        self._ids = np.memmap(file, np.int32, "r") if len(texts) else np.zeros(0, np.int32)
        file.unlink()

    def __getitem__(self, row: int) -> np.ndarray:
        return self._ids[self._ends[row] - self.lengths[row] : self._ends[row]]


@dataclass
class Curves:
    """What is written down at the end of each epoch: the mean loss, and the scores on validation rows if there are any.

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


@dataclass(frozen=True)
class Texts:
    """Rows of `Tokens` with their targets, of shape `(n, K)`; see `labels.rules.Labels`."""

    tokens: Tokens
    rows: np.ndarray
    targets: np.ndarray


class Fit:
    """The fine-tuning of one classifier, step by step.

    Args:
        accelerator (`Accelerator`):
            Of this process alone.
        model (`PreTrainedModel`):
            A sequence classifier; it is trained in place.
        tokenizer (`PreTrainedTokenizerBase`):
            The encoder's; it pads.
        settings (`Train`):
            The recipe's section.
        order_seed (`int`):
            Draws the order of batches, and dropout.
        train (`Texts`), validation (`Texts`, *optional*):
            What is learnt, and what each epoch is scored on.
        at_once (`int`):
            Texts in a forward pass; the batch is made up of as many passes as it takes.
        log (`Callable`, *optional*):
            Takes a dictionary of figures and a step, at the end of each epoch.
    """

    def __init__(
        self,
        accelerator: Any,
        model: Any,
        tokenizer: Any,
        settings: Train,
        order_seed: int,
        train: Texts,
        validation: Texts | None,
        at_once: int,
        log: Callable[[dict[str, float], int], None] = lambda values, step: None,
    ):
        import torch

        self._accelerator, self._settings, self._tokenizer = accelerator, settings, tokenizer
        self._order_seed, self._train, self._validation = order_seed, train, validation
        self._at_once, self._log = at_once, log
        self.model = model.to(accelerator.device)
        decayed = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]  # biases and norms
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            fused=True,
        )
        steps = settings.epochs * -(-len(train.rows) // settings.batch_size)
        warmup = round(settings.warmup_ratio * steps)

        def rate(step: int) -> float:
            return step / warmup if step < warmup else max(steps - step, 0) / max(steps - warmup, 1)

        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, rate)
        self._targets = torch.tensor(train.targets, dtype=torch.float32)
        self._best: dict[str, Any] | None = None
        self.curves = Curves()

    def run(self) -> Curves:
        """Train the model.

        Returns:
            `Curves`: of every epoch. The model holds the weights of the last one, or of the best if the recipe says so.

        Raises:
            FloatingPointError: the loss is not finite any more.
        """
        from accelerate.utils import set_seed

        set_seed(self._order_seed)
        rng = np.random.default_rng(self._order_seed)
        lengths = self._train.tokens.lengths[self._train.rows]
        step = 0
        self.model.train()
        for _ in range(self._settings.epochs):
            total = 0.0
            for batch in bucketed_batches(lengths, self._settings.batch_size, rng):
                step += 1
                total += self._learn(batch)
            self._end_epoch(step, total / len(lengths))
        if self._best is not None:
            self.model.load_state_dict(self._best)
        return self.curves

    def _learn(self, batch: np.ndarray) -> float:
        """One step of the optimiser; returns the sum of the batch's losses."""
        import torch

        total = 0.0
        for start in range(0, len(batch), self._at_once):
            rows = batch[start : start + self._at_once]
            with self._accelerator.autocast():
                logits = self.model(**self._pad(self._train.tokens, self._train.rows[rows])).logits
            targets = self._targets[rows].to(self._accelerator.device)
            loss = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
            self._accelerator.backward(loss * (1 / len(batch)))
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.max_grad_norm)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        return total

    def _end_epoch(self, step: int, loss: float) -> None:
        if not np.isfinite(loss):
            raise FloatingPointError(DIVERGED)
        self.curves.add(step=step, train_loss=loss)
        values = {"train_loss": loss}
        if self._validation is not None:
            scores = self._validate(self._validation)
            better = scores["validation_macro_f1"] > max(self.curves.validation_macro_f1, default=-1.0)
            if better and self._settings.checkpoint == "best":
                self._best = deepcopy(self.model.state_dict())
            self.curves.add(**scores)
            values |= scores
            self.model.train()
        self._log(values, step)

    def _validate(self, texts: Texts) -> dict[str, float]:
        from sklearn.metrics import f1_score

        probs = self.predict(texts.tokens, texts.rows)
        labels, found = texts.targets.argmax(axis=1), probs.argmax(axis=1)
        losses = -(texts.targets * np.log(np.clip(probs, 1e-300, None))).sum(axis=1)
        return {
            "validation_loss": float(losses.mean()),
            "validation_accuracy": float((labels == found).mean()),
            "validation_macro_f1": float(f1_score(labels, found, average="macro", zero_division=0)),
        }

    def predict(self, tokens: Tokens, rows: np.ndarray) -> np.ndarray:
        """Probabilities of shape `(len(rows), K)`, texts of like length together."""
        import torch

        order = np.argsort(tokens.lengths[rows], kind="stable")
        probs = np.empty((len(rows), self._targets.shape[1]))
        self.model.eval()
        with torch.no_grad(), self._accelerator.autocast():
            for start in range(0, len(order), self._settings.eval_batch_size):
                places = order[start : start + self._settings.eval_batch_size]
                logits = self.model(**self._pad(tokens, rows[places])).logits
                probs[places] = logits.double().softmax(-1).cpu().numpy()
        return probs

    def _pad(self, tokens: Tokens, rows: np.ndarray) -> Any:
        padded = self._tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="pt")
        return padded.to(self._accelerator.device)


def bucketed_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """One epoch of batches of similar lengths, in random order.

    Texts are shuffled, cut into runs of `MEGABATCH` batches, sorted by length inside each, and the batches are shuffled
    again: every text comes once, and only the last megabatch holds a smaller batch.

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
