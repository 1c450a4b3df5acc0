"""The section `annotate` of a recipe: the LLM, its prompt and its passes."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from .parsing import Section, explain_errors, fold_blanks

#: The arguments of vllm.LLM that a recipe may set. None of them loads code, a file or another model.
ENGINE_ARGS = (
    *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enable_expert_parallel"),
    *("disable_custom_all_reduce", "max_parallel_loading_workers", "max_num_seqs", "max_num_batched_tokens"),
    *("enable_chunked_prefill", "enable_prefix_caching", "block_size", "async_scheduling", "gpu_memory_utilization"),
    *("kv_cache_memory_bytes", "kv_cache_dtype", "num_gpu_blocks_override", "cpu_offload_gb", "quantization"),
    *("enforce_eager", "cudagraph_capture_sizes", "max_cudagraph_capture_size", "optimization_level"),
    *("performance_mode", "attention_backend", "moe_backend", "linear_backend", "model_impl", "disable_sliding_window"),
    *("disable_cascade_attn", "disable_hybrid_kv_cache_manager", "language_model_only", "seed", "hf_overrides"),
)


class Example(Section):
    """A few-shot example that the recipe contains."""

    text: str
    label: Annotated[str, AfterValidator(fold_blanks)]


class Prompt(Section):
    """The prompt. `template` is jinja2 over `instruction`, `labels`, `demonstrations` and, last, `text`.

    A label has `name`, `description` and `answer` (the text that the LLM writes for it), and prints as its name. A
    few-shot example in `demonstrations` has `text` and `label` (its answer). They are `examples`, or drawn from the
    gold rows of the training split: `random_shots` of all, or `shots_per_class` of each class (1 by default, 0 without
    gold).
    """

    instruction: str = Field(description="the question")
    template: str = Field(
        "{{ instruction }}\n\n"
        "{% if show_labels %}"
        "{% for label in labels %}"
        "{{ label.answer }}"
        "{% if label.answer != label.name %}: {{ label.name }}{% endif %}"
        "{% if label.description %}: {{ label.description }}{% endif %}\n"
        "{% endfor %}\n"
        "{% endif %}"
        "{% for demonstration in demonstrations %}"
        "Text: {{ demonstration.text }}\nLabel: {{ demonstration.label }}\n\n"
        "{% endfor %}"
        "Text: {{ text }}\nLabel:",
        description="jinja2 over `instruction`, `labels`, `demonstrations` and, last, `text`",
    )
    chat: bool = Field(False, description="put the prompt into the model's chat template as the user's message")
    answers: Literal["auto", "names", "integers", "letters", "sequences"] = Field(
        "auto",
        description="the answer for a label; auto: its name if each is one token, or a number, or a letter, or the "
        "whole name, token by token",
    )
    examples: list[Example] | None = Field(
        None, description="few-shot examples of your own, each with `text` and `label`, in place of drawn ones"
    )
    shots_per_class: int | None = Field(
        None, ge=0, description="few-shot examples drawn from each class; 1 by default, 0 without gold labels"
    )
    random_shots: int | None = Field(
        None, ge=0, description="few-shot examples drawn regardless of class (3 in Lu & Smith 2025)"
    )
    seed: int = Field(0, description="draws the few-shot examples")

    @model_validator(mode="after")
    def check_examples(self) -> "Prompt":
        if sum(value is not None for value in (self.examples, self.shots_per_class, self.random_shots)) > 1:
            raise ValueError(
                "must have only one of `examples`, `shots_per_class` and `random_shots`. Remove the others."
            )
        return self


class RayCluster(Section):
    """The cluster of `engine: ray`. Each actor has the whole model."""

    address: str | None = Field(
        default=None, description="host:port of a running cluster, or auto; by default one is started on this machine"
    )
    actors: int = Field(default=1, gt=0, description="copies of the model")
    cpus: int | None = Field(
        default=None, gt=0, description="threads of an actor; by default all of this machine without a GPU, otherwise 1"
    )
    gpus: int | None = Field(
        default=None, ge=0, description="GPUs of an actor; by default as many as engine_args spreads the model over"
    )

    @field_validator("address")
    @classmethod
    def check_address(cls, value: str | None) -> str | None:
        if value is not None and value != "auto" and not re.fullmatch(r"[A-Za-z0-9.-]+:[0-9]{1,5}", value):
            raise ValueError("must be auto, or host:port as ray start --head prints it")
        return value


class Columns(Section):
    """The columns of the dataset that have labels made elsewhere."""

    label: str = Field(description="the column with the LLM's labels")
    probs: str | dict[str, str] | None = Field(
        None,
        description="a column with the probabilities of the classes, or for each class its column",
    )

    @field_validator("probs")
    @classmethod
    def fold_classes(cls, value: Any) -> Any:
        return {fold_blanks(name): column for name, column in value.items()} if isinstance(value, dict) else value

    @property
    def names(self) -> list[str]:
        """All columns."""
        return [self.label, *([self.probs] if isinstance(self.probs, str) else (self.probs or {}).values())]


class Annotate(Section):
    """The LLM. `vllm` runs it in this process, `ray` on a cluster; `server` uses running vLLM servers at `base_url`.

    `columns` reads labels made elsewhere.
    """

    engine: Literal["vllm", "server", "ray", "columns"] = Field("vllm", description="where the model runs")
    columns: Columns | None = Field(None, description="of columns: where the labels are")
    model: str = Field(
        default_factory=lambda section: section["columns"].label if section.get("columns") else "",
        description="a Hub model or a local folder (required); of columns a name for reports, by default the column's",
    )
    revision: str | None = Field(None, description="branch, tag or sha on the Hub; recorded as a sha")
    base_url: str | list[str] = Field(
        "http://127.0.0.1:8000", description="of server: the address of a vLLM server, or several with the same model"
    )
    ray: RayCluster = Field(RayCluster(), description="of ray: the cluster")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="float32 on CPUs without bfloat16 instructions"
    )
    max_model_len: int = Field(1024, ge=64, description="tokens; a longer text is cut to fit, and flagged")
    engine_args: dict[str, Any] = Field(
        {}, description="arguments of `vllm.LLM` that load no code, file or other model"
    )
    scoring: Literal["distribution", "guided", "votes"] = Field(
        "distribution", description="probabilities of the label tokens, one constrained answer, or sampled answers"
    )
    min_label_mass: float = Field(
        0.05, ge=0, le=1, description="of distribution: stop if the label mass of the first texts is lower"
    )
    repeat_check: int = Field(
        0, ge=0, description="texts to ask about twice, in other batches, to count labels that change; not of columns"
    )
    samples: int = Field(5, gt=1, description="of votes: answers sampled for each text")
    temperature: float = Field(1.0, gt=0, description="of votes: the sampling temperature")
    max_tokens: int = Field(16, gt=0, description="of votes: the longest answer")
    seed: int = Field(0, description="of votes: a text's seed follows from this one and its prompt")
    thinking: bool = Field(False, description="let the model think before it answers; requires votes")
    prompt: Prompt | None = Field(None, description="what the LLM is asked; not of columns")
    calibration: Literal["none", "contextual", "batch", "temperature", "auto"] = Field(
        default_factory=lambda section: (
            "contextual" if section.get("scoring") == "distribution" and section.get("engine") != "columns" else "none"
        ),
        description="`contextual` by default; `none` of columns and where scoring gives no probabilities",
    )
    calibration_rows: int = Field(
        50, gt=1, description="of temperature and auto: gold rows to fit on; they leave the pool"
    )
    passes: list[dict[str, Any]] = Field(
        [], description="further passes over the same rows, by the settings that each changes in this section"
    )

    @field_validator("engine_args")
    @classmethod
    def check_engine_args(cls, value: dict[str, Any]) -> dict[str, Any]:
        unknown = value.keys() - set(ENGINE_ARGS)
        if unknown:
            raise ValueError(f"must not set `{min(unknown)}`. Try one of {', '.join(sorted(ENGINE_ARGS))}")
        overrides = value.get("hf_overrides") or {}
        plain = {**value, "cudagraph_capture_sizes": None, "hf_overrides": None}
        if isinstance(overrides, dict):
            plain |= overrides
        if not isinstance(overrides, dict) or any(isinstance(inner, dict | list) for inner in plain.values()):
            raise ValueError(
                "must have plain values, and `hf_overrides` a mapping of names to them, as {head_dtype: float32}"
            )
        return value

    @model_validator(mode="after")
    def check_engine(self) -> "Annotate":
        if self.columns is not None and self.engine != "columns":
            raise ValueError(f"`annotate.columns` requires `engine: columns`. Got {self.engine}. Remove one.")
        if not self.model and self.engine != "columns":
            raise ValueError("`annotate.model` is missing. Add it.")
        if self.engine == "columns" and self.columns is None:
            raise ValueError("`annotate.columns` is missing. Add it, with `label`.")
        if self.engine == "columns" and self.prompt is not None:
            raise ValueError("`annotate.prompt` must be absent with `engine: columns`, which asks no LLM. Remove it.")
        if self.engine == "columns" and self.repeat_check:
            raise ValueError(
                "`annotate.repeat_check` must be 0 with `engine: columns`, which asks no LLM. Got "
                f"{self.repeat_check}. Remove it."
            )
        if self.engine != "columns" and self.prompt is None:
            raise ValueError("`annotate.prompt` is missing. Add it.")
        return self

    @model_validator(mode="after")
    def check_scoring(self) -> "Annotate":
        has_chat = self.prompt is not None and self.prompt.chat
        if self.thinking and not (has_chat and self.scoring == "votes"):
            raise ValueError("`annotate.thinking` requires `prompt.chat: true` and `scoring: votes`. Set both.")
        if self.columns is not None:
            methods = ("none", "batch", "temperature", "auto") if self.columns.probs else ("none",)
            if self.calibration not in methods:
                reason = "" if self.columns.probs else ", as `annotate.columns` names no `probs`"
                raise ValueError(
                    f"`annotate.calibration` must be {' or '.join(methods)} with `engine: columns`{reason}. Got "
                    f"{self.calibration}."
                )
        elif self.scoring != "distribution" and self.calibration != "none":
            raise ValueError(
                f"`annotate.calibration` must be none with `scoring: {self.scoring}`, which gives no probabilities. "
                f"Got {self.calibration}."
            )
        for change in self.passes:
            fixed = {"passes", "calibration_rows", "ray", "repeat_check"} & change.keys()
            if fixed:
                raise ValueError(f"`annotate.passes` must not change `{min(fixed)}`. Remove it from the pass.")
        if self.passes:
            self.all_passes()
        return self

    @property
    def asked(self) -> Prompt:
        """The prompt of an engine that asks an LLM."""
        assert self.prompt is not None  # noqa: S101  (`check_engine`)
        return self.prompt

    @property
    def has_label_mass(self) -> bool:
        """Whether the probability of all labels among all answers is known."""
        return self.engine != "columns" and self.scoring == "distribution"

    @property
    def has_probabilities(self) -> bool:
        """Whether it gives each class a probability, not only the label."""
        return self.scoring != "guided" if self.columns is None else self.columns.probs is not None

    def all_passes(self) -> list["Annotate"]:
        """Return this section, then each of `passes` merged into it; none of them has further passes.

        A pass that changes `columns` names all of them: probabilities of one label are not those of another. It is not
        asked twice.
        """
        first = self.model_dump(exclude={"passes"}, exclude_unset=True)
        try:
            sections = [
                merge({**first, "columns": None, "repeat_check": 0} if "columns" in change else first, change)
                for change in self.passes
            ]
            return [Annotate.model_validate(section) for section in (first, *sections)]
        except ValidationError as errors:
            raise ValueError(f"`annotate.passes`: {' '.join(explain_errors(errors, Annotate))}") from None


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return a nested mapping with some of its values replaced."""
    merged = dict(base)
    for name, value in change.items():
        is_section = isinstance(base.get(name), dict) and isinstance(value, dict)
        merged[name] = merge(base[name], value) if is_section else value
    return merged
