"""What a study costs: formulas by hand, tokens as counted by the study's own tokenizers, and the plan's table."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import ENCODER, SMALL_RECIPE
from steps import write_dataset

from hf_recipes.annotation.annotate import annotate
from hf_recipes.annotation.passes import plan_passes
from hf_recipes.cost import (
    CORE_BANDWIDTH,
    CORE_FLOPS,
    DEVICES,
    Device,
    PassWork,
    RunWork,
    Shape,
    count_pass,
    find_device,
    fit_line,
    read_shape,
)
from hf_recipes.data import open_rows
from hf_recipes.errors import UserError
from hf_recipes.models import Model
from hf_recipes.plan import make_plan
from hf_recipes.recipe import Train
from hf_recipes.study import read_json
from hf_recipes.training.train import train

SMALL = [
    *("--data.pool_size=60", "--data.test_size=20", "--annotate.prompt.shots_per_class=1", "--grid.sizes=[10, 20]"),
    *("--grid.variants=[gold, llm]", "--grid.seeds=[0, 1]", "--train.epochs=1"),
]
ANY = Device(1e12, 2e11, 1e11, 1e9)


def test_the_size_of_a_model_is_that_of_its_weights_without_the_embeddings_that_are_looked_up():
    from safetensors import safe_open

    config = json.loads((ENCODER / "config.json").read_text())
    with safe_open(ENCODER / "model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    counted = {name: np.prod(shape) for name, shape in shapes.items() if "word_embeddings" not in name}
    found = read_shape(Model("encoder", ENCODER, "x"))
    assert found.parameters == pytest.approx(sum(counted.values()), rel=1e-3)
    embeddings = next(np.prod(shape) for name, shape in shapes.items() if "word_embeddings" in name)
    assert found.embeddings == embeddings
    assert (found.layers, found.width) == (config["num_hidden_layers"], config["hidden_size"])


def test_a_shared_beginning_is_computed_once_and_every_answer_counts():
    ask = PassWork(Shape(1000, 2, 10, 500), 50, 20.0, 0)
    assert ask.tokens(0) == 0
    assert ask.tokens(3) == 50 + 3 * 20
    assert ask.flops(3) == 110 * (2 * 1000 + 4 * 2 * 10 * (50 + 10))
    votes = PassWork(Shape(1000, 2, 10, 500), 50, 20.0, 5 * 16)
    assert votes.tokens(3) == 50 + 3 * (20 + 5 * 16)
    # many short answers wait for the memory, a distribution for the arithmetic
    fast = Device(1e15, 1e15, 1e15, 1e9)
    assert votes.seconds(10**6, fast) == pytest.approx(2 * 1000 * 10**6 * (20 / 4096 + 80 / 256) / 1e9)
    assert ask.seconds(10**6, ANY) == pytest.approx(ask.flops(10**6) / 0.4e12)
    exact = ask._replace(dtype="float32")
    assert exact.seconds(10**6, ANY) == pytest.approx(ask.flops(10**6) / 0.4e11)
    assert votes._replace(dtype="float32").seconds(10**6, fast) == pytest.approx(2 * votes.seconds(10**6, fast))


def test_learning_counts_forward_and_backward_and_the_least_of_each_step():
    settings = Train(encoder="x", epochs=3, batch_size=10)
    learn = RunWork(Shape(1000, 2, 10, 500), 20.0, settings)
    assert learn.tokens(100, 50) == 20 * (3 * 100 + 50)
    assert learn.flops(100, 50) == 20 * (3 * 3 * 100 + 50) * (2 * 1000 + 4 * 2 * 10 * 20)
    moved = 30 * 28 * 1000  # bytes that thirty steps of the optimizer read and write; it visits few of 500 embeddings
    # two layers of thirty steps, and then the optimizer
    assert learn.seconds(100, 50, ANY) == pytest.approx(30 * 2 * 1e-3 + moved / ANY.bandwidth)
    large = RunWork(Shape(10**8, 2, 10, 500), 20.0, settings)
    slow = Device(1e9, 5e8, 1e8, 1e15)
    assert large.seconds(100, 50, slow) == pytest.approx(large.flops(100, 50) / 0.15e9)
    assert large._replace(mixed_precision="bf16").seconds(100, 50, slow) == pytest.approx(large.flops(100, 50) / 0.3e9)
    # runs that share a device start kernels at the same time; its arithmetic and memory remain what they are
    shared = [work._replace(settings=settings.model_copy(update={"runs_per_device": 2})) for work in (learn, large)]
    assert shared[0].seconds(100, 50, ANY) == pytest.approx(30 * 1e-3 + moved / ANY.bandwidth)
    assert shared[1].seconds(100, 50, slow) == large.seconds(100, 50, slow)


def test_a_device_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("hf_recipes.cost.cpu_threads", lambda: 4)
    flops = 4 * CORE_FLOPS
    assert find_device() == Device(flops, flops, flops, 4 * CORE_BANDWIDTH, layer_seconds=0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for name, key in {"NVIDIA A100-SXM4-80GB": "a100", "NVIDIA L40S": "l40s", "Tesla T4": "t4", "Other": "l4"}.items():
        monkeypatch.setattr("torch.cuda.get_device_name", lambda name=name: name)
        assert find_device() == find_device(key) == DEVICES[key]


def test_runs_of_two_sizes_tell_what_each_takes_at_least():
    assert fit_line([(1e9, 3.0), (1e9, 5.0)]) == (0.0, pytest.approx(4e-9))
    least, each = fit_line([(1e9, 3.0), (4e9, 9.0), (4e9, 9.0)])
    assert (least, each) == (pytest.approx(1.0), pytest.approx(2e-9))
    least, each = fit_line([(1e9, 3.0), (4e9, 2.0)])  # noise: no negative time
    assert least >= 0
    assert each > 0


def test_the_plan_counts_the_tokens_that_are_then_asked_for_and_takes_the_studys_rates(
    make_study,
    engine,
    tiny_encoder,
):
    study = make_study(*SMALL, f"--train.encoder={tiny_encoder}")
    off = make_study(*SMALL, f"--train.encoder={tiny_encoder}", "--train.out_of_bag=0")
    before, without = ({step.name: step for step in make_plan(made)[0]} for made in (study, off))
    assert not before["annotate"].is_measured
    assert not before["train"].is_measured
    assert 0 < before["annotate"].device_seconds < before["annotate"].seconds
    annotate(study)
    asked = engine.asked[3:]  # after three inputs without content
    prompts = [prompt for prompt, _ in plan_passes(study, open_rows(study))[0].prompts.encode(["a", "b c"])]
    shared = count_pass(plan_passes(study, open_rows(study))[0].model, study.recipe.annotate, prompts).shared
    truth = shared + sum(len(prompt) - shared for prompt in asked)
    assert before["annotate"].tokens == pytest.approx(truth, rel=0.15)
    write_dataset(study)
    train(study)
    records = [read_json(file) for file in study.run_records()]
    num_test, num_out_of_bag = 20 * len(records), sum(record["out_of_bag_texts"] for record in records)
    num_trained = sum(record["size"] for record in records)
    for what, count in (("bytes", num_test), ("tokens", num_test + num_trained)):
        ratio = getattr(before["train"], what) / getattr(without["train"], what)
        assert ratio == pytest.approx(1 + num_out_of_bag / count, rel=0.02)
    sizes = {
        "annotate": sum(file.stat().st_size for file in study.annotations_root.glob("*/part-*.parquet")),
        "train": sum(file.stat().st_size for file in study.root.glob("runs/*/*/*/*.parquet")),
    }
    for step, size in sizes.items():
        assert 0 < before[step].bytes < size  # so small a file is mostly its own frame
    done = {step.name: step for step in make_plan(study)[0]}
    assert [getattr(done[step], what) for step in ("annotate", "train") for what in ("tokens", "seconds", "bytes")] == [
        0
    ] * 6
    more = make_study(*SMALL, f"--train.encoder={tiny_encoder}", "--grid.seeds=[0, 1, 2, 3]")
    incomplete = more.root / "runs" / "gold" / "n20" / ".tmp-3" / "run.json"  # of a killed process
    incomplete.parent.mkdir()
    incomplete.write_text('{"variant": "go')
    grown = {step.name: step for step in make_plan(more)[0]}
    assert grown["train"].is_measured
    spent = sum(read_json(file)["seconds"] for file in study.run_records())
    assert grown["train"].device_seconds == pytest.approx(spent, rel=0.3)  # as many runs again
    elsewhere = {step.name: step for step in make_plan(more, device="h100")[0]}
    assert not elsewhere["train"].is_measured
    assert elsewhere["train"].tokens == grown["train"].tokens


def test_a_rate_holds_for_the_same_engine_alone(make_study, engine):
    """Sessions in another precision, or on a GPU, do not predict this one; those of another pass do."""
    labels_only = [*SMALL, "--grid=null", "--train=null"]
    study = make_study(*labels_only)
    annotate(study)

    def plan(*settings):
        return make_plan(make_study(*labels_only, *settings))[0][0]

    other = ["--annotate.prompt.seed=7"]
    assert plan(*other).is_measured
    assert not plan(*other, "--annotate.dtype=bfloat16").is_measured
    (file,) = study.annotations_root.glob("*/manifest.json")
    manifest = read_json(file)
    manifest["all_sessions"] = {"texts": 100, "seconds": 1000.0, "start_seconds": 0.0}
    study.write_json(file, manifest)
    slow = plan(*other).device_seconds
    assert slow == pytest.approx(600, rel=0.1)  # of 60 texts
    del manifest["ingredients"]["engine"]["threads"]
    manifest["ingredients"]["engine"]["accelerator"] = "NVIDIA H200 (9.0)"
    study.write_json(file, manifest)
    assert not plan(*other).is_measured
    assert plan(*other).device_seconds < slow


def test_texts_that_are_asked_again_are_in_the_plan(make_study, engine):
    settings = [*SMALL, "--grid=null", "--train=null"]
    plain, more = (make_plan(make_study(*settings, f"--annotate.repeat_check={n}"))[0][0] for n in (0, 40))
    assert (more.total - plain.total, more.done) == (40, 0)
    assert more.tokens > 1.1 * plain.tokens
    annotate(make_study(*settings))
    again = make_plan(make_study(*settings, "--annotate.repeat_check=40"))[0][0]
    assert (again.total - again.done, again.done) == (40, plain.total)
    annotate(make_study(*settings, "--annotate.repeat_check=40"))
    assert make_plan(make_study(*settings, "--annotate.repeat_check=40"))[0][0].seconds == 0


def test_times_that_were_measured_on_a_loaded_machine_have_a_warning(make_study, engine, tiny_encoder, monkeypatch):
    study = make_study(*SMALL, f"--train.encoder={tiny_encoder}", "--grid.variants=[gold, llm]")
    annotate(study)
    monkeypatch.setattr("os.getloadavg", lambda: (7.25, 0.0, 0.0))
    assert train(study) == {}
    more = make_study(
        *SMALL, f"--train.encoder={tiny_encoder}", "--grid.variants=[gold, llm]", "--grid.seeds=[0, 1, 2, 3]"
    )
    for num_cores, is_loaded in ((2, True), (8, False)):
        monkeypatch.setattr("os.cpu_count", lambda num_cores=num_cores: num_cores)
        notes = " ".join(make_plan(more)[1])
        assert ("(load average 7.2 on 2 cores). Estimates from their times are too high" in notes) is is_loaded
    assert "load average" not in " ".join(make_plan(more, device="h100")[1])


def test_rates_of_labelling_that_were_measured_on_a_loaded_machine_have_a_warning(
    make_study, engine, tiny_encoder, monkeypatch
):
    settings = [*SMALL, f"--train.encoder={tiny_encoder}"]
    study = make_study(*settings)
    monkeypatch.setattr("os.getloadavg", lambda: (7.25, 0.0, 0.0))
    annotate(study)
    (manifest,) = study.annotations_root.glob("*/manifest.json")
    assert read_json(manifest)["load_average"] == 7.2
    more = make_study(*settings, "--annotate.passes=[{prompt: {seed: 5}}]")
    for num_cores, is_loaded in ((2, True), (8, False)):
        monkeypatch.setattr("os.cpu_count", lambda num_cores=num_cores: num_cores)
        notes = " ".join(make_plan(more)[1])
        assert ("while texts were labelled (load average 7.2 on 2 cores). Estimates" in notes) is is_loaded
    assert "load average" not in " ".join(make_plan(more, device="h100")[1])


def test_the_plan_prints_a_step_before_the_next_one_is_known(command, make_study, tiny_encoder, monkeypatch):
    def fail(*_):
        raise UserError("the runs cannot be counted")

    study = make_study(*SMALL, f"--train.encoder={tiny_encoder}")
    monkeypatch.setattr("hf_recipes.plan.list_runs", fail)
    code, output, errors = command(
        "plan", SMALL_RECIPE, f"--output_dir={study.root}", *SMALL, f"--train.encoder={tiny_encoder}"
    )
    assert (code, "the runs cannot be counted" in errors) == (2, True)
    steps = [line.split()[0] for line in output.splitlines() if line]
    assert steps == [study.recipe.name, "step", "annotate", "variants"]


def test_the_plan_is_a_table_with_hours_and_bytes_and_knows_its_devices(command, make_study, tiny_encoder, caplog):
    study = make_study(*SMALL, f"--train.encoder={tiny_encoder}")
    given = ["plan", SMALL_RECIPE, f"--output_dir={study.root}", *SMALL, f"--train.encoder={tiny_encoder}"]
    code, output, _ = command(*given, "--device", "h100")
    assert code == 0
    # A plan of many texts takes a while.
    assert caplog.messages == ["60 texts and 20 test texts. Counting what is left to label ..."]
    assert "they follow from h100's data sheet" in " ".join(output.split())
    assert "The times are those of h100, but `train.accelerate_config` trains on the CPU." in " ".join(output.split())
    assert "x sizes [10, 20] x seeds [0, 1];" in " ".join(output.split())
    curves = ("--grid.variants=[gold, llm, gold-only]", "--grid.curves=[gold, llm]", "--accept-changes")
    shown = " ".join(command(*given, *curves)[1].split())
    assert "train 0 10 runs" in shown
    assert "x sizes [10, 20] x seeds [0, 1], below 20 texts gold, llm alone;" in shown
    for column in ("tokens", "device", "disk", "MB"):
        assert column in output
    code, _, errors = command(*given, "--device", "abacus")
    assert code == 2
    assert f"`--device` must be one of {', '.join(DEVICES)}. Got abacus." in errors


def test_the_plan_of_a_loaded_machine_has_a_warning_and_whole_numbers(command, make_study, tiny_encoder, monkeypatch):
    study = make_study(*SMALL, f"--train.encoder={tiny_encoder}")
    given = ["plan", SMALL_RECIPE, f"--output_dir={study.root}", *SMALL, f"--train.encoder={tiny_encoder}"]
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setenv("COLUMNS", "40")
    outputs = {}
    for load in (6.9, 7.1):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        outputs[load] = command(*given)[1]
    warning = "The load average is 7.1 on 8 cores"
    assert warning in " ".join(outputs[7.1].split())
    assert "load average" not in outputs[6.9]
    monkeypatch.setenv("COLUMNS", "200")
    (row,) = (line for line in outputs[7.1].splitlines() if line.lstrip().startswith("train"))
    assert row in command(*given)[1]  # as on a wide terminal
    assert "load average" not in command(*given, "--device", "h100")[1]


def test_the_rates_of_devices_follow_from_their_cores_and_clocks():
    cores = {"t4": (2560, 1.59), "l4": (7424, 2.04), "l40s": (18176, 2.52), "a100": (6912, 1.41), "h100": (16896, 1.98)}
    for name, (number, gigahertz) in cores.items():  # each multiplies and adds once a cycle
        assert DEVICES[name].float32 == pytest.approx(2 * number * gigahertz * 1e9, rel=0.01)
    for name, device in DEVICES.items():  # tensor cores take half as many numbers of 32 bits, and T4 takes none
        assert device.tf32 == pytest.approx(device.float32 if name == "t4" else device.half / 2, rel=0.02)
        assert device.tf32 >= device.float32
        assert device.has_bfloat16 == (name != "t4")
    assert DEVICES["a10g"].float32 == DEVICES["a10g"].tf32  # an A10 for AWS with slower tensor cores


def test_a_plan_for_another_device_has_its_precision_and_no_gpu_is_required_here(make_study, tiny_encoder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def plan(device, *overrides):
        study = make_study(*SMALL, f"--train.encoder={tiny_encoder}", "--train.batch_size=1", *overrides)
        return {step.name: step for step in make_plan(study, device=device)[0]}

    study = make_study(*SMALL, f"--train.encoder={tiny_encoder}", "--train.accelerate_config=one-gpu")
    with pytest.raises(UserError, match="must suit this machine, which has too few CUDA GPUs"):
        make_plan(study)
    assert plan("h100", "--train.accelerate_config=one-gpu")["train"].seconds > 0
    with pytest.raises(UserError, match=r"one-gpu.yaml must be 'no' on t4, which has no bfloat16.*one-gpu-float32"):
        plan("t4", "--train.accelerate_config=one-gpu")
    exact = "--train.accelerate_config=one-gpu-float32"
    assert plan("t4", exact)["train"].seconds > 0
    with pytest.raises(UserError, match="`annotate.dtype` must be auto, float16 or float32 on a GPU without bfloat16"):
        plan("t4", exact, "--annotate.dtype=bfloat16")
    assert plan("t4", exact, "--annotate.dtype=float16")["annotate"].seconds > 0
    # Four GPUs share the runs; processes that share a GPU do not add one.
    alone, four, eight = (
        plan("h100", *overrides)["train"]
        for overrides in (
            ["--train.accelerate_config=one-gpu"],
            ["--train.accelerate_config=multi-gpu"],
            ["--train.accelerate_config=multi-gpu", "--train.runs_per_device=2"],
        )
    )
    assert four.device_seconds == alone.device_seconds
    assert four.seconds - 20 == pytest.approx(alone.device_seconds / 4)
    assert eight.seconds - 20 == pytest.approx(eight.device_seconds / 4)
    assert alone.device_seconds / 2 < eight.device_seconds < alone.device_seconds


def test_validation_rows_are_not_there_to_be_trained_on(make_study, tiny_encoder):
    study = make_study(*SMALL, f"--train.encoder={tiny_encoder}", "--train.validation_size=40")
    with pytest.raises(UserError, match="`grid.sizes` must be at most 17, .* not used for validation. Got 20"):
        make_plan(study)


def test_bytes_a_row_are_those_of_files_of_some_size(make_study, engine, tmp_path):
    study = make_study(*SMALL, "--data.pool_size=2000")
    predicted = {step.name: step.bytes for step in make_plan(study)[0]}
    annotate(study)
    write_dataset(study)
    parts = [pq.read_table(file) for file in study.annotations_root.glob("*/part-*.parquet")]
    import pyarrow as pa

    pq.write_table(pa.concat_tables(parts), tmp_path / "one.parquet")
    assert predicted["annotate"] == pytest.approx((tmp_path / "one.parquet").stat().st_size, rel=0.4)
    written = sum(file.stat().st_size for file in study.dataset.glob("data/*/train-*.parquet"))
    assert predicted["variants"] == pytest.approx(written, rel=0.4)
