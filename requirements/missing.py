"""Print the pins of a file, with their hashes, of packages that this Python lacks: `missing.py gpu.txt`."""

import re
import sys
from importlib.metadata import distributions
from pathlib import Path


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


installed = {canonical(package.name) for package in distributions()}
for pin in re.split(r"\n(?=\S)", Path(sys.argv[1]).read_text(encoding="utf-8").strip()):
    if not pin.startswith("#") and canonical(pin.partition("==")[0]) not in installed:
        print(pin)
