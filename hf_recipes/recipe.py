"""The recipe: a YAML file that describes a study, validated and with every default filled in.

It names the texts, the LLM and its prompt, the variants (sources of training labels), the encoder, sizes and seeds. All
commands read it by `load_recipe`.
"""

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from .annotate_section import Annotate
from .errors import UserError
from .parsing import Section, explain_errors, fold_blanks, parse_yaml
from .redact import redact
from .variants import CONTROLS, VARIANTS


def check_variant(name: str) -> str:
    """Return the name of a variant.

    Raises:
        ValueError: the variant does not exist.
    """
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=1)
        raise ValueError(
            f"must be a variant. Did you mean {near[0]!r}?" if near else f"must be one of {', '.join(VARIANTS)}."
        )
    return name


def expand_home(path: str) -> str:
    """Return a path in which `~` is the home folder."""
    return str(Path(path).expanduser()) if path.startswith("~") else path


VariantName = Annotated[str, AfterValidator(check_variant)]
Source = Literal["subset", "init", "order", "pass"]


class Data(Section):
    """The texts."""

    path: str = Field(
        description="a Hub dataset, a local folder or file (.csv, .tsv, .json, .jsonl, .parquet), or a URL of .parquet "
        "files (`s3://bucket/texts-*.parquet`)",
    )
    name: str | None = Field(None, description="the dataset's config")
    revision: str | None = Field(None, description="branch, tag or sha on the Hub; recorded as a sha")
    train_split: str = Field("train", description="the split to label and to train on")
    test_split: str = Field("test", description="the split to evaluate on")
    text_column: str = Field("text", description="the column with the texts")
    text_template: str | None = Field(
        None, description="jinja2 over several columns, in place of `text_column`: `'{{ title }}: {{ body }}'`"
    )
    label_column: str | None = Field("label", description="the column with gold labels; null without gold labels")
    raters: str | dict[str, str] | None = Field(
        None,
        description="a column with lists of annotators' labels, or for each class the column that counts them",
    )
    group_column: str | None = Field(
        None, description="a column with a year, party or source; class shares are also computed by group"
    )
    cluster_column: str | None = Field(
        None, description="a column with a text's document, thread or author; intervals then count clusters, not texts"
    )
    label_names: Annotated[list[str], Field(min_length=2)] | Annotated[dict[str, str], Field(min_length=2)] | None = (
        Field(None, description="the classes, or a mapping of each to a description for the prompt")
    )
    label_map: dict[str, str] | None = Field(
        None,
        min_length=1,
        description="the class of each value of the label column: `{0: ham, 1: spam}`. Several values may have one "
        "class; other values are class names",
    )
    keep_columns: Literal["all", "none"] | list[str] = Field(
        "all",
        description="the source's own columns that the dataset also gets, besides texts and gold",
    )
    pool_size: int | None = Field(None, gt=0, description="rows of the training split; all by default")
    test_size: int | None = Field(
        None, gt=0, description="rows of the test split, all by default; required if there is one split only"
    )
    seed: int = Field(0, description="draws the pool and the test rows")

    @field_validator("path")
    @classmethod
    def check_path(cls, value: str) -> str:
        if "::" in value and "://" not in value:
            raise ValueError("must be a local path without '::', or a URL. Rename the file or folder.")
        return expand_home(value)

    @field_validator("raters")
    @classmethod
    def fold_classes(cls, value: Any) -> Any:
        return {fold_blanks(name): column for name, column in value.items()} if isinstance(value, dict) else value

    @field_validator("label_names", mode="before")
    @classmethod
    def check_names(cls, value: Any) -> Any:
        if isinstance(value, dict) and any(isinstance(name, int) for name in value):
            raise ValueError(
                "must name classes. List the names in the order of their indices: [negative, positive]. For other "
                "values set `data.label_map`."
            )
        return value

    @field_validator("label_names")
    @classmethod
    def fold_names(cls, value: Any) -> Any:
        """Fold white space in the names: an LLM's answer is read without blanks at its ends and without line breaks."""
        if value is None:
            return None
        names = [fold_blanks(name) for name in value]
        if len(set(names)) < len(names) or "" in names:
            raise ValueError("must have different names that are not empty.")
        return dict(zip(names, value.values(), strict=True)) if isinstance(value, dict) else names

    @field_validator("label_map", mode="before")
    @classmethod
    def fold_values(cls, value: Any) -> Any:
        """Make texts of the values, which YAML may have read as numbers, and fold white space."""
        if not isinstance(value, dict):
            return value
        if any(isinstance(key, bool) for key in value):
            raise ValueError("must have values that are texts or numbers. Quote yes, no, on, off, true and false.")
        return {
            fold_blanks(str(key)): fold_blanks(name) if isinstance(name, str) else name for key, name in value.items()
        }

    @model_validator(mode="after")
    def check_labels(self) -> "Data":
        if self.text_template is not None and self.text_column != "text":
            raise ValueError("must have `text_column` or `text_template`, not both. Remove one.")
        if self.label_column is None and self.label_names is None:
            raise ValueError("`data.label_names` must list the classes if `data.label_column` is null.")
        unknown = set((self.label_map or {}).values()) - set(self.label_names or (self.label_map or {}).values())
        if unknown:
            raise ValueError(f"`data.label_map` must have classes of `data.label_names`. Got {min(unknown)}.")
        if isinstance(self.raters, dict) and self.label_names and set(self.raters) != set(self.label_names):
            raise ValueError("`data.raters` must name a column for each class of `data.label_names`.")
        return self

    @property
    def descriptions(self) -> dict[str, str]:
        """The description of each class; empty without descriptions."""
        return self.label_names if isinstance(self.label_names, dict) else {}


class Crossed(Section):
    """Runs with every combination of the first seeds of each source of chance."""

    variants: list[VariantName] = Field(["gold", "llm"], min_length=1, description="the variants to cross")
    levels: int = Field(3, gt=1, description="seeds of each source; a variant has levels ** sources runs")


class Grid(Section):
    """The runs: every variant at every size with every seed. Subsets of one seed are nested."""

    variants: list[VariantName] = Field(
        ["gold", "llm", "llm-soft", "llm-entropy-replace", "llm-random-replace"],
        min_length=1,
        description="the sources of training labels; see [Remedies](remedies.md)",
    )
    sizes: list[Annotated[int, Field(gt=1)]] = Field(
        min_length=1, description="numbers of training texts; subsets of one seed are nested"
    )
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(
        min_length=2, description="two or more; ten show differences in stability, three only very large ones"
    )
    curves: list[VariantName] | None = Field(
        None,
        description="the variants to train at every size, with gold and llm; all others are trained at the largest",
    )
    vary: list[Source] = Field(
        ["subset", "init", "order"],
        min_length=1,
        description="what a seed sets; other sources keep the first seed. pass: the k-th seed uses the k-th pass",
    )
    crossed: Crossed | None = Field(
        None, description="further runs at the largest size, to measure what each source of chance contributes"
    )
    replace_share: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="share of rows that variants replace with gold, or drop; gold-only trains on these alone",
    )

    def variants_at(self, size: int) -> list[VariantName]:
        """Return the variants to train at a size."""
        return [
            variant
            for variant in self.variants
            if self.curves is None or variant in self.curves or size == self.sizes[-1]
        ]

    @field_validator("variants", "sizes", "seeds", "vary")
    @classmethod
    def check_unique(cls, values: list) -> list:
        if len(set(values)) < len(values):
            raise ValueError("must not list a value twice.")
        return values

    @field_validator("sizes")
    @classmethod
    def sort(cls, values: list[int]) -> list[int]:
        return sorted(values)

    @model_validator(mode="after")
    def check_variants(self) -> "Grid":
        if "llm" not in self.variants:
            raise ValueError("`grid.variants` must have llm, with which every other variant is compared. Add it.")
        always = [variant for variant in ("gold", "llm") if variant in self.variants]
        if self.curves is not None and not set(always) <= set(self.curves) <= set(self.variants):
            raise ValueError(f"`grid.curves` must have {' and '.join(always)}, and only variants of `grid.variants`.")
        for variant in self.variants:
            least = next(size for size in self.sizes if variant in self.variants_at(size))
            if VARIANTS[variant].is_partial and not 0 < round(self.replace_share * least) < least:
                raise ValueError(
                    f"`grid.replace_share` must leave some of {least} texts to {variant}, and not all. Got "
                    f"{self.replace_share}. Change `replace_share`, `sizes` or `curves`."
                )
        for variant, control in CONTROLS.items():
            if variant in self.variants and control not in self.variants:
                raise ValueError(f"`grid.variants` must have {control}, the control of {variant}. Add it.")
        if self.crossed:
            if len(self.vary) == 1:
                raise ValueError("`grid.vary` must have two or more sources for `grid.crossed`.")
            if self.crossed.levels > len(self.seeds):
                raise ValueError(
                    f"`grid.crossed.levels` must be at most the {len(self.seeds)} seeds. Got {self.crossed.levels}."
                )
            unknown = set(self.crossed.variants) - set(self.variants)
            if unknown:
                raise ValueError(f"`grid.crossed.variants` must be in `grid.variants`. Got {min(unknown)}.")
        return self


class Accept(Section):
    """The limits within which LLM labels are good enough for training. Each applies to the true value."""

    macro_f1_loss: float = Field(default=0.05, gt=0, lt=1, description="loss of macro-F1 against gold labels")
    churn: float = Field(
        default=0.05, gt=0, lt=1, description="increase of the share of texts on which two seeds disagree"
    )
    min_class_f1: float = Field(default=0.5, ge=0, le=1, description="F1 of the worst class, at least")


class Train(Section):
    """The encoder and its fine-tuning."""

    encoder: str = Field(description="a Hub model or a local folder")
    revision: str | None = Field(None, description="branch, tag or sha on the Hub; recorded as a sha")
    encoder_mode: Literal["finetune", "frozen", "both"] = Field(
        "finetune",
        description="frozen: train linear heads on the encoder's features, in seconds; both: first heads, then "
        "fine-tuning, which decides the verdict",
    )
    epochs: int = Field(3, gt=0, description="passes over the training texts, at every size")
    batch_size: int = Field(16, gt=0, description="texts of an optimiser step")
    gradient_accumulation_steps: int = Field(1, gt=0, description="parts of a batch; doubled when memory runs out")
    eval_batch_size: int = Field(64, gt=0, description="texts of a batch in prediction")
    learning_rate: float = Field(2e-5, gt=0, description="the highest rate, after warm-up; it then falls linearly")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="share of the optimiser steps")
    max_grad_norm: float = Field(1.0, gt=0, description="larger gradients are clipped")
    max_length: int = Field(128, ge=8, description="tokens; longer texts are cut")
    validation_size: int = Field(
        0, ge=0, description="rows of the pool that no run trains on, the same for all; 0 for no validation"
    )
    validation_labels: Literal["llm", "gold"] = Field(
        "llm", description="the labels of the validation rows; gold labels count as consumed"
    )
    checkpoint: Literal["last", "best"] = Field(
        "last", description="best: the epoch with the best macro-F1 on the validation rows"
    )
    out_of_bag: int = Field(
        2000,
        ge=0,
        description="texts of the pool that each run also classifies, apart from those that it trained on; 0 for none",
    )
    save_models: bool = Field(False, description="keep every classifier, as `runs/.../model`")
    trackers: list[Literal["tensorboard", "trackio", "wandb"]] = Field(
        [], description="trackers of accelerate; runs are grouped by variant"
    )
    accelerate_config: str = Field("cpu", description="a name in `hf_recipes/recipes/accelerate/`, or a file")
    runs_per_device: int = Field(
        1, gt=0, description="runs that share a GPU, each in a process; for small encoders on large GPUs"
    )
    deterministic: bool = Field(False, description="fine-tune to the same bits each time on GPUs too, more slowly")

    @property
    def method(self) -> Literal["finetune", "frozen"]:
        """The method that decides the verdict."""
        return "frozen" if self.encoder_mode == "frozen" else "finetune"

    @model_validator(mode="after")
    def check_checkpoint(self) -> "Train":
        if self.checkpoint == "best" and not self.validation_size:
            raise ValueError("`train.checkpoint: best` requires validation rows. Set `train.validation_size`.")
        return self


class Recipe(Section):
    """A whole study; see `hf_recipes/recipes/tweets-demo.yaml` for one with comments."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="letters, digits, `.`, `_` and `-`")
    output_dir: str = Field("", description="the study folder; `studies/NAME` by default")
    data: Data = Field(description="the texts")
    annotate: Annotate = Field(description="the LLM and its prompt")
    grid: Grid | None = Field(None, description="the runs; without `grid` and `train` the texts are only labelled")
    train: Train | None = Field(None, description="the encoder and its fine-tuning")
    accept: Accept = Field(Accept(), description="the limits of the verdict")

    @field_validator("output_dir")
    @classmethod
    def check_folder(cls, value: str) -> str:
        if "::" in value or "://" in value:
            raise ValueError("must be a local folder, without '::' and '://'. Try studies/my-study.")
        return expand_home(value)

    @model_validator(mode="after")
    def check_sections(self) -> "Recipe":
        if (self.grid is None) != (self.train is None):
            raise ValueError("`grid` and `train` must both be in the recipe, or neither to label texts only.")
        if self.grid and "pass" in self.grid.vary and len(self.annotate.passes) + 1 < len(self.grid.seeds):
            raise ValueError(
                f"`grid.vary` requires an annotation pass for each of {len(self.grid.seeds)} seeds, as it has pass. "
                f"Got {len(self.annotate.passes) + 1}. Add to `annotate.passes`."
            )
        passes = self.annotate.all_passes()
        for section in passes:
            if section.columns and self.data.label_column in section.columns.names:
                raise ValueError(
                    f"`annotate.columns` must not have the gold labels. Got {self.data.label_column}, which is "
                    "`data.label_column`."
                )
        num_models = len({section.model for section in passes})
        trained = passes if self.grid and "pass" in self.grid.vary else passes[:1]
        has_probs = all(section.columns is None or section.has_probabilities for section in trained)
        for variant in [VARIANTS[name] for name in self.grid.variants] if self.grid else []:
            if variant.uses_probabilities and not has_probs:
                raise ValueError(
                    f"`grid.variants`: {variant.name} requires the probabilities of the labels. Set "
                    "`annotate.columns.probs`, or remove the variant."
                )
            if variant.labels == "annotator" and self.data.raters is None:
                raise ValueError(f"`grid.variants`: {variant.name} requires `data.raters`. Add it.")
            if len(passes) < variant.num_passes or num_models < variant.num_models:
                what = "passes of different models" if variant.num_models > 1 else "annotation passes"
                raise ValueError(
                    f"`grid.variants`: {variant.name} requires {variant.num_passes} {what}. Add to `annotate.passes`."
                )
        if self.grid and not self.few_gold and "gold" not in self.grid.variants:
            raise ValueError("`grid.variants` must have gold, against which LLM labels are judged. Add it.")
        for name in self.grid.variants if self.grid and self.few_gold else []:
            if VARIANTS[name].gold == "all":
                raise ValueError(
                    f"`grid.variants`: {name} requires gold for every text, but `data.label_column` is null. Try llm, "
                    "llm-soft and the -drop variants, or with an audit gold-only and llm-audit."
                )
        if self.few_gold and self.train and self.train.validation_size and self.train.validation_labels == "gold":
            raise ValueError("`train.validation_labels` must be llm if `data.label_column` is null. Got gold.")
        return self

    @property
    def few_gold(self) -> bool:
        """Whether it trains on texts without gold labels, so that all gold comes from an audit."""
        return self.grid is not None and self.data.label_column is None

    @property
    def folder(self) -> Path:
        return Path(self.output_dir or f"studies/{self.name}")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path (`str` or `Path`):
            The YAML file. From the `recipe.yaml` of a study folder, addresses of servers and clusters are dropped.
        overrides (`list[str]`, *optional*):
            Dotted settings that replace the file's, as on the command line: `["--train.epochs=1"]`. Values are YAML.

    Returns:
        `Recipe`: validated, with every default filled in.

    Raises:
        UserError: the file does not exist, or keys are unknown or values not valid: a message for each key.
    """
    try:
        content = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"`{path}` does not exist. See hf_recipes/recipes/ for examples.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"`{path}` must be a YAML file. {error}") from None
    if isinstance(content, dict) and content.keys() == {"format", "recipe"}:  # of a study folder
        content = content["recipe"]
        if isinstance(content, dict):
            content["output_dir"] = str(Path(path).parent)
            drop_addresses(content.get("annotate"))
    if not isinstance(content, dict):
        raise UserError(f"`{path}` must be a YAML mapping with the keys {', '.join(Recipe.model_fields)}.")
    keys = {override: _apply(override, content) for override in overrides}
    try:
        json.dumps(content, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"`{path}` and the settings must have texts, numbers, lists and mappings that JSON can hold. {error}. "
            "Quote dates."
        ) from None
    for key, text in _texts(content):
        if redact(text) != text:
            raise UserError(
                f"{path}: `{key}` must not hold a password, token or key, as recipes are published. "
                f"Got {redact(text):.80}. Try the service's own settings, or VLLM_API_KEY for a vLLM server."
            )
    try:
        return Recipe.model_validate(content)
    except ValidationError as errors:
        sentences = explain_errors(errors, Recipe)
    messages = []
    for sentence in sentences:
        # The key may come from the command line, as a setting, in one, or as the section of one.
        wrong = sentence.split("`")[1] + "."
        sources = [text for text, key in keys.items() if wrong.startswith(f"{key}.") or f"{key}.".startswith(wrong)]
        messages.append(f"{sources[-1] if sources else path}: {sentence}")
    raise UserError(*messages)


def _apply(override: str, content: dict[str, Any]) -> str:
    """Set a value of a recipe's content as on the command line; return its key."""
    key, equals, value = override.removeprefix("--").partition("=")
    if not override.startswith("--") or not equals:
        raise UserError(f"`{override}` must be a setting, as --train.epochs=1. Add `--` and the = sign.")
    *sections, last = key.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise UserError(f"{override}: `{section}` must be a section. It is a value.")
    is_plain = value.lstrip()[:1] not in tuple("[{'\"") or value.lstrip()[:2] in ("{{", "{%")  # a jinja2 template
    try:
        parsed = parse_yaml(value)
    except ValueError:
        if not is_plain:
            raise UserError(f"{override}: `{key}` must be a YAML value. Got {value}. Quote it.") from None
        parsed = value
    # A plain text is taken as it is: YAML would cut it at ` #`, and read `Good: yes` as a mapping.
    content[last] = value if is_plain and not isinstance(parsed, int | float | None) else parsed
    return key


def drop_addresses(annotate: Any) -> None:
    """Drop the addresses of servers and clusters from a recipe that a study folder keeps, or that is published.

    An address receives texts and VLLM_API_KEY: it counts only in the user's own file and on the command line.
    """
    passes = annotate.get("passes") if isinstance(annotate, dict) else None
    for section in (annotate, *(passes if isinstance(passes, list) else ())):
        if isinstance(section, dict):
            section.pop("base_url", None)
            if isinstance(section.get("ray"), dict):
                section["ray"].pop("address", None)


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of a recipe, keys of mappings included, with its dotted key."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield key, str(name)
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)
    elif isinstance(value, str):
        yield key, value
