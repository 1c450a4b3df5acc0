"""Variants: the same rows, the same number of gold labels, and the right labels replaced."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_recipes.annotate_section import Prompt
from hf_recipes.annotation.annotations import Annotations
from hf_recipes.annotation.calibration import Calibration
from hf_recipes.data import NO_GOLD, Rows
from hf_recipes.errors import UserError
from hf_recipes.hashing import row_ids
from hf_recipes.labels.pool import Pool, build_pool, entropy
from hf_recipes.labels.rules import RULES, training_labels
from hf_recipes.labels.votes import NO_VOTE
from hf_recipes.recipe import Annotate
from hf_recipes.training.grid import check_sizes, make_run, permutation
from hf_recipes.variants import CONTROLS, VARIANTS


def make_pool(n=60, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    texts = [f"text {i}" for i in range(n)]
    probs = rng.dirichlet(np.ones(classes), n)
    gold, others = rng.integers(classes, size=n), rng.integers(classes, size=(n, 2))
    votes = np.column_stack([probs.argmax(axis=1), others])
    none = Calibration("none", 1.0, {}, np.zeros(0, int))
    return Pool(
        row_ids("train", texts),
        texts,
        list("abc")[:classes],
        gold,
        probs[None],
        np.ones((1, n)),
        votes,
        [none],
        0,
        raters=rng.multinomial(5, np.ones(classes) / classes, n),
    )


SECTION = Annotate(model="m", prompt=Prompt(instruction=""), calibration="none")


POOL = make_pool()


def test_a_variant_is_one_entry_and_one_rule():
    """Every entry has a rule, a colour of its own, and only variants of the table as controls and comparisons."""
    assert RULES.keys() == VARIANTS.keys()
    assert len({variant.colour for variant in VARIANTS.values()}) == len(VARIANTS)
    for variant in VARIANTS.values():
        assert {*variant.comparisons} <= VARIANTS.keys() - {variant.name}
        assert variant.describe(0.125) == variant.line.replace("{share}", "12.5%")
    assert "for the audited texts drawn at random" in VARIANTS["llm-audit"].describe(0.25, has_audit=True)
    assert CONTROLS["llm-entropy-replace"] == "llm-random-replace"


@given(st.integers(10, 60), st.integers(0, 5), st.floats(0.1, 0.9))
def test_every_variant_labels_rows_of_the_run_and_mitigation_and_control_spend_the_same_gold(size, seed, share):
    pool = POOL
    rows = permutation(pool.ids, seed)[:size]
    labels = {variant: training_labels(variant, pool, rows, share, seed) for variant in VARIANTS}
    for found in labels.values():
        assert set(found.rows) <= set(rows)
        assert found.targets.sum(axis=1) == pytest.approx(1)
        assert len(found.targets) == len(found.from_gold) == len(found.rows)
    assert labels["gold"].labels.tolist() == pool.gold[rows].tolist()
    assert labels["llm"].labels.tolist() == pool.llm[rows].tolist()
    budget = round(share * size)
    spenders = ("llm-entropy-replace", "llm-random-replace", "llm-audit")
    for variant in (*spenders, "gold-only"):
        found = labels[variant]
        taken = found.from_gold
        assert found.gold_labels == budget
        assert (found.labels[taken] == pool.gold[found.rows][taken]).all()
        assert (found.labels[~taken] == pool.llm[found.rows][~taken]).all()
    uncertain = labels["llm-entropy-replace"].from_gold
    assert pool.entropy[rows][uncertain].min() >= pool.entropy[rows][~uncertain].max()
    assert len(labels["gold-only"].rows) == size
    assert labels["llm-flip-replace"].gold_labels == labels["llm-flip-random-replace"].gold_labels
    votes = pool.votes[rows]
    assert labels["llm-flip-replace"].from_gold.tolist() == (votes != votes[:, :1]).any(axis=1).tolist()


@given(st.integers(10, 60), st.integers(0, 5), st.floats(0.1, 0.9))
def test_droppers_keep_the_most_certain_rows_with_the_llms_labels_and_spend_nothing(size, seed, share):
    pool = POOL
    rows = permutation(pool.ids, seed)[:size]
    by_entropy, by_chance = (
        training_labels(f"llm-{name}-drop", pool, rows, share, seed) for name in ("entropy", "random")
    )
    assert len(by_entropy.rows) == len(by_chance.rows) == size - round(share * size)
    for found in (by_entropy, by_chance):
        assert found.labels.tolist() == pool.llm[found.rows].tolist()
        assert found.gold_labels == 0
    gone = np.setdiff1d(rows, by_entropy.rows)
    assert pool.entropy[by_entropy.rows].max() <= pool.entropy[gone].min()


def test_noise_has_the_llms_confusions_and_is_drawn_once():
    pool = make_pool(4000)
    rows = np.arange(4000)
    fixed = [training_labels("noise-fixed", pool, rows, 0.25, seed).labels for seed in (0, 1)]
    assert fixed[0].tolist() == fixed[1].tolist()
    for j in range(3):
        of_class = pool.gold == j
        ours, llms = (np.bincount(some[of_class], minlength=3) / of_class.sum() for some in (fixed[0], pool.llm))
        assert np.abs(ours - llms).max() < 5 * np.sqrt(0.25 / of_class.sum())
    wrong = [fixed[0] != pool.gold, pool.llm != pool.gold]
    together = (wrong[0] & wrong[1]).mean()  # by chance alone, not on the same texts
    assert abs(together - wrong[0].mean() * wrong[1].mean()) < 0.05
    part = permutation(pool.ids, 3)[:100]
    assert training_labels("noise-fixed", pool, part, 0.25, 9).labels.tolist() == fixed[0][part].tolist()


def test_texts_without_a_label_in_the_pass_do_not_count_for_the_confusions():
    pool = make_pool(4000)
    silent = np.arange(4000) % 2 == 0
    votes, probs = pool.votes.copy(), pool.pass_probs.copy()
    votes[silent, 0], probs[0, silent] = NO_VOTE, np.nan
    partial = replace(pool, votes=votes, pass_probs=probs)
    rows = np.flatnonzero(~silent)
    drawn = training_labels("noise-fixed", partial, rows, 0.25, 0).labels
    assert drawn.tolist() == training_labels("noise-fixed", pool.take(rows), np.arange(2000), 0.25, 0).labels.tolist()


def test_one_annotator_is_drawn_among_a_texts_annotators_for_each_run():
    pool = make_pool(3000)
    pool.raters[:7] = 0
    rows = np.arange(3000)
    draws = [training_labels("one-annotator", pool, rows, 0.25, seed) for seed in range(2)]
    for found in draws:
        assert found.rows.tolist() == rows[7:].tolist()  # a text without raters has no label
        assert (pool.raters[found.rows, found.labels] > 0).all()
        assert found.gold_labels == len(rows) - 7  # people gave them
        expected = (pool.raters[7:] / 5).sum(axis=0)
        assert np.abs(np.bincount(found.labels) - expected).max() < 5 * np.sqrt(3000 * 0.25)
    assert (draws[0].labels != draws[1].labels).any()
    with pytest.raises(UserError, match="Got none for the 7 texts of a run"):
        training_labels("one-annotator", pool, rows[:7], 0.25, 0)
    with pytest.raises(UserError, match="one-annotator requires data.raters"):
        training_labels("one-annotator", replace(pool, raters=None), rows, 0.25, 0)


def test_the_loss_under_an_audit_is_on_average_that_under_gold():
    """Over many draws, whatever the classifier says; with as many labels replaced it is not."""
    pool, seeds = make_pool(200), range(4000)
    rows = permutation(pool.ids, 0)[:100]
    loss = -np.log(np.random.default_rng(1).dirichlet(np.ones(3), 200))
    losses = {
        variant: np.array([(found.targets * loss[found.rows]).sum() for found in drawn]) / 100
        for variant in ("llm-audit", "llm-random-replace")
        if (drawn := [training_labels(variant, pool, rows, 0.2, seed) for seed in seeds])
    }
    gold = loss[rows, pool.gold[rows]].mean()
    off = {variant: (of.mean() - gold) / (of.std() / len(of) ** 0.5) for variant, of in losses.items()}
    assert abs(off["llm-audit"]) < 4
    assert abs(off["llm-random-replace"]) > 20
    found = training_labels("llm-audit", pool, rows, 0.2, 3)
    wrong = found.from_gold & (pool.llm[rows] != pool.gold[rows])
    places = np.flatnonzero(wrong)
    assert found.targets[places, pool.gold[rows][wrong]] == pytest.approx(5)  # 1 / pi
    assert found.targets[places, pool.llm[rows][wrong]] == pytest.approx(-4)
    assert (found.targets[~wrong] == np.eye(3)[pool.llm[rows][~wrong]]).all()


def test_where_only_an_audit_has_gold_variants_take_what_they_may_of_it():
    rng = np.random.default_rng(0)
    whole = make_pool(400)
    audited = rng.random(400) < 0.2
    pool = replace(whole, gold=np.where(audited, whole.gold, NO_GOLD), audited=audited, audit_share=audited.mean())
    rows = permutation(pool.ids, 2)[:150]
    inside = audited[rows]
    replaced, weighted = (
        training_labels(variant, pool, rows, 0.5, 2) for variant in ("llm-random-replace", "llm-audit")
    )
    for found in (replaced, weighted):
        assert found.from_gold.tolist() == inside.tolist()
        assert found.labels.tolist() == np.where(inside, pool.gold[rows], pool.llm[rows]).tolist()
        truth = (found.labels == whole.gold[rows]).mean()
        assert found.accuracy(pool) == pytest.approx(truth, abs=0.15)  # not 1, as it is of the rows that have gold
    assert weighted.targets.max() == pytest.approx(1 / audited.mean())
    alone = training_labels("gold-only", pool, rows, 0.5, 2)
    assert sorted(set(alone.rows)) == np.flatnonzero(audited).tolist()  # the whole sample, wherever it is
    assert len(alone.rows) == 150  # for as many steps as on all rows
    assert len(set(training_labels("gold-only", pool, rows[:20], 0.5, 2).rows)) == 20
    with pytest.raises(UserError, match="require gold labels, and the study has none"):
        training_labels("gold-only", replace(pool, audited=np.zeros(400, dtype=bool)), rows, 0.5, 2)
    assert training_labels("llm", pool, rows, 0.5, 2).accuracy(replace(pool, gold=np.full(400, NO_GOLD))) is None


@given(st.integers(0, 20))
def test_subsets_differ_by_seed_and_survive_rows_that_go(seed):
    pool = make_pool()
    order = permutation(pool.ids, seed).tolist()
    assert sorted(order) == list(range(60))
    assert set(order[:30]) != set(permutation(pool.ids, seed + 1)[:30].tolist())
    fewer = permutation(pool.ids[:40], seed).tolist()
    assert [i for i in order if i < 40] == fewer


def test_the_random_control_is_drawn_anew_for_each_seed_and_knows_nothing_of_entropy():
    pool = make_pool(400)
    rows = np.arange(400)
    draws = [training_labels("llm-random-replace", pool, rows, 0.25, seed).from_gold for seed in range(30)]
    assert len({draw.tobytes() for draw in draws}) == 30
    shift = np.mean([pool.entropy[draw].mean() for draw in draws]) - pool.entropy.mean()
    assert abs(shift) < 4 * pool.entropy.std() / np.sqrt(100 * 30)


def test_a_row_with_no_label_in_a_pass_abstains_there_and_a_demonstration_of_any_pass_leaves():
    rows = Rows(list("abcd"), ["one", "two", "three", "four"], np.array([0, 1, 0, 1]), ["x", "y"])
    first, second = np.log([[0.4, 0.1]] * 4), np.log([[0.1, 0.4]] * 4)
    second[1] = np.nan
    passes = [
        Annotations("k", SECTION, first, ["ok", "ok", "demonstration", "ok"], np.zeros(4, bool), first[:1]),
        Annotations("l", SECTION, second, ["ok", "no_label", "ok", "demonstration"], np.zeros(4, bool), first[:1]),
    ]
    pool = build_pool(rows, passes)
    assert pool.ids == ["a", "b"]
    assert pool.votes.tolist() == [[0, 1], [0, -1]]


def test_entropy_agrees_with_scipy():
    from scipy.stats import entropy as oracle

    probs = np.array([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5], [1 / 3, 1 / 3, 1 / 3]])
    assert entropy(probs) == pytest.approx(oracle(probs, axis=1))


def test_the_pool_leaves_out_errors_and_demonstrations():
    rows = Rows(list("abcd"), ["one", "", "three", "four"], np.array([0, 1, NO_GOLD, 1]), ["x", "y"])
    logprobs = np.log([[0.4, 0.1], [np.nan, np.nan], [0.3, 0.3], [np.nan, np.nan]])
    status = ["ok", "empty_text", "ok", "demonstration"]
    annotations = Annotations("k", SECTION, logprobs, status, np.zeros(4, bool), logprobs[:1])
    pool = build_pool(rows, [annotations])
    assert (pool.ids, pool.texts, pool.gold.tolist()) == (["a", "c"], ["one", "three"], [0, NO_GOLD])
    assert pool.label_mass == pytest.approx([0.5, 0.6])
    assert pool.probs == pytest.approx(np.array([[0.8, 0.2], [0.5, 0.5]]))


def test_the_pool_has_the_clusters_of_its_rows():
    clusters = np.array(["a", None, "b", "a"], dtype=object)
    rows = Rows(list("abcd"), ["one", "two", None, "four"], np.array([0, 1, 0, 1]), ["x", "y"], clusters=clusters)
    logprobs = np.log([[0.4, 0.1]] * 4)
    annotations = Annotations("k", SECTION, logprobs, ["ok", "ok", "null_text", "ok"], np.zeros(4, bool), logprobs[:1])
    pool = build_pool(rows, [annotations])
    assert pool.clusters.tolist() == ["a", None, "a"]
    assert pool.take(np.array([1, 2])).clusters.tolist() == [None, "a"]
    assert pool.of_pass(1).clusters.tolist() == pool.clusters.tolist()
    assert build_pool(replace(rows, clusters=None), [annotations]).take(np.array([0])).clusters is None


def test_sizes_against_the_pool(make_study):
    recipe = make_study("--grid.sizes=[10, 40]").grid
    assert check_sizes(recipe, 200) == []
    assert "more than a fifth of the 60 usable rows" in check_sizes(recipe, 60)[0]
    with pytest.raises(UserError, match="`grid.sizes` must be at most 30"):
        check_sizes(recipe, 30)


def test_a_run_keeps_its_three_seeds_apart(make_study):
    run = make_run(make_study("--grid.seeds=[5, 3]").grid, "llm", 10, {"subset": 1, "init": 1, "order": 1})
    assert (run.subset_seed, run.init_seed, run.order_seed, str(run)) == (3, 3, 3, "llm/n10/3")
