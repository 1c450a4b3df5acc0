"""Checks of `hf-recipes doctor` on machines that are made up, and on this one."""

import os
import subprocess
import sys
import time

import pytest
from conftest import DEMO, ROOT

from hf_recipes import doctor
from hf_recipes.recipe import load_recipe


def probe(name):
    return doctor._probe(name, doctor.PROBES[name])


def by_name(checks):
    return {check.name: check for check in checks}


def test_this_machine_can_run_the_demo():
    checks = by_name(doctor.diagnose(load_recipe(DEMO, ["--annotate.passes=[{model: no/such-model}]"])))
    assert {checks[name].status for name in ("packages", "torch", "vLLM")} == {"ok"}
    assert f"accelerate {doctor.versions('accelerate')['accelerate']}" in checks["packages"].detail
    assert checks["torch"].detail.startswith(doctor.versions("torch")["torch"])
    assert "GB of memory free" in checks["vLLM"].detail
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
