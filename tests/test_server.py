"""The server engine: against scripted servers that misbehave on command; test_end_to_end.py has the real one."""

import json
import logging
import random
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import SMALL_RECIPE

from hf_recipes.annotation.annotate import annotate
from hf_recipes.annotation.engines import EngineError, import_engine, server_engine
from hf_recipes.annotation.scoring import score_answers
from hf_recipes.errors import UserError
from hf_recipes.plan import make_plan
from hf_recipes.recipe import Annotate, load_recipe
from hf_recipes.study import Study

MODEL = "models/SmolLM2-135M-Instruct"
OVERLOADED = {"status": 503, "body": {"error": {"message": "overloaded"}}}


def logprob(prompt, token):
    return -((sum(prompt) * 31 + token * 7) % 97 + 121) / 100  # three labels have a mass of .34 to .89


def expected(prompts, token_ids):
    return np.array([[logprob(prompt, token) for token in token_ids] for prompt in prompts])


class ScriptedServer:
    """Answers as vLLM would, unless `misbehave(body, number)` says what to do: a dict with `status`, `body`, `headers`,
    `sleep`, `drop`, `close`, or `change`, a function of the right answer."""

    def __init__(self, misbehave=lambda body, number: {}, version="0.32.0", name=MODEL, length=1024):
        self.misbehave, self.version, self.name, self.length = misbehave, version, name, length
        self.bodies, self.headers, self.times = [], [], []
        self.now = self.most = self.connections = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                outer.headers.append(dict(self.headers))
                answers = {
                    "/version": {"version": outer.version},
                    "/v1/models": {
                        "data": [{"id": outer.name, "root": f"/data/{outer.name}", "max_model_len": outer.length}]
                    },
                }
                self.reply({"body": answers[self.path]} | outer.misbehave(None, self.path))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.bodies.append(body)
                    outer.headers.append(dict(self.headers))
                    outer.times.append(time.monotonic())
                    number = len(outer.bodies)
                    outer.now += 1
                    outer.most = max(outer.most, outer.now)
                right = outer.completion(body)
                how = outer.misbehave(body, number)
                time.sleep(how.get("sleep", 0.005))
                with outer._lock:
                    outer.now -= 1
                self.reply({"body": how.get("change", lambda answer: answer)(right)} | how)

            def reply(self, how):
                if how.get("drop"):
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                body = how["body"]
                content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(how.get("status", 200))
                headers = {"Content-Length": len(content), "Content-Type": "application/json", **how.get("headers", {})}
                for header, value in headers.items():
                    self.send_header(header, str(value))
                self.end_headers()
                self.wfile.write(content)
                if how.get("close"):
                    self.close_connection = True

        class Listener(ThreadingHTTPServer):
            request_queue_size = 200

            def get_request(self):
                outer.connections += 1
                return super().get_request()

            def handle_error(self, *_):  # a client that went away
                pass

        self._server = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @staticmethod
    def completion(body):
        """In an order of its own: a client has to go by the index."""
        choices = []
        for prompt in body["prompt"]:
            for k in range(body.get("n", 1)):
                choice = {"index": len(choices), "text": f"{sum(prompt)}/{body.get('seed')}/{k}"}
                if ids := body.get("logprob_token_ids"):
                    logprobs = {f"token_id:{token}": logprob(prompt, token) for token in [*ids, 99999]}
                    choice["logprobs"] = {"top_logprobs": [logprobs]}
                if constraint := body.get("structured_outputs"):
                    choice["text"] = constraint["choice"][sum(prompt) % len(constraint["choice"])]
                choices.append(choice)
        random.Random(sum(map(sum, body["prompt"]))).shuffle(choices)
        return {"choices": choices}

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.005)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


@pytest.fixture
def serve():
    servers = []

    def start(*arguments, **settings):
        servers.append(ScriptedServer(*arguments, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def section(*servers, **settings):
    urls = [server if isinstance(server, str) else server.url for server in servers]
    settings = {"model": MODEL, "engine": "server", "max_model_len": 256, "prompt": {"instruction": "?"}, **settings}
    return Annotate(base_url=urls if len(urls) > 1 else urls[0], **settings)


def connect(*servers, **settings):
    return server_engine.Engine(section(*servers, **settings), None)


def make_prompts(n):
    return [[i + 1, *range(i % 7)] for i in range(n)]


def first_times(*numbers, how):
    """Misbehaves in the requests with these numbers."""
    return lambda body, number: how if number in numbers else {}


def test_answers_are_in_the_order_of_the_prompts_whatever_the_delays(serve):
    delays = random.Random(0)
    server = serve(lambda body, number: {"sleep": delays.uniform(0, 0.05)} if body else {})
    prompts = make_prompts(700)
    scores, refused = connect(server).score(prompts, [5, 3, 9])
    assert np.array_equal(scores, expected(prompts, [5, 3, 9]))
    assert refused == {}
    assert max(len(body["prompt"]) for body in server.bodies) == 32
    assert 1 < server.most <= 8


def test_a_server_with_a_gpu_has_thousands_of_prompts_to_work_on(serve):
    waiting = []

    def hold(body, number):
        """Let the first requests wait until there is enough in flight."""
        if body and number <= server_engine.MAX_REQUESTS:
            waiting.append(len(body["prompt"]))
            deadline = time.monotonic() + 30
            while sum(waiting) < 4096 and time.monotonic() < deadline:
                time.sleep(0.01)
        return {}

    server = serve(hold)
    prompts = make_prompts(16_384)
    scores, refused = connect(server).score(prompts, [5])
    assert sum(waiting) >= 4096
    assert server.most <= 8
    assert (scores[::999].tolist(), refused) == (expected(prompts[::999], [5]).tolist(), {})


def test_prompts_with_their_own_seeds_are_many_requests_at_a_time(serve):
    def hold(body, number):
        deadline = time.monotonic() + 30
        while body and server.most < server_engine.MAX_SEEDED_REQUESTS and time.monotonic() < deadline:
            time.sleep(0.01)
        return {}

    server = serve(hold)
    connect(server).sample(make_prompts(300), 2, 1.0, 4, list(range(300)), None)
    assert server.most == server_engine.MAX_SEEDED_REQUESTS == 128


def test_few_prompts_are_spread_and_none_are_no_request(serve):
    servers = [serve(lambda body, number: {"sleep": 0.2} if body else {}) for _ in range(2)]
    engine = connect(*servers)
    scores, _ = engine.score(make_prompts(64), [1])
    assert np.array_equal(scores, expected(make_prompts(64), [1]))
    assert all(1 < server.most <= 8 for server in servers)
    before = sum(len(server.bodies) for server in servers)
    scores, refused = engine.score([], [1, 2])
    assert (scores.shape, refused) == ((0, 2), {})
    assert engine.sample([], 3, 1.0, 4, [], None) == ([], {})
    assert sum(len(server.bodies) for server in servers) == before


def test_more_label_tokens_than_a_request_may_have(serve):
    server = serve()
    tokens = list(range(1000, 1300))
    scores, _ = score_answers(connect(server), make_prompts(5), [[token] for token in tokens])
    assert np.array_equal(scores, expected(make_prompts(5), tokens))
    assert {len(body["logprob_token_ids"]) for body in server.bodies} == {128, 44}
    assert all(body["logprobs"] is not None and body["return_tokens_as_token_ids"] for body in server.bodies)


def test_the_models_own_generation_settings_are_overruled(serve):
    server = serve()
    connect(server).sample(make_prompts(2), 1, 1.0, 4, [1, 2], None)
    assert all((body["top_p"], body["top_k"], body["repetition_penalty"]) == (1, 0, 1) for body in server.bodies)


def test_the_salt_of_the_servers_cache_is_sent_if_it_is_set(serve):
    server = serve()
    engine = connect(server)
    engine.score(make_prompts(2), [1])
    assert not any("cache_salt" in body for body in server.bodies)
    engine.cache_salt = "again"
    engine.score(make_prompts(2), [1])
    engine.sample(make_prompts(2), 1, 1.0, 4, [1, 2], None)
    assert {body.get("cache_salt") for body in server.bodies[-3:]} == {"again"}


def test_every_sampled_prompt_has_its_own_seed(serve):
    server = serve(lambda body, number: {"sleep": 0.02} if body else {})
    prompts, seeds = make_prompts(200), [7 * i + 1 for i in range(200)]
    texts, refused = connect(server).sample(prompts, 3, 0.7, 5, seeds, None)
    assert texts == [[f"{sum(p)}/{seed}/{k}" for k in range(3)] for p, seed in zip(prompts, seeds, strict=True)]
    assert refused == {}
    assert {tuple(body["prompt"][0]): body["seed"] for body in server.bodies} == dict(
        zip(map(tuple, prompts), seeds, strict=True)
    )
    assert all((body["n"], body["temperature"], body["max_tokens"]) == (3, 0.7, 5) for body in server.bodies)
    assert 8 < server.most <= server_engine.MAX_SEEDED_REQUESTS


def test_guided_answers_are_choices_and_many_prompts_go_into_a_request(serve):
    server = serve()
    prompts = make_prompts(300)
    texts, _ = connect(server).sample(prompts, 1, 0, 8, [0] * 300, ["bad", "good", "so so"])
    assert texts == [[["bad", "good", "so so"][sum(prompt) % 3]] for prompt in prompts]
    assert len(server.bodies) < 20
    assert all("guided_choice" not in body and "seed" not in body for body in server.bodies)


@pytest.mark.parametrize(
    "how",
    [OVERLOADED, {"status": 500, "body": "oops"}, {"status": 429, "body": ""}, {"drop": True}],
    ids=["503", "500", "429", "dropped"],
)
def test_what_passes_is_tried_again(serve, how):
    server = serve(first_times(1, 2, 4, how=how))
    prompts = make_prompts(40)
    scores, refused = connect(server).score(prompts, [4, 2])
    assert np.array_equal(scores, expected(prompts, [4, 2]))
    assert refused == {}
    assert len(server.bodies) == 8 + 3


def test_a_slow_answer_is_asked_for_again(serve, monkeypatch):
    monkeypatch.setattr(server_engine, "TIMEOUT", 0.2)
    server = serve(first_times(1, how={"sleep": 0.6}))
    scores, _ = connect(server).score(make_prompts(3), [4])
    assert np.array_equal(scores, expected(make_prompts(3), [4]))
    assert len(server.bodies) == 4


def test_a_server_that_never_answers_is_given_up(serve, monkeypatch):
    monkeypatch.setattr(server_engine, "MAX_SECONDS", 0.3)
    hung, good = serve(lambda body, number: {"sleep": 2} if body else {}), serve()
    scores, _ = connect(hung, good).score(make_prompts(40), [4])
    assert np.array_equal(scores, expected(make_prompts(40), [4]))
    with pytest.raises(EngineError, match="all servers failed: .*no answer within 0.3 seconds"):
        connect(hung).score([[1]], [4])


def test_an_answer_that_breaks_off_is_asked_for_again(serve):
    server = serve(first_times(1, 3, how={"headers": {"Content-Length": 100_000}, "close": True}))
    scores, _ = connect(server).score(make_prompts(40), [4])
    assert np.array_equal(scores, expected(make_prompts(40), [4]))
    assert len(server.bodies) == 8 + 2


def test_retry_after_is_respected_but_not_without_bound(serve):
    server = serve(first_times(1, how={**OVERLOADED, "headers": {"Retry-After": "0.4"}}))
    connect(server).score([[1]], [4])
    assert server.times[1] - server.times[0] >= 0.4
    server = serve(first_times(1, how={**OVERLOADED, "headers": {"Retry-After": "3600"}}))
    with pytest.raises(EngineError, match="503 overloaded"):
        connect(server).score([[1]], [4])
    server = serve(first_times(1, how={**OVERLOADED, "headers": {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}}))
    assert connect(server).score([[1]], [4])[0].shape == (1, 1)


def test_the_guilty_prompt_is_found_and_the_others_are_answered(serve):
    def refuse(body, number):
        if body and [666] in body["prompt"]:
            return {"status": 400, "body": {"error": {"message": "This prompt is\ntoo long", "code": 400}}}
        return {}

    server = serve(refuse)
    prompts = make_prompts(500)
    prompts[123] = prompts[380] = [666]
    engine = connect(server)
    scores, refused = engine.score(prompts, [4, 2])
    assert refused == {123: "400 This prompt is too long", 380: "400 This prompt is too long"}
    assert np.isnan(scores[[123, 380]]).all()
    answered = [i for i in range(500) if i not in refused]
    assert np.array_equal(scores[answered], expected([prompts[i] for i in answered], [4, 2]))
    assert len(server.bodies) <= 17 + 2 * 32
    texts, refused = engine.sample(prompts[100:130], 2, 1.0, 4, list(range(30)), None)
    assert list(refused) == [23]
    assert [len(answers) for answers in texts] == [0 if i == 23 else 2 for i in range(30)]


def test_the_work_of_a_dead_server_goes_to_the_other(serve, caplog):
    bad, good = serve(lambda body, number: {"status": 500, "body": "broken"} if body else {}), serve()
    prompts = make_prompts(600)
    engine = connect(bad, good)
    with caplog.at_level(logging.WARNING):
        scores, refused = engine.score(prompts, [1, 2])
    assert np.array_equal(scores, expected(prompts, [1, 2]))
    assert refused == {}
    assert caplog.text.count(f"{bad.url} failed (500 broken)") == 1
    asked = len(bad.bodies)
    assert asked <= 8 * (1 + server_engine.MAX_RETRIES_AT_500)
    engine.score(prompts, [1, 2])  # and it is not asked again
    assert len(bad.bodies) == asked


def test_a_prompt_that_breaks_every_server_is_refused_and_the_rest_is_done(serve):
    """A nan in a server's logits is answered with a 500 for ever; the in-process engine makes an error row of it."""

    def breaks(body, number):
        return {"status": 500, "body": "nan is not JSON"} if body and [666] in body["prompt"] else {}

    prompts = make_prompts(600)
    prompts[300] = [666]
    engine = connect(serve(breaks), serve(breaks))
    scores, refused = engine.score(prompts, [1, 2])
    assert list(refused) == [300]
    assert refused[300] == "500 nan is not JSON"
    answered = [i for i in range(600) if i != 300]
    assert np.array_equal(scores[answered], expected([prompts[i] for i in answered], [1, 2]))


def test_a_slow_server_gets_less_of_the_work(serve):
    slow, fast = (serve(lambda body, number, s=s: {"sleep": s} if body else {}) for s in (1, 0.01))
    scores, _ = connect(slow, fast).score(make_prompts(2000), [1])
    assert np.array_equal(scores, expected(make_prompts(2000), [1]))
    assert len(slow.bodies) * 2 < len(fast.bodies)


def test_all_servers_dead_is_an_engine_error_that_names_them(serve):
    dead = [serve(lambda body, number: OVERLOADED if body else {}), serve(first_times(*range(1, 999), how={"drop": 1}))]
    engine = connect(*dead)
    for _ in range(2):
        with pytest.raises(EngineError, match="all servers failed") as raised:
            engine.score(make_prompts(100), [1])
        assert all(server.url in str(raised.value) for server in dead)
        assert "503 overloaded" in str(raised.value)
        assert "\n" not in str(raised.value)


def test_identity_names_version_and_model_and_servers_must_agree(serve):
    server = serve()
    identity = {"engine": "server", "vllm": "0.32.0", "id": MODEL, "root": f"/data/{MODEL}"}
    for same in (section(server), section(server, serve()), section(f"{server.url}/v1/")):
        assert server_engine.identity(same) == identity
    for other, differs in ((serve(version="0.33.0"), "vllm=0.33.0"), (serve(name="gemma"), "id=gemma")):
        with pytest.raises(UserError, match=differs) as raised:
            server_engine.identity(section(server, other))
        assert server.url in str(raised.value)
        assert other.url in str(raised.value)


def test_a_server_that_is_down_at_the_start_is_done_without(serve, caplog):
    with caplog.at_level(logging.WARNING):
        engine = connect("http://127.0.0.1:9", serve())
    assert "http://127.0.0.1:9 does not answer" in caplog.text
    assert engine.score([[1]], [4])[0].tolist() == [[logprob([1], 4)]]
    with pytest.raises(UserError, match="No vLLM server answers at http://127.0.0.1:9"):
        connect("http://127.0.0.1:9")


def test_the_server_must_take_prompts_as_long_as_the_recipes(serve):
    with pytest.raises(UserError, match=r"must be at most that of http.*, 128 tokens. Got 256"):
        server_engine.identity(section(serve(length=128)))


def test_another_models_name_is_warned_of_and_several_are_a_question(serve, caplog):
    with caplog.at_level(logging.WARNING):
        connect(serve(), model="elsewhere/SmolLM2-135M-Instruct")
        assert caplog.text == ""
        engine = connect(serve(name="gemma"))
    assert "the server serves gemma" in caplog.text
    assert engine.score([[1]], [4])[0].tolist() == [[logprob([1], 4)]]
    both = {"body": {"data": [{"id": "gemma"}, {"id": "qwen"}]}}
    server = serve(lambda body, number: both if number == "/v1/models" else {})
    with pytest.raises(UserError, match=r"Got models/.*\. Try gemma or qwen\."):
        connect(server)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"body": "<html><body>It works!</body></html>", "headers": {"Content-Type": "text/html"}},
            "must be a vLLM server. Got .*It works!",
        ),
        ({"body": '{"version": '}, "must be a vLLM server"),
        ({"body": {"hello": "world"}}, "must be a vLLM server. Got no version"),
        ({"body": ["0.32.0"]}, "must be a vLLM server"),
        ({"status": 404, "body": "nothing here"}, "404 nothing here"),
        ({"status": 301, "body": "", "headers": {"Location": "http://example.org"}}, "301"),
        ({"status": 401, "body": ""}, "`VLLM_API_KEY` must be the key of .* Got no key"),
        ({"status": 418, "body": "teapot"}, "must be a vLLM server. Got 418 teapot"),
        (OVERLOADED, "No vLLM server answers.*503 overloaded"),
        ({"drop": True}, "No vLLM server answers.*disconnected"),
        ({"status": 429, "body": ""}, "No vLLM server answers.*429"),
    ],
)
def test_what_is_no_vllm_server_is_said_in_a_line(serve, how, message):
    server = serve(lambda body, number: how)
    with pytest.raises(UserError, match=message) as raised:
        server_engine.identity(section(server))
    assert server.url in str(raised.value)
    assert "\n" not in str(raised.value)


def edit(**changes):
    """Changes every choice of an answer."""
    return {"change": lambda answer: {"choices": [choice | changes for choice in answer["choices"]]}}


@pytest.mark.parametrize(
    "how",
    [
        edit(logprobs=None),
        edit(logprobs={"top_logprobs": None}),
        edit(logprobs={"top_logprobs": [{"token_id:4": None}]}),
        edit(logprobs={"top_logprobs": [{" good": -1.0}]}),
        {"change": lambda answer: {"choices": answer["choices"][1:]}},
        {"change": lambda answer: {"message": "hello"}},
    ],
    ids=["null", "null tops", "null value", "other tokens", "too few", "no choices"],
)
def test_answers_without_log_probabilities_are_said_in_a_line(serve, how):
    server = serve(lambda body, number: how if body else {})
    with pytest.raises(UserError, match="must run vLLM 0.32 or newer") as raised:
        connect(server).score(make_prompts(4), [4])
    assert server.url in str(raised.value)


def test_a_missing_model_is_a_user_error(serve):
    gone = {"status": 404, "body": {"error": {"message": "The model `smol` does not exist."}}}
    server = serve(lambda body, number: gone if body else {})
    with pytest.raises(UserError, match="The model `smol` does not exist"):
        connect(server).score(make_prompts(300), [4])


def test_the_key_goes_into_the_header_and_nowhere_else(serve, monkeypatch, caplog):
    monkeypatch.setenv("VLLM_API_KEY", "s3cret-key\n")
    server = serve(first_times(1, how=OVERLOADED))
    with caplog.at_level(logging.DEBUG):
        connect(server).score([[1]], [4])
    assert len(server.headers) == 4
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer s3cret-key"}
    with pytest.raises(UserError, match="`VLLM_API_KEY` must be the key of .* Got a wrong key") as raised:
        connect(serve(lambda body, number: {"status": 401, "body": {"error": "Unauthorized"}}))
    messages = caplog.text + str(raised.value)
    monkeypatch.setenv("VLLM_API_KEY", "s3cret\nkey")
    with pytest.raises(UserError, match="VLLM_API_KEY") as raised:
        connect(server)
    assert "s3cret" not in messages + str(raised.value)


def test_nothing_else_of_the_environment_is_sent(serve, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "s3cret-key")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer s3cret-key\nX-Key: s3cret-key")
    for key in (None, "my-key"):
        server = serve()
        if key:
            monkeypatch.setenv("VLLM_API_KEY", key)
        assert connect(server).score([[1]], [4])[0].shape == (1, 1)
        assert "s3cret-key" not in str(server.headers)
        assert {headers.get("Authorization") for headers in server.headers} == {key and f"Bearer {key}"}


def test_a_proxy_of_the_environment_is_used(serve, monkeypatch):
    proxy = serve()
    monkeypatch.setenv("http_proxy", proxy.url)
    with pytest.raises(UserError, match="No vLLM server answers"):
        connect("http://vllm.example:8000")
    assert proxy.connections == 1


def test_a_redirect_is_not_followed_with_the_key_or_without(serve, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "s3cret-key")
    other = serve()
    elsewhere = {"status": 307, "body": "", "headers": {"Location": f"{other.url}/v1/completions"}}
    with pytest.raises(UserError, match="Got 307"):
        connect(serve(lambda body, number: elsewhere if body else {})).score([[1]], [4])
    with pytest.raises(UserError, match="Got 307"):
        connect(serve(lambda body, number: elsewhere))
    assert other.connections == 0


def small(server, folder):
    settings = ["--data.pool_size=60", "--grid=null", "--train=null", "--annotate.prompt.shots_per_class=1"]
    return [
        SMALL_RECIPE,
        f"--output_dir={folder}",
        *settings,
        "--annotate.engine=server",
        f"--annotate.base_url={server.url}",
    ]


def test_plan_asks_no_server_and_a_studys_own_recipe_names_none(serve, command, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "s3cret-key")
    server = serve()
    recipe = small(server, tmp_path / "study")
    code, output, _ = command("plan", *recipe)
    assert (code, server.connections) == (0, 0)
    assert f"No server was asked: all texts count as left for {MODEL}" in " ".join(output.split())
    assert command("annotate", *recipe)[0] == 0
    asked = server.connections
    assert asked > 0
    code, output, _ = command("plan", *recipe)
    assert (code, server.connections) == (0, asked)
    assert "the servers still run the models of the last annotate" in " ".join(output.split())
    assert "0 texts" in output
    kept = tmp_path / "study" / "recipe.yaml"
    content = yaml.safe_load(kept.read_text())
    assert "base_url" not in content["recipe"]["annotate"]
    content["recipe"]["annotate"] |= {
        "base_url": server.url,
        "passes": [{"base_url": server.url, "prompt": {"seed": 3}}],
    }
    kept.write_text(yaml.safe_dump(content))
    for step in ("plan", "annotate"):
        _, output, errors = command(step, kept)
        assert server.connections == asked
        assert server.url not in output + errors


def test_where_a_pass_listens_is_not_kept(serve, tmp_path):
    passes = "--annotate.passes=[{base_url: 'http://10.0.0.1:1', prompt: {seed: 2}}]"
    study = Study(load_recipe(SMALL_RECIPE, [f"--output_dir={tmp_path / 'study'}", passes]))
    with study.lock():
        assert "10.0.0.1" not in study.recipe_file.read_text()
    assert study.check()


def test_plan_counts_what_a_server_labelled_before_it_went_away(serve, tmp_path):
    server = serve(lambda body, number: {"status": 401, "body": ""} if body and number > 20 else {})
    first, *overrides = small(server, tmp_path / "study")
    study = Study(load_recipe(first, overrides))
    with pytest.raises(UserError, match="VLLM_API_KEY"):
        annotate(study)
    server.close()
    (step, *_), _ = make_plan(study)
    assert 16 <= step.done < step.total == 60


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "localhost",
        "",
        "ftp://host",
        "http://",
        "http://[::1",
        "//host",
        "http://h:99999",
        "http://a b",
    ],
)
def test_bad_addresses_are_named(url):
    with pytest.raises(UserError, match=r"`annotate.base_url` must be the address of a server. .* Try one like http"):
        server_engine.identity(section(url))


def test_passwords_in_addresses_are_turned_down_and_not_repeated():
    for address in ("http://me:hunter2@example.org", "me:hunter2@example.org"):
        with pytest.raises(UserError, match="Got 'example.org'. .* without a password") as raised:
            server_engine.identity(section(address))
        assert "hunter2" not in str(raised.value)
    with pytest.raises(UserError, match="`annotate.base_url` must contain an address"):
        server_engine.identity(Annotate(model=MODEL, base_url=[], prompt={"instruction": "?"}))


def test_without_the_client_it_is_said_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "hf_recipes.annotation.engines.server_engine")
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"Got server without openai. Try pip install 'hf-recipes\[server\]'"):
        import_engine("server")


API_KEY, TOKEN = 's3cr3t/key+of a "server"', "hf_abcdefghijklmnop"


def everything_in(folder):
    """The content of every file of a folder, tables as their values."""
    for path in folder.rglob("*"):
        if path.suffix == ".parquet":
            yield str(pq.read_table(path).to_pylist())
        elif path.is_file():
            yield path.read_bytes().decode(errors="replace")


def test_no_secret_that_a_server_echoes_is_printed_or_written(serve, command, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("VLLM_API_KEY", API_KEY)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("DB_PASSWORD", "hunter2hunter2")

    def refuse(body, number):
        message = f"{server.headers[-1]} {TOKEN} hunter2hunter2 http://me:pw4me@host/x.parquet?sig=abc%2Bdef"
        if body is None or number % 3:
            return {}
        return {"status": 400, "body": {"error": {"message": message}}}

    server = serve(refuse)
    settings = [f"--output_dir={tmp_path / 'study'}", "--annotate.engine=server", f"--annotate.base_url={server.url}"]
    settings += ["--grid=null", "--train=null", "--data.pool_size=60", "--annotate.scoring=guided"]
    settings += ["--annotate.calibration=none"]
    printed = [
        str(command("run", SMALL_RECIPE, *settings)),
        str(command("annotate", SMALL_RECIPE, "--status", *settings)),
    ]
    assert "engine_error" in str(list(everything_in(tmp_path)))
    assert "[redacted]" in printed[1]
    server.misbehave = lambda body, number: {"status": 404, "body": f"{server.headers[-1]} {TOKEN}"} if body else {}
    printed.append(str(command("annotate", SMALL_RECIPE, "--verbose", *settings, f"--output_dir={tmp_path / 'other'}")))
    assert "[redacted]" in printed[2]
    texts = [*everything_in(tmp_path), *printed]
    for secret in (API_KEY, API_KEY.partition(" ")[0], TOKEN, "hunter2hunter2", "pw4me", "abc%2Bdef"):
        assert not any(secret in text for text in texts), secret


@pytest.mark.parametrize(
    "setting",
    [
        "--data.path=https://host/x.parquet?token=t0ps3cret",
        "--data.path=https://host/x.parquet?X-Amz-Signature=t0ps3cret",
        "--data.path=filecache::http://user:t0ps3cret@host/x.parquet",
        "--annotate.base_url=http://user:t0ps3cret@host",
        "--annotate.base_url=['http://host?api_key=t0ps3cret']",
        "--annotate.prompt.instruction=my key is t0ps3cret",
    ],
)
def test_a_recipe_with_a_credential_is_refused_without_repeating_it(setting, command, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "t0ps3cret")
    code, output, errors = command("run", SMALL_RECIPE, f"--output_dir={tmp_path / 'study'}", setting)
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert f"`{setting[2:].partition('=')[0]}` must not hold a password, token or key" in errors
    assert "t0ps3cret" not in errors
    assert not (tmp_path / "study").exists()


ASK = """
import json, sys
from pathlib import Path
from hf_recipes import logs
from hf_recipes.annotation.engines import import_engine
from hf_recipes.models import Model
from hf_recipes.recipe import Annotate

def ask(settings, prompts, tokens, choices):
    model = Model(settings["model"], Path(settings["model"]), "")
    engine = import_engine(settings["engine"]).Engine(Annotate(**settings), model)
    scores, refused = engine.score(prompts, tokens)
    assert refused == {}
    guided, _ = engine.sample(prompts, 1, 0.0, 16, [0] * len(prompts), choices)
    votes, _ = engine.sample(prompts, 3, 1.0, 4, list(range(len(prompts))), None)
    return {"scores": scores.tolist(), "guided": guided, "votes": votes}

if __name__ == "__main__":
    logs.set_up()
    arguments = json.loads(sys.stdin.read())
    answers = [ask(settings, *arguments["questions"]) for settings in arguments["engines"]]
    Path(sys.argv[1]).write_text(json.dumps(answers))
"""
