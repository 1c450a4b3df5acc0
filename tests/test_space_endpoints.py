"""Test the Space as a process: its endpoints, many visitors at the same time, and attacks."""

import ast
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import numpy as np
import psutil
import published
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tables
from gradio_client import Client, handle_file
from space_app import APP, GOLD, RUNS, SAMPLE, call_tools, copy_study, serve, serve_hub, wide

#: The tools for agents, each with arguments for a call.
TOOLS = {
    "list_studies": {},
    "read_verdict": {"macro_f1_loss": 0.5, "churn": 1, "min_class_f1": 0},
    "read_labels": {"kind": "all", "order": "unsure", "variant": "gold", "page": 2},
    "read_predictions": {"variant": "gold", "only": "all"},
    "compare_variants": {"variant": "gold", "against": "llm"},
    "guess_labels": {"draw": 3, "guesses": "0.1.2.0.1.2.0.1.2.0"},
    "show_code": {"variant": "gold"},
    "measure_predictions": {"table": wide(RUNS, GOLD)},
    "check_labels": {"table": "gold,llm\na,a\nb,a\n"},
}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Return the file of the app's output."""
    return tmp_path_factory.mktemp("space") / "app.log"


@pytest.fixture(scope="module")
def address(log):
    """Start the app, in which an import of torch, vllm, transformers or hf_recipes is an error."""
    with serve(APP, log=log) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def test_every_pages_data_is_an_endpoint_with_names_and_types(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {f"/{name}" for name in TOOLS}
    parameters = {parameter["parameter_name"]: parameter for parameter in endpoints["/read_labels"]["parameters"]}
    assert list(parameters) == ["study", "gold", "llm", "kind", "search", "order", "variant", "page"]
    assert parameters["page"]["python_type"]["type"] == "int"
    assert all(parameter["parameter_has_default"] for parameter in parameters.values())
    assert "recall" not in endpoints["/read_verdict"]
    assert client.predict(api_name="/read_verdict")["decision"]
    studies = client.predict(api_name="/list_studies")
    assert [summary["name"] for summary in studies["published"]] == [studies["about"]["study"]]
    can = studies["choices"]
    assert client.predict(gold=can["classes"][0], kind="wrong", api_name="/read_labels")["rows"]
    for variant in can["variants"]:
        assert client.predict(variant=variant, order="unsure", api_name="/read_labels")["variant"]["sources"]
    assert client.predict(variant="llm", api_name="/read_predictions")["rows"]
    assert client.predict(variant="llm", against="gold", api_name="/compare_variants")["tests"]
    assert "load_dataset" in client.predict(api_name="/show_code")["load_dataset"]


def test_every_endpoint_is_a_tool_that_an_agent_understands(address, client):
    tools, answers = call_tools(address, TOOLS.items())
    assert {tool.name for tool in tools} == set(TOOLS)
    for tool in tools:
        assert 50 < len(tool.description) < 400
        for name, argument in tool.input_schema["properties"].items():
            assert {"type", "enum", "oneOf"} & set(argument), (tool.name, name)
            assert len(argument["description"]) > 15, (tool.name, name)
    schemas = {tool.name: tool.input_schema["properties"] for tool in tools}
    assert schemas["read_labels"]["kind"]["enum"] == list(tables.KINDS)
    assert schemas["read_labels"]["order"]["enum"] == list(tables.ORDERS)
    assert schemas["read_predictions"]["only"]["enum"] == list(tables.SEEDS)
    contents = {}
    for (name, arguments), answer in zip(TOOLS.items(), answers, strict=True):
        assert not answer.is_error, answer
        contents[name] = ast.literal_eval(answer.content[0].text)
        assert contents[name] == client.predict(**arguments, api_name=f"/{name}")
    verdict = published.read_folder(SAMPLE).results.verdict
    limits = TOOLS["read_verdict"]
    assert contents["read_verdict"]["decision"] == verdict.at(limits).decision != verdict.decision
    assert {entry["name"]: entry["limit"] for entry in contents["read_verdict"]["criteria"]} == limits
    measured = client.predict(None, wide(RUNS, GOLD), api_name="/measure")
    assert measured.pop("full")
    assert contents["measure_predictions"] == measured


def test_a_wrong_call_of_a_tool_is_an_error_and_closes_nothing(address, log):
    before = len(log.read_text())
    valid = {name: arguments for name, arguments in TOOLS.items() if name != "list_studies"}
    wrong = [
        (name, {**arguments, argument: value})
        for name, arguments in valid.items()
        for argument in arguments
        for value in ([], {"a": 1}, {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, True, -1, 10**30)
    ]
    wrong += [("read_verdict", {"study": name}) for name in ("../../etc", "/etc/passwd", "file:///etc", "x")]
    wrong += [("measure_predictions", {"table": table}) for table in ("", "/etc/passwd", "[" * 1_000_000, "a\nx\n")]
    wrong += [
        ("check_labels", {"table": "/etc/passwd"}),
        ("check_labels", {"file": "/etc/passwd"}),
        ("check_labels", {}),
    ]
    wrong += [("read_labels", {"kind": "x"}), ("read_labels", {"order": ""}), ("read_predictions", {"only": "x"})]
    wrong += [("measure", {"file": "/etc/passwd", "pasted": ""}), ("check", {"file": None, "pasted": ""}), ("x", {})]
    _, answers = call_tools(address, [*wrong, ("read_verdict", {})])
    for call, answer in zip(wrong, answers, strict=False):
        assert answer.is_error, (call, answer)
        assert answer.content[0].text
    assert not answers[-1].is_error
    head = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    for table in ("x" * 4_000_001, [1] * 200_000):
        call = {"method": "tools/call", "params": {"name": "check_labels", "arguments": {"table": table}}}
        content = json.dumps({"jsonrpc": "2.0", "id": 1, **call})
        answer = httpx.post(f"{address}/gradio_api/mcp/", content=content, headers=head, timeout=60)
        assert answer.status_code == 413
    assert "Traceback" not in log.read_text()[before:]


def test_a_pair_that_the_study_did_not_test_is_tested_by_the_module(client):
    study = published.read_folder(SAMPLE)
    sizes = sorted({size for _, size in study.test.cells()})
    pair = client.predict(variant="gold", against="llm-random-replace", size=sizes[-1], api_name="/compare_variants")
    assert {test["by"] for test in pair["tests"]} == {"app"}
    assert "is tested here" in pair["notes"][0]
    assert all(test["interval"] for test in pair["tests"])


def test_a_file_is_measured_and_a_path_of_the_server_is_refused(client, tmp_path):
    (tmp_path / "mine.csv").write_text(wide(RUNS, GOLD))
    result = client.predict(handle_file(tmp_path / "mine.csv"), "", api_name="/measure")
    assert result["R"] == 3
    assert result["full"]["seed_scores"]["n"] == 4
    for path in ("/etc/passwd", str(APP / "app.py"), str(SAMPLE / "README.md")):
        with pytest.raises(Exception, match="(?i)error|not allowed|invalid"):
            client.predict({"path": path, "meta": {"_type": "gradio.FileData"}}, "", api_name="/measure")
    with pytest.raises(Exception, match="two runs or more"):
        client.predict(None, "a\nx\n", api_name="/measure")


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "a/b/c/d", "x", "..", "file:///etc"])
def test_a_visitor_names_no_folder(client, name):
    with pytest.raises(Exception, match="owner/name|public dataset repo|cannot be reached"):
        client.predict(study=name, api_name="/read_verdict")


def test_fifty_users_at_once_are_served_and_none_sees_anothers(address):
    def visit(i):
        client = Client(address, verbose=False, httpx_kwargs={"timeout": 120})  # served, however busy the machine is
        labels = [[f"user{i}", "b", "b"], [f"user{i}", "b", f"user{i}"]]
        result = client.predict(None, wide(labels), api_name="/measure")
        client.predict(api_name="/read_labels")
        return result["classes"]

    with ThreadPoolExecutor(50) as pool:
        classes = list(pool.map(visit, range(50)))
    assert classes == [["b", f"user{i}"] for i in range(50)]


def test_bodies_are_bounded(address):
    def post(content, route="queue/join"):
        head = {"Content-Type": "application/json"}
        return httpx.post(f"{address}/gradio_api/{route}", content=content, headers=head, timeout=60)

    assert post(b" " * 24_000_001).status_code == 413
    assert post(b" " * 4_000_001, "upload").status_code == 400

    def endless():
        for _ in range(40):
            yield b" " * 1_000_000

    with pytest.raises(httpx.HTTPError):
        post(endless()).raise_for_status()
    # Four megabytes of JSON can hold a million values, and 200 questions wait in memory.
    for values in (
        b"[]," * 1_200_000 + b"1",
        b'"",' * 1_200_000 + b"1",
        b'"' + b'\\"' * 1_000_000 + b'",' + b"1," * 200_000 + b"1",
    ):
        assert post(b'{"data": [' + values + b"]}", "call/read_labels").status_code == 413
    assert post(b'{"data": [' + b"[]," * 1_200_000 + b"1]}", "call/upload").status_code == 413  # not the upload route
    table = "\n".join(['"a","b"', *['"x","y"'] * 100_000, '"x","x"'])
    assert post(json.dumps({"data": [None, table]}), "call/measure").status_code == 200


def test_uploads_that_break_off_fill_no_disk_and_close_nothing(address, log, client, tmp_path):
    def send(size):
        """Open a connection that sends a part of an upload."""
        sent = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
        sent.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 19000000\r\n\r\n--x\r\n"
            b'Content-Disposition: form-data; name="files"; filename="a.csv"\r\n\r\n' + b"a" * size
        )
        return sent

    def used():
        return sum(path.stat().st_size for path in (log.parent / "gradio").rglob("*") if path.is_file())

    before = len(log.read_text())
    with send(1_000_000):  # one upload that arrives, so that a file at the top is not always a broken one
        for _ in range(60):
            send(18_000_000).close()
            assert used() < 1_100_000_000
        (tmp_path / "mine.csv").write_text(wide(RUNS, GOLD))
        result = client.predict(handle_file(tmp_path / "mine.csv"), "", api_name="/measure")
        assert result["R"] == 3
    # Complete requests leave files too, where the form is not the one that Gradio expects.
    head = {"Content-Type": "multipart/form-data; boundary=x"}
    for name, end in (("other", "--x--"), ("files", "")):
        form = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n{"a" * 9_000_000}\r\n{end}'
        httpx.post(f"{address}/gradio_api/upload", content=form, headers=head)
    for _ in range(100):
        if used() < 1_000_000:
            break
        time.sleep(0.1)
    assert used() < 1_000_000
    assert "Traceback" not in log.read_text()[before:]


def varint(number, length=0):
    """Encode a number as in a footer, in `length` bytes or more."""
    number, digits = 2 * number, []
    while number or len(digits) < max(length, 1):
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits[:-1], digits[-1] & 127])


def write_zeros(path, values, columns, width=None, table=None, is_false=False):
    """Write a small file of columns of zeros, or of lists of them. A false footer counts 30 values."""
    column = pa.array(np.zeros(values))
    if width:
        column = pa.FixedSizeListArray.from_arrays(column, width).cast(pa.list_(pa.float64()))
    table = pa.table(dict.fromkeys(columns, column)) if table is None else table
    for name in set(columns) - set(table.column_names):
        table = table.append_column(name, column)
    pq.write_table(table, path)
    if is_false:
        content = path.read_bytes()
        start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        true = varint(values)
        assert content[start:].count(true) >= len(columns)
        path.write_bytes(content[:start] + content[start:].replace(true, varint(30, len(true))))


def write_attack(kind, path):
    names = [f"r{i}" for i in range(50)]
    if kind == "zeros":
        write_zeros(path, 4_000_000, names)
    elif kind == "lists":
        write_zeros(path, 7_900_000, names[:20], 100)
    elif kind == "false footer":
        write_zeros(path, 9_999_999, names[:20], 3_333_333, is_false=True)
    elif kind == "one batch":  # a megabyte in each row, all of one dictionary
        words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4_000, np.int32)), pa.array([b"x" * 1_000_000]))
        pq.write_table(pa.table({"a": words, "b": words}), path, store_schema=False, compression="zstd")
    assert path.stat().st_size < 2_000_000


@contextmanager
def memory_below(limit):
    """Measure the memory of the app and its processes during requests."""
    app = next(process for process in psutil.Process().children() if "app.py" in process.cmdline())
    peak, is_done = 0, threading.Event()

    def watch():
        nonlocal peak
        while not is_done.wait(0.02):
            used = 0
            for process in (app, *app.children(recursive=True)):
                with suppress(psutil.Error):
                    used += process.memory_info().rss
            peak = max(peak, used)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        is_done.set()
        watcher.join()
    print(f"peak: {peak / 1e6:,.0f} MB")
    assert 100_000_000 < peak < limit


@pytest.mark.parametrize("kind", ["zeros", "lists", "false footer", "one batch"])
def test_a_small_upload_takes_little_memory_whatever_it_unpacks_to(kind, address, client, tmp_path):
    path = tmp_path / "attack.parquet"
    write_attack(kind, path)

    def upload(_):
        with pytest.raises(Exception, match="at most|more than 800 MB of memory"):
            Client(address, verbose=False).predict(handle_file(path), "", api_name="/measure")

    with memory_below(1_500_000_000), ThreadPoolExecutor(2) as pool:
        list(pool.map(upload, range(2)))
    assert client.predict(None, wide(RUNS, GOLD), api_name="/measure")["R"] == 3


def test_a_small_published_study_takes_little_memory_whatever_it_unpacks_to(tmp_path):
    folder = copy_study(tmp_path / "study")
    path = folder / "data" / "llm" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    width = 20_000_000 // len(table)
    extra = [*(f"x{i}" for i in range(10)), "votes"]
    table = table.drop_columns([name for name in extra if name in table.column_names])
    write_zeros(path, 2 * width * len(table), extra, 2 * width, table)
    assert path.stat().st_size < 1_000_000
    with serve_hub(folder, tmp_path / "home") as env, serve(APP, log=tmp_path / "app.log", env=env) as address:
        client = Client(address, verbose=False)
        with memory_below(1_500_000_000), pytest.raises(Exception, match="more than is shown"):
            client.predict(study="me/study", api_name="/read_verdict")
        assert client.predict(api_name="/read_verdict")["decision"]


LIMITS = ("macro_f1_loss", "churn", "min_class_f1")
WRONG = [
    None,
    1.5,
    float("nan"),
    float("inf"),
    -1,
    10**30,
    True,
    [],
    ["a"],
    {},
    {"a": 1},
    {"path": "/etc/passwd"},
    "\0",
]


def test_a_wrong_argument_gets_a_sentence_and_never_a_traceback(address, log):
    before = len(log.read_text())
    endpoints = httpx.get(f"{address}/gradio_api/info?all_endpoints=True").json()["named_endpoints"]
    files = {"/measure": wide(RUNS, GOLD), "/check": "gold,llm\na,a\nb,a\n"}
    head = {"Content-Type": "application/json"}
    with httpx.Client(base_url=f"{address}/gradio_api", timeout=60) as http:

        def ask(name, data):
            response = http.post(f"/call{name}", content=json.dumps({"data": data}), headers=head)
            assert response.status_code == 200
            return http.get(f"/call{name}/{response.json()['event_id']}").text

        for name, endpoint in endpoints.items():
            usual = [parameter.get("parameter_default") for parameter in endpoint["parameters"]]
            if name in files:
                usual = [None, files[name]]
            elif name[1:] in ("measure_predictions", "check_labels"):
                usual = [TOOLS[name[1:]]["table"]]
            for i, value in itertools.product(range(len(usual)), WRONG):
                answer = ask(name, [value if i == k else default for k, default in enumerate(usual)])
                event, _, message = answer.partition("\ndata: ")
                parameter = endpoint["parameters"][i]["parameter_name"]
                is_text = parameter not in ("file", "page", "size", "draw", "kind", "order", "only", *LIMITS)
                is_right = (value == "\0") == is_text or (value is None and (name in files or parameter in LIMITS))
                assert event in ("event: error", "event: complete")
                if event == "event: error":
                    assert json.loads(message)["error"]
                else:
                    assert is_right, (name, i, value)
        assert "error" in ask("/read_verdict", ["a", "b", "c"])
        for value in ({"path": "http://127.0.0.1/a.csv"}, [{"a": {"path": "https://127.0.0.1/a.csv"}}]):
            assert "Got a web address" in ask("/measure", [value, ""])
            assert "Got a web address" in ask("/show_code", [value, ""])
    assert "Traceback" not in log.read_text()[before:]


def run_lines(lines, folder, env):
    """Run lines as a visitor does, and return what they print."""
    command, env = [sys.executable, "-c", lines], {**os.environ, **env}
    done = subprocess.run(command, cwd=folder, env=env, check=False, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-2000:]
    return done.stdout


def test_public_studies_are_listed_and_lines_run_as_shown(tmp_path):
    own = published.read_folder(SAMPLE)
    result = own.results.at_top["llm"]
    with serve_hub(SAMPLE, tmp_path / "home") as env, serve(APP, log=tmp_path / "app.log", env=env) as address:
        client = Client(address, verbose=False)
        for study in ("me/study", ""):
            lines = client.predict(study=study, variant="llm", api_name="/show_code")
            assert own.pool.ids[0] in run_lines(lines["load_dataset"], tmp_path, env)
            printed = run_lines(lines["evaluate"], tmp_path, env)
            assert float(printed.split()[-1]) == pytest.approx(result.pairwise_disagreement)
        for _ in range(240):  # The app reads the list 10 seconds after its start.
            specs = [summary["spec"] for summary in client.predict(api_name="/list_studies")["published"]]
            if len(specs) > 1:
                break
            time.sleep(0.5)
        assert set(specs) == {"sample/tweets", "me/study/tweets"}
