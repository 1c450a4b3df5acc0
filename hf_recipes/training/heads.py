"""Train linear softmax heads on the features of a frozen encoder, many runs as one tensor program.

A text's features are the mean of the encoder's last hidden states over its tokens, scaled to the length sqrt(width).
A run has the seeds that it has in fine-tuning: its training texts, its first weights and the order of its batches.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

EPOCHS, BATCH_SIZE = 10, 32
LEARNING_RATE = 4e-3  # on 100 texts 0.005 is better than 0.002, on 1,000 slightly worse (docs/dev/LOG.md)
FIRST_WEIGHT_SD = 0.02  # of BERT's own heads
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of AdamW, the defaults of torch
MAX_HEADS = 32  # in one program: their batches fit into the cache of a core


def scale_features(features: np.ndarray) -> "torch.Tensor":
    """Return features of shape `(n, width)` scaled to the length sqrt(width), with a column of ones for the bias."""
    import torch

    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    scaled = features / np.maximum(lengths, 1e-12) * np.sqrt(features.shape[1])
    return torch.tensor(np.hstack([scaled, np.ones((len(features), 1))]), dtype=torch.float32)


def train_heads(
    features: "torch.Tensor",
    rows: list[np.ndarray],
    targets: list[np.ndarray],
    seeds: list[tuple[int, int]],
    warmup_ratio: float,
    weight_decay: float,
) -> "torch.Tensor":
    """Train R heads by AdamW (Loshchilov & Hutter 2019). No head depends on the others.

    Args:
        features (`torch.Tensor` of shape `(N, width + 1)`):
            What `scale_features` returns.
        rows (`list[np.ndarray]`):
            The training texts of each run, as indices into `features`. Their number may differ.
        targets (`list[np.ndarray]`):
            The targets of each run, of shape `(n, K)`; see `labels.rules.Labels`.
        seeds (`list[tuple[int, int]]`):
            The seeds of each run for its first weights and for the order of its batches.
        warmup_ratio (`float`), weight_decay (`float`):
            See `recipe.Train`. The bias does not decay.

    Returns:
        `torch.Tensor` of shape `(R, width + 1, K)`: the weights.
    """
    import torch

    heads, num_threads = [], torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are small: threads would wait for each other most of the time
    for start in range(0, len(rows), MAX_HEADS):
        block = slice(start, start + MAX_HEADS)
        heads.append(_train_block(features, rows[block], targets[block], seeds[block], warmup_ratio, weight_decay))
    torch.set_num_threads(num_threads)
    return torch.cat(heads)


def _train_block(
    features: "torch.Tensor",
    rows: list[np.ndarray],
    targets: list[np.ndarray],
    seeds: list[tuple[int, int]],
    warmup_ratio: float,
    weight_decay: float,
) -> "torch.Tensor":
    import torch

    num_runs, num_classes, width = len(rows), targets[0].shape[1], features.shape[1]
    most = max(map(len, rows))
    # A place of padding, `most`, has no target, and so no gradient.
    padded_rows = np.zeros((num_runs, most + 1), dtype=np.int64)
    padded_targets = np.zeros((num_runs, most + 1, num_classes), dtype=np.float32)
    weights = np.zeros((num_runs, width, num_classes), dtype=np.float32)
    for run, (run_rows, run_targets, (init_seed, _)) in enumerate(zip(rows, targets, seeds, strict=True)):
        padded_rows[run, : len(run_rows)] = run_rows
        padded_targets[run, : len(run_rows)] = run_targets
        rng = np.random.default_rng(init_seed)
        weights[run, :-1] = rng.normal(scale=FIRST_WEIGHT_SD, size=(width - 1, num_classes))

    # The batches of all runs, and the rate of each run at each step: it rises, falls to 0, and then remains there.
    num_steps = EPOCHS * -(-most // BATCH_SIZE)
    places = np.full((num_steps, num_runs, BATCH_SIZE), most)
    rates = np.zeros((num_steps, num_runs), dtype=np.float32)
    for run, (run_rows, (_, order_seed)) in enumerate(zip(rows, seeds, strict=True)):
        batches = list(_shuffled_batches(len(run_rows), order_seed))
        num_warmup = round(warmup_ratio * len(batches))
        for step, batch in enumerate(batches):
            places[step, run, : len(batch)] = batch
            is_warm = step >= num_warmup
            rates[step, run] = (len(batches) - step) / (len(batches) - num_warmup) if is_warm else step / num_warmup

    device = features.device
    head = torch.tensor(weights, device=device)
    first, second = torch.zeros_like(head), torch.zeros_like(head)
    decay = torch.full((1, width, 1), weight_decay, device=device)
    decay[0, -1] = 0.0
    all_rows, all_targets = torch.tensor(padded_rows, device=device), torch.tensor(padded_targets, device=device)
    all_places, all_rates = torch.tensor(places, device=device), torch.tensor(LEARNING_RATE * rates, device=device)
    for step in range(num_steps):
        now = all_places[step]
        texts = features[all_rows.gather(1, now)]
        batch_targets = all_targets.gather(1, now.unsqueeze(2).expand(-1, -1, num_classes))
        # The gradient of the mean of -sum_k target_k ln p_k over the batch.
        probs = torch.bmm(texts, head).softmax(2)
        errors = probs * batch_targets.sum(2, keepdim=True) - batch_targets
        sizes = (now < most).sum(1).clamp(min=1)[:, None, None]
        gradient = torch.bmm(texts.transpose(1, 2), errors / sizes)
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        corrected = first / (1 - BETAS[0] ** (step + 1))
        scale = (second / (1 - BETAS[1] ** (step + 1))).sqrt_().add_(EPSILON)
        rate = all_rates[step][:, None, None]
        head.mul_(1 - rate * decay).sub_(rate * corrected / scale)
    return head


def _shuffled_batches(num_rows: int, order_seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(order_seed)
    for _ in range(EPOCHS):
        order = rng.permutation(num_rows)
        for start in range(0, num_rows, BATCH_SIZE):
            yield order[start : start + BATCH_SIZE]


def predict_heads(features: "torch.Tensor", head: "torch.Tensor") -> np.ndarray:
    """Return the probabilities of texts, of shape `(n, K)`, by one head of shape `(width + 1, K)`."""
    return (features @ head).double().softmax(1).cpu().numpy()
