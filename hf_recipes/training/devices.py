"""The devices that train: the accelerate configuration, the GPUs that it names, and what of them changes a result."""

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..parsing import parse_yaml
from ..recipe import Train
from ..study import PACKAGE, cpu_threads

#: Of torch: on GPUs, matrix products of float32 numbers use TF32.
FLOAT32_PRECISION = "high"


def read_accelerate_config(train: Train) -> dict[str, Any]:
    """Return the recipe's accelerate configuration, with its `path`.

    `num_devices` is the file's number of processes; `num_processes` counts `train.runs_per_device` for each of these.

    Raises:
        UserError: the file does not exist or is not a supported configuration.
    """
    name = train.accelerate_config
    folder = PACKAGE / "recipes" / "accelerate"
    path = folder / f"{name}.yaml" if (folder / f"{name}.yaml").exists() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise UserError(f"`train.accelerate_config` must be a file or one of {known}. Got {name}.")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(
            f"`train.accelerate_config` must be an accelerate configuration. Got {path}. Try `accelerate config`."
        )
    base = {"use_cpu": False, "mixed_precision": "no", "num_processes": 1, "num_machines": 1, "gpu_ids": "all"}
    config = {**base, **{key: value for key, value in content.items() if value is not None}, "path": str(path)}
    kind = str(content.get("distributed_type") or "NO")
    if kind not in ("NO", "MULTI_GPU", "MULTI_CPU") or content.get("dynamo_config"):
        raise UserError(
            f"`distributed_type` in {path} must be NO, MULTI_GPU or MULTI_CPU, without `dynamo_config`. Got {kind}."
        )
    if config["num_machines"] != 1:
        raise UserError(
            f"`num_machines` in {path} must be 1. Got {config['num_machines']}. To share the grid, start `hf-recipes "
            "train` on each machine."
        )
    if config["mixed_precision"] not in ("no", "bf16"):
        raise UserError(f"`mixed_precision` in {path} must be 'no' or bf16. Got {config['mixed_precision']}.")
    config["gpu_ids"] = str(config["gpu_ids"]).replace(" ", "")
    if not re.fullmatch(r"all|\d+(,\d+)*", config["gpu_ids"]):
        raise UserError(
            f"`gpu_ids` in {path} must be all, or numbers with commas. Got {config['gpu_ids']}. Remove it, and set "
            "CUDA_VISIBLE_DEVICES."
        )
    num_devices = config["num_processes"]
    return config | {"num_devices": num_devices, "num_processes": num_devices * train.runs_per_device}


def threads(config: dict[str, Any]) -> int:
    """Return the threads of each process on the CPU: an equal share of the machine's."""
    return max(1, cpu_threads() // config["num_processes"])


def set_precision(device: Any) -> None:
    """Let torch use TF32 on a GPU. On a CPU the setting would change sums too, so it remains as it is."""
    import torch

    if device.type == "cuda":
        torch.set_float32_matmul_precision(FLOAT32_PRECISION)


def list_gpus(config: dict[str, Any]) -> list[int]:
    """Return the GPUs that train, at most `num_devices`, as torch numbers them in this process.

    They are the `gpu_ids` of the configuration, or the first ones if these are all or CUDA_VISIBLE_DEVICES is set.
    """
    if config["gpu_ids"] == "all" or os.environ.get("CUDA_VISIBLE_DEVICES"):
        return list(range(config["num_devices"]))
    return [int(number) for number in config["gpu_ids"].split(",")][: config["num_devices"]]


@cache
def find_accelerator(gpu: int) -> str:
    """Return the name and compute capability of a GPU, as "NVIDIA H200 (9.0)"; "none" without it."""
    import torch

    if not torch.cuda.is_available() or gpu >= torch.cuda.device_count():
        return "none"
    return f"{torch.cuda.get_device_name(gpu)} ({'.'.join(map(str, torch.cuda.get_device_capability(gpu)))})"


def check_gpus(config: dict[str, Any]) -> None:
    """Raise `UserError` unless this machine has the GPUs of a configuration: of one kind, and with its precision."""
    import torch

    num_visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [gpu for gpu in list_gpus(config) if gpu < num_visible]  # a training process sees its own alone
    if not gpus:
        raise UserError(
            "`train.accelerate_config` must suit this machine, which has too few CUDA GPUs. Got "
            f"{config['path']}. Try cpu."
        )
    kinds = list(dict.fromkeys(find_accelerator(gpu) for gpu in gpus))
    if len(kinds) > 1:  # processes would train the runs of each other's GPUs again
        raise UserError(
            f"`train.accelerate_config` must name GPUs of one kind. Got {', '.join(kinds)} by {config['path']}. "
            "Set CUDA_VISIBLE_DEVICES to those of one kind, as CUDA_VISIBLE_DEVICES=0, and `num_processes` to "
            "their number."
        )
    check_precision(config, torch.cuda.get_device_capability(gpus[0]) >= (8, 0), kinds[0])


def check_precision(config: dict[str, Any], has_bfloat16: bool, device: str) -> None:
    """Raise `UserError` for mixed precision in bfloat16 on a device without such arithmetic, which emulates it slowly.

    Args:
        config (`dict`):
            What `read_accelerate_config` returned.
        has_bfloat16 (`bool`), device (`str`):
            Whether the device has it, and its name.
    """
    if config["mixed_precision"] == "bf16" and not has_bfloat16:
        raise UserError(
            f"`mixed_precision` in {config['path']} must be 'no' on {device}, which has no bfloat16. Got bf16. Try "
            "--train.accelerate_config=one-gpu-float32, or a copy of the file with 'no'."
        )
