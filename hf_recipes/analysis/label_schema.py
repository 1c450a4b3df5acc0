"""The schema of `report/labels.json`: how good the LLM's labels are, from annotations and gold."""

from pydantic import BaseModel, ConfigDict, Field

from .schema import Count, Record

Bounds = tuple[float | None, float | None]  # of an interval; null where it is not defined


class CalibrationResult(Record):
    """The calibration of a pass; `log_loss` is that of each method on `gold` rows."""

    method: str
    temperature: float
    log_loss: dict[str, float | None]
    gold: Count


class GoldSpent(Record):
    """Texts with gold that prompts or calibrations use, so that nothing is judged by them."""

    demonstrations: Count
    calibration: Count


class ReliabilityBin(Record):
    lower: float
    upper: float
    n: Count
    confidence: float | None
    accuracy: float | None
    accuracy_interval: Bounds


class Uncertainty(BaseModel):
    """The measurement `annotation_uncertainty`: the fields that pages show, and all others as they are.

    Fields that require gold or votes are missing without them.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    n: Count
    n_gold: Count
    label_share: list[float]
    entropy_quantiles: list[float]
    label_mass_mean: float
    P: Count | None = None
    flip_rate: float | None = None
    flip_rate_interval: Bounds | None = None
    accuracy: float | None = None
    accuracy_interval: Bounds | None = None
    majority_accuracy: float | None = None
    macro_f1: float | None = None
    macro_f1_interval: Bounds | None = None
    confusion: list[list[Count]] = []
    per_class_n: list[Count] = []
    per_class_recall: list[float | None] = []
    per_class_recall_interval: list[Bounds] = []
    per_class_precision: list[float | None] = []
    per_class_precision_interval: list[Bounds] = []
    class_share: float | None = None
    nll: float | None = None
    brier: float | None = None
    ece: float | None = None
    adaptive_ece: float | None = None
    reliability: list[ReliabilityBin] = []
    alphas: list[float] = []
    error_capture: list[float | None] = []
    error_capture_interval: list[Bounds] = []
    lift: list[float | None] = []
    risk_coverage: list[tuple[float, float]] = []
    aurc: float | None = None
    e_aurc: float | None = None
    entropy_auroc: float | None = None
    entropy_auroc_interval: Bounds | None = None
    within_class_auroc: float | None = None
    within_class_auroc_interval: Bounds | None = None
    flipped_error_rate: float | None = None
    flipped_error_rate_interval: Bounds | None = None
    unflipped_error_rate: float | None = None
    unflipped_error_rate_interval: Bounds | None = None
    flip_recall: float | None = None
    flip_recall_interval: Bounds | None = None


class PassResult(Record):
    """The labels of one pass, or an aggregate of all. Scores are missing without gold."""

    name: str
    label_share: list[float]
    n_gold: Count
    accuracy: float | None = None
    accuracy_interval: Bounds | None = None
    macro_f1: float | None = None
    macro_f1_interval: Bounds | None = None


class Ties(Record):
    """How many of `n` texts have two labels of the highest raw probability."""

    n: Count
    count: Count


class RepeatCheck(Record):
    """Of `n` texts with two answers, how many have another label in the second one.

    `max_difference` is the largest difference of two log-probabilities; missing where answers are sampled.
    """

    n: Count
    changed: Count
    max_difference: float | None


class LabelQuality(Record):
    """The content of `report/labels.json`. docs/dev/contract.md describes the fields."""

    key: str
    study: str
    label_names: list[str]
    status: list[dict[str, Count]]
    truncated: Count
    scoring: str
    calibrations: list[CalibrationResult]
    calibration_chosen_on_gold: bool
    gold_spent: GoldSpent
    audit_drawn: Count | None
    annotator: Uncertainty | None
    passes: list[PassResult]
    ties: list[Ties | None] = Field(default_factory=list)
    repeats: list[RepeatCheck | None] = Field(default_factory=list)

    @property
    def is_from_columns(self) -> bool:
        """Whether the labels were made elsewhere."""
        return self.scoring in ("labels", "probabilities")

    @property
    def has_probabilities(self) -> bool:
        """Whether each class has a probability, not only the label."""
        return self.scoring not in ("guided", "labels")
