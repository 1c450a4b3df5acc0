"""The schema of `report/results.json`: `measure` writes it; the report, `compare`, the Hub and the Space read it.

It imports only pydantic, so that `push space` can copy this file into a Space that has neither torch nor vLLM.
Intervals are null where they are not defined.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError


def _interval(bounds: Any) -> Any:
    return None if isinstance(bounds, list | tuple) and None in bounds else bounds


Interval = Annotated[tuple[float, float] | None, BeforeValidator(_interval)]
# Results may come from anywhere: these bound what a reader has to compute with and to draw.
Count = Annotated[int, Field(ge=0, le=10**9)]
Size = Annotated[int, Field(ge=1, le=10**9)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
Figure = Literal["accuracy", "macro_f1", "pairwise_disagreement"]
Verdict = Literal["higher", "lower", "inconclusive"]
Status = Literal["holds", "fails", "inconclusive"]
Decision = Literal["ship within limits", "do not ship", "inconclusive"]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AuditCount(Record):
    """Texts of the pool or of the test split that were drawn for people, and those that they labelled."""

    drawn: Count
    labelled: Count


class Audits(Record):
    pool: AuditCount
    test: AuditCount


class AnnotatorResult(Record):
    """The LLM against gold on the pool. Fields that require gold are null without it."""

    model: str
    calibration: str
    demonstrations: Count = Field(description="few-shot examples in the prompts; gold labels consumed")
    calibration_gold: Count = Field(description="gold rows that the calibration was fitted on")
    n: Count
    n_gold: Count
    accuracy: float | None = None
    accuracy_interval: Interval = None
    majority_accuracy: float | None = None
    macro_f1: float | None = None
    macro_f1_interval: Interval = None
    entropy_auroc: float | None = None
    recall: dict[str, float | None]
    gold_share: dict[str, float | None]
    llm_share: dict[str, float]
    confusion: list[list[Count]] | None = Field(None, description="texts with gold: a row for each gold class")
    nll: float | None
    kl: float | None = Field(description="mean KL divergence from the annotators' shares, in nats")
    kl_interval: Interval
    kl_n: Count
    gold_error: float | None = Field(None, description="share of wrong gold labels, by a model of the raters' votes")
    one_annotator: float | None = Field(description="how often one annotator gives the others' most frequent label")
    label_mass: float | None
    column: str | None = Field(None, description="the source's column that has the labels, made elsewhere")
    status: dict[str, Count]
    truncated: Count


class ErrorVariance(Record):
    """The variance of an estimate over runs, over texts and over run x text; see metrics/shared.py."""

    runs: float
    items: float
    both: float
    run_freedom: float
    item_freedom: float
    skew: float = 0.0


class VariantResult(Record):
    """Scores and instability of a variant at a size, over R runs and n test texts; see the metric modules' cards.

    Scores cover the `n_gold` test texts with gold and are null without them.
    """

    variant: Name
    size: Size
    R: Count
    n: Count
    n_gold: Count
    confidence_level: float
    gold_train_labels: list[Count] = Field(min_length=1)
    gold_prompt_labels: Count
    gold_validation_labels: Count
    train_label_accuracy: list[float | None]
    accuracy_mean: float | None
    accuracy_mean_interval: Interval
    accuracy_sd: float | None = None
    accuracy_sd_interval: Interval = None
    accuracy_min: float | None = None
    accuracy_max: float | None = None
    accuracy_runs: list[float] = []
    accuracy_distribution_variance: float | None = None
    accuracy_distribution_variance_interval: Interval = None
    macro_f1_mean: float | None
    macro_f1_mean_interval: Interval
    macro_f1_sd: float | None
    macro_f1_sd_interval: Interval
    macro_f1_min: float | None = None
    macro_f1_max: float | None = None
    macro_f1_runs: list[float]
    per_class_f1_mean: list[float | None] | None
    per_class_f1_mean_interval: list[Interval] | None = None
    per_class_f1_variance: list[ErrorVariance | None] | None = None
    majority_accuracy: float | None
    failed_runs: int | None = None
    chance_level_runs: int | None
    above_chance: bool | None = Field(None, description="all runs together agree with gold more than chance would")
    single_class_runs: int | None = None
    ddof: int = 1
    pairwise_disagreement: float
    pairwise_disagreement_interval: Interval
    krippendorff_alpha: float | None
    krippendorff_alpha_interval: Interval
    gwet_ac1: float | None = None
    gwet_ac1_interval: Interval = None
    unanimity: float
    unanimity_interval: Interval
    unanimity_of_5: float | None = Field(None, description="of five runs, as in Lu & Smith 2025; needs five seeds")
    vote_entropy: float | None = None
    single_class: bool = False
    leave_one_out: list[float | None] = []
    num_classes: Count
    error_consistency: float | None = None
    error_consistency_interval: Interval = None
    per_class_error_consistency: dict[str, float | None] = {}
    per_class_n: dict[str, Count] = {}
    per_class_disagreement: dict[str, float | None] = {}
    per_class_disagreement_interval: dict[str, Interval] = {}
    per_class_alpha: dict[str, float | None] = {}
    per_class_ac1: dict[str, float | None] = {}
    per_class_unanimity: dict[str, float | None] = {}
    per_class_vote_entropy: dict[str, float | None] = {}

    @property
    def gold_labels(self) -> int:
        """All gold labels that a run consumes: for training, prompt, calibration and the choice of the checkpoint.

        The mean over runs. For `one-annotator` these are the annotators' labels.
        """
        mean = sum(self.gold_train_labels) / len(self.gold_train_labels)
        return round(mean + self.gold_prompt_labels + self.gold_validation_labels)


class Difference(Record):
    """The figure of one variant less that of another on the same texts; see `metrics/instability_comparison`.

    `verdict` follows from `p_holm` where the difference belongs to a family of claims, else from the interval.
    """

    R: Count
    n: Count
    first: float | None = Field(None, description="the mean of the first variant")
    second: float | None = None
    difference: float
    interval: Interval
    p_value: float | None
    p_holm: float | None = Field(None, description="corrected for all claims of its family (Holm 1979)")
    detectable: float | None = None
    verdict: Verdict
    variance: ErrorVariance | None = None


class Comparison(Difference):
    """A figure of a variant less that of another variant, at one size."""

    size: Size
    variant: Name
    against: Name
    figure: Figure
    primary: bool
    test_only: Difference | None = Field(None, description="on the test texts alone, where out-of-bag texts count")


class Baseline(Record):
    """A baseline on the test texts with gold, and macro-F1 of the classifiers less the baseline's.

    Baselines are trained on the same texts with the same labels. `llm` is the LLM itself, without training.
    """

    name: Literal["most-frequent", "tfidf", "frozen", "llm"]
    variant: Name = Field(description="the training labels of the baseline and of the classifiers")
    R: Count
    n: Count
    accuracy_mean: float
    accuracy_mean_interval: Interval
    macro_f1_mean: float
    macro_f1_mean_interval: Interval
    difference: Difference


class ClassF1(Record):
    """F1 of a class at the largest size, over all texts with gold that count."""

    name: str
    n: Count = Field(description="texts of the class")
    value: float = Field(description="with LLM labels")
    variance: ErrorVariance | None = None
    gold: float | None = Field(None, description="with gold labels; null without a gold variant")


class OutOfBag(Record):
    """Texts of the pool that runs classified and did not train on."""

    n: Count
    texts_per_run: float
    p_value: float = Field(description="of the assumption that pool and test texts come from one distribution")
    is_used: bool


class BestMitigation(Difference):
    """The mitigation with the best macro-F1 on half of the seeds and texts, against LLM labels on the other halves."""

    variant: Name
    among: list[str]


class Regained(Record):
    """The share of the macro-F1 loss that a mitigation regains, with Fieller's interval."""

    variant: Name
    size: Size
    R: Count
    n: Count
    share: float
    interval: Interval


class Ensemble(Record):
    """Ensembles of k runs that share no run."""

    variant: Name
    size: Size
    k: Count
    ensembles: Count
    n: Count
    macro_f1_mean: float | None
    macro_f1_mean_interval: Interval
    pairwise_disagreement: float
    pairwise_disagreement_interval: Interval


class ClassShare(Record):
    """The share of a class among the test texts, or among those of a group, in predictions and in gold."""

    variant: Name
    size: Size
    group: str | None
    class_name: str
    R: Count
    n: Count
    gold: float
    gold_interval: Interval = None
    share: float
    bias: float
    bias_interval: Interval
    sd: float | None

    @property
    def clear_bias(self) -> float:
        """The distance of the bias's interval from zero; 0 if it includes zero or is not defined."""
        return 0.0 if self.bias_interval is None else max(self.bias_interval[0], -self.bias_interval[1], 0.0)


class Change(Record):
    """How the copied errors changed since a smaller size."""

    size: Size
    agreement: Difference
    accuracy: Difference
    copied: Difference | None


class ErrorCells(Record):
    """The LLM right or wrong x the classifier equal or not, as shares of the test texts that the LLM labelled."""

    variant: Name
    size: Size
    R: Count
    n: Count
    n_wrong: Count
    teacher_accuracy: float
    teacher_accuracy_interval: Interval
    right_same: float
    right_same_interval: Interval
    right_other: float
    right_other_interval: Interval
    wrong_same: float
    wrong_same_interval: Interval
    wrong_other: float
    wrong_other_interval: Interval
    agreement: float
    agreement_interval: Interval
    accuracy: float
    accuracy_interval: Interval
    copied: float | None
    copied_interval: Interval
    copied_above_gold: Difference | None
    copied_above_noise: Difference | None = Field(
        None, description="above gold labels made wrong at random with the LLM's confusion matrix"
    )
    since: Change | None


class GoldMatch(Difference):
    """Gold labels of a size less all LLM labels, in macro-F1."""

    size: Size


class EqualAccuracy(Record):
    """The disagreement of LLM labels less that of gold labels between two sizes, at the same accuracy."""

    accuracy: float
    pairwise_disagreement1: float
    pairwise_disagreement2: float
    sizes: list[Size]
    R: Count
    difference: float
    interval: Interval
    p_value: float | None
    p_holm: float | None = None
    verdict: Verdict


class Plateau(Record):
    """What the last doubling of the training texts gains; see `metrics/learning_plateau`."""

    variant: Name
    figure: Figure
    R: Count | None = None
    n: Count
    S: int | None = None
    item_se: float
    is_interpolated: bool = Field(False, description="half the largest size was not trained")
    last_doubling: tuple[float, float]
    gain: float
    gain_interval: Interval
    verdict: Literal["plateau", "gains", "inconclusive"]
    enough_size: float | None = None
    delta: float
    confidence_level: float = 0.95
    against_gain: float | None = None
    against_gain_interval: Interval = None
    against_verdict: Literal["plateau", "gains", "inconclusive"] | None = None
    gain_difference: float | None = None
    gain_difference_interval: Interval = None
    premature_plateau: Literal["yes", "no", "inconclusive"] | None = None


class Disagreement(Record):
    value: float
    interval: Interval


class Variance(Record):
    variance: float | None
    interval: Interval
    sd: float | None
    sd_interval: Interval


class Components(Record):
    """What each source of randomness contributes, by variance components over crossed runs."""

    variant: Name
    size: Size
    sources: list[str]
    levels: Count
    R: Count
    n: Count
    disagreement: dict[str, Disagreement]
    accuracy: dict[str, Variance]
    macro_f1: dict[str, Variance]


class Criterion(Record):
    name: Literal["macro_f1_loss", "churn", "min_class_f1"] = Field(description="the setting in `accept`")
    value: float | None = Field(description="the estimate; null where the study cannot give one")
    interval: Interval = Field(description="of the estimate")
    limit: float = Field(description="at most for loss and churn, at least for F1")
    bound: float | None = Field(None, description="the tightest limit that the study certifies")
    refuted: float | None = Field(None, description="the loosest limit that the study refutes")
    status: Status = Field(description="`holds`, `fails` or `inconclusive`")

    def at(self, limit: float) -> "Criterion":
        """Return the criterion at another limit. Results of earlier versions have an interval alone."""
        sign = -1 if self.name == "min_class_f1" else 1
        bound, refuted = self.bound, self.refuted
        if bound is None and refuted is None and self.interval is not None:
            bound, refuted = self.interval[::-1] if sign > 0 else self.interval
        status: Status = "inconclusive"
        if refuted is not None and sign * (refuted - limit) > 0:
            status = "fails"
        is_no_limit = sign < 0 and limit == 0  # F1 of 0 or more
        if self.value is not None and (is_no_limit or (bound is not None and sign * (limit - bound) > 0)):
            status = "holds"
        return self.model_copy(update={"limit": limit, "status": status})


class Advice(Record):
    """The cheapest study that decides all open limits with the probability `power`, if the truth is the estimate."""

    seeds: Count
    test_texts: Count
    hours: float = Field(description="of training and of labelling, beyond this study")
    power: float


class VerdictResult(Record):
    """The verdict by the limits in `accept`; see docs/statistics.md."""

    decision: Decision
    criteria: list[Criterion]
    worst_class: str | None
    reason: str | None
    level: float = 0.95
    advice: Advice | None = Field(None, description="null where nothing is open, or where no study decides it")

    def at(self, limits: dict[str, float]) -> "VerdictResult":
        """Return the verdict at other limits, by the names of the criteria; without advice, which is for these."""
        criteria = [
            criterion.at(limits[criterion.name])
            if limits.get(criterion.name, criterion.limit) != criterion.limit
            else criterion
            for criterion in self.criteria
        ]
        if criteria == self.criteria:
            return self
        decision = decision_of(criteria, self.reason)
        return self.model_copy(update={"criteria": criteria, "decision": decision, "advice": None})


def decision_of(criteria: list[Criterion], reason: str | None) -> Decision:
    """Return the decision. `reason` says why limits against gold labels cannot be decided; None if they can."""
    *against_gold, class_f1 = (criterion.status for criterion in criteria)
    if class_f1 == "fails" or (reason is None and "fails" in against_gold):
        return "do not ship"
    if reason is None and {class_f1, *against_gold} == {"holds"}:
        return "ship within limits"
    return "inconclusive"


class Figures(Record):
    """All figures of a study. docs/dev/contract.md describes the fields."""

    key: str
    study: str
    dataset: str = ""
    encoder: str = ""
    method: Literal["finetune", "frozen"] = Field(
        "finetune", description="how classifiers were trained: the whole encoder, or a linear head on frozen features"
    )
    date: str = Field("", description="of the measurement, as 2026-11-29")
    trainings: Count = Field(0, description="all runs, crossed ones included; 0 in results of earlier versions")
    label_names: list[str]
    seeds: list[int]
    vary: list[str]
    R: Count
    n: Count
    audit: Audits | None
    confidence_level: float
    lines: dict[str, str]
    annotator: AnnotatorResult
    variants: list[VariantResult] = Field(min_length=1)
    comparisons: list[Comparison]
    best_mitigation: BestMitigation | None
    regained: list[Regained]
    ensembles: list[Ensemble]
    class_shares: list[ClassShare]
    error_cells: list[ErrorCells]
    baselines: list[Baseline] = []
    gold_match: list[GoldMatch]
    iso_accuracy: EqualAccuracy | None = Field(description="null where no gold sizes surround the LLM's accuracy")
    plateaus: list[Plateau]
    components: list[Components]
    class_f1: list[ClassF1] = []
    out_of_bag: OutOfBag | None = None
    near_duplicates: Count = Field(0, description="test texts that nearly repeat another")
    clusters: Count | None = Field(None, description="of the test texts, with `data.cluster_column`")
    looks: list[tuple[Count, Count]] = Field([], description="seeds and test texts at each verdict, in order")
    hours_per_seed: float = Field(0.0, description="of training all variants and sizes")
    notes: list[str]

    @property
    def classifiers(self) -> str:
        """The classifiers in sentences, by the method that trained them."""
        return "linear heads on frozen features" if self.method == "frozen" else "classifiers"

    @property
    def top(self) -> int:
        """The largest size."""
        return max(result.size for result in self.variants)

    @property
    def at_top(self) -> dict[str, VariantResult]:
        """The variants at the largest size, by name."""
        top = self.top
        return {result.variant: result for result in self.variants if result.size == top}

    @property
    def lowest_classes(self) -> list[ClassF1]:
        """The classes with the lowest F1, which may be tied."""
        lowest = min((entry.value for entry in self.class_f1), default=0.0)
        return [entry for entry in self.class_f1 if entry.value == lowest]

    def find(self, variant: str, against: str, figure: Figure, size: int | None = None) -> Comparison | None:
        """Return a comparison at a size, by default the largest; None if it was not made."""
        size = size or self.top
        for comparison in self.comparisons:
            if (comparison.variant, comparison.against, comparison.figure, comparison.size) == (
                *(variant, against, figure),
                size,
            ):
                return comparison
        return None


class Results(Figures):
    """The content of `report/results.json`: the figures and the verdict that follows from them."""

    verdict: VerdictResult


def read_results(text: str | bytes) -> Results:
    """Parse the content of a results.json, which may come from anywhere. Fields of later versions are left out.

    Raises:
        ValueError: it does not have this schema; the message names the first field that differs.
    """
    try:
        return Results.model_validate_json(text, extra="ignore")
    except ValidationError as errors:
        error = errors.errors()[0]
        raise ValueError(f"{'.'.join(map(str, error['loc'])) or 'the file'}: {error['msg']}") from None
