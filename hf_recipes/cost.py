"""What a study costs: tokens, seconds of a device and bytes, by measured rates or, before there are any, by a roofline.

Work is counted in FLOPs, so that a rate that was measured on some texts holds for longer or more ones. `docs/scale.md`
sets what comes out beside what was measured, and says where the formulas end.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from .models import Model
from .recipe import Annotate, Train, UserError, first_line

SAMPLE = 500  # texts whose tokens are counted
BATCH_TOKENS = 4096  # of a step of the LLM, between two readings of its weights
SEQUENCES = 256  # answers that are generated at once
ANNOTATING, TRAINING = 0.4, 0.3  # shares of the peak that are reached; see docs/scale.md
LAYER_SECONDS = 1e-3  # of a training step on a GPU, at least: some 200 kernels a layer, there and back, of 5 us each
HEX_ID = 28  # bytes of an id in a parquet file: 24 hex digits and their length
SQUEEZED = 0.75  # of a text's bytes, in a parquet file


@dataclass(frozen=True)
class Device:
    """What the roofline knows of a device.

    Attributes:
        name (`str`)
        flops (`float`): FLOP/s of dense matrix products in the precision that is used.
        bandwidth (`float`): bytes/s of its memory.
        layer_seconds (`float`): the least that a layer takes in a training step.
    """

    name: str
    flops: float
    bandwidth: float
    layer_seconds: float = LAYER_SECONDS


#: By NVIDIA's data sheets, dense: bfloat16, of the T4 float16. By the names that `hf jobs` has for them.
DEVICES = {
    "t4": Device("t4", 65e12, 320e9),
    "l4": Device("l4", 121e12, 300e9),
    "a10g": Device("a10g", 70e12, 600e9),
    "l40s": Device("l40s", 362e12, 864e9),
    "a100": Device("a100", 312e12, 2039e9),
    "h100": Device("h100", 989e12, 3350e9),
    "h200": Device("h200", 989e12, 4800e9),
}


@dataclass(frozen=True)
class Shape:
    """A model's size.

    Attributes:
        parameters (`int`): those that every token passes: all but the input embeddings.
        layers (`int`), width (`int`)
        embeddings (`int`): parameters of the input embeddings, which are learnt but not computed with.
    """

    parameters: int
    layers: int
    width: int
    embeddings: int

    def forward(self, tokens: float, context: float) -> float:
        """FLOPs of so many tokens that each look at `context` others: 2 N + 4 layers width context for each."""
        return tokens * (2 * self.parameters + 4 * self.layers * self.width * context)


@cache
def shape_of(model: Model) -> Shape:
    """A model's size by its configuration; no weights are read. Experts that a token does not pass count as well."""
    import torch
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(model.folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:  # transformers raises them for a kind of model that it lacks
        raise UserError(
            f"{model.name}: config.json must be of a model that transformers has. {first_line(error)}"
        ) from None
    text = config.get_text_config()
    try:
        with torch.device("meta"):
            made: Any = AutoModel.from_config(config, trust_remote_code=False)
    except Exception:  # vLLM knows models that transformers does not: then as they mostly are
        layers, width = text.num_hidden_layers, text.hidden_size
        return Shape(12 * layers * width**2, layers, width, text.vocab_size * width)
    embeddings = made.get_input_embeddings().weight.numel()
    total = sum(parameter.numel() for parameter in made.parameters())
    return Shape(total - embeddings, text.num_hidden_layers, text.hidden_size, embeddings)


@dataclass(frozen=True)
class Asking:
    """What one pass asks of the LLM.

    Attributes:
        shape (`Shape`)
        shared (`int`): tokens that all prompts begin with: they are computed once and kept.
        own (`float`): tokens of a text beyond them, on average.
        answers (`int`): answers generated for each text; 0 where its distribution is read off.
        answer_tokens (`int`): of one.
    """

    shape: Shape
    shared: int
    own: float
    answers: int
    answer_tokens: int

    def tokens(self, texts: int) -> float:
        """Tokens that the LLM computes: shared + texts (own + answers answer_tokens)."""
        return self.shared * bool(texts) + texts * (self.own + self.answers * self.answer_tokens)

    def flops(self, texts: int) -> float:
        return self.shape.forward(self.tokens(texts), self.shared + self.own / 2)

    def seconds(self, texts: int, device: Device) -> float:
        """The longer of computing and of reading the weights, in 2 bytes each, once a step:

        max(FLOPs / (ANNOTATING peak), 2 N steps / bandwidth), steps = prompt tokens / BATCH_TOKENS
        + answer tokens / SEQUENCES.
        """
        steps = texts * (self.own / BATCH_TOKENS + self.answers * self.answer_tokens / SEQUENCES)
        reading = 2 * self.shape.parameters * steps / device.bandwidth
        return max(self.flops(texts) / (ANNOTATING * device.flops), reading)


def asking(model: Model, section: Annotate, prompts: list[list[int]]) -> Asking:
    """Counts the tokens of a pass by the prompts of a sample of its texts."""
    shared = 0
    if len(prompts) > 1:
        pairs = zip(min(prompts), max(prompts), strict=False)  # what these two share, all do
        shared = next((i for i, (one, other) in enumerate(pairs) if one != other), len(min(prompts)))
    own = float(np.mean([len(ids) for ids in prompts])) - shared if prompts else 0.0
    answers = {"distribution": 0, "guided": 1, "votes": section.samples}[section.scoring]
    return Asking(shape_of(model), shared, own, answers, section.max_tokens if section.scoring == "votes" else 2)


@dataclass(frozen=True)
class Learning:
    """What runs ask of the encoder.

    Attributes:
        shape (`Shape`)
        own (`float`): tokens of a text, on average.
        settings (`Train`)
    """

    shape: Shape
    own: float
    settings: Train

    def texts(self, size: int) -> int:
        """Texts that a run learns from, again in every epoch."""
        return size * self.settings.epochs

    def tokens(self, size: int, test: int) -> float:
        return self.own * (self.texts(size) + test)

    def flops(self, size: int, test: int) -> float:
        """Forward and twice as much backward for what is learnt, forward for the test texts."""
        return self.shape.forward(self.own * (3 * self.texts(size) + test), self.own)

    def seconds(self, size: int, test: int, device: Device) -> float:
        """max(FLOPs / (TRAINING peak), steps layers layer_seconds) + steps 28 (N + embeddings) / bandwidth.

        28 bytes a parameter are read and written in a step of AdamW, after the gradients: they, the weights and two
        moments.
        """
        steps = self.texts(size) / self.settings.batch_size
        computing = max(
            self.flops(size, test) / (TRAINING * device.flops), steps * self.shape.layers * device.layer_seconds
        )
        return computing + steps * 28 * (self.shape.parameters + self.shape.embeddings) / device.bandwidth


def device(name: str) -> Device:
    """A device by its name.

    Raises:
        UserError: it is not in the table.
    """
    if name not in DEVICES:
        raise UserError(f"--device: '{name}' is none of {', '.join(DEVICES)}")
    return DEVICES[name]


@cache
def this_machine(dtype: str) -> Device:
    """The device here, by a matrix product and a copy that take about a second."""
    import torch

    where = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    cpu = where is None or where.type == "cpu"
    kind = torch.float32 if cpu and dtype == "auto" else getattr(torch, dtype, torch.bfloat16)
    size = 1024 if cpu else 8192
    one = torch.randn(size, size, device=where).to(kind)
    large = torch.zeros(2**26 if cpu else 2**29, dtype=torch.uint8, device=where)
    other = torch.empty_like(large)

    def rate(work: float, step: Any) -> float:
        step()
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < 0.4:  # several, as one may be disturbed
            step()
            count += 1
        return count * work / (time.perf_counter() - start)

    def product() -> None:
        (one @ one)[0, 0].item()  # which waits for it

    def copy() -> None:
        other.copy_(large)[0].item()

    return Device("here", rate(2 * size**3, product), rate(2 * large.numel(), copy), 0.0 if cpu else LAYER_SECONDS)


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The time that a run takes at least, and the time of a FLOP, by (FLOPs, seconds) of runs: a line through them."""
    from scipy.optimize import nnls

    flops, seconds = np.array(points).T
    if flops.max() > 1.5 * flops.min():
        (least, each), _ = nnls(np.column_stack([np.ones(len(flops)), flops / flops.max()]), seconds)
        if each:
            return float(least), float(each / flops.max())
    return 0.0, float(seconds.sum() / flops.sum())


def annotation_bytes(classes: int) -> int:
    """Of a row: two ids, K numbers, and what is left."""
    return 2 * HEX_ID + 8 * classes + 4


def prediction_bytes(classes: int) -> int:
    """Of a test text in a run: an id, K numbers, and what is left."""
    return HEX_ID + 8 * classes + 2


def config_bytes(text_bytes: float, classes: int) -> float:
    """Of a row in a config of the dataset folder: an id, the text, K + 2 numbers, and what is left."""
    return HEX_ID + SQUEEZED * text_bytes + 8 * (classes + 2) + 4
