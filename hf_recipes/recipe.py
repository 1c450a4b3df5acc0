"""What a study is: a YAML file, checked and with every default filled in.

A recipe says which texts, which LLM with which prompt, which arms (sources of training labels), which encoder, and how
many sizes and seeds. `load_recipe` is the only way in; everything after it can rely on what it read.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

ArmName = Literal["gold", "llm", "llm-entropy-replace", "llm-random-replace"]


class UserError(ValueError):
    """Something only the user can mend. Its one line names the key, file or row, and what to do; no traceback."""


def first_line(error: BaseException) -> str:
    """What an error of another library says, in a line; its kind if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """The texts. `path` is a Hub dataset id or a local folder or file, relative to the working directory."""

    path: str
    name: str | None = Field(None, description="the dataset's config")
    revision: str | None = Field(None, description="branch, tag or sha on the Hub; recorded as a sha")
    train_split: str = "train"
    test_split: str = "test"
    text_column: str = "text"
    label_column: str = "label"
    label_names: Annotated[list[str], Field(min_length=2)] | None = Field(
        None, description="needed where the label column is not a ClassLabel"
    )
    pool_size: int | None = Field(None, gt=0, description="rows of the training split to use; all by default")
    test_size: int | None = Field(
        None, gt=0, description="rows of the test split to use, all by default; needed if there is one split only"
    )
    seed: int = Field(0, description="draws the pool and the test rows")


class Prompt(Section):
    """How the LLM is asked. `template` is jinja2 over `instruction`, `labels`, `demonstrations` and, last, `text`."""

    instruction: str
    template: str = (
        "{{ instruction }}\n\n"
        "{% for demonstration in demonstrations %}"
        "Text: {{ demonstration.text }}\nLabel: {{ demonstration.label }}\n\n"
        "{% endfor %}"
        "Text: {{ text }}\nLabel:"
    )
    shots_per_class: int = Field(1, ge=0)
    seed: int = Field(0, description="draws the demonstrations")


class Annotate(Section):
    """The LLM. `vllm` runs it in this process; `server` asks a running vLLM server at `base_url`."""

    model: str
    revision: str | None = None
    engine: Literal["vllm", "server"] = "vllm"
    base_url: str = "http://127.0.0.1:8000"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    max_model_len: int = Field(1024, ge=64, description="tokens; a longer text is cut to fit, and flagged")
    engine_args: dict[str, Any] = Field({}, description="passed to vllm.LLM as they are")
    prompt: Prompt
    calibration: Literal["contextual", "none"] = "contextual"


class Grid(Section):
    """What is compared: every arm at every size with every seed. Subsets of one seed are nested."""

    arms: list[ArmName] = Field(list(get_args(ArmName)), min_length=1)
    sizes: Annotated[list[Annotated[int, Field(gt=1)]], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=2)]
    replace_share: float = Field(0.25, gt=0, lt=1, description="share of labels that the replacing arms take from gold")

    @field_validator("arms", "sizes", "seeds")
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
        for arm in ("gold", "llm"):
            if arm not in self.arms:
                raise ValueError(f"arms must name '{arm}': every other arm is compared with gold and llm")
        if ("llm-entropy-replace" in self.arms) != ("llm-random-replace" in self.arms):
            raise ValueError("arms must name llm-entropy-replace and llm-random-replace, its control, or neither")
        return self


class Train(Section):
    """The encoder and how it is fine-tuned. The last checkpoint is taken: no gold label is spent on choosing one."""

    encoder: str
    revision: str | None = None
    epochs: int = Field(3, gt=0)
    batch_size: int = Field(16, gt=0)
    eval_batch_size: int = Field(64, gt=0)
    learning_rate: float = Field(2e-5, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(128, ge=8, description="tokens; longer texts are cut")
    accelerate_config: str = Field("cpu", description="a name in hf_recipes/recipes/accelerate/, or a file")


class Recipe(Section):
    """A whole study; see `hf_recipes/recipes/tweets-demo.yaml` for one with comments."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    output_dir: str = Field("", description="the study folder; studies/<name> by default")
    data: Data
    annotate: Annotate
    grid: Grid
    train: Train

    @property
    def folder(self) -> Path:
        return Path(self.output_dir or f"studies/{self.name}")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        path (`str` or `Path`):
            The YAML file.
        overrides (`list[str]`, *optional*):
            Dotted settings that replace the file's, as on the command line: `["--train.epochs=1"]`. Values are YAML.

    Returns:
        `Recipe`: validated, with every default filled in.

    Raises:
        UserError: a key that does not exist (the nearest one is named), a value out of its range, no such file.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe; hf_recipes/recipes/ has examples") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a YAML file that can be read ({' '.join(str(error).split())})") from None
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
            target[last] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"{override}: '{value}' is not a YAML value; quote it") from None
    try:
        return Recipe.model_validate(content)
    except ValidationError as errors:
        raise UserError(f"{path}: {_explain(errors.errors()[0])}") from None


def _explain(error: Any) -> str:
    """One pydantic error as a sentence that names the recipe key and the mend."""
    location = [part for part in error["loc"] if isinstance(part, str)]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        section: Any = Recipe
        for part in location[:-1]:
            section = section.model_fields[part].annotation
        near = difflib.get_close_matches(location[-1], section.model_fields, n=1, cutoff=0.5)
        mend = (
            f"did you mean '{'.'.join([*location[:-1], near[0]])}'?"
            if near
            else f"known keys: {', '.join(section.model_fields)}"
        )
        return f"unknown key '{key}'; {mend}"
    if error["type"] == "missing":
        return f"'{key}' is missing; add it"
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        near = difflib.get_close_matches(
            error["input"], [word.strip("'") for word in error["ctx"]["expected"].split(" or ")[0].split(", ")], n=1
        )
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"'{key}' is '{error['input']}' but must be {error['ctx']['expected']}{hint}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "string_type" and isinstance(error["input"], bool):
        message += "; quote it, as YAML takes words like yes, no, on and off for true and false"
    given = "" if isinstance(error["input"], dict) else f" is {error['input']!r}"
    return f"'{key}'{given}: {message[0].lower()}{message[1:]}"
