"""The features of texts: what the frozen encoder makes of each. They are kept in the study, a text is encoded once."""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .. import parquet
from ..errors import UserError, first_line
from ..hashing import make_key
from ..logs import Progress
from ..models import load_tokenizer
from ..study import Study
from .fine_tuning import Tokens, embed
from .runs import Runs

PART_ROWS = 4096  # texts of a part: what a kill can cost
RULES = 2  # to be increased when a change here changes features
BATCH_SIZE = 64  # the same for all, as it changes sums
SCHEMA = pa.schema({"text": pa.binary(16), "features": pa.list_(pa.float32())})


def read_features(study: Study, runs: Runs, accelerator: Any, texts: list[str]) -> np.ndarray:
    """Return the features of texts, in float32 and of shape `(n, width)`. Those that are missing are computed and kept.

    Args:
        study (`Study`), runs (`Runs`):
            A study, and its runs by the method `frozen`.
        accelerator (`Accelerator`):
            Where the encoder runs.
        texts (`list[str]`):
            The texts.

    Raises:
        UserError: the encoder does not load.
    """
    environment = runs.environment(runs.all[0]) | {"rules": RULES}
    folder = study.features / make_key(max_length=study.training.max_length, **environment)
    folder.mkdir(parents=True, exist_ok=True)
    digests = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
    place = {digest: i for i, digest in enumerate(dict.fromkeys(digests))}
    features: np.ndarray | None = None
    is_known = np.zeros(len(place), dtype=bool)
    parts = sorted(folder.glob("part-*.parquet"))
    for part in parts:
        table = parquet.read(part, SCHEMA)
        values = table["features"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        features = np.zeros((len(place), values.shape[1]), np.float32) if features is None else features
        rows = np.array([place.get(digest, -1) for digest in table["text"].to_pylist()])
        features[rows[rows >= 0]] = values[rows >= 0]
        is_known[rows[rows >= 0]] = True
    missing = np.flatnonzero(~is_known)
    if len(missing) or features is None:
        distinct, unique = list(place), dict(zip(digests, texts, strict=True))
        encoder, tokenizer = load_encoder(runs), load_tokenizer("train.encoder", runs.encoder)
        if features is None:
            features = np.zeros((len(place), encoder.config.hidden_size), np.float32)
        longest, next_part = study.training.max_length, 1 + max((int(part.stem[5:]) for part in parts), default=-1)
        with (
            tempfile.TemporaryDirectory(prefix="hf-recipes-") as temporary,
            Progress(total=len(place), initial=len(place) - len(missing), desc="encode", unit=" texts") as progress,
        ):
            for number, start in enumerate(range(0, len(missing), PART_ROWS), next_part):
                rows = missing[start : start + PART_ROWS]
                part_texts = [unique[distinct[row]] for row in rows]
                tokens = Tokens(part_texts, tokenizer, longest, Path(temporary) / "part.tokens")
                values = embed(accelerator, encoder, tokenizer, tokens, np.arange(len(rows)), BATCH_SIZE)
                features[rows] = values
                file = folder / f"part-{number:05d}.parquet"
                table = pa.table([[distinct[row] for row in rows], list(features[rows])], schema=SCHEMA)
                parquet.write(folder / f".tmp-{file.name}", table)
                study.checksums.publish(folder / f".tmp-{file.name}", file)
                progress.update(len(rows))
    return features[[place[digest] for digest in digests]]


def load_encoder(runs: Runs) -> Any:
    """Return the encoder without a head.

    Raises:
        UserError: it does not load.
    """
    import torch
    from transformers import AutoModel

    try:
        return AutoModel.from_pretrained(
            runs.encoder.folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"`train.encoder` must load. {runs.encoder.name}: {first_line(error)}") from None
