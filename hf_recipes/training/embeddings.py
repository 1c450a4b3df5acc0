"""Train only the embeddings of tokens in the texts.

Each step of AdamW visits all parameters, and encoders have embeddings of 30,000 to 250,000 tokens. Those of tokens in
no text have no gradient. They only decay, which can be done once, at the end.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch


class UsedEmbeddings(torch.nn.Module):
    """Some rows of an encoder's `torch.nn.Embedding`, in its place.

    Args:
        whole (`torch.nn.Embedding`):
            The embeddings of all tokens, on the device of the model.
        tokens (`np.ndarray` of shape `(n,)`):
            The tokens whose rows these are. `forward` raises an `IndexError` for any other.
    """

    places: torch.Tensor

    def __init__(self, whole: torch.nn.Embedding, tokens: np.ndarray):
        super().__init__()
        self.rows = torch.from_numpy(tokens).to(whole.weight.device)
        places = torch.full((whole.num_embeddings,), len(tokens), device=whole.weight.device)
        places[self.rows] = torch.arange(len(tokens), device=whole.weight.device)
        self.weight = torch.nn.Parameter(whole.weight.data[self.rows])
        self.register_buffer("places", places, persistent=False)
        self.padding_idx = None if whole.padding_idx is None else int(places[whole.padding_idx])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(self.places[ids], self.weight, self.padding_idx)


def use_embeddings(model: Any, texts: Iterable[np.ndarray | list[int]]) -> torch.nn.Embedding | None:
    """Replace the model's embeddings with those of the tokens in `texts`, which are token ids. Return all of them.

    Return None, and change nothing, if the model has no embeddings or if their class computes more than a look-up.
    """
    try:
        whole = model.get_input_embeddings()
    except NotImplementedError:  # CANINE hashes characters
        return None
    if type(whole) is not torch.nn.Embedding:
        return None
    is_used = np.zeros(whole.num_embeddings, dtype=bool)
    for ids in texts:
        is_used[ids] = True
    if whole.padding_idx is not None:
        is_used[whole.padding_idx] = True
    model.set_input_embeddings(UsedEmbeddings(whole, np.flatnonzero(is_used)))
    return whole


def restore_embeddings(model: Any, whole: torch.nn.Embedding, decay: float) -> None:
    """Give a model all embeddings again: the used ones as they are now, the others multiplied by `decay`."""
    used = model.get_input_embeddings()
    whole.weight.data *= decay
    whole.weight.data[used.rows] = used.weight.data
    model.set_input_embeddings(whole)
