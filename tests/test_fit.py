"""Fine-tuning: batches, losses against torch's own, parts of batches, encoders."""

import copy

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from conftest import ENCODER, SAMPLE
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from hf_recipes.recipe import Train
from hf_recipes.training.fine_tuning import LabelledTexts, Tokens, bucketed_batches, embed, fine_tune, predict


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
    return LabelledTexts(tokens, np.arange(61), np.eye(3)[np.array(table["label"].to_pylist())])


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def train(accelerator, model, texts, micro_batch_size=8, **settings):
    """Returns the curves; the model is trained in place."""
    validation = None
    if "validation_size" in settings:
        validation = LabelledTexts(texts.tokens, np.arange(40, 61), texts.targets[40:])
    recipe = Train(encoder="e", **{"batch_size": 8, "learning_rate": 1e-3, "epochs": 2, **settings})
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)
    return fine_tune(accelerator, model, tokenizer, recipe, 5, texts, validation, micro_batch_size)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_tokens_are_the_tokenizers_own_also_of_no_text(texts, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)
    some = ["a tweet", "", "word " * 50]
    tokens = Tokens(some, tokenizer, 16, tmp_path / "file")
    oracle = tokenizer(some, truncation=True, max_length=16)["input_ids"]
    assert [tokens[i].tolist() for i in range(3)] == oracle
    assert tokens.lengths.tolist() == [len(ids) for ids in oracle]
    assert len(Tokens([], tokenizer, 16, tmp_path / "none").lengths) == 0


def test_a_step_is_torchs_own_adamw_step_on_the_mean_cross_entropy(accelerator, texts):
    """The oracle: the same batches, torch's cross entropy of class indices."""
    model = make_model(**CALM)
    oracle = copy.deepcopy(model)
    curves = train(accelerator, model, texts, epochs=1, warmup_ratio=0.25, weight_decay=0.1)
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
    assert torch.allclose(weights(model), expected, atol=2e-5)
    unused = np.setdiff1d(np.arange(model.config.vocab_size), np.concatenate([texts.tokens[i] for i in range(61)]))
    unused = unused[unused != tokenizer.pad_token_id]
    start, end, expected = (m.get_input_embeddings().weight[unused] for m in (make_model(**CALM), model, oracle))
    assert torch.allclose(end, expected, rtol=1e-6, atol=0)  # they decay
    assert not torch.equal(end, start)
    assert curves.train_loss == pytest.approx([sum(a * b for a, b in losses) / sum(b for _, b in losses)], rel=1e-4)
    assert curves.step == [8]


@pytest.fixture
def gradient(accelerator, texts, monkeypatch):
    """The gradient of all texts together at the first weights: what one step of plain descent moves them by."""
    monkeypatch.setattr("torch.optim.AdamW", lambda groups, **_: torch.optim.SGD(groups, lr=1.0))

    def find(targets):
        model = make_model(**CALM)
        before = weights(model)
        some = LabelledTexts(texts.tokens, texts.rows, targets)
        settings = {"batch_size": 61, "epochs": 1, "warmup_ratio": 0, "max_grad_norm": 1e9, "weight_decay": 0}
        train(accelerator, model, some, micro_batch_size=61, **settings)
        return before - weights(model)

    return find


def test_weights_and_soft_and_signed_targets_add_up(gradient, texts):
    """The loss is linear in the targets, so that the loss of a random audit is without bias."""
    rng = np.random.default_rng(0)
    gold, llm = texts.targets, np.eye(3)[rng.integers(3, size=61)]
    audited = rng.random(61) < 0.5
    signed = np.where(audited[:, None], 2 * gold - llm, llm)
    other = np.where(audited[:, None], llm, 2 * gold - llm)  # the audit of the other half
    half = (gradient(signed) + gradient(other)) / 2
    assert torch.allclose(half, gradient(gold), atol=1e-5)
    heavy = gradient(gold * np.where(np.arange(61) < 30, 2.0, 0.5)[:, None])
    light = 2 * gradient(gold * (np.arange(61) < 30)[:, None])
    light += 0.5 * gradient(gold * (np.arange(61) >= 30)[:, None])
    assert torch.allclose(heavy, light, atol=1e-5)
    soft = gradient(0.3 * gold + 0.7 * llm)
    assert torch.allclose(soft, 0.3 * gradient(gold) + 0.7 * gradient(llm), atol=1e-5)


def test_parts_of_a_batch_add_up_to_the_batch(accelerator, texts):
    one, parts, large = (make_model(**CALM) for _ in range(3))
    curves = [train(accelerator, model, texts, micro_batch_size=size) for model, size in ((one, 8), (parts, 3))]
    assert curves[0].train_loss == pytest.approx(curves[1].train_loss, rel=1e-4)
    assert torch.allclose(weights(one), weights(parts), atol=2e-5)
    train(accelerator, large, texts, batch_size=16)
    assert not torch.allclose(weights(one), weights(large), atol=1e-3)


def test_the_best_checkpoint_is_the_epoch_of_the_best_validation_score_and_the_last_is_the_last(
    accelerator, texts, monkeypatch
):
    settings = {"validation_size": 21, "epochs": 5, "learning_rate": 1e-2}
    best, last, states, logged = make_model(), make_model(), [], []

    def log(values, step):
        logged.append(step)
        states.append(weights(best).clone())  # without the word embeddings of other tokens

    monkeypatch.setattr(accelerator, "log", log)
    scores = train(accelerator, best, texts, checkpoint="best", **settings).validation_macro_f1
    assert logged == [8, 16, 24, 32, 40]
    used = np.unique([0, *np.concatenate([texts.tokens[i] for i in range(61)])])

    def of_used(model):
        model = copy.deepcopy(model)
        model.set_input_embeddings(torch.nn.Embedding.from_pretrained(model.get_input_embeddings().weight[used]))
        return weights(model)

    assert torch.equal(of_used(best), states[int(np.argmax(scores))])
    ends = list(states)
    assert train(accelerator, last, texts, **settings).validation_macro_f1 == scores
    assert torch.equal(of_used(last), ends[-1])
    # What no text has decays as long as the weights that are kept were trained.
    start, at_best, at_last = (m.get_input_embeddings().weight[-1000:-900].norm() for m in (make_model(), best, last))
    assert np.argmax(scores) < 4
    assert start > at_best > at_last
    assert len(set(scores)) > 1


def test_validation_texts_may_have_tokens_that_no_training_text_has(accelerator, texts):
    model, tokenizer = make_model(), AutoTokenizer.from_pretrained(ENCODER)
    parts = [LabelledTexts(texts.tokens, rows, texts.targets[rows]) for rows in (np.arange(40), np.arange(40, 61))]
    ids = [np.concatenate(list(part.token_ids())) for part in parts]
    assert len(np.setdiff1d(*ids[::-1])) > 50
    settings = Train(encoder="e", batch_size=8, learning_rate=1e-3, epochs=1)
    curves = fine_tune(accelerator, model, tokenizer, settings, 5, *parts, 8)
    probs = predict(accelerator, model, tokenizer, texts.tokens, parts[1].rows, 64)
    losses = -np.log((probs * parts[1].targets).sum(axis=1))
    assert curves.validation_loss == pytest.approx([losses.mean()], rel=1e-5)


def test_predictions_are_the_models_own_in_the_order_asked_for(accelerator, texts):
    model, rows = make_model(), np.array([5, 60, 3, 17])
    model.eval()
    alone = [model(torch.tensor(texts.tokens[i].tolist())[None]).logits.double().softmax(-1)[0] for i in rows]
    found = predict(accelerator, model, AutoTokenizer.from_pretrained(ENCODER), texts.tokens, rows, 3)
    assert found == pytest.approx(torch.stack(alone).detach().numpy(), abs=1e-6)


def test_features_are_the_mean_of_the_last_hidden_states_whatever_the_padding(accelerator, texts):
    encoder, rows = make_model().base_model.eval(), np.array([5, 60, 3, 17])
    alone = [encoder(torch.tensor(texts.tokens[i].tolist())[None]).last_hidden_state[0].mean(0) for i in rows]
    found = embed(accelerator, encoder, AutoTokenizer.from_pretrained(ENCODER), texts.tokens, rows, 3)
    assert found == pytest.approx(torch.stack(alone).detach().numpy(), abs=1e-6)


KINDS = {
    "bert": {},
    "roberta": {"max_position_embeddings": 40},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "modernbert": {"global_attn_every_n_layers": 2},
    "mpnet": {"pad_token_id": 1},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "canine": {"num_hash_functions": 4, "num_hash_buckets": 64, "local_transformer_stride": 8},
}


@pytest.mark.parametrize("kind", KINDS)
def test_encoders_of_every_kind_learn(kind, accelerator, texts):
    """Tiny random weights of the real classes; a real MiniLM is in every other test of training."""
    model = make_model(kind, **KINDS[kind])
    losses = train(accelerator, model, texts, epochs=6, learning_rate=3e-3).train_loss
    assert losses[-1] < losses[0]
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)
    assert predict(accelerator, model, tokenizer, texts.tokens, texts.rows, 64).sum(axis=1) == pytest.approx(1)
    assert embed(accelerator, model.base_model, tokenizer, texts.tokens, texts.rows, 64).shape == (61, 32)


def test_embeddings_that_compute_more_than_a_look_up_are_trained_as_they_are(accelerator, texts, monkeypatch):
    class Scaled(torch.nn.Embedding):
        def forward(self, ids):
            return 2 * super().forward(ids)

    model = make_model()
    scaled = Scaled(model.config.vocab_size, 32, padding_idx=0)
    model.set_input_embeddings(scaled)
    before, trained = scaled.weight.detach().clone(), []
    monkeypatch.setattr(accelerator, "log", lambda *_, **__: trained.append(model.get_input_embeddings()))
    losses = train(accelerator, model, texts, epochs=6, learning_rate=3e-3).train_loss
    assert losses[-1] < losses[0]
    assert all(module is scaled for module in trained)
    assert not torch.equal(scaled.weight, before)


def test_the_rate_warms_up_and_falls_to_zero_as_transformers_has_it(accelerator, texts):
    from torch.optim.optimizer import register_optimizer_step_pre_hook
    from transformers import get_linear_schedule_with_warmup

    rates = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    train(accelerator, make_model(), texts, warmup_ratio=0.25)
    hook.remove()
    steps = 2 * -(-len(texts.rows) // 8)  # epochs, and batches of 8
    oracle = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    schedule = get_linear_schedule_with_warmup(oracle, round(0.25 * steps), steps)
    expected = []
    for _ in range(steps):
        expected.append(schedule.get_last_lr()[0])
        oracle.step()
        schedule.step()
    assert rates == pytest.approx(expected)
