"""Votes of several passes: shares, majorities, flips, and crowd-kit's aggregators against known truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hf_recipes.labels.votes import NO_VOTE, aggregate, flipped, majority, vote_shares

VOTES = hnp.arrays(np.int64, st.tuples(st.integers(1, 8), st.integers(1, 5)), elements=st.integers(-1, 2))


@given(VOTES)
def test_shares_majorities_and_flips_by_hand(votes):
    shares, most, differ = vote_shares(votes, 3), majority(votes, 3), flipped(votes)
    for row, share, label, flip in zip(votes.tolist(), shares, most, differ, strict=True):
        said = [vote for vote in row if vote != NO_VOTE]
        if not said:
            assert np.isnan(share).all()
            assert (label, flip) == (NO_VOTE, False)
            continue
        assert share == pytest.approx([said.count(k) / len(said) for k in range(3)])
        assert said.count(label) == max(said.count(k) for k in range(3))
        assert label == next(vote for vote in said if said.count(vote) == said.count(label))
        assert flip == (len(set(said)) > 1)


def test_dawid_skene_hears_the_better_annotator_where_the_majority_does_not():
    rng = np.random.default_rng(0)
    gold = rng.integers(3, size=600)
    right = np.array([0.95, 0.5, 0.5, 0.5])
    votes = np.where(rng.random((600, 4)) < right, gold[:, None], rng.integers(3, size=(600, 4)))
    votes[rng.random((600, 4)) < 0.1] = NO_VOTE
    votes[5] = NO_VOTE
    worth = aggregate(votes, 3)
    assert worth.shape == (600, 3)
    assert np.isnan(worth[5]).all()
    told = np.delete(np.arange(600), 5)
    assert worth[told].sum(axis=1) == pytest.approx(np.ones(599))
    assert (worth[told].argmax(axis=1) == gold[told]).mean() > (majority(votes, 3)[told] == gold[told]).mean() + 0.02
    assert aggregate(votes, 3, "MajorityVote")[told] == pytest.approx(vote_shares(votes, 3)[told])


def test_a_class_that_nobody_voted_for_has_a_column_too():
    assert aggregate(np.array([[0, 2], [2, 2]]), 4, "MajorityVote").tolist() == [[0.5, 0, 0.5, 0], [0, 0, 1, 0]]
