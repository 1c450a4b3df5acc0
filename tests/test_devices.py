"""GPUs: precision, keys, shared GPUs, and studies of several devices. No test runs on one: stand-ins are named so."""

import os
import re
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, SMALL_RECIPE
from steps import measure, open_runs

from hf_recipes.errors import UserError
from hf_recipes.launch import make_launcher
from hf_recipes.recipe import Train
from hf_recipes.report.findings import describe
from hf_recipes.study import read_json
from hf_recipes.training.devices import find_accelerator, list_gpus, read_accelerate_config, set_precision
from hf_recipes.training.fine_tuning import LabelledTexts, Tokens, embed, fine_tune, pad, predict
from hf_recipes.training.linear import train_baselines
from hf_recipes.training.runs import check_training
from hf_recipes.training.train import check_processes

CONFIGS = sorted((SMALL_RECIPE.parent / "accelerate").glob("*.yaml"))
H200, L4 = "NVIDIA H200 (9.0)", "NVIDIA L4 (8.9)"


@pytest.fixture
def stand_in_gpu(monkeypatch):
    """What torch answers on a machine with GPUs, each of a name and a capability; nothing is computed on them."""

    def stand_in(*gpus):
        find_accelerator.cache_clear()
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.device_count", lambda: len(gpus))
        monkeypatch.setattr("torch.cuda.get_device_name", lambda number=0: gpus[number][0])
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda number=0: gpus[number][1])

    yield stand_in
    find_accelerator.cache_clear()


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_the_comment_of_an_accelerate_configuration_agrees_with_its_values(file):
    comment, config = file.read_text().splitlines()[0], yaml.safe_load(file.read_text())
    number, device, precision = re.match(r"# (\w+) process(?:es)? on .*?(CPU|GPU).*? in (\w+)", comment).groups()
    assert {"One": 1, "Two": 2, "Four": 4}[number] == config["num_processes"]
    assert (device == "CPU") == config["use_cpu"]
    assert {"bfloat16": "bf16", "float32": "no"}[precision] == config["mixed_precision"]
    assert ("TF32" in comment) == (device == "GPU" and precision == "float32")


def test_the_configurations_for_gpus_have_the_precision_that_recipes_state():
    for recipe in (SMALL_RECIPE.parent / "paper").glob("*.yaml"):
        (name, precision) = re.search(r"accelerate_config: (\S+) # (\w+);", recipe.read_text()).groups()
        config = read_accelerate_config(Train(encoder="x", accelerate_config=name))
        assert (precision, config["mixed_precision"]) == ("bfloat16", "bf16")


def test_a_gpu_without_bfloat16_is_refused_for_a_recipe_with_it(study, make_study, stand_in_gpu):
    recipe = [f"--train.encoder={study.training.encoder}"]
    half, exact = (make_study(*recipe, f"--train.accelerate_config={name}") for name in ("one-gpu", "one-gpu-float32"))
    stand_in_gpu(("Tesla T4", (7, 5)))
    with pytest.raises(UserError, match=r"one-gpu.yaml must be 'no' on Tesla T4 \(7.5\), which has no bfloat16"):
        check_training(half)
    check_training(exact)
    stand_in_gpu(("NVIDIA L4", (8, 9)))
    check_training(half)


def test_an_accelerator_without_cuda_is_refused(study, make_study, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)  # of Intel or Apple
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    other = make_study(f"--train.encoder={study.training.encoder}", "--train.accelerate_config=one-gpu-float32")
    with pytest.raises(UserError, match=r"must suit this machine, which has too few CUDA GPUs. Got .*. Try cpu"):
        check_training(other)


def write_config(folder, **values):
    """An accelerate configuration for GPUs in float32, as `accelerate config` writes it."""
    base = yaml.safe_load((SMALL_RECIPE.parent / "accelerate" / "one-gpu-float32.yaml").read_text())
    (folder / "gpu.yaml").write_text(yaml.safe_dump(base | values))
    return folder / "gpu.yaml"


def test_gpus_of_two_kinds_are_refused_if_both_would_train(study, make_study, stand_in_gpu, tmp_path, monkeypatch):
    def check(**values):
        config = write_config(tmp_path, **values)
        settings = (f"--train.encoder={study.training.encoder}", f"--train.accelerate_config={config}")
        check_training(make_study(*settings))

    stand_in_gpu(("NVIDIA A100", (8, 0)), ("NVIDIA L4", (8, 9)), ("NVIDIA A100", (8, 0)))
    refused = (
        r"must name GPUs of one kind. Got NVIDIA A100 \(8.0\), NVIDIA L4 \(8.9\) by .*gpu.yaml. Set "
        "CUDA_VISIBLE_DEVICES to those of one kind, as CUDA_VISIBLE_DEVICES=0,"
    )
    with pytest.raises(UserError, match=refused):
        check(num_processes=2, distributed_type="MULTI_GPU")
    check()
    check(num_processes=2, distributed_type="MULTI_GPU", gpu_ids="0,2")
    with pytest.raises(UserError, match="has too few CUDA GPUs"):
        check(gpu_ids="3")
    with pytest.raises(UserError, match="`gpu_ids` in .* must be all, or numbers with commas. Got GPU-1"):
        check(gpu_ids="GPU-1")
    # A training process sees its own GPU.
    stand_in_gpu(("NVIDIA L4", (8, 9)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    check(num_processes=2, distributed_type="MULTI_GPU")


def test_the_key_heads_and_processes_are_of_the_gpu_that_the_configuration_names(
    study, stand_in_gpu, tmp_path, monkeypatch
):
    config = write_config(tmp_path, gpu_ids="1", mixed_precision="bf16")
    settings = study.training.model_copy(update={"accelerate_config": str(config)})
    on_gpu = replace_training(study, settings)
    stand_in_gpu(("Tesla T4", (7, 5)), ("NVIDIA L4", (8, 9)))
    check_training(on_gpu)  # a T4 has no bfloat16
    runs = open_runs(on_gpu)
    assert runs.environment(runs.all[0])["accelerator"] == L4

    def stop(**_):
        raise InterruptedError

    chosen = []
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    monkeypatch.setattr("accelerate.Accelerator", stop)
    with pytest.raises(InterruptedError):
        train_baselines(on_gpu)
    assert chosen == [1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")  # comes first
    assert list_gpus(runs.accelerate) == [0]
    for visible in ("", "5"):
        with monkeypatch.context() as patch:
            patch.setenv("CUDA_VISIBLE_DEVICES", visible)
            check_processes(runs.accelerate)
            assert os.environ["CUDA_VISIBLE_DEVICES"] == (visible or "1")


def test_float32_is_tf32_on_gpus_alone():
    try:
        set_precision(torch.device("cpu"))
        assert torch.get_float32_matmul_precision() == "highest"
        set_precision(torch.device("cuda"))
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_key_of_a_run_has_the_gpu_and_its_precision_and_that_of_a_cpu_run_is_as_before(
    study, make_study, stand_in_gpu
):
    runs = open_runs(study)
    run = runs.all[0]
    # Anything else here would train all runs of existing studies again.
    assert set(runs.environment(run)) == {"encoder", "rules", "versions", "threads", "cpu", "mixed_precision"}
    assert set(runs.settings(run)) == {
        *("epochs", "batch_size", "gradient_accumulation_steps", "eval_batch_size", "learning_rate", "weight_decay"),
        *("warmup_ratio", "max_grad_norm", "max_length", "validation_size", "validation_labels", "checkpoint"),
    }
    recipe = study.recipe.model_dump(mode="json")["train"]
    keys = {}
    for name, capability in (("NVIDIA H200", (9, 0)), ("NVIDIA L4", (8, 9)), ("NVIDIA L4", (9, 0))):
        stand_in_gpu((name, capability))
        for config in ("one-gpu", "one-gpu-float32"):
            settings = Train(**{**recipe, "accelerate_config": config})
            on_gpu = open_runs(replace_training(study, settings))
            keys[name, capability, config] = on_gpu.key(run)
            expected = {"accelerator": f"{name} ({capability[0]}.{capability[1]})", "threads": None}
            assert on_gpu.environment(run).items() >= expected.items()
            assert on_gpu.environment(run)["float32_matmul_precision"] == "high"
            shared = settings.model_copy(update={"runs_per_device": 2, "deterministic": False})
            assert open_runs(replace_training(study, shared)).key(run) == on_gpu.key(run)
            assert on_gpu.of("frozen").environment(replace(run, method="frozen"))["accelerator"].startswith(name)
    assert len({*keys.values(), runs.key(run)}) == 7
    exact = Train(**{**recipe, "deterministic": True})
    assert open_runs(replace_training(study, exact)).key(run) != runs.key(run)


def replace_training(study, settings):
    """The same study with other settings of `train`."""
    return type(study)(study.recipe.model_copy(update={"train": settings}), accept_changes=True)


def test_consecutive_processes_share_a_gpu(monkeypatch):
    config = read_accelerate_config(Train(encoder="x", accelerate_config="multi-gpu", runs_per_device=2))
    assert (config["num_devices"], config["num_processes"]) == (4, 8)
    for visible, devices in ((None, "00112233"), ("4,5,6,7", "44556677")):
        chosen = []
        for rank in range(8):
            with monkeypatch.context() as patch:
                patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
                environment = {"WORLD_SIZE": "8", "LOCAL_RANK": str(rank), "RANK": str(rank)}
                for name, value in (environment | ({"CUDA_VISIBLE_DEVICES": visible} if visible else {})).items():
                    patch.setenv(name, value)
                assert check_processes(config) == (rank == 0)
                chosen.append(os.environ["CUDA_VISIBLE_DEVICES"])
                assert "WORLD_SIZE" not in os.environ
        assert chosen == list(devices)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with pytest.raises(UserError, match="must be at most the number of GPUs. Got 4, but .* is 0,1,2"):
        check_processes(config)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(
        UserError, match=r"times `train.runs_per_device`, must be the number of processes. Got 8, but 4"
    ):
        check_processes(config)


def test_accelerate_starts_the_processes_that_share_a_gpu(tmp_path):
    """The launcher itself needs no GPU."""
    (tmp_path / "show.py").write_text(
        "import os\n"
        "names = ('LOCAL_RANK', 'WORLD_SIZE', 'ACCELERATE_MIXED_PRECISION', 'CUDA_VISIBLE_DEVICES')\n"
        "values = [os.environ.get(name, 'unset') for name in names]\n"
        "os.write(1, (' '.join(values) + '\\n').encode())  # at once, so that lines do not mix\n"
    )
    file = write_config(
        tmp_path, gpu_ids="0", mixed_precision="bf16"
    )  # accelerate alone requires two for two processes
    for name, number in (("one-gpu", 2), (str(file), 2), (str(file), 1)):
        config = read_accelerate_config(Train(encoder="x", accelerate_config=name, runs_per_device=number))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_RECIPES_PARENT": str(os.getpid())}
        environment.pop("CUDA_VISIBLE_DEVICES", None)
        done = subprocess.run(
            [*make_launcher(config), tmp_path / "show.py"],
            check=False,
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        expected = ["unset unset bf16 unset"] if number == 1 else ["0 2 bf16 unset", "1 2 bf16 unset"]
        assert sorted(done.stdout.splitlines()) == expected


class StandInTensor:
    """Records what a copy to a GPU asks of torch."""

    def __init__(self, calls):
        self.calls = calls

    def pin_memory(self):
        self.calls.append("pin")
        return self

    def to(self, device, non_blocking=False):
        self.calls.append((device.type, non_blocking))
        return self


def test_batches_go_to_a_gpu_from_pinned_memory_and_wait_for_nothing():
    class StandInTokenizer:
        @staticmethod
        def pad(inputs, return_tensors):
            return {"input_ids": StandInTensor(calls)}

    for device, expected in (("cuda", ["pin", ("cuda", True)]), ("cpu", [("cpu", False)])):
        calls = []
        pad(StandInTokenizer, {0: [1]}, [0], torch.device(device))
        assert calls == expected


@pytest.mark.parametrize("compute", [predict, embed])
def test_predictions_are_read_after_many_batches_with_the_same_bits(compute, tiny_encoder, tmp_path, monkeypatch):
    from accelerate import Accelerator
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    tokenizer, load = AutoTokenizer.from_pretrained(tiny_encoder), AutoModel
    if compute is predict:
        load = AutoModelForSequenceClassification
    tokens = Tokens([f"text {i} " * (i % 7 + 1) for i in range(40)], tokenizer, 32, tmp_path / "tokens")
    arguments = (Accelerator(cpu=True), load.from_pretrained(tiny_encoder), tokenizer, tokens, np.arange(40), 3)
    at_once = compute(*arguments)
    events, read = [], torch.Tensor.cpu

    def record_read(tensor):
        events.append("read")
        return read(tensor)

    def record_batch(*inputs):
        events.append("batch")
        return pad(*inputs)

    monkeypatch.setattr("hf_recipes.training.fine_tuning.NUM_AHEAD", 4)
    monkeypatch.setattr("hf_recipes.training.fine_tuning.pad", record_batch)
    monkeypatch.setattr(torch.Tensor, "cpu", record_read)
    assert np.array_equal(compute(*arguments), at_once)
    assert events == 3 * (4 * ["batch"] + 4 * ["read"]) + 2 * ["batch"] + 2 * ["read"]


def test_losses_are_read_once_an_epoch_and_summed_in_double_precision(tiny_encoder, tmp_path, monkeypatch):
    from accelerate import Accelerator
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    tokens = Tokens([f"text {i} " * (i % 7 + 1) for i in range(50)], tokenizer, 32, tmp_path / "tokens")
    texts = LabelledTexts(tokens, np.arange(50), np.eye(3)[np.arange(50) % 3])
    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=3)
    losses, reads = [], []
    cross_entropy, item = torch.nn.functional.cross_entropy, torch.Tensor.item

    def record_loss(*arguments, **options):
        losses.append(cross_entropy(*arguments, **options))
        return losses[-1]

    def record_read(tensor):
        reads.append(tensor)
        return item(tensor)

    with monkeypatch.context() as patch:
        patch.setattr("torch.nn.functional.cross_entropy", record_loss)
        patch.setattr(torch.Tensor, "item", record_read)
        settings = Train(encoder="x", epochs=2, batch_size=8)
        curves = fine_tune(Accelerator(cpu=True), model, tokenizer, settings, 0, texts, None, 3)
    assert len(losses) == 2 * (6 * 3 + 1)
    assert len(reads) == 2
    halves = np.array([loss.item() for loss in losses]).reshape(2, -1)
    assert curves.train_loss == [sum(half.tolist()) / 50 for half in halves]


def test_a_study_of_several_devices_says_so_and_one_of_a_single_device_does_not(study):
    runs = open_runs(study)
    before = measure(study).notes
    assert "devices" not in " ".join(before)
    for number, run in enumerate(runs.all):  # as in a pulled study, whose runs were made elsewhere
        record = read_json(study.run(run) / "run.json")
        environment = {**record["environment"], "accelerator": H200 if number else L4}
        key = runs._make_key(run, environment)
        study.write_json(study.run(run) / "run.json", {**record, "environment": environment, "key": key})
    results = measure(study)
    counts = f"{len(runs.all) - 1} on {H200}, 1 on {L4}"
    note = f"Runs come from different devices ({counts}), which may add to the differences of runs."
    assert set(results.notes) - set(before) == {note}
    assert note in describe(results).limits
    for number, file in enumerate(sorted(study.annotations_root.glob("*/manifest.json"))):
        manifest = read_json(file)
        manifest["ingredients"]["engine"]["accelerator"] = [H200, L4][number]
        study.write_json(file, manifest)
    labelled = f"Passes of the LLM come from different devices (1 on {H200}, 1 on {L4})"
    assert [note for note in measure(study).notes if note.startswith(labelled)]


def test_a_study_of_an_earlier_version_opens_without_the_settings_that_are_new(study):
    kept = yaml.safe_load(study.recipe_file.read_text())
    for name in ("runs_per_device", "deterministic"):
        del kept["recipe"]["train"][name]
    study.recipe_file.write_text(yaml.safe_dump(kept))
    again = type(study)(study.recipe)
    again.check()
    assert open_runs(again).left() == []
    exact = study.recipe.train.model_copy(update={"deterministic": True})
    other = type(study)(study.recipe.model_copy(update={"train": exact}))
    with pytest.raises(UserError, match=r"differs in train.deterministic"):
        other.check()
    other.accept_changes = True
    assert not other.check()
    kept["recipe"]["train"] |= {"epoch": 1}  # of a version with another name
    study.recipe_file.write_text(yaml.safe_dump(kept))
    with pytest.raises(UserError, match=r"differs in train.deterministic, train.epoch\)"):
        again.check()


def test_a_deterministic_study_is_not_continued_without_the_setting(study):
    kept = yaml.safe_load(study.recipe_file.read_text())
    kept["recipe"]["train"]["deterministic"] = True
    study.recipe_file.write_text(yaml.safe_dump(kept))
    with pytest.raises(UserError, match=r"differs in train.deterministic\)"):
        type(study)(study.recipe).check()
