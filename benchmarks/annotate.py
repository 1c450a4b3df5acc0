"""What labelling costs: the engine beside the other ways to ask an LLM, and the work around the engine.

    .venv/bin/python benchmarks/annotate.py engine [--texts=48] [--repeats=5] [--dtype=float32]
    .venv/bin/python benchmarks/annotate.py host [--rows=200000] [--resume-rows=1000000]
    .venv/bin/python benchmarks/annotate.py source [--rows=200000] [--repeats=3]
    .venv/bin/python benchmarks/annotate.py ray [--texts=256] [--repeats=3] [--dtype=float32] [--no-llm]

`engine` takes the prompts that tweets-small.yaml makes of the sample's tweets (tokenised once) and answers them in six
ways with the same model in the same precision on the same cores, in one process. A repeat gives every way the same
texts, other ones than the repeats before, in a random order of the ways; before each of them the prefix cache is
emptied and then filled with the prefix that all prompts share, so nobody finds a whole prompt in it. What is reported
of a comparison is the median of the ratios within the repeats, and their range.

`host` lets a whole `annotate` run on one core with an engine that answers at once: what is left is reading, hashing,
prompting, tokenising and writing. The texts are made of halves of the sample's tweets; no two are equal.
--rows=5000000 takes about 20 minutes and says whether the memory suffices for it.

`source` reads one file of texts and gold into the pool and the test rows, with their ids, and beside it has `datasets`
load the same file and write it as parquet, without ids, draw or a look for texts in both.

`ray` has the same texts labelled by the engine in a process, by one actor on a Ray cluster of this machine
(`engine: ray`) and by `ray.data.llm`, each in a process of its own, one after the other, in a random order within each
repeat. Rates are of what comes after the first block (start-up is told apart), ratios are taken within the repeats.
"""

import gc
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import typer
from ratio import show

ROOT = Path(__file__).resolve().parent.parent
SMALL_RECIPE = "hf_recipes/recipes/tweets-small.yaml"
SAMPLE = "hf_recipes/sample/vader_tweets/data/train-00000-of-00001.parquet"
LABELS_ONLY = ["--grid=null", "--train=null", "--data.pool_size=null"]
WARM_UP = 16  # texts for choosing the batch size, never measured

Prompts = list[list[int]]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class StandInEngine:
    """In place of a language model: answers at once, and keeps the prompts if asked to.

    Attributes:
        kept (`list` or None): the prompts.
        label_ids (`list[int]`): as last asked for.
        stop_after (`int` or None): how many prompts it answers at most before it stops everything, as Ctrl-C would.
        first_call (`float` or None): when it was first asked.
    """

    kept: Prompts | None = None
    label_ids: list[int]
    stop_after: int | None = None
    answered = 0
    first_call: float | None = None

    def __init__(self, *_: Any):
        pass

    def score(self, prompts: Prompts, label_ids: list[int]) -> tuple[np.ndarray, dict[int, str]]:
        own = StandInEngine
        own.first_call = own.first_call or time.perf_counter()
        if own.stop_after is not None and own.answered + len(prompts) > own.stop_after:
            raise KeyboardInterrupt
        own.label_ids = label_ids
        own.answered += len(prompts)
        if own.kept is not None:
            own.kept += prompts
        return np.full((len(prompts), len(label_ids)), -2.0), {}


def annotate_without_model(folder: str, *overrides: str) -> None:
    """A run of `annotate` on tweets-small.yaml with the engine replaced."""
    from hf_recipes.annotation.annotate import annotate
    from hf_recipes.annotation.engines import vllm_engine
    from hf_recipes.recipe import load_recipe
    from hf_recipes.study import Study

    vllm_engine.Engine = StandInEngine
    annotate(Study(load_recipe(SMALL_RECIPE, [f"--output_dir={folder}/study", *LABELS_ONLY, *overrides])))


def in_fresh_process(function: Callable, *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


# ---------------------------------------------------------------------------------------------------------- engine


def recipe_prompts(folder: str) -> tuple[Prompts, list[int]]:
    """The distinct prompts that tweets-small.yaml makes of all tweets of the training split, and the labels' tokens."""
    StandInEngine.kept = []
    annotate_without_model(folder)
    return [list(prompt) for prompt in dict.fromkeys(map(tuple, StandInEngine.kept))], StandInEngine.label_ids


class ByHand:
    """transformers as one would batch it by hand: sorted by length, padded on the left, the last position's logits."""

    def __init__(self, folder: Path, label_ids: list[int], dtype: str):
        import torch
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        self.label_ids = label_ids
        self.batch_size = 0

    def choose_batch_size(self, prompts: Prompts) -> None:
        seconds = {}
        for self.batch_size in (1, 4, 16):
            self.score(prompts[:2])
            start = time.perf_counter()
            self.score(prompts)
            seconds[self.batch_size] = time.perf_counter() - start
        self.batch_size = min(seconds, key=seconds.__getitem__)

    def score(self, prompts: Prompts) -> np.ndarray:
        import torch

        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers = np.empty((len(prompts), len(self.label_ids)))
        with torch.inference_mode():
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                width = len(prompts[rows[-1]])
                ids = torch.zeros((len(rows), width), dtype=torch.long)
                mask = torch.zeros_like(ids)
                for line, row in enumerate(rows):
                    ids[line, width - len(prompts[row]) :] = torch.tensor(prompts[row])
                    mask[line, width - len(prompts[row]) :] = 1
                output = self.model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                    logits_to_keep=1,
                    use_cache=False,
                )
                answers[rows] = output.logits[:, -1].float().log_softmax(-1)[:, self.label_ids].numpy()
        return answers


@dataclass
class Way:
    """One way to ask: the texts of a repeat that it gets, how many times faster we want to be, and how it asks."""

    texts: int
    target: float | None
    ask: Callable[[Prompts], Any]


def all_ways(engine: Any, by_hand: ByHand, label_ids: list[int], texts: int) -> dict[str, Way]:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    llm = engine._llm
    common: dict[str, Any] = {"temperature": 0, "detokenize": False}
    label_tokens = SamplingParams(max_tokens=1, logprob_token_ids=label_ids, **common)
    prompt_tokens = SamplingParams(max_tokens=1, prompt_logprobs=0, **common)
    choice = StructuredOutputsParams(choice=[llm.get_tokenizer().decode([i]) for i in label_ids])
    one_choice = SamplingParams(max_tokens=16, temperature=0, structured_outputs=choice)

    def generate(batch: Prompts, parameters: SamplingParams) -> Any:
        return llm.generate([{"prompt_token_ids": ids} for ids in batch], parameters, use_tqdm=False)

    def request_per_label(batch: Prompts) -> Any:
        return generate([[*ids, label] for ids in batch for label in label_ids], prompt_tokens)

    return {
        "ours": Way(texts, None, lambda batch: engine.score(batch, label_ids)[0]),
        "vLLM alone, the same request": Way(texts, 0.95, lambda batch: generate(batch, label_tokens)),
        "vLLM, guided decoding": Way(texts, 1.0, lambda batch: generate(batch, one_choice)),
        "vLLM, one call per text": Way(texts, 2.0, lambda batch: [generate([ids], label_tokens) for ids in batch]),
        "vLLM, prompt log-probabilities, a request per label": Way(max(1, texts // 12), 4.0, request_per_label),
        f"transformers, batches of {by_hand.batch_size}": Way(max(1, texts // 3), 1.3, by_hand.score),
    }


@app.command(name="engine")
def measure_engine(texts: int = 48, repeats: int = 5, dtype: str = "float32") -> None:
    """The engine beside other ways to ask the same model; bfloat16 suits a CPU with instructions for it."""
    from hf_recipes.logs import set_up
    from hf_recipes.recipe import load_recipe

    set_up()
    os.environ["TQDM_DISABLE"] = "1"
    section = load_recipe(SMALL_RECIPE, [f"--annotate.dtype={dtype}"]).annotate
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        prompts, label_ids = in_fresh_process(recipe_prompts, folder)
    if (needed := WARM_UP + texts * repeats) > len(prompts):
        sys.exit(f"{needed} texts asked for, the sample has {len(prompts)}")
    shared = next(i for i, column in enumerate(zip(*prompts, strict=False)) if len(set(column)) > 1)
    prompts = [prompts[i] for i in np.random.default_rng(0).permutation(len(prompts))]
    warm_up, prompts = prompts[:WARM_UP], prompts[WARM_UP:needed]

    from hf_recipes.annotation.engines.vllm_engine import Engine
    from hf_recipes.models import Model

    engine = Engine(section, Model(section.model, Path(section.model), ""))
    by_hand = ByHand(Path(section.model), label_ids, dtype)
    by_hand.choose_batch_size(warm_up)
    ways = all_ways(engine, by_hand, label_ids, texts)
    for way in ways.values():  # the first call of each compiles or allocates something
        way.ask(warm_up[:2])

    rates: dict[str, list[float]] = {name: [] for name in ways}
    order = np.random.default_rng(1)
    apart, compared = 0.0, 0
    for start in range(0, len(prompts), texts):
        answers = {}
        for name in order.permutation(list(ways)):
            way = ways[name]
            if not engine._llm.reset_prefix_cache():
                raise RuntimeError("vLLM did not empty its prefix cache")
            engine.score(warm_up[:1], label_ids)
            gc.collect()
            began = time.perf_counter()
            answers[way.ask] = way.ask(prompts[start : start + way.texts])
            rates[name].append(way.texts / (time.perf_counter() - began))
        theirs = answers[by_hand.score]
        apart = max(apart, np.abs(answers[ways["ours"].ask][: len(theirs)] - theirs).max())
        compared += len(theirs)
        print(f"{start + texts} of {len(prompts)} texts: ours {rates['ours'][-1]:.1f} texts/s", file=sys.stderr)

    lengths = [len(ids) for ids in prompts]
    print(
        f"{section.model}, {section.dtype}; {len(label_ids)} labels; prompts of {min(lengths)} to {max(lengths)} "
        f"tokens (mean {np.mean(lengths):.0f}), of which {shared} are shared; {versions()}; "
        f"{repeats} repeats; load average before: {busy:.1f}\n"
    )
    print_ratios(ways, rates)
    print(f"\nlabel log-probabilities, ours against transformers: at most {apart:.1e} apart ({compared} texts)")
    for name in list(ways)[1:]:
        show("time, labelling a text", name, float(np.median(np.array(rates[name]) / rates["ours"])))


def versions() -> str:
    import torch
    import transformers
    import vllm

    return (
        f"vLLM {vllm.__version__}, transformers {transformers.__version__}, torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads"
    )


def print_ratios(ways: dict[str, Way], rates: dict[str, list[float]]) -> None:
    print("| way | texts per repeat | texts/s, median | ours / this way, median (range) | target |")
    print("|---|---|---|---|---|")
    for name, way in ways.items():
        ratios = np.array(rates["ours"]) / rates[name]
        compared = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}) | at least {way.target}"
        print(f"| {name} | {way.texts} | {np.median(rates[name]):.2f} | {'| ' if way.target is None else compared} |")


# ------------------------------------------------------------------------------------------------------------- ray

RAY_BLOCK = 32  # texts: what an actor of either kind takes at a time


def ready_pass(folder: str, texts: int, repeat: int, dtype: str) -> tuple[Any, list[str]]:
    """The demo's pass, and as many texts of its pool, other ones in each repeat."""
    from hf_recipes.annotation.passes import plan_passes
    from hf_recipes.data import open_rows
    from hf_recipes.recipe import load_recipe
    from hf_recipes.study import Study

    settings = [f"--output_dir={folder}/study", f"--annotate.dtype={dtype}", "--annotate.engine=ray", *LABELS_ONLY]
    study = Study(load_recipe(SMALL_RECIPE, settings))
    files = open_rows(study)
    pool = files.load("train").texts[texts * repeat : texts * (repeat + 1)]
    if len(pool) < texts:
        sys.exit(f"{texts * (repeat + 1)} texts asked for, the sample has {len(files)}")
    return plan_passes(study, files)[0], pool


def label(one: Any, engine: Any, texts: list[str], size: int) -> Iterator[tuple[list[int], list[list[float]]]]:
    """Tokenise and label the first block of texts, then the others in chunks: their places and log-probabilities."""
    from hf_recipes.annotation.scoring import ask

    for start in (0, *range(RAY_BLOCK, len(texts), size)):
        chunk = texts[start : start + size] if start else texts[:RAY_BLOCK]
        inputs = {str(start + i): ids for i, (ids, _) in enumerate(one.prompts.encode(chunk))}
        answers, _ = ask(engine, one.section, one.prompts, inputs)
        yield [int(place) for place in answers], [logprobs.tolist() for logprobs in answers.values()]


def time_blocks(blocks: Any) -> dict[str, Any]:
    """Texts per second after the first block, the seconds until it and in all, and the log-probabilities by place."""
    start = time.perf_counter()
    first, later, answers = 0.0, 0, {}
    for places, logprobs in blocks:
        answers |= dict(zip(places, logprobs, strict=True))
        if first:
            later += len(places)
        else:
            first = time.perf_counter()
    end = time.perf_counter()
    return {"rate": later / (end - first), "start": first - start, "seconds": end - start, "answers": answers}


def median_of(figure: str, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> float:
    return float(np.median([one[figure] / other[figure] for one, other in pairs]))


def in_process(folder: str, texts: int, repeat: int, dtype: str) -> dict[str, Any]:
    from hf_recipes.annotation.engines.vllm_engine import Engine

    one, pool = ready_pass(folder, texts, repeat, dtype)

    def blocks() -> Any:
        yield from label(one, Engine(one.section, one.model), pool, RAY_BLOCK)

    return time_blocks(blocks())


def on_ray(folder: str, texts: int, repeat: int, dtype: str) -> dict[str, Any]:
    from hf_recipes.annotation.engines import ray_engine

    one, pool = ready_pass(folder, texts, repeat, dtype)
    ray_engine.MIN_BLOCK = ray_engine.MAX_BLOCK = RAY_BLOCK

    def blocks() -> Any:
        yield from label(one, ray_engine.Engine(one.section, one.model), pool, texts)

    return time_blocks(blocks())


def with_ray_data_llm(folder: str, texts: int, repeat: int, dtype: str) -> dict[str, Any]:
    """The same cluster, prompts, model and blocks; Ray's own processor in the actor's place."""
    from hf_recipes.annotation.engines import ray_engine
    from hf_recipes.annotation.engines.vllm_engine import ON_CPU

    one, pool = ready_pass(folder, texts, repeat, dtype)
    label_ids = [ids[0] for ids in one.prompts.answer_ids]
    prompts = [ids for ids, _ in one.prompts.encode(pool)]
    cpus = ray_engine._cpus(one.section)
    os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", TORCH_COMPILE_DISABLE="1", VLLM_CPU_OMP_THREADS_BIND="nobind")
    wider = one.section.model_copy(update={"ray": one.section.ray.model_copy(update={"actors": 2})})
    with ray_engine._cluster(wider, cpus, 0):  # its further stages want CPUs of their own
        import ray
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        no = {"enabled": False}
        engine = {"dtype": dtype, "max_model_len": one.section.max_model_len, "enable_prefix_caching": True, **ON_CPU}
        processor = build_processor(
            vLLMEngineProcessorConfig(
                model_source=str(one.model.folder),
                engine_kwargs=engine,
                batch_size=RAY_BLOCK,
                concurrency=1,
                accelerator_type=None,
                log_engine_metrics=False,
                placement_group_config={"bundle_per_worker": {"CPU": cpus}},
                chat_template_stage=no,
                tokenize_stage=no,
                detokenize_stage=no,
            ),
            preprocess=lambda row: {
                "place": row["place"],
                "tokenized_prompt": row["ids"],
                "sampling_params": {
                    "max_tokens": 1,
                    "temperature": 0,
                    "logprob_token_ids": label_ids,
                    "detokenize": False,
                },
            },
            postprocess=lambda row: {
                "place": row["place"],
                "found": [
                    next(v["logprob"] for token, v in row["logprobs"][0].items() if int(token) == i) for i in label_ids
                ],
            },
        )
        source = ray.data.from_items(
            [{"place": i, "ids": ids} for i, ids in enumerate(prompts)]
        )  # "prompt" would be a text
        tables = processor(source.repartition(texts // RAY_BLOCK)).iter_batches(batch_size=None, batch_format="pyarrow")
        return time_blocks((table["place"].to_pylist(), table["found"].to_pylist()) for table in tables)


@app.command(name="ray")
def measure_ray(texts: int = 256, repeats: int = 3, dtype: str = "float32", llm: bool = True) -> None:
    """One actor on Ray beside the engine in a process and beside `ray.data.llm`; 10 minutes on two cores."""
    from hf_recipes.logs import set_up

    set_up()
    os.environ["TQDM_DISABLE"] = "1"
    busy = os.getloadavg()[0]
    ways = {
        "in this process": in_process,
        "engine: ray": on_ray,
        **({"ray.data.llm": with_ray_data_llm} if llm else {}),
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    order = np.random.default_rng(1)
    for repeat in range(repeats):
        for name in order.permutation(list(ways)):
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(in_fresh_process(ways[name], folder, texts, repeat, dtype))
            print(f"repeat {repeat}: {name}: {found[name][-1]['rate']:.2f} texts/s", file=sys.stderr)
    base = found["in this process"]
    print(f"{texts} texts a repeat, {repeats} repeats, {dtype}; load average before: {busy:.1f}\n")
    print("| way | texts/s, median | of the engine in a process (range) | seconds to start | in all | apart at most |")
    print("|---|---|---|---|---|---|")
    for name, runs in found.items():
        ratios = [run["rate"] / other["rate"] for run, other in zip(runs, base, strict=True)]
        apart = max(
            np.abs(np.subtract(run["answers"][i], other["answers"][i])).max()
            for run, other in zip(runs, base, strict=True)
            for i in range(texts)
        )
        print(
            f"| {name} | {np.median([run['rate'] for run in runs]):.2f} | {np.median(ratios):.2f} ({min(ratios):.2f} "
            f"to {max(ratios):.2f}) | {np.median([run['start'] for run in runs]):.0f} | "
            f"{np.median([run['seconds'] for run in runs]):.0f} | {apart:.1e} |"
        )
    pairs = list(zip(found["engine: ray"], base, strict=True))
    show(
        "time, labelling a text by `engine: ray`", "in this process", median_of("rate", [pair[::-1] for pair in pairs])
    )
    if llm:  # all texts are in flight there when the first block comes: rates after it say nothing
        whole = list(zip(found["engine: ray"], found["ray.data.llm"], strict=True))
        show(f"time, {texts} texts and the start, `engine: ray`", "ray.data.llm", median_of("seconds", whole))


# ------------------------------------------------------------------------------------------------------------ host


def one_core() -> None:
    """Pins this process; to be called before anything starts threads."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def write_source(path: str, rows: int) -> None:
    """The sample's tweets, of which the demonstrations are drawn as in the recipe, and more texts without gold."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sample = pq.read_table(SAMPLE, columns=["text", "label"])
    tweets = [text.split() for text in sample["text"].to_pylist()]
    heads = [" ".join(words[: len(words) // 2]) for words in tweets]
    tails = [" ".join(words[len(words) // 2 :]) for words in tweets]
    random = np.random.default_rng(0)
    schema = pa.schema({"text": pa.string(), "label": pa.int64()})
    with pq.ParquetWriter(path, schema) as writer:
        writer.write_table(sample.cast(schema))
        for start in range(len(sample), rows, 100_000):
            count = min(100_000, rows - start)
            pairs = random.integers(len(tweets), size=(count, 2)).tolist()
            texts = [f"{heads[one]} {tails[other]} {start + i}" for i, (one, other) in enumerate(pairs)]
            writer.write_table(pa.table({"text": texts, "label": pa.nulls(count, pa.int64())}, schema))


def timed_run(folder: str, stop_after: int | None = None) -> dict[str, float]:
    """One `annotate`: seconds for imports, for the rest and until the engine is asked, and the memory at its peak.

    A whole run imports the libraries before it starts the clock; one that is to stop, whatever it needs when it does.
    """
    one_core()
    StandInEngine.stop_after = stop_after
    start = time.perf_counter()
    if stop_after is None:
        import datasets  # noqa: F401
        from transformers import AutoTokenizer  # noqa: F401

    imported = time.perf_counter()
    with suppress(KeyboardInterrupt):
        annotate_without_model(
            folder, f"--data.path={folder}/source.parquet", "--data.label_names=[negative, neutral, positive]"
        )
    return {
        "imports": imported - start,
        "seconds": time.perf_counter() - imported,
        "first_call": (StandInEngine.first_call or np.nan) - start,
        "answered": StandInEngine.answered,
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


@app.command(name="host")
def measure_host(rows: int = 200_000, resume_rows: int = 1_000_000) -> None:
    """The work around the engine, on one core; 5 minutes. A number of rows that is 0 leaves out its part."""
    os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1", OMP_NUM_THREADS="1", TQDM_DISABLE="1")
    print("| what | measured | target |")
    print("|---|---|---|")
    found = []
    if rows:
        with tempfile.TemporaryDirectory() as folder:
            in_fresh_process(write_source, f"{folder}/source.parquet", rows)
            run = in_fresh_process(timed_run, folder)
        print(
            f"| rows/s from source to parts, {rows:,} rows in {run['seconds']:.1f} s (imports, {run['imports']:.1f} s "
            f"more, left out) | {rows / run['seconds']:,.0f} | at least 5,000 |"
        )
        print(f"| memory at its peak, {rows:,} rows | {run['gigabytes']:.2f} GB | below 1.5 GB (5 million rows) |")
        found += [("time, a row from source to parts", "the target, 5,000 rows/s", 5000 * run["seconds"] / rows)]
    if resume_rows:
        with tempfile.TemporaryDirectory() as folder:
            in_fresh_process(write_source, f"{folder}/source.parquet", resume_rows)
            done = in_fresh_process(timed_run, folder, int(resume_rows * 0.99))["answered"]
            again = in_fresh_process(timed_run, folder, 0)
        print(
            f"| seconds until the engine is asked, imports included, {done:,.0f} of {resume_rows:,} rows done | "
            f"{again['first_call']:.1f} | below 10 |"
        )
        found += [(f"time, going on with {resume_rows:,} rows", "the target, 10 s", again["first_call"] / 10)]
    for one in found:
        show(*one)


# ---------------------------------------------------------------------------------------------------------- source


def read_by_recipe(path: str, folder: str) -> dict[str, float]:
    """Read the file as `hf-recipes annotate` does."""
    from hf_recipes.data import open_rows
    from hf_recipes.recipe import load_recipe
    from hf_recipes.study import Study

    settings = [f"--data.path={path}", f"--output_dir={folder}/study", "--data.label_names=['no', 'yes']"]
    study = Study(load_recipe(SMALL_RECIPE, [*settings, "--data.pool_size=null", "--data.test_size=5000"]))
    start = time.perf_counter()
    open_rows(study)
    return measure_process(start)


def read_by_datasets(path: str, folder: str) -> dict[str, float]:
    """Load the file by `datasets`, and write its rows as parquet."""
    import datasets

    datasets.disable_progress_bars()
    start = time.perf_counter()
    rows = datasets.load_dataset(Path(path).suffix[1:], data_files=path, split="train", cache_dir=folder)
    rows.to_parquet(f"{folder}/rows.parquet")
    return measure_process(start)


def measure_process(start: float) -> dict[str, float]:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"seconds": time.perf_counter() - start, "megabytes": memory}


@app.command(name="source")
def measure_source(rows: int = 200_000, repeats: int = 3) -> None:
    """Reading a file into a study beside `datasets`; a minute."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    numbers = np.random.default_rng(0).integers(0, rows, rows)
    texts = [f"text number {i} of many with several words {i % 997}" for i in numbers.tolist()]
    table = pa.table({"text": texts, "label": [("no", "yes")[i % 2] for i in range(rows)]})
    print("| file | way | seconds, median | memory at its peak, MB |")
    print("|---|---|---|---|")
    for suffix, write in (("csv", pyarrow.csv.write_csv), ("parquet", pq.write_table)):
        with tempfile.TemporaryDirectory() as folder:
            write(table, f"{folder}/rows.{suffix}")
            results: dict[str, list[dict[str, float]]] = {"hf-recipes": [], "datasets": []}
            for _ in range(repeats):
                for name, way in (("hf-recipes", read_by_recipe), ("datasets", read_by_datasets)):
                    with tempfile.TemporaryDirectory() as cache:
                        results[name].append(in_fresh_process(way, f"{folder}/rows.{suffix}", cache))
        for name, runs in results.items():
            seconds, memory = (np.median([run[figure] for run in runs]) for figure in ("seconds", "megabytes"))
            print(f"| {rows:,} rows, .{suffix} | {name} | {seconds:.1f} | {memory:.0f} |")
        for figure, what in (("seconds", "time"), ("megabytes", "memory")):
            pairs = list(zip(results["hf-recipes"], results["datasets"], strict=True))
            show(f"{what}, {rows:,} rows of a .{suffix} file into a study", "datasets", median_of(figure, pairs))


if __name__ == "__main__":
    os.chdir(ROOT)
    app()
