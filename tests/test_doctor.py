"""Checks of `hf-recipes doctor` on machines that are made up, and on this one."""

import os
import subprocess
import sys
import time

import pytest
from conftest import LLM, ROOT, SMALL_RECIPE

from hf_recipes import doctor
from hf_recipes.cost import llm_memory
from hf_recipes.models import Model
from hf_recipes.recipe import Annotate, load_recipe


def probe(name):
    return doctor._probe(name, doctor.PROBES[name])


def by_name(checks):
    return {check.name: check for check in checks}


def test_this_machine_can_run_the_demo():
    checks = by_name(doctor.diagnose(load_recipe(SMALL_RECIPE, ["--annotate.passes=[{model: no/such-model}]"])))
    assert {checks[name].status for name in ("packages", "torch", "vLLM")} == {"ok"}
    assert f"accelerate {doctor.versions('accelerate')['accelerate']}" in checks["packages"].detail
    assert checks["torch"].detail.startswith(doctor.versions("torch")["torch"])
    assert "GB of memory free" in checks["vLLM"].detail
    assert "FlashInfer" not in checks["vLLM"].detail  # it is not installed
    assert checks["memory for models/SmolLM2-135M-Instruct"].detail.startswith("0.54 GB of weights")
    assert checks["Hub"].status == "warn"  # the tests are offline
    assert "HF_HUB_OFFLINE" in checks["Hub"].fix
    models = {name: check.status for name, check in checks.items() if name.startswith("model")}
    assert models == {
        "model models/SmolLM2-135M-Instruct": "ok",
        "model no/such-model": "warn",
        "model models/all-MiniLM-L6-v2": "ok",
    }
    assert all(check.status in ("ok", "warn", "no") and check.detail for check in checks.values())
    assert all(check.fix for check in checks.values() if check.status != "ok")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Replace a library in child processes."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    return lambda name, code: (tmp_path / f"{name}.py").write_text(code)


def test_the_output_names_what_is_wrong_and_never_the_token(module, monkeypatch):
    """A vLLM that does not load, a Hub that is not there, and a token in the environment."""
    module("vllm", "raise ImportError('libcudart.so.13: cannot open [shared] object')")
    for name, value in {
        "HF_TOKEN": "hf_sesame",
        "VLLM_API_KEY": "sesame2",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "0",
    }.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "hf_recipes.cli", "doctor"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "no   vLLM: ImportError: libcudart.so.13: cannot open [shared] object\n     To do: " in done.stdout
    assert "engine: server" in done.stdout
    assert "warn Hub: http://127.0.0.1:9: " in done.stdout
    assert done.stdout.endswith("make demo cannot run here: vLLM.\n")
    assert "sesame" not in done.stdout + done.stderr


def test_each_check_is_printed_before_the_next_one_starts(monkeypatch, capfd):
    printed = []

    def diagnose(recipe):
        yield doctor.Check("first", "ok", "fine", "")
        printed.append(capfd.readouterr().out)
        yield doctor.Check("second", "no", "broken", "repair it")

    monkeypatch.setattr(doctor, "diagnose", diagnose)
    assert not doctor.print_doctor()
    assert printed == ["ok   first: fine\n"]
    assert capfd.readouterr().out.startswith("no   second: broken\n     To do: ")


def test_a_token_is_named_by_its_user_or_refused(monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    def refuse():
        raise OSError("Invalid user token.")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("httpx.head", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "not logged in" in doctor._check_hub().detail
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_sesame")
    monkeypatch.setattr(huggingface_hub, "whoami", lambda: {"name": "me"})
    assert doctor._check_hub().detail == f"{constants.ENDPOINT}, logged in as me"
    monkeypatch.setattr(huggingface_hub, "whoami", refuse)
    check = doctor._check_hub()
    assert (check.status, check.detail) == ("warn", f"{constants.ENDPOINT}: Invalid user token.")


def test_packages_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setattr(doctor, "versions", lambda *names: {name: "1" for name in names if name != "datasets"})
    check = next(doctor.diagnose())
    assert (check.status, check.fix) == ("no", "pip install -e .")
    assert "not installed: datasets" in check.detail
    monkeypatch.setattr(doctor, "versions", lambda *names: {name: "1" for name in names if name not in ("ray", "vllm")})
    check = next(doctor.diagnose())
    assert check.status == "ok"
    assert check.detail.endswith("not installed: hf-recipes[ray]")


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx2": True, "avx512_bf16": False}, "float32"),
        ({"avx2": True, "avx512_bf16": True}, "bfloat16"),
        ({"avx2": True, "amx_bf16": True}, "bfloat16"),
        ({"cpu_name": "Fast: the one", "l2_cache_size": 7}, "float32"),
        (None, "float32"),  # a torch that does not report them
    ],
)
def test_the_cpus_instructions_decide_the_dtype(module, capabilities, dtype):
    cpu = "" if capabilities is None else f"get_capabilities = staticmethod(lambda: {capabilities})"
    module("torch", f"__version__ = '2.0'\nclass cpu:\n    {cpu or 'pass'}")
    check = probe("torch")
    assert check.status == "ok"
    assert check.detail.startswith(f"2.0; on the CPU ({(capabilities or {}).get('cpu_name', '')}")
    assert check.detail.endswith(f"use dtype: {dtype}")


CUDA = """
class cuda:
    init = staticmethod(lambda: None)
    device_count = staticmethod(lambda: 1)
    mem_get_info = staticmethod(lambda i: (22 * 10**9, 24 * 10**9))
    get_device_name = staticmethod(lambda i: "L4")
    is_bf16_supported = staticmethod(lambda including_emulation: {})
"""


def test_the_memory_of_an_llm_is_that_of_its_tensors(tmp_path):
    """Of a model with two key-value heads and its own output matrix; and of the demo's, by the size of its file."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    config = LlamaConfig(vocab_size=100, num_key_value_heads=2, tie_word_embeddings=False, **size)
    model = LlamaForCausalLM(config).float()
    model.save_pretrained(tmp_path)
    section = Annotate(model="m", dtype="float32", max_model_len=64, prompt={"instruction": ""})
    weights, cache = llm_memory(Model("m", tmp_path, ""), section)
    assert weights == sum(tensor.nbytes for tensor in model.parameters())
    layers = model(torch.zeros((1, 64), dtype=torch.long)).past_key_values.layers
    assert cache == sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    assert llm_memory(Model("m", tmp_path, ""), section.model_copy(update={"dtype": "auto"})) == (
        weights // 2,
        cache // 2,
    )
    weights, _ = llm_memory(Model("m", LLM, ""), section.model_copy(update={"dtype": "bfloat16"}))
    assert weights == pytest.approx((LLM / "model.safetensors").stat().st_size, rel=0.001)


@pytest.mark.parametrize(
    ("free", "total", "settings", "is_enough", "text"),
    [
        (24, 25, {}, True, "takes 23.0 of 24.0 GB free: room for 952 such texts"),
        (24, 25, {"gpu_memory_utilization": 0.4, "tensor_parallel_size": 2}, True, "room for 824 such"),
        (22, 25, {}, False, "takes 23.0 of 22.0 GB free"),
        (0.5, 0.5, {}, False, "room for 0 such texts"),
    ],
)
def test_the_gpu_needs_room_for_one_text(monkeypatch, capsys, free, total, settings, is_enough, text):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (int(free * 1e9), int(total * 1e9)))
    section = Annotate(
        model=str(LLM), dtype="float32", max_model_len=512, prompt={"instruction": ""}, engine_args=settings
    )
    error = ""
    try:
        doctor.print_memory(section.model_dump_json())
    except SystemExit as end:
        error = str(end.code)
    assert (error == "") == is_enough
    assert text in error + capsys.readouterr().out


@pytest.mark.parametrize(
    ("detail", "fix"),
    [
        ("0.54 GB of weights, 0.02 GB of cache; vLLM takes 23.0 of 22.0 GB free", doctor.FIX_MEMORY),
        ("OSError: config.json is not a JSON file", doctor.FIX_MODEL),
    ],
)
def test_less_memory_is_advised_only_where_memory_is_short(monkeypatch, detail, fix):
    code = f"import sys; sys.exit({detail!r})"
    right = doctor._probe
    monkeypatch.setattr(doctor, "_probe", lambda name, _: right(name, code))
    check = list(doctor._check_models(load_recipe(SMALL_RECIPE, ["--grid=null", "--train=null"])))[-1]
    assert (check.status, check.detail, check.fix) == ("warn", detail, fix)


def test_the_download_of_a_model_is_weighed_against_the_disk(hub, tmp_path, monkeypatch):
    """On a Hub: the files that are downloaded count, and no others. Once it is in the cache, nothing is downloaded."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name, size in {"first.safetensors": 25, "second.safetensors": 48, "pytorch_model.bin": 30}.items():
        (folder / name).write_bytes(bytes(size * 10**6))
    (folder / "consolidated.safetensors").write_bytes(bytes(40 * 10**6))  # a second copy, which is not downloaded
    (folder / "config.json").write_text((LLM / "config.json").read_text())
    program = """
import json
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from hf_recipes import doctor
from hf_recipes.recipe import load_recipe
HfApi().create_repo("me/llm")
HfApi().upload_folder(repo_id="me/llm", folder_path=FOLDER)
settings = ["--annotate.model=me/llm", "--annotate.max_model_len=512", "--grid=null", "--train=null"]
recipe = load_recipe(SMALL_RECIPE, settings)
before = list(doctor._check_models(recipe))
constants.HF_HUB_OFFLINE = True
offline = next(doctor._check_models(recipe))
constants.HF_HUB_OFFLINE = False
hf_hub_download("me/llm", "first.safetensors")
part = next(doctor._check_models(recipe))
snapshot_download("me/llm", ignore_patterns=["*.bin", "consolidated*"])
after = next(doctor._check_models(recipe))
constants.HF_HUB_OFFLINE = True
print(json.dumps([before, offline, part, after, next(doctor._check_models(recipe))]))
"""
    program = program.replace("FOLDER", repr(str(folder))).replace("SMALL_RECIPE", repr(str(SMALL_RECIPE)))
    (before, memory), offline, part, *after = hub.python(program)
    assert before[1] == "ok"
    assert before[2].startswith("a download of 0.07 GB, which leaves ")
    assert part[2].startswith("a download of 0.05 GB, which leaves ")  # without the first file
    assert offline[1] == "warn"
    assert offline[2].startswith("it is unknown what is left to download (no *.safetensors in ")
    assert "HF_HUB_OFFLINE" in offline[3]
    assert memory[2] == "0.54 GB of weights, 0.024 GB of cache for a text of 512 tokens; no GPU"  # by config.json alone
    assert [check[1:3] for check in after] == [["ok", "on this machine"]] * 2  # with the Hub and without

    recipe = load_recipe(SMALL_RECIPE, ["--annotate.model=me/a", "--train.encoder=me/b"])
    monkeypatch.setattr(doctor, "_missing_bytes", lambda *_: 60 * 10**9)
    monkeypatch.setattr(doctor, "_free_disk", lambda folder: (folder, 100 * 10**9))
    monkeypatch.setattr(doctor, "_probe", lambda *_: doctor.Check("memory", "ok", "", ""))
    first, second, _ = doctor._check_models(recipe)
    assert (first.status, second.status) == ("ok", "warn")  # one fits, both do not
    assert "leaves -20.0 GB" in second.detail


def test_gpus_are_described_and_their_absence_is_explained(module):
    module("torch", CUDA.format(True))
    assert probe("GPU")[1:3] == ("ok", "L4, 22 GB free of 24 GB; use dtype: bfloat16")
    module("torch", CUDA.format(False))
    assert probe("GPU").detail.endswith("use dtype: float16")
    reason = "The NVIDIA driver on your system is too old (found version 12020)."
    module("torch", f"class cuda:\n    @staticmethod\n    def init():\n        raise RuntimeError('{reason}')")
    check = probe("GPU")
    assert (check.status, check.detail) == ("warn", f"RuntimeError: {reason}")
    assert "update the driver" in check.fix


VLLM = {
    "__init__": "__version__ = '0.32.0'\nLLM = None",
    "platforms": "class current_platform:\n    device_type = '{device}'",
    "utils/__init__": "",
    "utils/cpu_resource_utils": "class info:\n    available_memory = {memory}\nget_memory_node_info = info",
    "utils/flashinfer": "has_flashinfer = bool",  # False
}


@pytest.mark.parametrize(
    ("device", "memory", "status", "detail"),
    [
        ("cuda", 8, "ok", "0.32.0 for cuda, 8.0 GB of memory free"),
        ("", 8, "no", "0.32.0 for another device, 8.0 GB of memory free"),
        ("cpu", 3, "no", "0.32.0 for cpu, 3.0 GB of memory free"),
    ],
)
def test_vllm_requires_a_device_and_memory(module, tmp_path, device, memory, status, detail):
    (tmp_path / "vllm" / "utils").mkdir(parents=True)
    for name, code in VLLM.items():
        module(f"vllm/{name}", code.format(device=device, memory=memory * 10**9))
    assert probe("vLLM")[1:3] == (status, detail)
    module("flashinfer", "")
    without = "; without nvcc (the CUDA toolkit) and ninja, it uses other kernels than FlashInfer's"
    assert probe("vLLM")[1:3] == (status, detail + without)


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    assert doctor._check_disk("disk: study", tmp_path / "not" / "made" / "yet").detail.endswith(str(tmp_path))
    monkeypatch.setattr(doctor, "MIN_DISK", 10**18)
    assert doctor._check_disk("disk: HF_HOME", tmp_path).status == "no"


def test_a_build_that_crashes_or_fails_is_named(module):
    module("torch", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    assert "SIGILL" in probe("torch").detail
    module("torch", "raise OSError('libfoo.so')")
    check = probe("torch")
    assert (check.status, check.detail) == ("no", "OSError: libfoo.so")


def test_a_torchvision_that_does_not_fit_is_to_be_uninstalled(module):
    module("torch", "__version__ = '2.0'\ncpu = None")
    module("torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    check = probe("torch")
    assert (check.status, check.detail) == ("no", "RuntimeError: operator torchvision::nms does not exist")
    assert "uninstall a torchvision" in check.fix


def test_a_hub_that_does_not_answer_is_reported_within_seconds(monkeypatch):
    import socket

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with socket.socket() as silent:  # takes the connection and sends nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        check = doctor._check_hub()
        assert time.monotonic() - start < 10
    assert check.status == "warn"
    assert "HF_ENDPOINT" in check.fix
