"""Train the word embeddings of those tokens alone that the texts have.

Every step of AdamW visits all parameters, and an encoder has embeddings of 30,000 to 250,000 tokens. Those of other
tokens have no gradient: they only decay, which can be done once, at the end.
"""

from typing import Any

import numpy as np
import torch


class UsedWords(torch.nn.Module):
    """In place of an encoder's `torch.nn.Embedding`, the rows of some tokens.

    Args:
        whole (`torch.nn.Embedding`):
            The embeddings of all tokens, on the device of the model.
        ids (`np.ndarray` of shape `(n,)`):
            The tokens. Others are an error in `forward`.
    """

    places: torch.Tensor

    def __init__(self, whole: torch.nn.Embedding, ids: np.ndarray):
        super().__init__()
        padding = [] if whole.padding_idx is None else [whole.padding_idx]
        rows = torch.from_numpy(np.union1d(ids, padding).astype(np.int64)).to(whole.weight.device)
        places = torch.full((whole.num_embeddings,), len(rows), device=rows.device)
        places[rows] = torch.arange(len(rows), device=rows.device)
        self.weight = torch.nn.Parameter(whole.weight.data[rows])
        self.register_buffer("places", places, persistent=False)
        self.padding_idx = int(places[whole.padding_idx]) if padding else None
        self.rows = rows

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(self.places[ids], self.weight, self.padding_idx)


def use_words(model: Any, ids: np.ndarray) -> torch.nn.Embedding | None:
    """Give a model the embeddings of some tokens in place of all, and return all for `restore_words`.

    None, and nothing changes, if the model's embeddings are of a class that computes more than a look-up.
    """
    whole = model.get_input_embeddings()
    if type(whole) is not torch.nn.Embedding:
        return None
    model.set_input_embeddings(UsedWords(whole, ids))
    return whole


def restore_words(model: Any, whole: torch.nn.Embedding, decay: float) -> None:
    """Give a model the embeddings of all tokens again: those in use as they are now, the others times `decay`."""
    words = model.get_input_embeddings()
    whole.weight.data *= decay
    whole.weight.data[words.rows] = words.weight.data
    model.set_input_embeddings(whole)
