"""Write a recipe for a dataset: `hf-recipes init DATASET`. Columns and classes are guessed from its rows."""

import itertools
import math
import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment

from .data import find_hub_sha
from .errors import UserError
from .labels.audit import MIN_LABELS
from .parsing import to_yaml
from .recipe import Data
from .row_reader import spell
from .source import Split, find_split, is_url, list_splits
from .study import PACKAGE, write_text
from .training.grid import MIN_POOL

SAMPLE_BATCHES = 10  # of 1,000 records, from which columns are guessed
MAX_CLASSES = 100  # of a label column
MAX_SHOTS, MAX_EXAMPLES = 4, 16  # few-shot examples of a class, and of all
MIN_TRAINABLE = 40  # gold labels without which nothing is trained
MAX_TEST = 1000
MAX_LLM_LENGTH = 8192
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "gold", "sentiment")
TEST_SPLITS = ("test", "validation", "valid", "dev")


@dataclass(frozen=True)
class Machine:
    """The models that suit a machine, and how the encoder is trained. A small encoder needs more and larger steps."""

    llm: str
    dtype: str
    chat: bool
    encoder: str
    epochs: int
    batch_size: int
    learning_rate: str
    accelerate: str
    max_size: int


def _find_model(name: str) -> str:
    """Return the folder in which `make demo` puts a model, if it exists, else its Hub id."""
    folder = Path("models", Path(name).name)
    return str(folder) if folder.is_dir() else name


def _describe_machine() -> Machine:
    import torch

    if torch.cuda.is_available():
        llm, encoder = _find_model("Qwen/Qwen2.5-7B-Instruct"), _find_model("FacebookAI/roberta-base")
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        accelerate = "one-gpu" if has_bfloat16 else "one-gpu-float32"
        return Machine(llm, "auto", True, encoder, 3, 16, "2.0e-5", accelerate, 2000)
    llm = _find_model("Qwen/Qwen2.5-Coder-0.5B-Instruct")
    encoder = _find_model("sentence-transformers/all-MiniLM-L6-v2")
    return Machine(llm, "float32", False, encoder, 5, 8, "2.0e-4", "cpu", 400)


@dataclass
class Column:
    """A column in a sample of records.

    Attributes:
        lengths (`list[int]`): the characters of each text; empty for a column of other values.
        values (`set[str]`): the different values, as class names.
        num_values (`int`): the values that are not missing.
    """

    lengths: list[int]
    values: set[str]
    num_values: int

    @property
    def mean_length(self) -> float:
        return sum(self.lengths) / max(1, len(self.lengths))


@dataclass
class Counts:
    """The rows of a split, and those with a text and a gold label, by class."""

    rows: int
    by_class: dict[str, int]

    @property
    def gold(self) -> int:
        return sum(self.by_class.values())


@dataclass
class Contents:
    """What a dataset contains.

    Attributes:
        data (`Data`): path, config, splits and columns. The splits are the same if there is no usable test split.
        columns (`dict[str, Column]`): of a sample of the training split.
        pool (`Counts`), test (`Counts`): of the two splits; `test` is empty if they are the same.
        llm_classes (`list[str]`): the labels that an LLM gave elsewhere, in the sample or of a `ClassLabel`.
    """

    data: Data
    columns: dict[str, Column]
    pool: Counts
    test: Counts
    llm_classes: list[str]


def write_recipe(
    dataset: str,
    text: str | None,
    label: str | None,
    config: str | None,
    output: Path | None,
    llm_label: str | None = None,
    certify: bool = False,
) -> tuple[Path, list[str]]:
    """Write a recipe with a comment on each setting.

    Args:
        dataset (`str`):
            A Hub id, a folder or a file.
        text (`str`, *optional*), label (`str`, *optional*):
            The columns. The longest texts and a `ClassLabel`, or a column with few values, by default. With `certify`
            no gold labels by default, as a guess could take another LLM's labels for gold.
        config (`str`, *optional*):
            The config of the dataset.
        output (`Path`, *optional*):
            The file to write; by default `<name of the dataset>.yaml`.
        llm_label (`str`, *optional*):
            The column with labels that an LLM gave elsewhere. By default the recipe asks an LLM.
        certify (`bool`, *optional*, defaults to `False`):
            Write the recipe of `hf-recipes certify`: linear heads on frozen features, with or without gold labels.

    Returns:
        `tuple[Path, list[str]]`: the file, and what was guessed, in sentences.

    Raises:
        UserError: the file exists, the dataset cannot be read, or a column is missing or does not fit.
    """
    name = f"certify-{name_study(dataset)}" if certify else name_study(dataset)
    path = output or Path(f"{name}.yaml")
    if path.exists():
        raise UserError(f"`{path}` must not exist. Try --output another.yaml.")
    contents = _inspect(dataset, text, label, config, llm_label, certify)
    data, pool, test, machine = contents.data, contents.pool, contents.test, _describe_machine()

    notes = [f"Texts: `{data.text_column}`, {pool.rows:,} rows in '{data.train_split}'."]
    if llm_label:
        listed = ", ".join(contents.llm_classes)
        notes.append(f"Labels made elsewhere: `{llm_label}`, {len(contents.llm_classes)} classes: {listed}.")
    if data.label_column:
        classes = list(dict.fromkeys([*pool.by_class, *test.by_class]))
        if not 2 <= len(classes) <= MAX_CLASSES:
            raise UserError(
                f"`{'--gold' if certify else '--label'}` must name a column with 2 to {MAX_CLASSES} classes. Got "
                f"{data.label_column} with {len(classes)}. Try one of {', '.join(contents.columns)}."
            )
        notes.append(
            f"Gold labels: `{data.label_column}`, {pool.gold:,} rows, {len(classes)} classes: {', '.join(classes)}."
        )
    elif llm_label:
        classes = contents.llm_classes
        if not certify:  # it draws the sample itself
            notes.append(
                f"No gold labels were found among {', '.join(contents.columns)}. Name the column with --label, or have "
                "people label a sample: hf-recipes audit sample."
            )
    else:
        classes = ["positive", "negative"]
        notes.append(
            f"No label column was found among {', '.join(contents.columns)}: the recipe only labels texts. Set "
            "`data.label_names` and `annotate.prompt.instruction` in it, or name the column with --label."
        )

    # Sizes and few-shot examples that fit the rows with gold. Without a test split, its rows are drawn from the pool.
    has_test = test.rows > 0
    num_usable = pool.rows if certify and not data.label_column else pool.gold
    num_drawn = 0 if has_test else min(MAX_TEST, num_usable // 4)
    num_rows, shots = pool.rows - num_drawn, 0 if llm_label else min(MAX_SHOTS, MAX_EXAMPLES // len(classes))
    num_trainable = num_usable - num_drawn - shots * len(classes)
    is_trained = num_trainable >= MIN_TRAINABLE
    if data.label_column and not is_trained:
        notes.append(f"{pool.gold:,} gold labels are too few for training: the recipe only labels texts.")
    if certify:
        # Without gold labels people label a quarter of the texts for the test.
        needed, kind = (2 * MIN_TRAINABLE, "gold labels") if data.label_column else (4 * MIN_LABELS, "texts")
        if num_usable < needed:
            raise UserError(f"`{dataset}` must have at least {needed} {kind} to judge its labels. Got {num_usable:,}.")
    top = _round(min(machine.max_size, max(num_trainable // MIN_POOL, min(num_trainable // 2, 100))))
    if is_trained:
        needed = math.ceil((MIN_POOL * top + shots * len(classes)) * pool.rows / num_usable)
        num_rows = min(num_rows, needed)
    rarest = min(pool.by_class.get(name, 0) for name in classes) * num_rows / pool.rows
    shots = min(shots, int(rarest) // 4)

    mean_length = contents.columns[data.text_column].mean_length
    instruction = f"Classify each text as {', '.join(classes[:-1])} or {classes[-1]}."
    prompt_tokens = (mean_length * (shots * len(classes) + 4) + len(instruction)) / 3
    environment = Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701  (YAML)
    environment.filters["yaml"] = to_yaml
    template = environment.from_string((PACKAGE / "templates" / "recipe.yaml").read_text(encoding="utf-8"))
    content = template.render(
        name=name,
        path=path,
        data=data,
        names=classes,
        about_names=_describe_names(classes),
        pool_size=num_rows if num_rows < pool.rows - num_drawn else None,
        test_size=MAX_TEST if test.rows > MAX_TEST else num_drawn,
        machine=machine,
        instruction=instruction,
        shots=shots,
        llm_label=llm_label,
        certify=certify,
        max_model_len=min(MAX_LLM_LENGTH, max(1024, 2 ** math.ceil(math.log2(prompt_tokens)))),
        max_length=128 if mean_length < 400 else 256,
        grid=is_trained,
        sizes=sorted({top // 4, top // 2, top}),
    )
    write_text(path, content)
    return path, notes


def _describe_names(classes: list[str]) -> str:
    """Return the recipe's comment on the names of the classes."""
    if classes == [str(index) for index in range(len(classes))]:
        return "numbers mean little to an LLM: list names in this order"
    if all(re.fullmatch(r"-?\d+(\.\d+)?", name) for name in classes):
        return "numbers mean little to an LLM: list names, and add label_map: {'NUMBER': NAME}"
    return "the classes"


def name_study(dataset: str) -> str:
    """Return a name for the study of a dataset, which files and configs may have."""
    stem = Path(dataset).stem if Path(dataset).is_file() else Path(dataset).resolve().name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "study"


def _inspect(
    dataset: str, text: str | None, label: str | None, config: str | None, llm_label: str | None, certify: bool
) -> Contents:
    """Read a dataset: guess its columns from a sample, then count the rows with gold of the pool and the test split."""
    label_option, llm_option = ("--gold", "--labels") if certify else ("--label", "--llm-label")
    with tempfile.TemporaryDirectory(prefix="hf-recipes-") as temporary:
        folder = Path(temporary)
        data = Data.model_validate({"path": dataset, "name": config})
        revision = None if Path(data.path).exists() or is_url(data.path) else find_hub_sha(data)
        splits = list_splits(data, revision, folder)
        train_split = "train" if "train" in splits or not splits else splits[0]
        data = data.model_copy(update={"train_split": train_split, "test_split": train_split})
        train = find_split(data, revision, train_split, folder)
        columns = _sample(train)
        llm_classes: list[str] = []
        others = columns
        if llm_label is not None:
            _require(dataset, columns, llm_option, llm_label)
            llm_classes = train.class_names.get(llm_label, sorted(columns[llm_label].values))
            if not 2 <= len(llm_classes) <= MAX_CLASSES:
                raise UserError(
                    f"`{llm_option}` must name a column with 2 to {MAX_CLASSES} classes. Got {llm_label} with "
                    f"{len(llm_classes)}. Try one of {', '.join(columns)}."
                )
            others = {name: column for name, column in columns.items() if name != llm_label}
        text = _choose_text(dataset, others, text, label)
        if label is not None:
            _require(dataset, others, label_option, label)
        elif not certify:
            label = _choose_label(others, text, train)
        data = data.model_copy(update={"text_column": text, "label_column": label})
        pool = _count(train, data)
        for split in [name for name in TEST_SPLITS if name in splits and name != train_split and label]:
            with_test = data.model_copy(update={"test_split": split})
            candidate = find_split(with_test, revision, split, folder)
            if {text, label} <= set(candidate.column_names()):
                test = _count(candidate, data)
                if 0 < test.rows == test.gold:  # the test texts of some benchmarks have no labels
                    return Contents(with_test, columns, pool, test, llm_classes)
    return Contents(data, columns, pool, Counts(0, {}), llm_classes)


def _sample(split: Split) -> dict[str, Column]:
    names = split.column_names()
    columns = {name: Column([], set(), 0) for name in names}
    for batch in itertools.islice(split.batches(dict.fromkeys(names, "data.label_column")), SAMPLE_BATCHES):
        for name, column in columns.items():
            for value in batch.columns[name]:
                if isinstance(value, str):
                    column.lengths.append(len(value))
                spellings = [] if isinstance(value, list | dict) else spell(value)
                column.num_values += len(spellings) > 0
                column.values.update(spellings[-1:])
    return columns


def _choose_text(dataset: str, columns: dict[str, Column], text: str | None, label: str | None) -> str:
    """Return the column with the longest texts on average, or the one that the user names."""
    if text is not None:
        return _require(dataset, columns, "--text", text)
    texts = [name for name, column in columns.items() if column.lengths and name != label]
    if not texts:
        raise UserError(f"`{dataset}` must have a column of texts. Got {', '.join(columns)}.")
    return max(texts, key=lambda name: columns[name].mean_length)


def _choose_label(columns: dict[str, Column], text: str, split: Split) -> str | None:
    """Return a `ClassLabel` column, else one with few values; None without one."""
    # A value must repeat: a column with as many values as rows has no classes.
    few = [
        name for name, column in columns.items() if 2 <= len(column.values) <= min(MAX_CLASSES, column.num_values // 2)
    ]
    candidates = [name for name in columns if name != text and (name in split.class_names or name in few)]

    def rank(name: str) -> tuple[bool, bool, bool]:
        is_text = bool(columns[name].lengths)
        return name not in split.class_names, name.lower() not in LABEL_COLUMNS, not is_text

    return min(candidates, key=rank, default=None)


def _require(dataset: str, columns: dict[str, Column], option: str, name: str) -> str:
    if name not in columns:
        raise UserError(f"`{option}` must name a column of {dataset}. Got {name}. Try one of {', '.join(columns)}.")
    return name


def _count(split: Split, data: Data) -> Counts:
    """Read a whole split. Its classes are those of a `ClassLabel`, in their order, else the sorted labels."""
    text, label = data.text_column, data.label_column
    columns = {text: "data.text_column"} | ({label: "data.label_column"} if label else {})
    names = split.class_names.get(label or "", [])
    num_rows, counts = 0, Counter[str]()
    for batch in split.batches(columns):
        num_rows += len(batch.lines)
        if label:
            for content, value in zip(batch.columns[text], batch.columns[label], strict=True):
                if spell(value) and str(content or "").strip() and not (names and value == -1):
                    counts[names[value] if names and isinstance(value, int) else spell(value)[-1]] += 1
    is_numbered = all(name.isdecimal() for name in counts)
    classes = names or sorted(counts, key=int if is_numbered else None)
    return Counts(num_rows, {name: counts[name] for name in classes})


def _round(number: int) -> int:
    """Return a number rounded down to half of its first digit's unit: 437 is 400, 87 is 85."""
    return number - number % max(1, 10 ** (len(str(number)) - 1) // 2)
