"""Planted truth: annotators whose errors are known, real training, and what the report makes of it.

Texts are bags of words of which some give the class away, so that an encoder learns them from few. An annotator errs by
chance, or by the text (whenever a certain word is in it), and its entropy knows of its errors or does not.
Plateaus are planted in test_metric_family.py.
"""

import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ENCODER, LLM
from steps import measure

from hf_recipes.analysis.comparisons import regained_shares
from hf_recipes.analysis.texts import Texts
from hf_recipes.annotation.annotate import annotate
from hf_recipes.data import Rows
from hf_recipes.metric_loading import load_metric
from hf_recipes.report.findings import describe
from hf_recipes.training.train import train

KEYS = [["red", "blue", "green", "white"], ["dog", "horse", "cow", "sheep"], ["rain", "snow", "wind", "storm"]]
FILL = ["and", "then", "so", "we", "went", "on", "by", "the", "old", "house", "with", "some", "friends", "for", "late"]
SIGN = "indeed"
CHANCE = 0.45
NAMES = ["colour", "animal", "weather"]


def write_texts(path, n, seed):
    rng = np.random.default_rng(seed)
    gold = rng.integers(3, size=n)
    texts = []
    for i, k in enumerate(gold):
        words = [*rng.choice(KEYS[k], 2), *rng.choice(FILL, 6), *([SIGN] if rng.random() < 0.4 else []), f"{i}"]
        texts.append(" ".join(rng.permutation(words)))
    pq.write_table(pa.table({"text": texts, "label": [NAMES[k] for k in gold]}), path)
    return dict(zip(texts, gold.tolist(), strict=True))


class Planted:
    """An engine that knows every text's class, and errs as it was told."""

    gold: dict
    errors: str
    knows: bool

    def __init__(self, section, model):
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model.folder)

    def score(self, prompts, token_ids):
        found = np.zeros((len(prompts), len(token_ids)))
        for row, prompt in enumerate(prompts):
            text = self.tokenizer.decode(prompt).rpartition("Text: ")[2].partition("Label:")[0].strip()
            rng = np.random.default_rng(zlib.crc32(text.encode()))
            label, wrong = self.gold.get(text, 0), False  # of a content-free input
            if self.errors == "random" and rng.random() < CHANCE:
                label, wrong = int((label + rng.integers(1, 3)) % 3), True
            if self.errors == "systematic" and SIGN in text.split() and label:
                label, wrong = 0, True
            sure = 0.5 if (wrong if self.knows else rng.random() < CHANCE) else 0.95
            probs = np.full(3, (1 - sure) / 2)
            probs[label] = sure
            found[row] = np.log(probs)
        return found, {}


@pytest.fixture
def planted(make_study, monkeypatch, tmp_path):
    (tmp_path / "texts").mkdir()
    pool = write_texts(tmp_path / "texts" / "train.parquet", 900, 0)
    write_texts(tmp_path / "texts" / "test.parquet", 400, 1)
    monkeypatch.setattr("hf_recipes.annotation.engines.vllm_engine.Engine", Planted)
    monkeypatch.setattr(Planted, "gold", pool, raising=False)

    def make(errors, knows, encoder, *more):
        monkeypatch.setattr(Planted, "errors", errors, raising=False)
        monkeypatch.setattr(Planted, "knows", knows, raising=False)
        study = make_study(
            *(f"--data.path={tmp_path / 'texts'}", "--data.pool_size=null", "--data.test_size=null"),
            *(f"--data.label_names=[{', '.join(NAMES)}]", f"--annotate.model={LLM}", "--annotate.calibration=none"),
            *("--annotate.prompt.template='{{ instruction }} Text: {{ text }} Label:'",),
            *("--annotate.prompt.shots_per_class=0", f"--train.encoder={encoder}"),
            *("--grid.sizes=[150]", "--grid.seeds=[0, 1, 2, 3, 4, 5]", "--train.learning_rate=2e-4"),
            "--grid.variants=[gold, llm, noise-fixed, llm-entropy-replace, llm-random-replace]",
            *("--accept.min_class_f1=0.5", *more),
            folder=f"{errors}-{knows}",
        )
        annotate(study)
        assert train(study) == {}
        return measure(study)

    return make


def difference(results, variant, against, figure="macro_f1"):
    return next(
        c for c in results.comparisons if (c.variant, c.against, c.figure, c.size) == (variant, against, figure, 150)
    )


def test_where_nothing_is_planted_nothing_is_found(planted, tiny_encoder):
    """Whatever the encoder learns: labels that are gold cost nothing and unsettle nothing."""
    results = planted("none", True, tiny_encoder, "--train.epochs=1")
    assert results.annotator.accuracy == 1
    for variant, against in (("llm", "gold"), ("llm", "noise-fixed"), ("llm-entropy-replace", "llm-random-replace")):
        for figure in ("macro_f1", "pairwise_disagreement"):
            assert difference(results, variant, against, figure).difference == 0
    # Intervals do not know that gold and LLM runs are the same: they hold for runs that are not correlated.
    loss, churn = results.verdict.criteria[:2]
    assert loss.status == "holds"
    assert churn.status != "fails"
    assert results.regained == []  # no gap, no share of it
    assert {(one.k, one.ensembles) for one in results.ensembles} == {(2, 3), (3, 2)}


def test_the_share_of_the_gap_is_fiellers_by_inversion():
    """Its bounds are where a test of variant - llm - share * (gold - llm) just fails to reject zero."""
    from scipy.optimize import brentq
    from scipy.stats import t

    rng, runs, items = np.random.default_rng(0), 8, 300
    test = Rows([str(i) for i in range(items)], [""] * items, rng.integers(3, size=items), NAMES)
    variants = ("gold", "llm", "llm-entropy-replace")

    def drawn(accuracy):
        labels = np.where(rng.random((runs, items)) < accuracy, test.gold, rng.integers(3, size=(runs, items)))
        return np.where(rng.random(items) < 0.3, labels[0], labels)  # texts on which all runs are alike

    predictions = {(variant, 50): drawn(accuracy) for variant, accuracy in zip(variants, (0.8, 0.5, 0.65), strict=True)}
    learnt = [{"variant": variant, "size": 50, "above_chance": True} for variant in variants]
    texts = Texts(test, predictions, np.arange(items))
    (found,) = regained_shares(learnt, texts)
    module = load_metric("instability_comparison")

    def compared(first, second):
        result = texts.compare((first, 50), (second, 50))
        return result["macro_f1_difference"], module.variance(**result["macro_f1_variance"])

    (gap, of_gap), (gain, of_gain), (_, of_rest) = (
        compared(*pair) for pair in (("gold", "llm"), (variants[2], "llm"), ("gold", variants[2]))
    )
    covariance = (of_gap.total + of_gain.total - of_rest.total) / 2

    def excess(share):
        variance = of_gain.total + share**2 * of_gap.total - 2 * share * covariance
        return abs(gain - share * gap) - t.ppf(0.975, of_gap.freedom) * variance**0.5

    share = found["share"]
    assert share == pytest.approx(gain / gap)
    assert found["interval"] == pytest.approx(
        [brentq(excess, share - 5, share), brentq(excess, share, share + 5)], abs=1e-8
    )
    learnt[2]["above_chance"] = False
    assert not list(regained_shares(learnt, texts))


@pytest.mark.slow
def test_errors_by_chance_are_not_taken_for_systematic_ones(planted):
    ten = f"--grid.seeds={list(range(10))}"  # with six, a loss of .07 could not be told from none
    results = planted("random", False, ENCODER, ten)
    assert results.annotator.accuracy == pytest.approx(1 - CHANCE, abs=0.04)
    assert difference(results, "llm", "gold").verdict == "lower"
    assert difference(results, "llm", "gold", "pairwise_disagreement").verdict == "higher"
    assert difference(results, "llm", "noise-fixed").verdict == "inconclusive"
    assert difference(results, "llm-entropy-replace", "llm-random-replace").verdict == "inconclusive"
    assert results.verdict.decision == "do not ship"


@pytest.mark.slow
def test_errors_by_the_text_are_found_and_so_is_an_entropy_that_knows_of_them(planted):
    results = planted("systematic", True, ENCODER)
    assert difference(results, "llm", "gold").verdict == "lower"
    assert difference(results, "llm", "noise-fixed", "pairwise_disagreement").verdict == "lower"  # wrong, but steadily
    assert difference(results, "llm-entropy-replace", "llm-random-replace").verdict == "higher"
    assert results.annotator.entropy_auroc > 0.95
    assert results.verdict.decision == "do not ship"
    assert "inconclusive unless gold is clean" in str(describe(results).findings)  # the steadier runs
