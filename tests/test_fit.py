"""One classifier: batches, losses against torch's own, parts of batches, encoders."""

import copy
from itertools import chain

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from conftest import ENCODER, SAMPLE
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from hf_recipes.fit import Fit, Texts, Tokens, bucketed_batches
from hf_recipes.recipe import Train


@given(st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(1, 20), st.integers(0, 3))
def test_every_text_comes_once_an_epoch_in_batches_of_like_lengths(lengths, batch_size, seed):
    lengths = np.array(lengths)
    batches = list(bucketed_batches(lengths, batch_size, np.random.default_rng(seed)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    if len(lengths) <= 32 * batch_size:  # one megabatch: padding cannot be less
        assert sum(np.ptp(lengths[b]) for b in batches) <= np.ptp(lengths)
    again = list(bucketed_batches(lengths, batch_size, np.random.default_rng(seed)))
    assert all((one == other).all() for one, other in zip(batches, again, strict=True))


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def make_model(kind="bert", **changes):
    set_seed(3)
    vocabulary = AutoTokenizer.from_pretrained(ENCODER).vocab_size
    changes = {**SMALL, "pad_token_id": 0, **changes}
    config = AutoConfig.for_model(kind, vocab_size=vocabulary, num_labels=3, **changes)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    import pyarrow.parquet as pq

    table = pq.read_table(next(SAMPLE.rglob("train*.parquet"))).slice(0, 61)
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)
    tokens = Tokens(table["text"].to_pylist(), tokenizer, 32, tmp_path_factory.mktemp("tokens") / "tokens")
    return Texts(tokens, np.arange(61), np.eye(3)[np.array(table["label"].to_pylist())])


def make_fit(texts, model, at_once=8, **settings):
    more = {"log": settings.pop("log")} if "log" in settings else {}
    validation = Texts(texts.tokens, np.arange(40, 61), texts.targets[40:]) if "validation_size" in settings else None
    recipe = Train(encoder="e", **{"batch_size": 8, "learning_rate": 1e-3, "epochs": 2, **settings})
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)
    return Fit(Accelerator(cpu=True), model, tokenizer, recipe, 5, texts, validation, at_once, **more)


def weights(fit):
    return torch.cat([p.detach().flatten() for p in fit.model.parameters()])


def test_tokens_are_the_tokenizers_own_also_of_no_text(texts, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)
    some = ["a tweet", "", "word " * 50]
    tokens = Tokens(some, tokenizer, 16, tmp_path / "file")
    oracle = tokenizer(some, truncation=True, max_length=16)["input_ids"]
    assert [tokens[i].tolist() for i in range(3)] == oracle
    assert tokens.lengths.tolist() == [len(ids) for ids in oracle]
    assert len(Tokens([], tokenizer, 16, tmp_path / "none").lengths) == 0


def test_a_step_is_torchs_own_adamw_step_on_the_mean_cross_entropy(texts):
    """The oracle: the same batches, torch's cross entropy of class indices."""
    model = make_model(**CALM)
    oracle = copy.deepcopy(model)
    fit = make_fit(texts, model, epochs=1, warmup_ratio=0.25, weight_decay=0.1)
    curves = fit.run()
    decayed = [p for p in oracle.parameters() if p.ndim > 1]
    plain = [p for p in oracle.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0}], 1e-3
    )
    batches = bucketed_batches(texts.tokens.lengths, 8, np.random.default_rng(5))
    labels, losses = torch.tensor(texts.targets.argmax(1)), []
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)
    oracle.train()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (step / 2 if step < 2 else (8 - step) / 6)
        inputs = tokenizer.pad({"input_ids": [texts.tokens[i] for i in batch]}, return_tensors="pt")
        loss = torch.nn.functional.cross_entropy(oracle(**inputs).logits, labels[batch])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(oracle.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append((loss.item(), len(batch)))
    expected = torch.cat([p.detach().flatten() for p in oracle.parameters()])
    assert torch.allclose(weights(fit), expected, atol=2e-5)
    assert curves.train_loss == pytest.approx([sum(a * b for a, b in losses) / sum(b for _, b in losses)], rel=1e-4)
    assert curves.step == [8]


def gradient(texts, targets):
    """The gradient of all texts together at the first weights: what one step of plain descent moves them by."""
    fit = make_fit(Texts(texts.tokens, texts.rows, targets), make_model(**CALM), batch_size=61, epochs=1, at_once=61)
    fit._optimizer = torch.optim.SGD(fit.model.parameters(), lr=1.0)
    fit._schedule = torch.optim.lr_scheduler.ConstantLR(fit._optimizer, 1.0)
    object.__setattr__(fit._settings, "max_grad_norm", 1e9)
    before = weights(fit).clone()
    fit.run()
    return before - weights(fit)


def test_weights_and_soft_and_signed_targets_add_up(texts):
    """The loss is linear in the targets, so that the loss of a random audit is without bias."""
    rng = np.random.default_rng(0)
    gold, llm = texts.targets, np.eye(3)[rng.integers(3, size=61)]
    audited = rng.random(61) < 0.5
    signed = np.where(audited[:, None], 2 * gold - llm, llm)
    other = np.where(audited[:, None], llm, 2 * gold - llm)  # the audit of the other half
    half = (gradient(texts, signed) + gradient(texts, other)) / 2
    assert torch.allclose(half, gradient(texts, gold), atol=1e-5)
    heavy = gradient(texts, gold * np.where(np.arange(61) < 30, 2.0, 0.5)[:, None])
    light = 2 * gradient(texts, gold * (np.arange(61) < 30)[:, None])
    light += 0.5 * gradient(texts, gold * (np.arange(61) >= 30)[:, None])
    assert torch.allclose(heavy, light, atol=1e-5)
    soft = gradient(texts, 0.3 * gold + 0.7 * llm)
    assert torch.allclose(soft, 0.3 * gradient(texts, gold) + 0.7 * gradient(texts, llm), atol=1e-5)


def test_parts_of_a_batch_add_up_to_the_batch(texts):
    one, parts = (make_fit(texts, make_model(**CALM), at_once=size) for size in (8, 3))
    assert one.run().train_loss == pytest.approx(parts.run().train_loss, rel=1e-4)
    assert torch.allclose(weights(one), weights(parts), atol=2e-5)
    whole = make_fit(texts, make_model(**CALM), batch_size=16)
    whole.run()
    assert not torch.allclose(weights(one), weights(whole), atol=1e-3)


def test_the_best_checkpoint_is_the_epoch_of_the_best_validation_score_and_the_last_is_the_last(texts):
    settings = {"validation_size": 21, "epochs": 5, "learning_rate": 1e-2}
    states, logged = [], []
    best = make_fit(texts, make_model(), checkpoint="best", log=lambda values, step: logged.append(step), **settings)
    end = best._end_epoch
    best._end_epoch = lambda *given: (end(*given), states.append(weights(best).clone()))
    scores = best.run().validation_macro_f1
    assert logged == [8, 16, 24, 32, 40]
    assert torch.equal(weights(best), states[int(np.argmax(scores))])
    last = make_fit(texts, make_model(), **settings)
    assert last.run().validation_macro_f1 == scores
    assert torch.equal(weights(last), states[-1])
    assert len(set(scores)) > 1


def test_predictions_are_the_models_own_in_the_order_asked_for(texts):
    fit = make_fit(texts, make_model())
    rows = np.array([5, 60, 3, 17])
    fit.model.eval()
    alone = [fit.model(torch.tensor(texts.tokens[i].tolist())[None]).logits.double().softmax(-1)[0] for i in rows]
    assert fit.predict(texts.tokens, rows) == pytest.approx(torch.stack(alone).detach().numpy(), abs=1e-6)


KINDS = {
    "bert": {},
    "roberta": {"max_position_embeddings": 40},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "modernbert": {"global_attn_every_n_layers": 2},
    "mpnet": {"pad_token_id": 1},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
}


@pytest.mark.parametrize("kind", KINDS)
def test_encoders_of_every_kind_learn(kind, texts):
    """Tiny random weights of the real classes; a real MiniLM is in every other test of training."""
    fit = make_fit(texts, make_model(kind, **KINDS[kind]), epochs=6, learning_rate=3e-3)
    losses = fit.run().train_loss
    assert losses[-1] < losses[0]
    assert fit.predict(texts.tokens, texts.rows).sum(axis=1) == pytest.approx(1)


def test_what_comes_after_all_others_has_a_schedule_of_its_own(texts):
    from transformers import get_linear_schedule_with_warmup

    fit = make_fit(Texts(texts.tokens, texts.rows, texts.targets, then=11), make_model(), warmup_ratio=0.25)
    seen, rates, learn = [], [], fit._learn

    def spy(batch):
        seen.append(batch.tolist())
        rates.append(fit._schedule.get_last_lr()[0])
        return learn(batch)

    fit._learn = spy
    fit.run()
    first, second = 2 * 7, 2 * 2  # epochs of 50 and of 11 texts in batches of 8
    epochs = [sorted(chain(*seen[i : i + n])) for i, n in ((0, 7), (7, 7), (14, 2), (16, 2))]
    assert epochs == [
        list(range(50)),
        list(range(50)),
        list(range(50, 61)),
        list(range(50, 61)),
    ]
    expected = []
    for steps in (first, second):
        oracle = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
        schedule = get_linear_schedule_with_warmup(oracle, round(0.25 * steps), steps)
        for _ in range(steps):
            expected.append(schedule.get_last_lr()[0])
            oracle.step()
            schedule.step()
    assert rates == pytest.approx(expected)
