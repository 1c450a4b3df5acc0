"""Predict what a study costs: tokens, seconds of a device, bytes on the disk.

Work is counted in FLOPs, so that a measured rate holds for other lengths and sizes. docs/scaling.md has the formulas.
"""

from functools import cache
from os.path import commonprefix
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoConfig, AutoModel

from .errors import UserError, first_line
from .models import Model
from .recipe import Annotate, Train
from .study import cpu_threads

STEP_TOKENS, STEP_ANSWERS = 4096, 256  # tokens of prompts, and of answers, for each time that the weights are read
ANNOTATION_SHARE, TRAINING_SHARE = 0.4, 0.3  # of a device's FLOP/s that are reached; see docs/scaling.md
ANNOTATION_BYTES, CONFIG_BYTES, PREDICTION_BYTES = 60, 48, 30  # of a row's ids (28 each) and small columns


class Device(NamedTuple):
    """What a device does in a second.

    Attributes:
        half (`float`), tf32 (`float`), float32 (`float`):
            FLOP/s of dense matrix products: of 16-bit numbers, of float32 numbers rounded to TF32 (in float32 where a
            device has no TF32), and in float32.
        bandwidth (`float`):
            Bytes/s of the memory.
        has_bfloat16 (`bool`):
            Whether bfloat16 is as fast as float16.
        layer_seconds (`float`):
            The least seconds of a layer in a training step: some 200 kernels, forward and backward, of 5 us each.
    """

    half: float
    tf32: float
    float32: float
    bandwidth: float
    has_bfloat16: bool = True
    layer_seconds: float = 1e-3


#: By NVIDIA's data sheets, under the names of `hf jobs`.
DEVICES = {
    "t4": Device(65e12, 8.1e12, 8.1e12, 320e9, has_bfloat16=False),
    "l4": Device(121e12, 60e12, 30.3e12, 300e9),
    "a10g": Device(70e12, 35e12, 35e12, 600e9),
    "l40s": Device(362e12, 183e12, 91.6e12, 864e9),
    "a100": Device(312e12, 156e12, 19.5e12, 2039e9),
    "h100": Device(989e12, 495e12, 67e12, 3350e9),
    "h200": Device(989e12, 495e12, 67e12, 4800e9),
}
CORE_FLOPS, CORE_BANDWIDTH = 100e9, 10e9  # of a CPU core, between AVX2 and AVX-512


def find_device(name: str | None = None) -> Device:
    """Return a device by its name, by default this machine's. A GPU that is not in the table counts as an L4."""
    if name is None:
        if not torch.cuda.is_available():
            flops, bandwidth = cpu_threads() * CORE_FLOPS, cpu_threads() * CORE_BANDWIDTH
            return Device(flops, flops, flops, bandwidth, layer_seconds=0.0)
        words = torch.cuda.get_device_name().lower().replace("-", " ").split()
        name = next((key for key in DEVICES if key in words), "l4")
    if name not in DEVICES:
        raise UserError(f"`--device` must be one of {', '.join(DEVICES)}. Got {name}.")
    return DEVICES[name]


class Shape(NamedTuple):
    """A model's size: parameters that every token passes, layers, width, and parameters of the input embeddings."""

    parameters: int
    layers: int
    width: int
    embeddings: int

    def flops(self, tokens: float, context: float) -> float:
        """Return the FLOPs of a forward pass of tokens that each attend to `context` others."""
        return tokens * (2 * self.parameters + 4 * self.layers * self.width * context)


@cache
def read_shape(model: Model) -> Shape:
    """Return a model's size by its configuration, without its weights. All experts of a mixture count."""
    try:
        config = AutoConfig.from_pretrained(model.folder, trust_remote_code=False)
        with torch.device("meta"):
            empty: Any = AutoModel.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for a model that it lacks
        raise UserError(f"{model.name}: transformers must support the model. {first_line(error)}") from None
    text, embeddings = config.get_text_config(), empty.get_input_embeddings().weight.numel()
    return Shape(empty.num_parameters() - embeddings, text.num_hidden_layers, text.hidden_size, embeddings)


def llm_memory(model: Model, section: Annotate) -> tuple[int, int]:
    """Return the bytes of an LLM's weights, and of the KV cache of its longest text, without quantization.

    The KV cache has a key and a value for each layer, token and key-value head.
    """
    shape, config = read_shape(model), AutoConfig.from_pretrained(model.folder, trust_remote_code=False)
    text = config.get_text_config()
    number = 4 if section.dtype == "float32" else 2  # bytes; with `auto` vLLM takes two on a GPU, of any model
    head = 0 if config.tie_word_embeddings else shape.embeddings
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    weights = number * (shape.parameters + shape.embeddings + head)
    return weights, 2 * number * shape.layers * heads * width * section.max_model_len


class PassWork(NamedTuple):
    """What a pass asks of the LLM: tokens shared by all prompts; tokens of a text, and of all its answers; its type."""

    shape: Shape
    shared: int
    own: float
    answers: int
    dtype: str = "auto"

    def tokens(self, texts: int) -> float:
        """Return the tokens that the LLM computes. The shared ones are computed once and kept."""
        return self.shared * bool(texts) + texts * (self.own + self.answers)

    def flops(self, texts: int) -> float:
        return self.shape.flops(self.tokens(texts), self.shared + self.own / 2)

    def seconds(self, texts: int, device: Device) -> float:
        """Return the longer of computing and of reading the weights once a step."""
        rate, num_bytes = (device.float32, 4) if self.dtype == "float32" else (device.half, 2)
        steps = texts * (self.own / STEP_TOKENS + self.answers / STEP_ANSWERS)
        reading = num_bytes * self.shape.parameters * steps / device.bandwidth
        return max(self.flops(texts) / (ANNOTATION_SHARE * rate), reading)


def count_pass(model: Model, section: Annotate, prompts: list[list[int]]) -> PassWork:
    """Count the tokens of a pass by the prompts of a sample of its texts."""
    shared = len(commonprefix(prompts)) if len(prompts) > 1 else 0  # noqa: RUF071 (lists of tokens)
    own = float(np.mean([len(ids) for ids in prompts])) - shared if prompts else 0.0
    answers = {"distribution": 0, "guided": 2, "votes": section.samples * section.max_tokens}
    return PassWork(read_shape(model), shared, own, answers[section.scoring], section.dtype)


class RunWork(NamedTuple):
    """What a run asks of the encoder.

    Its size, the mean tokens of a text, the recipe's `train` section, and accelerate's mixed precision (no, bf16).
    """

    shape: Shape
    own: float
    settings: Train
    mixed_precision: str = "no"

    def num_texts(self, size: int) -> int:
        """Return the training texts of all epochs."""
        return size * self.settings.epochs

    def tokens(self, size: int, num_forward: float) -> float:
        return self.own * (self.num_texts(size) + num_forward)

    def flops(self, size: int, num_forward: float) -> float:
        """Return the FLOPs: backward takes twice as many as forward, test and out-of-bag texts go forward alone."""
        return self.shape.flops(self.own * (3 * self.num_texts(size) + num_forward), self.own)

    def seconds(self, size: int, num_forward: float, device: Device) -> float:
        """Return the seconds of a device.

        They are the longer of computing and of starting kernels, which runs that share the device do at the same time,
        and the time of AdamW, 28 bytes a parameter. It visits few of the embeddings.
        """
        steps, shape = self.num_texts(size) / self.settings.batch_size, self.shape
        kernels = steps * shape.layers * device.layer_seconds / self.settings.runs_per_device
        optimizer = steps * 28 * shape.parameters / device.bandwidth
        rate = device.half if self.mixed_precision == "bf16" else device.tf32
        return max(self.flops(size, num_forward) / (TRAINING_SHARE * rate), kernels) + optimizer


def fit_line(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Fit a line to (FLOPs, seconds) of runs. Return the seconds that each run takes at least, and those of a FLOP."""
    flops, seconds = np.array(points).T
    slope, least = np.polyfit(flops, seconds, 1) if flops.max() > 1.5 * flops.min() else (0.0, 0.0)
    if min(slope, least) <= 0:  # one size, or noise: a line through zero
        return 0.0, float(seconds.sum() / flops.sum())
    return float(least), float(slope)


def row_bytes(columns: int, num_classes: int, text_bytes: float = 0.0) -> float:
    """Return the bytes of a row: its ids and small columns, a number for each class, the compressed text."""
    return columns + 8 * num_classes + 0.75 * text_bytes
