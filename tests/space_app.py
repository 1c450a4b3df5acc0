"""Share between the tests of the Space: its sample, the app as a process, and an agent that calls its tools."""

import asyncio
import csv
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from conftest import ROOT
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

APP = ROOT / "spaces_app"
SAMPLE = APP / "sample"
#: Where the version of the package mcp is that a Space has. vLLM requires another.
MCP = Path(sys.prefix) / "mcp"
#: Labels of three runs on four texts, and gold.
RUNS = [["a", "b", "a", "c"], ["a", "b", "b", "c"], ["a", "a", "a", "c"]]
GOLD = ["a", "b", "a", "a"]
#: Starts an app that finds these installed, as they are here, and cannot import them.
HEAVY = """
import importlib.util, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "vllm", "transformers", "hf_recipes"):
            return importlib.util.spec_from_loader(name, self)
    def create_module(self, spec):
        raise SystemError(f"the Space imports {spec.name}")
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Refuse())
sys.argv = ["app.py", *sys.argv[2:]]
import runpy
runpy.run_path("app.py", run_name="__main__")
"""


@contextmanager
def serve(folder, *arguments, log, env=None, python=sys.executable):
    """Start the app of a folder as its Space does, and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(log.parent / "gradio"), "PYTHONPATH": str(MCP)}
    settings |= env or {}
    with log.open("w") as output:
        command = [str(python), "-c", HEAVY, "app.py", *map(str, arguments)]
        app = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **settings}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(1200):
            if app.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{address}/config", timeout=5):
                    break
            except OSError:
                time.sleep(0.25)
        assert app.poll() is None, log.read_text()[-3000:]
        yield address
    finally:
        app.terminate()
        app.wait()


def call_tools(address, calls):
    """Return the tools that an agent finds, and the answers to its calls."""

    async def call():
        async with (
            streamable_http_client(f"{address}/gradio_api/mcp/") as (read, write),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            return tools, [await session.call_tool(name, arguments) for name, arguments in calls]

    return asyncio.run(call())


def copy_study(target):
    """Copy the sample, for changes."""
    return shutil.copytree(SAMPLE, target)


def wide(runs, gold=None):
    """Return CSV with a column for each run."""
    table = {f"run {i}": run for i, run in enumerate(runs)} | ({} if gold is None else {"gold": gold})
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue()


PUSH = """
import sys, time, huggingface_hub as hub
for _ in range(100):
    try:
        hub.create_repo('me/study', repo_type='dataset')
        break
    except Exception:
        time.sleep(0.1)
hub.upload_folder(repo_id='me/study', repo_type='dataset', folder_path=sys.argv[1])
"""


@contextmanager
def serve_hub(folder, home):
    """Start a Hub in miniature with a folder as the dataset repo `me/study`, and yield the environment to reach it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    env |= {"HF_HOME": str(home), "HF_DATASETS_OFFLINE": "0"}
    server = subprocess.Popen([sys.executable, ROOT / "tests" / "hub_server.py", str(port)])
    try:
        token = {**os.environ, **env, "HF_TOKEN": "hf_secret"}
        subprocess.run([sys.executable, "-c", PUSH, folder], check=True, env=token)
        yield env
    finally:
        server.kill()
        server.wait()
