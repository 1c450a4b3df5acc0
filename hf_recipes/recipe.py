"""What a study is: a YAML file, checked and with every default filled in.

A recipe says which texts, which LLM with which prompt, which variants (sources of training labels), which encoder, and
how many sizes and seeds. `load_recipe` is the only way in; everything after it can rely on what it read.
"""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .errors import UserError
from .parsing import explain_error, parse_yaml
from .redact import redact
from .variants import CONTROLS, VARIANTS


def known_variant(name: str) -> str:
    """Return the name of a variant; ValueError if there is no such variant."""
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; known variants: {', '.join(VARIANTS)}"
        raise ValueError(f"unknown variant{hint}")
    return name


VariantName = Annotated[str, AfterValidator(known_variant)]
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
Source = Literal["subset", "init", "order", "pass"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(Section):
    """The texts. `path` is a Hub dataset id, a local folder or file, relative to the working directory, or the URL of
    .parquet files in any file system of fsspec (`s3://bucket/texts-*.parquet`)."""

    path: str
    name: str | None = Field(None, description="the dataset's config")
    revision: str | None = Field(None, description="branch, tag or sha on the Hub; recorded as a sha")
    train_split: str = "train"
    test_split: str = "test"
    text_column: str = "text"
    text_template: str | None = Field(
        None, description="jinja2 over the columns, where a text is made of several: '{{ title }}: {{ body }}'"
    )
    label_column: str | None = Field("label", description="null: the texts have no gold labels")
    raters: str | dict[str, str] | None = Field(
        None,
        description="who else labelled: a column of lists of the raters' labels, or for each class the column that "
        "counts the raters who gave it",
    )
    group_column: str | None = Field(
        None, description="a year, party or source: shares of classes are also counted among the test texts of each"
    )
    label_names: Annotated[list[str], Field(min_length=2)] | Annotated[dict[str, str], Field(min_length=2)] | None = (
        Field(None, description="the classes, or a mapping of each to its description, which the prompt shows")
    )
    pool_size: int | None = Field(None, gt=0, description="rows of the training split to use; all by default")
    test_size: int | None = Field(
        None, gt=0, description="rows of the test split to use, all by default; needed if there is one split only"
    )
    seed: int = Field(0, description="draws the pool and the test rows")

    @field_validator("path")
    @classmethod
    def plain_path(cls, value: str) -> str:
        if "::" in value and "://" not in value:
            raise ValueError("must be a local path without '::', or a URL; rename the file or folder")
        return value

    @model_validator(mode="after")
    def named(self) -> "Data":
        if self.text_template is not None and self.text_column != "text":
            raise ValueError("set text_column or text_template, not both")
        if self.label_column is None and self.label_names is None:
            raise ValueError("label_names must name the classes where label_column is null")
        if isinstance(self.raters, dict) and self.label_names and set(self.raters) != set(self.label_names):
            raise ValueError("raters must name a column for each class of label_names")
        if len(set(self.label_names or ())) < len(self.label_names or ()):
            raise ValueError("label_names names a class twice")
        return self

    @property
    def descriptions(self) -> dict[str, str]:
        """What the recipe says of each class; empty where it says nothing."""
        return self.label_names if isinstance(self.label_names, dict) else {}


class Example(Section):
    """A demonstration that the recipe brings along."""

    text: str
    label: str


class Prompt(Section):
    """How the LLM is asked. `template` is jinja2 over `instruction`, `labels`, `demonstrations` and, last, `text`.

    A label has `name`, `description` and `answer` (what the LLM has to write), and prints as its name; a demonstration
    has `text` and `label` (its answer). Demonstrations are `examples` from here, or else drawn from the gold rows of
    the training split: `random_shots` of all, or `shots_per_class` of each class (1 by default, 0 without gold).
    """

    instruction: str
    template: str = (
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
        "Text: {{ text }}\nLabel:"
    )
    chat: bool = Field(False, description="put the prompt into the model's chat template as the user's message")
    answers: Literal["auto", "names", "integers", "letters", "sequences"] = Field(
        "auto",
        description="what stands for a label: its name if each is one token, else a number, else a letter, else the "
        "whole name, token by token",
    )
    examples: list[Example] | None = Field(None, description="demonstrations written here, in place of drawn ones")
    shots_per_class: int | None = Field(None, ge=0)
    random_shots: int | None = Field(None, ge=0, description="drawn whatever their class, as Lu & Smith 2025 do (3)")
    seed: int = Field(0, description="draws the demonstrations")

    @model_validator(mode="after")
    def one_way(self) -> "Prompt":
        if sum(way is not None for way in (self.examples, self.shots_per_class, self.random_shots)) > 1:
            raise ValueError("set one of examples, shots_per_class and random_shots")
        return self


class RayCluster(Section):
    """Where the engines of `engine: ray` run: actors on a cluster, each with the whole model."""

    address: str | None = Field(
        default=None, description="host:port of a running cluster, or auto; by default one is started on this machine"
    )
    actors: int = Field(default=1, gt=0, description="how many; each is a copy of the model")
    cpus: int | None = Field(
        default=None, gt=0, description="of an actor, its threads; by default all of this machine without a GPU, else 1"
    )
    gpus: int | None = Field(
        default=None, ge=0, description="of an actor; by default as many as engine_args spreads the model over"
    )

    @field_validator("address")
    @classmethod
    def plain(cls, value: str | None) -> str | None:
        if value is not None and value != "auto" and not re.fullmatch(r"[A-Za-z0-9.-]+:[0-9]{1,5}", value):
            raise ValueError("must be host:port, as ray start --head prints it, or auto")
        return value


class Annotate(Section):
    """The LLM. `vllm` runs it in this process, `ray` on a cluster; `server` asks running vLLM servers at `base_url`."""

    model: str
    revision: str | None = None
    engine: Literal["vllm", "server", "ray"] = "vllm"
    base_url: str | list[str] = Field("http://127.0.0.1:8000", description="one server, or several with the same model")
    ray: RayCluster = RayCluster()
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    max_model_len: int = Field(1024, ge=64, description="tokens; a longer text is cut to fit, and flagged")
    engine_args: dict[str, Any] = Field({}, description="passed to vllm.LLM; see ENGINE_ARGS")
    scoring: Literal["distribution", "guided", "votes"] = Field(
        "distribution", description="the label tokens' probabilities; or one constrained answer; or sampled answers"
    )
    min_label_mass: float = Field(
        0.05, ge=0, le=1, description="of distribution: stop if the labels hold less of the first texts' probability"
    )
    samples: int = Field(5, gt=1, description="of votes: answers sampled for each text")
    temperature: float = Field(1.0, gt=0, description="of votes")
    max_tokens: int = Field(16, gt=0, description="of votes: the longest answer")
    seed: int = Field(0, description="of votes: each text has a seed of its own, made of this one and its prompt")
    thinking: bool = Field(False, description="let a model that can think before it answers do so; wants votes")
    prompt: Prompt
    calibration: Literal["none", "contextual", "batch", "temperature", "auto"] = Field(
        default_factory=lambda section: "contextual" if section.get("scoring") == "distribution" else "none",
        description="contextual by default; none where scoring gives no probabilities",
    )
    calibration_rows: int = Field(
        50, gt=1, description="of temperature and auto: the gold rows they are fitted on; they leave the pool"
    )
    passes: list[dict[str, Any]] = Field(
        [], description="further passes over the same rows: what each changes in this section"
    )

    @field_validator("engine_args")
    @classmethod
    def safe(cls, value: dict[str, Any]) -> dict[str, Any]:
        if unknown := value.keys() - set(ENGINE_ARGS):
            raise ValueError(f"must not set '{min(unknown)}'. Try one of {', '.join(sorted(ENGINE_ARGS))}")
        overrides = value.get("hf_overrides") or {}
        plain = {**value, "cudagraph_capture_sizes": None, "hf_overrides": None}
        if isinstance(overrides, dict):
            plain |= overrides
        if not isinstance(overrides, dict) or any(isinstance(inner, dict | list) for inner in plain.values()):
            raise ValueError("must hold plain values; hf_overrides may map names to these: {head_dtype: float32}")
        return value

    @model_validator(mode="after")
    def fitting(self) -> "Annotate":
        if self.thinking and not (self.prompt.chat and self.scoring == "votes"):
            raise ValueError("thinking wants prompt.chat: true and scoring: votes: the label comes after the thoughts")
        if self.scoring != "distribution" and self.calibration != "none":
            raise ValueError(f"scoring: {self.scoring} gives no probabilities to calibrate; set calibration: none")
        for change in self.passes:
            if named := {"passes", "calibration_rows", "ray"} & change.keys():
                raise ValueError(f"a pass cannot change {named.pop()}")
        if self.passes:
            self.all_passes()
        return self

    def all_passes(self) -> list["Annotate"]:
        """This section as it stands, then each of `passes` merged into it; none of them has further passes."""
        first = self.model_dump(exclude={"passes"}, exclude_unset=True)
        try:
            return [Annotate.model_validate(_merged(first, change)) for change in ({}, *self.passes)]
        except ValidationError as errors:
            raise ValueError(f"passes: {explain_error(errors.errors()[0], Annotate)}") from None


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    both = {
        name: _merged(base[name], value) if isinstance(base.get(name), dict) and isinstance(value, dict) else value
        for name, value in change.items()
    }
    return {**base, **both}


class Crossed(Section):
    """Runs in which every source of chance takes each of its first seeds beside each of the others'."""

    variants: list[VariantName] = Field(["gold", "llm"], min_length=1)
    levels: int = Field(3, gt=1, description="seeds of each source: levels ** sources runs a variant")


class Grid(Section):
    """What is compared: every variant at every size with every seed. Subsets of one seed are nested."""

    variants: list[VariantName] = Field(
        ["gold", "llm", "llm-soft", "llm-entropy-replace", "llm-random-replace"], min_length=1
    )
    sizes: Annotated[list[Annotated[int, Field(gt=1)]], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=2)]
    curves: list[VariantName] | None = Field(
        None,
        description="the variants that are trained at every size, gold and llm among them; the others at the largest",
    )
    vary: list[Source] = Field(
        ["subset", "init", "order"],
        min_length=1,
        description="what a seed sets; the rest keeps the first one. pass: the k-th seed takes the k-th annotation",
    )
    crossed: Crossed | None = Field(
        None, description="further runs at the largest size, which tell how much each source of chance brings"
    )
    replace_share: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="share of rows that variants take from gold, or drop; gold-only trains on these alone",
    )

    def variants_at(self, size: int) -> list[VariantName]:
        """The variants that are trained at a size."""
        return [
            variant
            for variant in self.variants
            if self.curves is None or variant in self.curves or size == self.sizes[-1]
        ]

    @field_validator("variants", "sizes", "seeds", "vary")
    @classmethod
    def unique(cls, values: list) -> list:
        if len(set(values)) < len(values):
            raise ValueError("lists a value twice")
        return values

    @field_validator("sizes")
    @classmethod
    def ascending(cls, values: list[int]) -> list[int]:
        return sorted(values)

    @model_validator(mode="after")
    def comparable(self) -> "Grid":
        if "llm" not in self.variants:
            raise ValueError("variants must name 'llm': every other variant is compared with it")
        always = [variant for variant in ("gold", "llm") if variant in self.variants]
        if self.curves is not None and not set(always) <= set(self.curves) <= set(self.variants):
            raise ValueError(f"curves must name {' and '.join(always)}, and no variant that is not in variants")
        for variant in self.variants:
            least = next(size for size in self.sizes if variant in self.variants_at(size))
            if VARIANTS[variant].is_partial and not 0 < round(self.replace_share * least) < least:
                raise ValueError(
                    f"replace_share {self.replace_share} of {least} texts is none or all: nothing is left for "
                    f"{variant}; change replace_share, sizes or curves"
                )
        for variant, control in CONTROLS.items():
            if variant in self.variants and control not in self.variants:
                raise ValueError(f"variants must name {control} beside {variant}: its control")
        if self.crossed:
            if len(self.vary) == 1:
                raise ValueError("crossed wants two sources or more in vary")
            if self.crossed.levels > len(self.seeds):
                raise ValueError(f"crossed.levels is {self.crossed.levels}, but there are {len(self.seeds)} seeds")
            if missing := set(self.crossed.variants) - set(self.variants):
                raise ValueError(f"crossed.variants names {missing.pop()}, which is not in variants")
        return self


class Accept(Section):
    """When LLM labels are good enough to train on. Each limit is on the truth, not on its estimate."""

    macro_f1_loss: float = Field(default=0.02, gt=0, lt=1, description="of macro-F1, against gold labels")
    churn: float = Field(
        default=0.03, gt=0, lt=1, description="of the share of texts on which two seeds disagree, above gold's"
    )
    min_class_f1: float = Field(default=0.6, ge=0, le=1, description="F1 of the worst class")


class Train(Section):
    """The encoder and how it is fine-tuned. The last checkpoint is taken unless `checkpoint` says otherwise."""

    encoder: str
    revision: str | None = None
    epochs: int = Field(3, gt=0, description="of every size")
    batch_size: int = Field(16, gt=0, description="texts of an optimiser step")
    gradient_accumulation_steps: int = Field(
        1, gt=0, description="parts in which a batch is computed; doubled when memory runs out"
    )
    eval_batch_size: int = Field(64, gt=0)
    learning_rate: float = Field(2e-5, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(128, ge=8, description="tokens; longer texts are cut")
    validation_size: int = Field(
        0, ge=0, description="rows of the pool that no run trains on, the same for all; 0 for no validation curves"
    )
    validation_labels: Literal["llm", "gold"] = Field("llm", description="gold ones are spent, and counted")
    checkpoint: Literal["last", "best"] = Field(
        "last", description="best: of the epochs, by macro-F1 on the validation rows"
    )
    save_models: bool = Field(False, description="keep every classifier, as runs/.../model")
    trackers: list[Literal["tensorboard", "trackio", "wandb"]] = Field(
        [], description="accelerate's, grouped by variant"
    )
    accelerate_config: str = Field("cpu", description="a name in hf_recipes/recipes/accelerate/, or a file")

    @model_validator(mode="after")
    def selectable(self) -> "Train":
        if self.checkpoint == "best" and not self.validation_size:
            raise ValueError("checkpoint: best is chosen on validation rows; set validation_size")
        return self


class Recipe(Section):
    """A whole study; see `hf_recipes/recipes/tweets-demo.yaml` for one with comments."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    output_dir: str = Field("", description="the study folder; studies/<name> by default")
    data: Data
    annotate: Annotate
    grid: Grid | None = Field(None, description="with `train`; without them the texts are labelled and no more")
    train: Train | None = None
    accept: Accept = Accept()

    @field_validator("output_dir")
    @classmethod
    def local_folder(cls, value: str) -> str:
        if "::" in value or "://" in value:
            raise ValueError("must be a local folder, without '::' and '://'; try studies/my-study")
        return value

    @model_validator(mode="after")
    def whole(self) -> "Recipe":
        if (self.grid is None) != (self.train is None):
            raise ValueError("grid and train go together: add the other one, or leave out both to label texts only")
        if self.grid and "pass" in self.grid.vary and len(self.annotate.passes) + 1 < len(self.grid.seeds):
            raise ValueError(
                f"grid.vary names pass: {len(self.grid.seeds)} seeds want as many annotation passes, and there are "
                f"{len(self.annotate.passes) + 1}; add to annotate.passes"
            )
        passes = self.annotate.all_passes()
        num_models = len({section.model for section in passes})
        for variant in [VARIANTS[name] for name in self.grid.variants] if self.grid else []:
            if variant.labels == "annotator" and self.data.raters is None:
                raise ValueError(f"grid.variants names {variant.name}, which requires data.raters. Add it")
            if len(passes) < variant.num_passes or num_models < variant.num_models:
                what = "passes of different models" if variant.num_models > 1 else "annotation passes"
                raise ValueError(
                    f"grid.variants names {variant.name}, which requires {variant.num_passes} {what}. "
                    "Add to annotate.passes"
                )
        if self.grid and self.train:
            self._suits_its_gold(self.grid, self.train)
        return self

    def _suits_its_gold(self, grid: Grid, train: Train) -> None:
        """Require the variant gold where texts have gold; without gold, refuse what requires gold for every text."""
        if self.data.label_column is not None:
            if "gold" not in grid.variants:
                raise ValueError("grid.variants must name 'gold': what LLM labels cost is told against it")
            return
        if named := [variant for variant in grid.variants if VARIANTS[variant].gold == "all"]:
            raise ValueError(
                f"grid.variants names {named[0]}, which requires gold for every text, but data.label_column is null. "
                "Leave it out (llm, llm-soft and the -drop variants require none; gold-only and llm-audit an audit)"
            )
        if train.validation_size and train.validation_labels == "gold":
            raise ValueError("train.validation_labels is gold, and data.label_column is null; set it to llm")

    @property
    def few_gold(self) -> bool:
        """Whether it trains on texts without gold labels: what is known of them comes from an audit, if any."""
        return self.grid is not None and self.data.label_column is None

    @property
    def folder(self) -> Path:
        return Path(self.output_dir or f"studies/{self.name}")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        path (`str` or `Path`):
            The YAML file. Of the `recipe.yaml` that a study keeps, addresses of servers and clusters are left out.
        overrides (`list[str]`, *optional*):
            Dotted settings that replace the file's, as on the command line: `["--train.epochs=1"]`. Values are YAML.

    Returns:
        `Recipe`: validated, with every default filled in.

    Raises:
        UserError: a key that does not exist (the nearest one is named), a value out of its range, no such file.
    """
    try:
        content = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe; hf_recipes/recipes/ has examples") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a YAML file that can be read ({error})") from None
    if isinstance(content, dict) and content.keys() == {"format", "recipe"}:  # the one that a study keeps
        content = content["recipe"]
        if isinstance(content, dict):
            content["output_dir"] = str(Path(path).parent)
            drop_addresses(content.get("annotate"))
    if not isinstance(content, dict):
        raise UserError(f"{path}: a recipe is a YAML mapping with the keys {', '.join(Recipe.model_fields)}")
    for override in overrides:
        key, equals, value = override.removeprefix("--").partition("=")
        if not override.startswith("--") or not equals:
            raise UserError(f"{override}: settings look like --train.epochs=1, with the = sign")
        *sections, last = key.split(".")
        target = content
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise UserError(f"{override}: '{section}' is a value, not a section")
        try:
            target[last] = parse_yaml(value)
        except ValueError:
            raise UserError(f"{override}: '{value}' is not a YAML value; quote it") from None
    try:
        json.dumps(content, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: a value is no text, number, list or mapping that JSON can hold: {error}; quote dates"
        ) from None
    _refuse_secrets(path, content)
    try:
        return Recipe.model_validate(content)
    except ValidationError as errors:
        raise UserError(f"{path}: {explain_error(errors.errors()[0], Recipe)}") from None


def drop_addresses(annotate: Any) -> None:
    """Drop where servers and clusters listen from a recipe that a study keeps, publishes or is pulled with.

    An address gets texts and the key in VLLM_API_KEY: it counts only in the user's own file and on the command line.
    """
    passes = annotate.get("passes") if isinstance(annotate, dict) else None
    for section in (annotate, *(passes if isinstance(passes, list) else ())):
        if isinstance(section, dict):
            section.pop("base_url", None)
            if isinstance(section.get("ray"), dict):
                section["ray"].pop("address", None)


def _refuse_secrets(path: str | Path, content: dict[str, Any]) -> None:
    for key, value in _texts(content):
        if redact(value) != value:
            raise UserError(
                f"{path}: `{key}` must not hold a password, token or key, as recipes are published. "
                f"Got {redact(value):.80}. Try the service's own settings, or VLLM_API_KEY for a vLLM server."
            )


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a recipe, keys of mappings included, with the dotted key under which it is found."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield key, str(name)
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)
    elif isinstance(value, str):
        yield key, value
