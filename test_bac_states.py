# SPDX-License-Identifier: MIT-0
"""What bac_states.py promises, one promise a test. Needs pytest and nothing else.

   python -m pytest test_bac_states.py

Helpers      a loopback server that says what it is told to, byte for byte
1 The call   the documented example, the public names, an import that touches nothing
2 Models     frozen, compared, hashed, copied, pickled; words that end; the nodes view
3 Decoding   the history of the service as a table; spellings, nulls, wrong types, numbers
4 Errors     the tree; each release's words for each error; safe to print, to pickle, to log
5 Request    bytes on the wire, routes, environment, arguments, proxies, TLS, a hostile network
6 Waiting    pauses, limits, what is passed over and what is not
7 Command    exit codes, the table, --json, --demo, broken outputs, Ctrl-C
8 The file   copies of it, its size, its imports, its README
"""

import ast
import base64
import concurrent.futures
import contextlib
import copy
import dataclasses
import errno
import gc
import gzip
import http.client
import importlib
import inspect
import json
import multiprocessing
import os
import pathlib
import pickle
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
import typing
import urllib.parse
import warnings
import zipfile

import pytest

import bac_states
from bac_states import (
    BadRequest,
    DecodeError,
    ExecutionState,
    InternalServerError,
    JobNotFound,
    JobState,
    NodeState,
    RunCommandResult,
    S3StorageSpec,
    SDKError,
    StateRequest,
    StateResponse,
    StorageSpec,
    TransportError,
    TransportTimeout,
    VerificationResult,
    WaitTimeout,
)

PROMISED_LINES = 1214
SOURCE = pathlib.Path(bac_states.__file__)
README = SOURCE.with_name("README.md")
VERSION = bac_states.__version__
SOON = 0.2  # seconds: the deadline of a test that has to wait for it
IN_TIME = 5.0  # seconds: before that, whatever has a deadline of SOON has ended
MIB = 1024 * 1024

JOB = "9304c616-291f-41ad-b862-54e133c0149e"
SECRET = "s3cret-T0ken"
STATES, REQUESTER, JOBS = "/states", "/requester/states", "/api/v1/orchestrator/jobs/"

# --------------------------------------------------------------------------------------- Helpers


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("BACALHAU_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


class Request(typing.NamedTuple):
    method: str
    path: str
    headers: dict  # by names in lower case
    body: bytes


class Peer:
    """The client at the other end of a connection, for an answer that is more than some bytes."""

    def __init__(self, sock, closing):
        self.sock = sock
        self.closing = closing
        self.request = None

    def read_request(self):
        """Whether a whole request came; it is then `request`."""
        data, missing = b"", 1
        while missing > 0:
            piece = self.sock.recv(65536)
            if not piece:
                return False
            data += piece
            head, blank, body = data.partition(b"\r\n\r\n")
            if blank:
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = dict(line.split(": ", 1) for line in lines)
                headers = {name.lower(): value for name, value in headers.items()}
                missing = int(headers.get("content-length", 0)) - len(body)
        method, path, _ = first.split(" ")
        self.request = Request(method, path, headers, body)
        return True

    def say(self, answer):
        answer = answer(self) if callable(answer) else answer
        if answer:
            self.send(answer)

    def send(self, data):
        view = memoryview(data)
        while view:
            view = view[self.sock.send(view) :]

    def drip(self, data):
        for byte in data:
            if self.closing.wait(0.002):
                break
            self.send(bytes([byte]))

    def stall(self):
        while self.sock.recv(65536):
            pass

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def secure(self, context):
        self.sock = context.wrap_socket(self.sock, server_side=True)


class Server:
    """Gives each connection the next answer; the last one again and again.

    An answer is bytes, sent as they are, or a function that is called with the Peer. `greets`:
    it does not wait for a request. `tls`: the context with which to speak TLS.
    """

    def __init__(self, answers, greets=False, tls=None):
        self.requests = []
        self.answers = list(answers)
        self.greets = greets
        self.tls = tls
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(64)
        self.port = self.listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def accept(self):
        while True:
            sock, _ = self.listener.accept()
            if self.closing.is_set():
                sock.close()
                return
            self.threads.append(threading.Thread(target=self.talk, args=(sock,), daemon=True))
            self.threads[-1].start()

    def talk(self, sock):
        sock.settimeout(20)
        peer = Peer(sock, self.closing)
        with contextlib.suppress(OSError):
            if self.tls:
                peer.secure(self.tls)
            if self.greets or peer.read_request():
                peer.say(self.next_answer(peer.request))
        peer.sock.close()

    def next_answer(self, request):
        with self.lock:
            self.requests.append(request)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def join_connections(self):
        for thread in self.threads[1:]:
            thread.join(IN_TIME)

    def close(self):
        self.closing.set()
        with socket.socket() as knock:
            knock.connect(("127.0.0.1", self.port))
        self.threads[0].join(IN_TIME)
        self.join_connections()
        self.listener.close()


@pytest.fixture
def serve():
    """Starts a Server with the answers given."""
    with contextlib.ExitStack() as stack:

        def start(*answers, **options):
            server = Server(answers, **options)
            stack.callback(server.close)
            return server

        yield start


# Answers that stop somewhere, or go on for ever.


def stall(start=b""):
    def answer(peer):
        peer.send(start)
        peer.stall()

    return answer


def reset(start=b""):
    def answer(peer):
        peer.send(start)
        peer.reset()

    return answer


def drip(start=b"", piece=b"x"):
    """One byte after the other without an end."""

    def answer(peer):
        peer.send(start)
        while not peer.closing.is_set():
            peer.drip(piece)

    return answer


def endless(start=b"", piece=b"x"):
    """As fast as they are taken."""

    def answer(peer):
        peer.send(start)
        while True:
            peer.send(piece * max(1, 65536 // len(piece)))

    return answer


# Answers that are complete.


def head(*lines, status="200 OK"):
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


def length(number):
    return head(f"Content-Length: {number}")


def chunk(data, size=None):
    return (size or b"%x" % len(data)) + b"\r\n" + data + b"\r\n"


CHUNKED = head("Transfer-Encoding: chunked")
LAST_CHUNK = b"0\r\n\r\n"


def reply(body="", status=200, *headers, chunked=False):
    """An answer with its length, or in chunks as Go sends them."""
    body = body if isinstance(body, bytes) else body.encode()
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    if chunked:
        pieces = [body[at : at + 2048] for at in range(0, len(body), 2048)]
        body = b"".join(map(chunk, pieces)) + LAST_CHUNK
    reason = http.client.responses.get(status, "Odd")
    return head(*headers, "Connection: close", framing, status=f"{status} {reason}") + body


def state(word="Completed", job_id=JOB, **members):
    """An answer of v1.0.3 about a job in that state."""
    return reply(json.dumps({"state": {"JobID": job_id, "State": word, **members}}))


def api_error(status, message, code, component, **more):
    """The body of a refusal of v1.5.0 and later."""
    document = {"Status": status, "Message": message, "RequestID": "", "Code": code}
    return json.dumps({**document, "Component": component, **more}, separators=(",", ":")) + "\n"


# What servers say of a route that they do not have (yet, or any more).
GO_404 = reply("404 page not found\n", 404, "Content-Type: text/plain; charset=utf-8")
GONE = reply(
    '"This endpoint is deprecated. See the migration guide at https://docs.bacalhau.org/references/'
    'cli-reference/command-migration for more information"\n',
    410,
)
MISSING_V1_7 = reply(api_error(404, "Not Found", "InternalError", "APIServer"), 404)
HINT = (
    "The server version may be older than this CLI version and does not support the endpoint yet."
)
MISSING_V1_9 = reply(
    api_error(404, "The requested resource/URL was not found.", "NotFound", "APIServer", Hint=HINT),
    404,
)
NOT_ALLOWED = reply("Method Not Allowed", 405)
BUSY = reply("busy", 503)


def ask(server, request=JOB, **options):
    return bac_states.get(request, **{"server_url": server.url, "timeout": 5, **options})


def error_of(kind, function, *args, **options):
    """The error that a call raises, which is of exactly that class where one is named."""
    with pytest.raises(SDKError) as caught:
        function(*args, **options)
    assert kind is None or type(caught.value) is kind, repr(caught.value)
    return caught.value


def refused(server, kind=None, **options):
    return error_of(kind, ask, server, **options)


@contextlib.contextmanager
def in_time():
    """What has a deadline ends by it, and not when the peer gives up."""
    start = time.perf_counter()
    yield
    assert time.perf_counter() - start < IN_TIME


def command(capsys, *arguments):
    """Runs the command in this process: its exit code, standard output and standard error."""
    try:
        code = bac_states.main(list(arguments))
    except SystemExit as leaving:
        code = leaving.code
    return (code, *capsys.readouterr())


def _plain_environment():
    """Without what a developer's shell may say to Python, as PYTHONUNBUFFERED."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return {**plain, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8"}


def python(*arguments, env=None, **options):
    return run([sys.executable, *arguments], env=env, **options)


def run(arguments, env=None, **options):
    """Runs a command: its exit code, standard output and standard error."""
    done = subprocess.run(
        list(map(str, arguments)),
        **{"stdout": subprocess.PIPE, "encoding": "utf-8", **options},
        stderr=subprocess.PIPE,
        env={**_plain_environment(), **(env or {})},
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


# ------------------------------------------------------------------------------------ 1 The call

DOCUMENTED = """{"state":{"Nodes":{
"QmSyJ8VUd4YSPwZFJSJsHmmmmg7sd4BAc2yHY73nisJo86":{"Shards":{"0":{
"NodeId":"QmSyJ8VUd4YSPwZFJSJsHmmmmg7sd4BAc2yHY73nisJo86","State":"Cancelled",
"VerificationResult":{},"PublishedResults":{}}}},
"QmYgxZiySj3MRkwLSL4X2MF5F9f2PMhAE3LV49XkfNL1o3":{"Shards":{"0":{
"NodeId":"QmYgxZiySj3MRkwLSL4X2MF5F9f2PMhAE3LV49XkfNL1o3","State":"Cancelled",
"VerificationResult":{},"PublishedResults":{}}}},
"QmdZQ7ZbhnvWY1J12XYKGHApJ6aufKyLNSvf8jZBrBaAVL":{"Shards":{"0":{
"NodeId":"QmdZQ7ZbhnvWY1J12XYKGHApJ6aufKyLNSvf8jZBrBaAVL","State":"Completed",
"Status":"Got results proposal of length: 0",
"VerificationResult":{"Complete":true,"Result":true},
"PublishedResults":{"StorageSource":"IPFS","Name":"job-9304c616-291f-41ad-b862-54e133c0149e
-shard-0-host-QmdZQ7ZbhnvWY1J12XYKGHApJ6aufKyLNSvf8jZBrBaAVL",
"CID":"QmTVmC7JBD2ES2qGPqBNVWnX1KeEPNrPGb7rJ8cpFgtefe"},
"RunOutput":{"stdout":"Thu Nov 17 13:32:55 UTC 2022\\n","stdouttruncated":false,
"stderr":"","stderrtruncated":false,"exitCode":0,"runnerError":""}}}}}}}
""".replace("\n", "")

PUBLIC_NAMES = (
    "BadRequest DecodeError ExecutionState InternalServerError JobNotFound JobState NodeState "
    "RunCommandResult S3StorageSpec SDKError StateRequest StateResponse StorageSpec TransportError "
    "TransportTimeout VerificationResult WaitTimeout decode get main wait"
).split()


def test_the_documented_example_reads_value_by_value(serve):
    server = serve(reply(DOCUMENTED, 200, "Content-Type: text/plain; charset=utf-8"))
    response = ask(server)
    assert response.server_version == ""
    assert response.raw == json.loads(DOCUMENTED)
    job = response.state
    assert (job.job_id, job.state, job.status, job.version) == ("", "Completed", "", 0)
    assert (job.create_time, job.update_time, job.timeout_at) == ("", "", "")
    assert (job.is_terminal, job.succeeded) == (True, True)
    first, second, third = job.executions
    loser = ExecutionState(
        node_id="QmSyJ8VUd4YSPwZFJSJsHmmmmg7sd4BAc2yHY73nisJo86",
        state="Cancelled",
        verification_result=VerificationResult(),
        published_results=StorageSpec(),
    )
    assert first == loser
    assert second == dataclasses.replace(
        loser, node_id="QmYgxZiySj3MRkwLSL4X2MF5F9f2PMhAE3LV49XkfNL1o3"
    )
    assert third.node_id == "QmdZQ7ZbhnvWY1J12XYKGHApJ6aufKyLNSvf8jZBrBaAVL"
    assert (third.shard_index, third.state) == (0, "Completed")
    assert third.status == "Got results proposal of length: 0"
    assert third.verification_result.complete is True
    assert third.verification_result.result is True
    assert third.published_results.storage_source == "IPFS"
    assert third.published_results.name == (
        "job-9304c616-291f-41ad-b862-54e133c0149e"
        "-shard-0-host-QmdZQ7ZbhnvWY1J12XYKGHApJ6aufKyLNSvf8jZBrBaAVL"
    )
    assert third.published_results.cid == "QmTVmC7JBD2ES2qGPqBNVWnX1KeEPNrPGb7rJ8cpFgtefe"
    assert third.run_output == RunCommandResult(
        stdout="Thu Nov 17 13:32:55 UTC 2022\n",
        stdout_truncated=False,
        stderr="",
        stderr_truncated=False,
        exit_code=0,
        runner_error="",
    )
    assert list(job.nodes) == [first.node_id, second.node_id, third.node_id]
    assert job.nodes[third.node_id].shards[0] is third


def test_a_job_is_asked_for_by_its_id_or_by_a_request(serve):
    server = serve(state())
    assert ask(server, JOB) == ask(server, StateRequest(JOB)) == ask(server, StateRequest(JOB, "c"))
    assert [json.loads(request.body)["client_id"] for request in server.requests] == ["", "", "c"]


def test_options_are_keywords_of_the_promised_names_and_defaults():
    options = {"server_url": None, "timeout": 10.0, "headers": None, "ssl_context": None}
    for function, more in ((bac_states.get, {}), (bac_states.wait, {"limit": None})):
        first, *others = inspect.signature(function).parameters.values()
        assert (first.name, first.kind) == ("request", first.POSITIONAL_OR_KEYWORD)
        assert all(option.kind == option.KEYWORD_ONLY for option in others)
        assert {option.name: option.default for option in others} == {**options, **more}
    document, version = inspect.signature(bac_states.decode).parameters.values()
    assert (document.name, version.name, version.default) == ("document", "server_version", "")
    assert version.kind == version.KEYWORD_ONLY
    (argv,) = inspect.signature(bac_states.main).parameters.values()
    assert (argv.name, argv.default) == ("argv", None)


def test_all_is_exactly_the_public_names():
    assert sorted(bac_states.__all__) == PUBLIC_NAMES
    everything = {}
    exec("from bac_states import *", everything)
    del everything["__builtins__"]
    assert sorted(everything) == PUBLIC_NAMES


def test_all_that_is_defined_and_not_private_is_public():
    defined = {
        name
        for name, value in vars(bac_states).items()
        if getattr(value, "__module__", None) == "bac_states" and not name.startswith("_")
    }
    assert sorted(defined) == PUBLIC_NAMES


# Imported twice: the first time loads the standard library, which may touch what it likes.
IMPORT_TWICE = """
import builtins, logging, os, socket, sys, threading, warnings
import bac_states
absent = [name for name in ("argparse", "http.server") if name in sys.modules]
del sys.modules["bac_states"]
class Untouchable:
    def __getattribute__(self, name):
        raise SystemExit("touched")
def touched(*args, **options):
    raise SystemExit("touched")
os.environ = Untouchable()
os.getenv = os.open = builtins.open = builtins.print = touched
socket.socket.__init__ = socket.create_connection = socket.getaddrinfo = touched
socket.setdefaulttimeout = logging.getLogger = threading.Thread.start = touched
warnings.filterwarnings = warnings.simplefilter = touched
import bac_states
sys.stdout.write(f"{bac_states.get.__name__} {absent}")
"""


def test_importing_touches_nothing_and_loads_neither_argparse_nor_http_server():
    assert python("-c", IMPORT_TWICE, cwd=str(SOURCE.parent)) == (0, "get []", "")


# -------------------------------------------------------------------------------------- 2 Models

FIELDS = {
    StateRequest: "job_id client_id",
    StateResponse: "state server_version raw",
    JobState: "job_id state status executions version create_time update_time timeout_at",
    NodeState: "shards",
    ExecutionState: "node_id job_id shard_index compute_reference state status desired_state "
    "accepted_ask_for_bid verification_proposal verification_result published_results run_output "
    "version create_time update_time",
    VerificationResult: "complete result",
    StorageSpec: "storage_source name cid url path source_path repo read_write s3 metadata",
    S3StorageSpec: "bucket key checksum version_id endpoint region",
    RunCommandResult: "stdout stdout_truncated stderr stderr_truncated exit_code runner_error",
}
NUMBERS = "version shard_index exit_code".split()
FLAGS = "complete result read_write accepted_ask_for_bid stdout_truncated stderr_truncated".split()
RECORDS = "verification_result published_results run_output s3 metadata raw".split()
DEFAULTS = {
    **dict.fromkeys(NUMBERS, 0),
    **dict.fromkeys(FLAGS, False),
    **dict.fromkeys(RECORDS),
    "executions": (),
    "shards": {},
}
EXECUTION = ExecutionState(
    node_id="n",
    state="Completed",
    verification_result=VerificationResult(True, True),
    published_results=StorageSpec("S3", s3=S3StorageSpec("b", "k"), metadata={"a": "b"}),
    run_output=RunCommandResult("out", exit_code=3),
)
MODELS = [
    StateRequest("j", "c"),
    StateResponse(JobState(executions=(EXECUTION,)), "v1.9.3", {"state": {}}),
    JobState("j", "Completed", executions=(EXECUTION, ExecutionState(shard_index=1))),
    NodeState({0: EXECUTION}),
    EXECUTION,
    VerificationResult(True, False),
    EXECUTION.published_results,
    S3StorageSpec("b", "k"),
    RunCommandResult("out"),
]
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)


@pytest.mark.parametrize("model", FIELDS, ids=lambda model: model.__name__)
def test_a_model_has_the_promised_fields_in_order_with_their_defaults(model):
    assert " ".join(field.name for field in dataclasses.fields(model)) == FIELDS[model]
    instance = model("j") if model is StateRequest else model()
    for name in FIELDS[model].split():
        if (model, name) == (StateResponse, "state"):
            assert instance.state == JobState()
        elif name != "job_id" or model is not StateRequest:
            value, default = getattr(instance, name), DEFAULTS.get(name, "")
            assert value == default and type(value) is type(default), name


def test_a_request_needs_a_job_id():
    with pytest.raises(TypeError):
        StateRequest()


@each_model
def test_a_model_is_frozen(model):
    for field in dataclasses.fields(model):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(model, field.name, None)


@each_model
def test_a_model_equals_and_hashes_as_its_copies(model):
    for twin in (
        copy.copy(model),
        copy.deepcopy(model),
        *(pickle.loads(pickle.dumps(model, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)),
    ):
        assert type(twin) is type(model)
        assert twin == model
        assert hash(twin) == hash(model)


@each_model
def test_a_model_differs_from_one_with_another_value(model):
    name = dataclasses.fields(model)[0].name
    assert dataclasses.replace(model, **{name: None}) != model


def test_metadata_is_compared():
    assert StorageSpec(metadata={"a": "b"}) != StorageSpec(metadata={"a": "c"})
    assert StorageSpec(metadata={}) != StorageSpec()


def test_the_raw_document_is_neither_compared_nor_shown():
    assert StateResponse(raw={"secret": 1}) == StateResponse(raw=None)
    assert "secret" not in repr(StateResponse(raw={"secret": 1}))


def test_a_state_writes_itself_as_json():
    document = json.loads(json.dumps(MODELS[2], default=vars))
    assert document == json.loads(json.dumps(dataclasses.asdict(MODELS[2])))
    assert document["executions"][0]["published_results"]["s3"]["bucket"] == "b"


ENDED_JOB = "CompletedPartially Cancelled Error PartialError".split()
ACTIVE_JOB = ["", *"New InProgress Queued Undefined completed Failed SomethingNew 7".split()]
ENDED_EXECUTION = "AskForBidRejected BidRejected ResultRejected Failed Cancelled Error".split()
ACTIVE_EXECUTION = (
    "New AskForBid AskForBidAccepted BidAccepted WaitingVerification ResultAccepted Running "
    "Publishing Bidding Waiting Verifying SomethingNew 12"
).split()


@pytest.mark.parametrize("word", ["Completed", *ENDED_JOB, *ACTIVE_JOB])
def test_a_job_has_ended_by_its_word_and_well_if_completed(word):
    job = JobState(state=word)
    assert job.is_terminal is (word not in ACTIVE_JOB)
    assert job.succeeded is (word == "Completed")


@pytest.mark.parametrize("word", ["Completed", *ENDED_EXECUTION, *ACTIVE_EXECUTION, ""])
def test_an_execution_has_ended_by_its_word_and_well_if_completed(word):
    execution = ExecutionState(state=word)
    assert execution.is_terminal is (word not in [*ACTIVE_EXECUTION, ""])
    assert execution.succeeded is (word == "Completed")


def test_nodes_shows_of_each_node_and_shard_the_last_execution_listed():
    executions = (
        ExecutionState("a", shard_index=0, state="Failed"),
        ExecutionState("b", shard_index=1, state="Cancelled"),
        ExecutionState("a", shard_index=1, state="Completed"),
        ExecutionState("a", shard_index=0, state="Completed"),
    )
    nodes = JobState(executions=executions).nodes
    assert list(nodes) == ["a", "b"]
    assert type(nodes["a"]) is NodeState
    assert nodes["a"].shards == {0: executions[3], 1: executions[2]}
    assert nodes["b"].shards == {1: executions[1]}
    assert JobState().nodes == {}


# ------------------------------------------------------------------------------------ 3 Decoding
# The history of the service. Answers as servers gave them: most were recorded from the release
# that is named, those about "job-x" and "j" were written by its own code. Each is asked for on
# the route that it came from, behind the refusals of the routes that its release lacks.


class Exchange(typing.NamedTuple):
    release: str
    what_is_new: str
    route: str
    job_id: str
    body: str
    state: JobState
    chunked: bool = False

    @property
    def version(self):
        """What servers say in X-Bacalhau-Git-Version, from v1.2.1 on."""
        return self.release if self.release >= "v1.2.1" else ""

    @property
    def refusals(self):
        """What the release says of the routes that are asked first."""
        newer = GONE if self.release < "v1.7" else MISSING_V1_9
        return {REQUESTER: [], JOBS: [newer], STATES: [GO_404, GO_404]}[self.route]

    def answer(self):
        header = [f"X-Bacalhau-Git-Version: {self.version}"] if self.version else []
        return reply(self.body, 200, *header, chunked=self.chunked)


def _compact(text):
    """As sent by servers up to v1.0.3 and from v1.5.0: one line, broken here to fit."""
    return text.replace("\n", "") + "\n"


def _indented(text):
    """As sent by servers from v1.0.4 to v1.4.0."""
    return json.dumps(json.loads(_compact(text)), indent=2, ensure_ascii=False) + "\n"


HISTORY = [
    Exchange(
        "v0.2.0",
        "numbers for states, snake_case, no output yet",
        STATES,
        "job-x",
        _compact(r"""
{"state":{"nodes":{"QmNode":{"shards":{"0":{"node_id":"QmNode","shard_index":0,"state":7,
"status":"Got results proposal of length: 0","verification_proposal":"",
"verification_result":{"complete":true,"result":true},"published_results":{"engine":1,
"engine_name":"","name":"job-x","cid":"QmCid","url":"","path":"","metadata":null}}}}}}}"""),
        JobState(
            state="Completed",
            executions=(
                ExecutionState(
                    node_id="QmNode",
                    state="Completed",
                    status="Got results proposal of length: 0",
                    verification_result=VerificationResult(complete=True, result=True),
                    published_results=StorageSpec(name="job-x", cid="QmCid"),
                ),
            ),
        ),
    ),
    Exchange(
        "v0.2.4",
        "with the output; the loser's bid is 2, Cancelled",
        STATES,
        "5ead9bdc-2027-49ac-ad0e-0e4b3f751302",
        _compact(r"""
{"state":{"nodes":{"QmQCAxC4jLTvYCVpTPsMVaMfmf4CTgropmjpnTheZVwfT9":{"shards":{"0":{
"node_id":"QmQCAxC4jLTvYCVpTPsMVaMfmf4CTgropmjpnTheZVwfT9","shard_index":0,"state":7,
"status":"Got results proposal of length: 0","verification_proposal":null,
"verification_result":{"complete":true,"result":true},"published_results":{"engine":1,
"engine_name":"",
"name":"job-5ead9bdc-2027-49ac-ad0e-0e4b3f751302-shard-0-host-QmQCAxC4jLTvYCVpTPsMVaMfmf4CTgro
pmjpnTheZVwfT9","cid":"QmPDn6ug88drWg9yEmVSGuxnEAew7c9NWesvREhips7u4e","url":"","path":"",
"metadata":null},"run_output":{"stdout":"hello from docker","stdouttruncated":false,
"stderr":"a line on stderr","stderrtruncated":false,"exitCode":0,"runnerError":""}}}},
"QmT9tjqtYsRXJrwpnijx7rp2VowjRCZyK82efFThXEz8gA":{"shards":{"0":{
"node_id":"QmT9tjqtYsRXJrwpnijx7rp2VowjRCZyK82efFThXEz8gA","shard_index":0,"state":2,
"status":"","verification_proposal":null,"verification_result":{"complete":false,
"result":false},"published_results":{"engine_name":"","name":"","cid":"","url":"","path":"",
"metadata":null},"run_output":null}}}}}}"""),
        JobState(
            state="Completed",
            executions=(
                ExecutionState(
                    node_id="QmQCAxC4jLTvYCVpTPsMVaMfmf4CTgropmjpnTheZVwfT9",
                    state="Completed",
                    status="Got results proposal of length: 0",
                    verification_result=VerificationResult(complete=True, result=True),
                    published_results=StorageSpec(
                        name=(
                            "job-5ead9bdc-2027-49ac-ad0e-0e4b3f751302-shard-0-host-QmQCAxC4jL"
                            "TvYCVpTPsMVaMfmf4CTgropmjpnTheZVwfT9"
                        ),
                        cid="QmPDn6ug88drWg9yEmVSGuxnEAew7c9NWesvREhips7u4e",
                    ),
                    run_output=RunCommandResult(
                        stdout="hello from docker", stderr="a line on stderr"
                    ),
                ),
                ExecutionState(
                    node_id="QmT9tjqtYsRXJrwpnijx7rp2VowjRCZyK82efFThXEz8gA",
                    state="Cancelled",
                    verification_result=VerificationResult(),
                    published_results=StorageSpec(),
                ),
            ),
        ),
    ),
    Exchange(
        "v0.2.5",
        "CamelCase; what is empty is still sent",
        STATES,
        "job-x",
        _compact(r"""
{"state":{"Nodes":{"QmNode":{"Shards":{"0":{"NodeId":"QmNode","ShardIndex":0,"State":7,
"Status":"Got results proposal of length: 0","VerificationProposal":"","VerificationResult":{
"Complete":true,"Result":true},"PublishedResults":{"Engine":1,"Name":"job-x","Cid":"QmCid"},
"RunOutput":{"stdout":"hi\n","stdouttruncated":false,"stderr":"","stderrtruncated":false,
"exitCode":0,"runnerError":""}}}}}}}"""),
        JobState(
            state="Completed",
            executions=(
                ExecutionState(
                    node_id="QmNode",
                    state="Completed",
                    status="Got results proposal of length: 0",
                    verification_result=VerificationResult(complete=True, result=True),
                    published_results=StorageSpec(name="job-x", cid="QmCid"),
                    run_output=RunCommandResult(stdout="hi\n"),
                ),
            ),
        ),
    ),
    Exchange(
        "v0.2.6",
        "other numbers: 6 is Error now; what is empty is left out",
        STATES,
        "230481d5-dc45-48ee-83de-28af8d99dbee",
        _compact(r"""
{"state":{"Nodes":{"QmaishMDZV2aypzLifCTvvaA5eTEkorD8VE7e4dAg32MST":{"Shards":{"0":{
"NodeId":"QmaishMDZV2aypzLifCTvvaA5eTEkorD8VE7e4dAg32MST","State":6,
"Status":"[QmaishMD] shard: 230481d5-dc45-48ee-83de-28af8d99dbee:0 at state: Error error compl
eting job due to Error response from daemon: OCI runtime create failed: exec: \"no-such-comman
d\": executable file not found in $PATH: unknown","VerificationResult":{},
"PublishedResults":{},"RunOutput":{"stdout":"","stdouttruncated":false,"stderr":"",
"stderrtruncated":false,"exitCode":0,
"runnerError":"failed to start container: Error response from daemon: OCI runtime create faile
d: exec: \"no-such-command\": executable file not found in $PATH: unknown"}}}}}}}"""),
        JobState(
            state="Error",
            executions=(
                ExecutionState(
                    node_id="QmaishMDZV2aypzLifCTvvaA5eTEkorD8VE7e4dAg32MST",
                    state="Error",
                    status=(
                        "[QmaishMD] shard: 230481d5-dc45-48ee-83de-28af8d99dbee:0 at "
                        "state: Error error completing job due to Error response from "
                        'daemon: OCI runtime create failed: exec: "no-such-command": '
                        "executable file not found in $PATH: unknown"
                    ),
                    verification_result=VerificationResult(),
                    published_results=StorageSpec(),
                    run_output=RunCommandResult(
                        runner_error=(
                            "failed to start container: Error response from daemon: OCI "
                            'runtime create failed: exec: "no-such-command": executable file '
                            "not found in $PATH: unknown"
                        )
                    ),
                ),
            ),
        ),
    ),
    Exchange(
        "v0.3.14",
        "words for states",
        STATES,
        "2730454e-569d-437c-888e-e999f103520c",
        _compact(r"""
{"state":{"Nodes":{"QmPmeREqGQmi9qzs4xn1YQ6unxM3AVPhUNKBry8M3vteKr":{"Shards":{"0":{
"NodeId":"QmPmeREqGQmi9qzs4xn1YQ6unxM3AVPhUNKBry8M3vteKr","State":"Error",
"Status":"wasm error: unreachable\nwasm stack trace:\n\t.$2()","VerificationResult":{},
"PublishedResults":{}}}},"QmQpjSVoNtvtGCSn67bSTJ7ntpEHDg5MYV6xjygCWpaCms":{"Shards":{"0":{
"NodeId":"QmQpjSVoNtvtGCSn67bSTJ7ntpEHDg5MYV6xjygCWpaCms","State":"Cancelled",
"VerificationResult":{},"PublishedResults":{}}}},
"QmYcw6RvjbYJhe7ni8hc8dwPyN5TSUrETfEZrok1ZVKZTV":{"Shards":{"0":{
"NodeId":"QmYcw6RvjbYJhe7ni8hc8dwPyN5TSUrETfEZrok1ZVKZTV","State":"Cancelled",
"VerificationResult":{},"PublishedResults":{}}}}}}}"""),
        JobState(
            state="Error",
            executions=(
                ExecutionState(
                    node_id="QmPmeREqGQmi9qzs4xn1YQ6unxM3AVPhUNKBry8M3vteKr",
                    state="Error",
                    status="wasm error: unreachable\nwasm stack trace:\n\t.$2()",
                    verification_result=VerificationResult(),
                    published_results=StorageSpec(),
                ),
                ExecutionState(
                    node_id="QmQpjSVoNtvtGCSn67bSTJ7ntpEHDg5MYV6xjygCWpaCms",
                    state="Cancelled",
                    verification_result=VerificationResult(),
                    published_results=StorageSpec(),
                ),
                ExecutionState(
                    node_id="QmYcw6RvjbYJhe7ni8hc8dwPyN5TSUrETfEZrok1ZVKZTV",
                    state="Cancelled",
                    verification_result=VerificationResult(),
                    published_results=StorageSpec(),
                ),
            ),
        ),
    ),
    Exchange(
        "v0.3.17",
        "a route of its own, and ids of executions",
        REQUESTER,
        "job-x",
        _compact(r"""
{"state":{"Nodes":{"QmNode":{"Shards":{"0":{"NodeId":"QmNode","ExecutionId":"e-1",
"State":"Completed","Status":"Got results proposal of length: 0","VerificationResult":{
"Complete":true,"Result":true},"PublishedResults":{"StorageSource":"IPFS",
"Name":"job-x-shard-0-host-QmNode","CID":"QmCid"},"RunOutput":{"stdout":"hi\n",
"stdouttruncated":false,"stderr":"","stderrtruncated":false,"exitCode":0,
"runnerError":""}}}}}}}"""),
        JobState(
            state="Completed",
            executions=(
                ExecutionState(
                    node_id="QmNode",
                    compute_reference="e-1",
                    state="Completed",
                    status="Got results proposal of length: 0",
                    verification_result=VerificationResult(complete=True, result=True),
                    published_results=StorageSpec(
                        storage_source="IPFS", name="job-x-shard-0-host-QmNode", cid="QmCid"
                    ),
                    run_output=RunCommandResult(stdout="hi\n"),
                ),
            ),
        ),
    ),
    Exchange(
        "v0.3.22",
        "executions under shards, a state of the job, times",
        REQUESTER,
        "ecdbe6f5-23e9-498b-a2fc-1d467a2132f9",
        _compact(r"""
{"state":{"JobID":"ecdbe6f5-23e9-498b-a2fc-1d467a2132f9","Shards":{"0":{
"JobID":"ecdbe6f5-23e9-498b-a2fc-1d467a2132f9","ShardIndex":0,"Executions":[{
"JobID":"ecdbe6f5-23e9-498b-a2fc-1d467a2132f9","ShardIndex":0,
"NodeId":"QmVUxaSrsHLnvrTmn1HHdgH3oazGtcmgjNrSQLiGkyDQsn",
"ComputeReference":"e-cf3dc0b3-a400-41b6-90fd-2d694be01e3e","State":"Completed",
"VerificationResult":{"Complete":true,"Result":true},"PublishedResults":{
"StorageSource":"IPFS",
"Name":"job-ecdbe6f5-23e9-498b-a2fc-1d467a2132f9-shard-0-host-QmVUxaSrsHLnvrTmn1HHdgH3oazGtcmg
jNrSQLiGkyDQsn","CID":"QmTc6tDD3yyEUxyHJo8cbR3XuU1j7mik5VKg2PdLsHNY1a"},"RunOutput":{
"stdout":"about to fail\n","stdouttruncated":false,"stderr":"fatal: something went wrong\n",
"stderrtruncated":false,"exitCode":3,"runnerError":""},"Version":6,
"CreateTime":"2026-11-23T18:24:32.155672752Z","UpdateTime":"2026-11-23T18:24:31.997196616Z"}],
"State":"Completed","Version":2,"CreateTime":"2026-11-23T18:24:31.982114074Z",
"UpdateTime":"2026-11-23T18:24:32.155697308Z"}},"State":"Completed","Version":2,
"CreateTime":"2026-11-23T18:24:31.982115796Z","UpdateTime":"2026-11-23T18:24:32.155700293Z",
"TimeoutAt":"0001-01-01T00:00:00Z"}}"""),
        JobState(
            job_id="ecdbe6f5-23e9-498b-a2fc-1d467a2132f9",
            state="Completed",
            executions=(
                ExecutionState(
                    node_id="QmVUxaSrsHLnvrTmn1HHdgH3oazGtcmgjNrSQLiGkyDQsn",
                    job_id="ecdbe6f5-23e9-498b-a2fc-1d467a2132f9",
                    compute_reference="e-cf3dc0b3-a400-41b6-90fd-2d694be01e3e",
                    state="Completed",
                    verification_result=VerificationResult(complete=True, result=True),
                    published_results=StorageSpec(
                        storage_source="IPFS",
                        name=(
                            "job-ecdbe6f5-23e9-498b-a2fc-1d467a2132f9-shard-0-host-QmVUxaSrsH"
                            "LnvrTmn1HHdgH3oazGtcmgjNrSQLiGkyDQsn"
                        ),
                        cid="QmTc6tDD3yyEUxyHJo8cbR3XuU1j7mik5VKg2PdLsHNY1a",
                    ),
                    run_output=RunCommandResult(
                        stdout="about to fail\n",
                        stderr="fatal: something went wrong\n",
                        exit_code=3,
                    ),
                    version=6,
                    create_time="2026-11-23T18:24:32.155672752Z",
                    update_time="2026-11-23T18:24:31.997196616Z",
                ),
            ),
            version=2,
            create_time="2026-11-23T18:24:31.982115796Z",
            update_time="2026-11-23T18:24:32.155700293Z",
        ),
    ),
    Exchange(
        "v0.3.24",
        "a list of executions; null before there are any",
        REQUESTER,
        "j",
        _compact(r"""
{"state":{"JobID":"j","Executions":null,"State":"New","Version":1,
"CreateTime":"2023-02-22T10:11:12.123456789Z","UpdateTime":"2023-02-22T10:11:12.123456789Z",
"TimeoutAt":"0001-01-01T00:00:00Z"}}"""),
        JobState(
            job_id="j",
            state="New",
            version=1,
            create_time="2023-02-22T10:11:12.123456789Z",
            update_time="2023-02-22T10:11:12.123456789Z",
        ),
    ),
    Exchange(
        "v1.0.3",
        "AcceptedAskForBid; exit code 3 is Completed",
        REQUESTER,
        "fd305b3c-7eed-4c2f-a143-a8ee54a5f978",
        _compact(r"""
{"state":{"JobID":"fd305b3c-7eed-4c2f-a143-a8ee54a5f978","Executions":[{
"JobID":"fd305b3c-7eed-4c2f-a143-a8ee54a5f978",
"NodeId":"QmSVpNKv8dMVps5m9TUqRgwrKVTys5AGejcwwVbt7GkN6b",
"ComputeReference":"e-dfa32491-ebb9-471b-b6e1-37099fed0a50","State":"Completed",
"AcceptedAskForBid":true,"VerificationResult":{"Complete":true,"Result":true},
"PublishedResults":{"StorageSource":"IPFS",
"Name":"ipfs://QmTc6tDD3yyEUxyHJo8cbR3XuU1j7mik5VKg2PdLsHNY1a",
"CID":"QmTc6tDD3yyEUxyHJo8cbR3XuU1j7mik5VKg2PdLsHNY1a"},"RunOutput":{
"stdout":"about to fail\n","stdouttruncated":false,"stderr":"fatal: something went wrong\n",
"stderrtruncated":false,"exitCode":3,"runnerError":""},"Version":6,
"CreateTime":"2026-11-23T18:44:06.430029257Z","UpdateTime":"2026-11-23T18:44:06.400331316Z"}],
"State":"Completed","Version":5,"CreateTime":"2026-11-23T18:44:06.3843369Z",
"UpdateTime":"2026-11-23T18:44:06.430050017Z","TimeoutAt":"0001-01-01T00:00:00Z"}}"""),
        JobState(
            job_id="fd305b3c-7eed-4c2f-a143-a8ee54a5f978",
            state="Completed",
            executions=(
                ExecutionState(
                    node_id="QmSVpNKv8dMVps5m9TUqRgwrKVTys5AGejcwwVbt7GkN6b",
                    job_id="fd305b3c-7eed-4c2f-a143-a8ee54a5f978",
                    compute_reference="e-dfa32491-ebb9-471b-b6e1-37099fed0a50",
                    state="Completed",
                    accepted_ask_for_bid=True,
                    verification_result=VerificationResult(complete=True, result=True),
                    published_results=StorageSpec(
                        storage_source="IPFS",
                        name="ipfs://QmTc6tDD3yyEUxyHJo8cbR3XuU1j7mik5VKg2PdLsHNY1a",
                        cid="QmTc6tDD3yyEUxyHJo8cbR3XuU1j7mik5VKg2PdLsHNY1a",
                    ),
                    run_output=RunCommandResult(
                        stdout="about to fail\n",
                        stderr="fatal: something went wrong\n",
                        exit_code=3,
                    ),
                    version=6,
                    create_time="2026-11-23T18:44:06.430029257Z",
                    update_time="2026-11-23T18:44:06.400331316Z",
                ),
            ),
            version=5,
            create_time="2026-11-23T18:44:06.3843369Z",
            update_time="2026-11-23T18:44:06.430050017Z",
        ),
    ),
    Exchange(
        "v1.1.6",
        'indented; DesiredState is a number; ". " joins two messages',
        REQUESTER,
        "c4e925c0-0f14-40d0-a7eb-471b62baead5",
        _indented(r"""
{"state":{"JobID":"c4e925c0-0f14-40d0-a7eb-471b62baead5","Executions":[{
"JobID":"c4e925c0-0f14-40d0-a7eb-471b62baead5",
"NodeId":"Qmbs8TKW6Ee6Abc5u1YCGcK2K2URBdn1Lu9BbSWQSw1P7b",
"ComputeReference":"e-36b8bbdb-25bd-408b-a8ed-6d4eb2564be0","State":"Completed",
"Status":". execution completed","DesiredState":2,"PublishedResults":{"StorageSource":"ipfs",
"CID":"QmVy2yBZs4ebfSBFM25YjNa1iG31WEbimrLhzs2GCPLLD2"},"RunOutput":{
"stdout":"hello from wasm\n","stdouttruncated":false,"stderr":"a line on stderr\n",
"stderrtruncated":false,"exitCode":-1,"runnerError":""},"Version":6,
"CreateTime":"2026-11-23T18:36:02.152930429Z","UpdateTime":"2026-11-23T18:36:02.252890791Z"}],
"State":"Completed","Version":3,"CreateTime":"2026-11-23T18:36:02.14399034Z",
"UpdateTime":"2026-11-23T18:36:02.254279524Z","TimeoutAt":"2026-11-23T19:06:02.14399034Z"}}"""),
        JobState(
            job_id="c4e925c0-0f14-40d0-a7eb-471b62baead5",
            state="Completed",
            executions=(
                ExecutionState(
                    node_id="Qmbs8TKW6Ee6Abc5u1YCGcK2K2URBdn1Lu9BbSWQSw1P7b",
                    job_id="c4e925c0-0f14-40d0-a7eb-471b62baead5",
                    compute_reference="e-36b8bbdb-25bd-408b-a8ed-6d4eb2564be0",
                    state="Completed",
                    status="execution completed",
                    desired_state="Stopped",
                    published_results=StorageSpec(
                        storage_source="ipfs", cid="QmVy2yBZs4ebfSBFM25YjNa1iG31WEbimrLhzs2GCPLLD2"
                    ),
                    run_output=RunCommandResult(
                        stdout="hello from wasm\n", stderr="a line on stderr\n", exit_code=-1
                    ),
                    version=6,
                    create_time="2026-11-23T18:36:02.152930429Z",
                    update_time="2026-11-23T18:36:02.252890791Z",
                ),
            ),
            version=3,
            create_time="2026-11-23T18:36:02.14399034Z",
            update_time="2026-11-23T18:36:02.254279524Z",
            timeout_at="2026-11-23T19:06:02.14399034Z",
        ),
    ),
    Exchange(
        "v1.4.0",
        "the old route, for those who switch it on",
        REQUESTER,
        "j-1a6c0e5c-8e4f-47e8-83c4-0f45706eeb58",
        _indented(r"""
{"state":{"JobID":"j-1a6c0e5c-8e4f-47e8-83c4-0f45706eeb58","Executions":[{
"JobID":"j-1a6c0e5c-8e4f-47e8-83c4-0f45706eeb58",
"NodeId":"n-9a82e542-dc64-4d1d-98f3-5de55cc01c24",
"ComputeReference":"e-23cb8ccb-1c7a-4a13-a558-b630a7481b45","State":"Completed",
"Status":"Accepted job. execution completed","DesiredState":2,"PublishedResults":{
"StorageSource":"urlDownload",
"URL":"http://public:6001/e-23cb8ccb-1c7a-4a13-a558-b630a7481b45.tar.gz"},"RunOutput":{
"stdout":"hello from wasm\nline two: é€\n","stdouttruncated":false,
"stderr":"a warning on stderr\n","stderrtruncated":false,"exitCode":-1,"runnerError":""},
"Version":5,"CreateTime":"2026-11-23T18:12:08.112308143Z",
"UpdateTime":"2026-11-23T18:12:08.136104307Z"}],"State":"Completed","Version":3,
"CreateTime":"2026-11-23T18:12:08.104986448Z","UpdateTime":"2026-11-23T18:12:08.137309658Z",
"TimeoutAt":"2026-11-23T18:42:08.104986448Z"}}"""),
        JobState(
            job_id="j-1a6c0e5c-8e4f-47e8-83c4-0f45706eeb58",
            state="Completed",
            executions=(
                ExecutionState(
                    node_id="n-9a82e542-dc64-4d1d-98f3-5de55cc01c24",
                    job_id="j-1a6c0e5c-8e4f-47e8-83c4-0f45706eeb58",
                    compute_reference="e-23cb8ccb-1c7a-4a13-a558-b630a7481b45",
                    state="Completed",
                    status="Accepted job. execution completed",
                    desired_state="Stopped",
                    published_results=StorageSpec(
                        storage_source="urlDownload",
                        url="http://public:6001/e-23cb8ccb-1c7a-4a13-a558-b630a7481b45.tar.gz",
                    ),
                    run_output=RunCommandResult(
                        stdout="hello from wasm\nline two: é€\n",
                        stderr="a warning on stderr\n",
                        exit_code=-1,
                    ),
                    version=5,
                    create_time="2026-11-23T18:12:08.112308143Z",
                    update_time="2026-11-23T18:12:08.136104307Z",
                ),
            ),
            version=3,
            create_time="2026-11-23T18:12:08.104986448Z",
            update_time="2026-11-23T18:12:08.137309658Z",
            timeout_at="2026-11-23T18:42:08.104986448Z",
        ),
    ),
    Exchange(
        "v1.4.0",
        "the same job, told by the newer API",
        JOBS,
        "j-1a6c0e5c-8e4f-47e8-83c4-0f45706eeb58",
        _indented(r"""
{"Job":{"ID":"j-1a6c0e5c-8e4f-47e8-83c4-0f45706eeb58","Name":"publisher-local",
"Namespace":"default","Type":"batch","Priority":0,"Count":1,"Constraints":[],"Meta":{
"bacalhau.org/requester.id":"n-9a82e542-dc64-4d1d-98f3-5de55cc01c24"},"Labels":{},"Tasks":[{
"Name":"main","Engine":{"Type":"wasm","Params":{"EntryModule":{"Alias":"","Source":{"Params":{
"URL":"data:application/wasm;base64,AGFzbQEAAAABGgVgBH9/f38Bf2ABfwBgA39/fwBg"},
"Type":"inline"},"Target":"/main.wasm"},"Entrypoint":"_start"}},"Publisher":{"Type":"local"},
"ResultPaths":[{"Name":"outputs","Path":"/outputs"}],"Resources":{},"Network":{"Type":"None"},
"Timeouts":{"TotalTimeout":1800}}],"State":{"StateType":"Completed"},"Version":0,"Revision":3,
"CreateTime":1795457528104986448,"ModifyTime":1795457528137309658},"Executions":{
"NextToken":"","Items":[{"ID":"e-23cb8ccb-1c7a-4a13-a558-b630a7481b45","Namespace":"default",
"EvalID":"214c46da-27cc-444c-ae7f-512f467cddc7","Name":"",
"NodeID":"n-9a82e542-dc64-4d1d-98f3-5de55cc01c24",
"JobID":"j-1a6c0e5c-8e4f-47e8-83c4-0f45706eeb58","AllocatedResources":{"Tasks":{}},
"DesiredState":{"StateType":2,"Message":"execution completed"},"ComputeState":{"StateType":7,
"Message":"Accepted job"},"PublishedResult":{"Type":"urlDownload","Params":{
"URL":"http://public:6001/e-23cb8ccb-1c7a-4a13-a558-b630a7481b45.tar.gz"}},"RunOutput":{
"Stdout":"hello from wasm\nline two: é€\n","StdoutTruncated":false,
"stderr":"a warning on stderr\n","StderrTruncated":false,"ExitCode":-1,"ErrorMsg":""},
"PreviousExecution":"","NextExecution":"","FollowupEvalID":"","Revision":5,
"CreateTime":1795457528112308143,"ModifyTime":1795457528136104307}]}}"""),
        JobState(
            job_id="j-1a6c0e5c-8e4f-47e8-83c4-0f45706eeb58",
            state="Completed",
            executions=(
                ExecutionState(
                    node_id="n-9a82e542-dc64-4d1d-98f3-5de55cc01c24",
                    job_id="j-1a6c0e5c-8e4f-47e8-83c4-0f45706eeb58",
                    compute_reference="e-23cb8ccb-1c7a-4a13-a558-b630a7481b45",
                    state="Completed",
                    status="Accepted job. execution completed",
                    desired_state="Stopped",
                    published_results=StorageSpec(
                        storage_source="urlDownload",
                        url="http://public:6001/e-23cb8ccb-1c7a-4a13-a558-b630a7481b45.tar.gz",
                    ),
                    run_output=RunCommandResult(
                        stdout="hello from wasm\nline two: é€\n",
                        stderr="a warning on stderr\n",
                        exit_code=-1,
                    ),
                    version=5,
                    create_time="2026-11-23T18:12:08.112308143Z",
                    update_time="2026-11-23T18:12:08.136104307Z",
                ),
            ),
            version=3,
            create_time="2026-11-23T18:12:08.104986448Z",
            update_time="2026-11-23T18:12:08.137309658Z",
        ),
        chunked=True,
    ),
    Exchange(
        "v1.4.0",
        "an end with a reason, told by the old route",
        REQUESTER,
        "j-a1d52c31-f799-4d58-b936-c34194b6763c",
        _indented(r"""
{"state":{"JobID":"j-a1d52c31-f799-4d58-b936-c34194b6763c","Executions":[{
"JobID":"j-a1d52c31-f799-4d58-b936-c34194b6763c",
"NodeId":"n-9a82e542-dc64-4d1d-98f3-5de55cc01c24",
"ComputeReference":"e-2d590de0-ee67-40a1-845b-e5aa940e4126","State":"Failed",
"Status":"Execution timed out after 3s. execution failed","DesiredState":2,
"PublishedResults":{},"Version":5,"CreateTime":"2026-11-23T18:12:00.97174999Z",
"UpdateTime":"2026-11-23T18:12:03.985317285Z"},{
"JobID":"j-a1d52c31-f799-4d58-b936-c34194b6763c",
"NodeId":"n-9a82e542-dc64-4d1d-98f3-5de55cc01c24",
"ComputeReference":"e-9785e78a-4ecf-45c5-858b-733c93bff6b4","State":"Failed",
"Status":"Execution timed out after 3s. execution failed","DesiredState":2,
"PublishedResults":{},"Version":5,"CreateTime":"2026-11-23T18:11:57.959652598Z",
"UpdateTime":"2026-11-23T18:12:00.965859601Z"}],"State":"Error","Version":3,
"CreateTime":"2026-11-23T18:11:57.954769565Z","UpdateTime":"2026-11-23T18:12:03.986766337Z",
"TimeoutAt":"2026-11-23T18:41:57.954769565Z"}}"""),
        JobState(
            job_id="j-a1d52c31-f799-4d58-b936-c34194b6763c",
            state="Error",
            executions=(
                ExecutionState(
                    node_id="n-9a82e542-dc64-4d1d-98f3-5de55cc01c24",
                    job_id="j-a1d52c31-f799-4d58-b936-c34194b6763c",
                    compute_reference="e-2d590de0-ee67-40a1-845b-e5aa940e4126",
                    state="Failed",
                    status="Execution timed out after 3s. execution failed",
                    desired_state="Stopped",
                    published_results=StorageSpec(),
                    version=5,
                    create_time="2026-11-23T18:12:00.97174999Z",
                    update_time="2026-11-23T18:12:03.985317285Z",
                ),
                ExecutionState(
                    node_id="n-9a82e542-dc64-4d1d-98f3-5de55cc01c24",
                    job_id="j-a1d52c31-f799-4d58-b936-c34194b6763c",
                    compute_reference="e-9785e78a-4ecf-45c5-858b-733c93bff6b4",
                    state="Failed",
                    status="Execution timed out after 3s. execution failed",
                    desired_state="Stopped",
                    published_results=StorageSpec(),
                    version=5,
                    create_time="2026-11-23T18:11:57.959652598Z",
                    update_time="2026-11-23T18:12:00.965859601Z",
                ),
            ),
            version=3,
            create_time="2026-11-23T18:11:57.954769565Z",
            update_time="2026-11-23T18:12:03.986766337Z",
            timeout_at="2026-11-23T18:41:57.954769565Z",
        ),
    ),
    Exchange(
        "v1.4.0",
        "the same end, told by the newer API",
        JOBS,
        "j-a1d52c31-f799-4d58-b936-c34194b6763c",
        _indented(r"""
{"Job":{"ID":"j-a1d52c31-f799-4d58-b936-c34194b6763c","Name":"execution-timeout",
"Namespace":"default","Type":"batch","Priority":0,"Count":1,"Constraints":[],"Meta":{
"bacalhau.org/requester.id":"n-9a82e542-dc64-4d1d-98f3-5de55cc01c24"},"Labels":{},"Tasks":[{
"Name":"main","Engine":{"Type":"wasm","Params":{"EntryModule":{"Alias":"","Source":{"Params":{
"URL":"data:application/wasm;base64,AGFzbQEAAAABGgVgBH9/f38Bf2ABfwBgA39/fwBg"},
"Type":"inline"},"Target":"/main.wasm"},"Entrypoint":"_start"}},"Publisher":{"Type":""},
"Resources":{},"Network":{"Type":"None"},"Timeouts":{"ExecutionTimeout":3,
"TotalTimeout":1800}}],"State":{"StateType":"Failed",
"Message":"not enough nodes to run job. requested: 1, available: 1, suitable: 0.\n• Node n-9a8
2e542: job already executed on this node more than once"},"Version":0,"Revision":3,
"CreateTime":1795457517954769565,"ModifyTime":1795457523986766337},"Executions":{
"NextToken":"","Items":[{"ID":"e-2d590de0-ee67-40a1-845b-e5aa940e4126","Namespace":"default",
"EvalID":"32a69a7c-b851-491a-9b20-fc132ef03c01","Name":"",
"NodeID":"n-9a82e542-dc64-4d1d-98f3-5de55cc01c24",
"JobID":"j-a1d52c31-f799-4d58-b936-c34194b6763c","AllocatedResources":{"Tasks":{}},
"DesiredState":{"StateType":2,"Message":"execution failed"},"ComputeState":{"StateType":8,
"Message":"Execution timed out after 3s"},"PublishedResult":null,"RunOutput":null,
"PreviousExecution":"","NextExecution":"","FollowupEvalID":"","Revision":5,
"CreateTime":1795457520971749990,"ModifyTime":1795457523985317285},{
"ID":"e-9785e78a-4ecf-45c5-858b-733c93bff6b4","Namespace":"default",
"EvalID":"effe8e8e-4e1f-44b3-813c-57abe8a8bfb9","Name":"",
"NodeID":"n-9a82e542-dc64-4d1d-98f3-5de55cc01c24",
"JobID":"j-a1d52c31-f799-4d58-b936-c34194b6763c","AllocatedResources":{"Tasks":{}},
"DesiredState":{"StateType":2,"Message":"execution failed"},"ComputeState":{"StateType":8,
"Message":"Execution timed out after 3s"},"PublishedResult":null,"RunOutput":null,
"PreviousExecution":"","NextExecution":"","FollowupEvalID":"","Revision":5,
"CreateTime":1795457517959652598,"ModifyTime":1795457520965859601}]}}"""),
        JobState(
            job_id="j-a1d52c31-f799-4d58-b936-c34194b6763c",
            state="Error",
            status=(
                "not enough nodes to run job. requested: 1, available: 1, "
                "suitable: 0.\n• Node n-9a82e542: job already executed on this "
                "node more than once"
            ),
            executions=(
                ExecutionState(
                    node_id="n-9a82e542-dc64-4d1d-98f3-5de55cc01c24",
                    job_id="j-a1d52c31-f799-4d58-b936-c34194b6763c",
                    compute_reference="e-2d590de0-ee67-40a1-845b-e5aa940e4126",
                    state="Failed",
                    status="Execution timed out after 3s. execution failed",
                    desired_state="Stopped",
                    version=5,
                    create_time="2026-11-23T18:12:00.97174999Z",
                    update_time="2026-11-23T18:12:03.985317285Z",
                ),
                ExecutionState(
                    node_id="n-9a82e542-dc64-4d1d-98f3-5de55cc01c24",
                    job_id="j-a1d52c31-f799-4d58-b936-c34194b6763c",
                    compute_reference="e-9785e78a-4ecf-45c5-858b-733c93bff6b4",
                    state="Failed",
                    status="Execution timed out after 3s. execution failed",
                    desired_state="Stopped",
                    version=5,
                    create_time="2026-11-23T18:11:57.959652598Z",
                    update_time="2026-11-23T18:12:00.965859601Z",
                ),
            ),
            version=3,
            create_time="2026-11-23T18:11:57.954769565Z",
            update_time="2026-11-23T18:12:03.986766337Z",
        ),
        chunked=True,
    ),
    Exchange(
        "v1.5.2",
        "executions renumbered: 9 is Completed",
        JOBS,
        "j-86c83767-fae6-49f0-9c9c-3eba304004d9",
        _compact(r"""
{"Job":{"ID":"j-86c83767-fae6-49f0-9c9c-3eba304004d9","Name":"exit-code-3",
"Namespace":"default","Type":"batch","Priority":0,"Count":1,"Constraints":[],"Meta":{
"bacalhau.org/orchestrator.id":"n-33ccc330-c7f9-4558-8c4b-9b1a603151ee",
"bacalhau.org/requester.id":"n-33ccc330-c7f9-4558-8c4b-9b1a603151ee",
"bacalhau.org/server.instance.id":"0035969ec53f6e7f0fb40f08cc9ed4783aa99c2000cf1ebe4187c10dd0d
8370f"},"Labels":{},"Tasks":[{"Name":"main","Engine":{"Type":"wasm","Params":{"EntryModule":{
"Alias":"","Source":{"Params":{
"URL":"data:application/wasm;base64,AGFzbQEAAAABGgVgBH9/f38Bf2ABfwBgA39/fwBg"},
"Type":"inline"},"Target":"/main.wasm"},"Entrypoint":"_start"}},"Publisher":{"Type":""},
"Resources":{"CPU":"500m","Memory":"1gb"},"Network":{"Type":"None"},"Timeouts":{}}],"State":{
"StateType":"Completed"},"Version":0,"Revision":3,"CreateTime":1795458144771291805,
"ModifyTime":1795458144804391728},"Executions":{"NextToken":"","Items":[{
"ID":"e-899cca1f-709d-4d06-8539-5a70cdb52116","Namespace":"default",
"EvalID":"ad3d0991-a49b-4ca7-b83a-016eebe6a607","Name":"",
"NodeID":"n-33ccc330-c7f9-4558-8c4b-9b1a603151ee",
"JobID":"j-86c83767-fae6-49f0-9c9c-3eba304004d9","AllocatedResources":{"Tasks":{}},
"DesiredState":{"StateType":2,"Message":"execution completed"},"ComputeState":{"StateType":9},
"PublishedResult":{"Type":""},"RunOutput":{"Stdout":"partial output\n",
"StdoutTruncated":false,"stderr":"boom: exiting with 3\n","StderrTruncated":false,
"ExitCode":3,"ErrorMsg":""},"PreviousExecution":"","NextExecution":"","FollowupEvalID":"",
"Revision":4,"CreateTime":1795458144773272026,"ModifyTime":1795458144803811487}]}}"""),
        JobState(
            job_id="j-86c83767-fae6-49f0-9c9c-3eba304004d9",
            state="Completed",
            executions=(
                ExecutionState(
                    node_id="n-33ccc330-c7f9-4558-8c4b-9b1a603151ee",
                    job_id="j-86c83767-fae6-49f0-9c9c-3eba304004d9",
                    compute_reference="e-899cca1f-709d-4d06-8539-5a70cdb52116",
                    state="Completed",
                    status="execution completed",
                    desired_state="Stopped",
                    published_results=StorageSpec(),
                    run_output=RunCommandResult(
                        stdout="partial output\n", stderr="boom: exiting with 3\n", exit_code=3
                    ),
                    version=4,
                    create_time="2026-11-23T18:22:24.773272026Z",
                    update_time="2026-11-23T18:22:24.803811487Z",
                ),
            ),
            version=3,
            create_time="2026-11-23T18:22:24.771291805Z",
            update_time="2026-11-23T18:22:24.804391728Z",
        ),
        chunked=True,
    ),
    Exchange(
        "v1.9.3",
        "what cannot be placed fails without an execution",
        JOBS,
        "j-25c9d201-b494-4ac0-bd6d-f6544e45f179",
        _compact(r"""
{"Job":{"ID":"j-25c9d201-b494-4ac0-bd6d-f6544e45f179","Name":"unplaceable-docker",
"Namespace":"default","Type":"batch","Priority":0,"Count":1,"Constraints":[],"Meta":{
"bacalhau.org/orchestrator.id":"n-b2c7ed29-4d34-47da-8b9a-3ce51daedc11",
"bacalhau.org/requester.id":"n-b2c7ed29-4d34-47da-8b9a-3ce51daedc11",
"bacalhau.org/server.instance.id":"0035969ec53f6e7f0fb40f08cc9ed4783aa99c2000cf1ebe4187c10dd0d
8370f"},"Labels":{},"Tasks":[{"Name":"main","Engine":{"Type":"docker","Params":{"Entrypoint":[
"echo","hi"],"Image":"ubuntu:latest"}},"Publisher":{"Type":""},"Resources":{"CPU":"500m",
"Memory":"512mb"},"Network":{"Type":"Default"},"Timeouts":{}}],"State":{"StateType":"Failed",
"Message":"not enough nodes to run job. requested: 1, available: 1, suitable: 0.\n• Node n-b2c
7ed29: does not support docker, only wasm"},"Version":1,"Revision":2,
"CreateTime":1795457337776268367,"ModifyTime":1795457337785768087},"Executions":{
"NextToken":"","Items":[]}}"""),
        JobState(
            job_id="j-25c9d201-b494-4ac0-bd6d-f6544e45f179",
            state="Error",
            status=(
                "not enough nodes to run job. requested: 1, available: 1, "
                "suitable: 0.\n• Node n-b2c7ed29: does not support docker, only "
                "wasm"
            ),
            version=2,
            create_time="2026-11-23T18:08:57.776268367Z",
            update_time="2026-11-23T18:08:57.785768087Z",
        ),
    ),
    Exchange(
        "v1.9.3",
        "each execution carries a stale copy of the job",
        JOBS,
        "j-f4a67c37-e0c4-4468-91fc-545cbc4531c8",
        _compact(r"""
{"Job":{"ID":"j-f4a67c37-e0c4-4468-91fc-545cbc4531c8","Name":"publisher-local",
"Namespace":"default","Type":"batch","Priority":0,"Count":1,"Constraints":[],"Meta":{
"bacalhau.org/orchestrator.id":"n-b2c7ed29-4d34-47da-8b9a-3ce51daedc11",
"bacalhau.org/requester.id":"n-b2c7ed29-4d34-47da-8b9a-3ce51daedc11",
"bacalhau.org/server.instance.id":"0035969ec53f6e7f0fb40f08cc9ed4783aa99c2000cf1ebe4187c10dd0d
8370f"},"Labels":{},"Tasks":[{"Name":"main","Engine":{"Type":"wasm","Params":{
"EntryModule":"/main.wasm","Entrypoint":"_start"}},"Publisher":{"Type":"local"},
"InputSources":[{"Source":{"Type":"inline","Params":{
"URL":"data:application/wasm;base64,AGFzbQEAAAABGgVgBH9/f38Bf2ABfwBgA39/fwBg"}},"Alias":"",
"Target":"/main.wasm"}],"ResultPaths":[{"Name":"outputs","Path":"/outputs"}],"Resources":{
"CPU":"500m","Memory":"512mb"},"Network":{"Type":"Default"},"Timeouts":{}}],"State":{
"StateType":"Completed"},"Version":1,"Revision":3,"CreateTime":1795457374578569287,
"ModifyTime":1795457374601829390},"Executions":{"NextToken":"","Items":[{
"ID":"e-62d55e73-dbce-4063-90df-718a1b948914","Namespace":"default",
"EvalID":"49a5c17b-6870-41a0-bd00-62c927684400","Name":"",
"NodeID":"n-b2c7ed29-4d34-47da-8b9a-3ce51daedc11",
"JobID":"j-f4a67c37-e0c4-4468-91fc-545cbc4531c8","Job":{
"ID":"j-f4a67c37-e0c4-4468-91fc-545cbc4531c8","Name":"publisher-local","Namespace":"default",
"Type":"batch","Priority":0,"Count":1,"Constraints":[],"Meta":{
"bacalhau.org/orchestrator.id":"n-b2c7ed29-4d34-47da-8b9a-3ce51daedc11",
"bacalhau.org/requester.id":"n-b2c7ed29-4d34-47da-8b9a-3ce51daedc11",
"bacalhau.org/server.instance.id":"0035969ec53f6e7f0fb40f08cc9ed4783aa99c2000cf1ebe4187c10dd0d
8370f"},"Labels":{},"Tasks":[{"Name":"main","Engine":{"Type":"wasm","Params":{
"EntryModule":"/main.wasm","Entrypoint":"_start"}},"Publisher":{"Type":"local"},
"InputSources":[{"Source":{"Type":"inline","Params":{
"URL":"data:application/wasm;base64,AGFzbQEAAAABGgVgBH9/f38Bf2ABfwBgA39/fwBg"}},"Alias":"",
"Target":"/main.wasm"}],"ResultPaths":[{"Name":"outputs","Path":"/outputs"}],"Resources":{
"CPU":"500m","Memory":"512mb"},"Network":{"Type":"Default"},"Timeouts":{}}],"State":{
"StateType":"Pending"},"Version":1,"Revision":1,"CreateTime":1795457374578569287,
"ModifyTime":1795457374578569337},"JobVersion":1,"AllocatedResources":{"Tasks":{}},
"DesiredState":{"StateType":2,"Message":"execution completed"},"ComputeState":{"StateType":9,
"Message":"Running"},"PublishedResult":{"Type":"urlDownload","Params":{
"URL":"http://127.0.0.1:6001/e-62d55e73-dbce-4063-90df-718a1b948914.tar.gz"}},"RunOutput":{
"Stdout":"hello from wasm\nline two: é€\n","StdoutTruncated":false,
"stderr":"a warning on stderr\n","StderrTruncated":false,"ExitCode":-1,"ErrorMsg":""},
"PreviousExecution":"","NextExecution":"","FollowupEvalID":"","Revision":4,
"CreateTime":1795457374592385874,"ModifyTime":1795457374601262078}]}}"""),
        JobState(
            job_id="j-f4a67c37-e0c4-4468-91fc-545cbc4531c8",
            state="Completed",
            executions=(
                ExecutionState(
                    node_id="n-b2c7ed29-4d34-47da-8b9a-3ce51daedc11",
                    job_id="j-f4a67c37-e0c4-4468-91fc-545cbc4531c8",
                    compute_reference="e-62d55e73-dbce-4063-90df-718a1b948914",
                    state="Completed",
                    status="Running. execution completed",
                    desired_state="Stopped",
                    published_results=StorageSpec(
                        storage_source="urlDownload",
                        url=("http://127.0.0.1:6001/e-62d55e73-dbce-4063-90df-718a1b948914.tar.gz"),
                    ),
                    run_output=RunCommandResult(
                        stdout="hello from wasm\nline two: é€\n",
                        stderr="a warning on stderr\n",
                        exit_code=-1,
                    ),
                    version=4,
                    create_time="2026-11-23T18:09:34.592385874Z",
                    update_time="2026-11-23T18:09:34.601262078Z",
                ),
            ),
            version=3,
            create_time="2026-11-23T18:09:34.578569287Z",
            update_time="2026-11-23T18:09:34.60182939Z",
        ),
        chunked=True,
    ),
]
each_exchange = pytest.mark.parametrize(
    "exchange", HISTORY, ids=lambda exchange: f"{exchange.release}: {exchange.what_is_new}"
)


@each_exchange
def test_each_release_is_answered_with_every_value_in_its_place(serve, exchange):
    server = serve(*exchange.refusals, exchange.answer())
    response = ask(server, exchange.job_id)
    assert response == StateResponse(exchange.state, exchange.version)
    assert response.raw == json.loads(exchange.body)
    assert server.requests[-1].path.startswith(exchange.route)


@each_exchange
@pytest.mark.parametrize("form", [str.encode, str, json.loads], ids=["bytes", "str", "object"])
def test_decode_reads_bytes_text_and_parsed_objects_alike(exchange, form):
    response = bac_states.decode(form(exchange.body), server_version=exchange.version)
    assert response == StateResponse(exchange.state, exchange.version)
    assert response.raw == json.loads(exchange.body)


def _both_ways():
    told = {REQUESTER: {}, JOBS: {}}
    for exchange in HISTORY:
        if exchange.release == "v1.4.0":
            told[exchange.route][exchange.job_id] = exchange.body
    assert list(told[REQUESTER]) == list(told[JOBS]) and len(told[JOBS]) == 2
    return list(zip(told[REQUESTER].values(), told[JOBS].values()))


@pytest.mark.parametrize("legacy, newer", _both_ways(), ids=["with results", "failed"])
def test_both_routes_tell_the_same_of_the_same_job_at_the_same_moment(legacy, newer):
    """All but the job's status and timeout_at, and results that the newer one sends as null."""
    old, new = decoded(legacy, "v1.4.0"), decoded(newer, "v1.4.0")
    executions = [
        dataclasses.replace(e, published_results=e.published_results or StorageSpec())
        for e in new.executions
    ]
    assert old == dataclasses.replace(
        new, status=old.status, timeout_at=old.timeout_at, executions=tuple(executions)
    )
    assert new.timeout_at == ""


def decoded(document, version=""):
    return bac_states.decode(document, server_version=version).state


def undecoded(document, version=""):
    return error_of(DecodeError, bac_states.decode, document, server_version=version)


def listed(*executions, **members):
    """A document of the last era."""
    return {"state": {"JobID": "j", "State": "New", "Executions": list(executions), **members}}


def sharded(**shards):
    """A document of the Nodes eras, the shards of a node by their keys without the first _."""
    return {"state": {"Nodes": {"n": {"Shards": {key[1:]: s for key, s in shards.items()}}}}}


def newer(*items, **members):
    """A document of the newer API."""
    return {"Job": {"ID": "j", **members}, "Executions": {"NextToken": "", "Items": list(items)}}


@pytest.mark.parametrize(
    "nothing",
    [
        {},
        {"nodes": None},
        {"nodes": {}},
        {"Nodes": None},
        {"Nodes": {}},
        {"Nodes": {"QmNode": {}}},
        {"Nodes": {"QmNode": None}},
        {"Nodes": {"QmNode": {"Shards": None}}},
    ],
    ids=str,
)
def test_a_job_to_which_nothing_has_happened_is_new(nothing):
    assert decoded({"state": nothing}) == JobState(state="New")


@pytest.mark.parametrize("empty", [None, [], ()], ids=str)
def test_a_list_of_executions_may_be_null_empty_or_absent(empty):
    document = listed(State="Error", Version=4, Executions=empty)
    if empty == ():
        del document["state"]["Executions"]
    assert decoded(document) == JobState("j", "Error", version=4)


def test_shards_may_be_null_and_may_have_no_executions():
    for shards in (None, {}, {"0": None}, {"0": {}}, {"0": {"Executions": None}}):
        document = {"state": {"JobID": "j", "Shards": shards, "State": "InProgress"}}
        assert decoded(document) == JobState("j", "InProgress")


@pytest.mark.parametrize("name", ["node_id", "NodeId", "NodeID", "nodeid", "NODE_ID", "nOdE_iD"])
def test_names_match_ignoring_case_and_underscores(name):
    assert decoded(listed({name: "n"})).executions == (ExecutionState("n"),)


def test_the_outermost_names_match_so_as_well():
    assert decoded({"STATE": {"s_t_a_t_e": "New", "JOB_ID": "j"}}) == JobState("j", "New")
    assert decoded({"job": {"id": "j", "state": {"statetype": "Pending"}}}) == JobState("j", "New")


def test_keys_that_are_data_keep_their_spelling():
    shard = {"Shards": {"0": {"PublishedResults": {"Metadata": {"A_b": "c"}}}}}
    job = decoded({"state": {"Nodes": {"Qm_Node": shard, "qmnode": shard}}})
    assert list(job.nodes) == ["Qm_Node", "qmnode"]
    assert job.executions[0].published_results.metadata == {"A_b": "c"}


def test_unknown_members_are_ignored_whatever_they_are():
    document = listed({"Y": 1.5, "Z": {"State": 1}}, X=[{}])
    assert decoded({**document, "W": [1]}) == JobState("j", "New", executions=(ExecutionState(),))


@pytest.mark.parametrize(
    "members, word",
    [
        ('"State":"New","state":"Completed"', "Completed"),
        ('"state":"New","State":"Completed"', "Completed"),
        ('"State":"New","State":"Completed"', "Completed"),
        ('"State":"Completed","state":null', "Completed"),
    ],
)
def test_of_names_that_fold_to_one_the_last_wins_unless_it_is_null(members, word):
    assert decoded('{"state":{"JobID":"j",' + members + "}}").state == word


# Every member of every record, as the last era of the operation spells it, and the newer API.

EXECUTION_SENT = {
    "JobID": "j",
    "NodeId": "n",
    "ShardIndex": 2,
    "ComputeReference": "e-1",
    "State": "Completed",
    "Status": "done",
    "DesiredState": 2,
    "AcceptedAskForBid": True,
    "VerificationProposal": "aGk=",
    "VerificationResult": {"Complete": True, "Result": True},
    "PublishedResults": {
        "StorageSource": "S3",
        "Name": "n",
        "CID": "c",
        "URL": "u",
        "Path": "p",
        "SourcePath": "sp",
        "Repo": "r",
        "ReadWrite": True,
        "S3": {
            "Bucket": "b",
            "Key": "k",
            "Checksum": "c",
            "VersionID": "v",
            "Endpoint": "e",
            "Region": "r",
        },
        "Metadata": {"a": "b"},
    },
    "RunOutput": {
        "stdout": "o",
        "stdouttruncated": True,
        "stderr": "e",
        "stderrtruncated": True,
        "exitCode": 3,
        "runnerError": "r",
    },
    "Version": 6,
    "CreateTime": "2023-02-22T10:11:12.123456789+05:30",
    "UpdateTime": "2023-02-22T10:11:13Z",
}
FULL = {
    "state": {
        "JobID": "j",
        "Executions": [EXECUTION_SENT],
        "State": "Completed",
        "Version": 5,
        "CreateTime": "2023-02-22T10:11:12Z",
        "UpdateTime": "2023-02-22T10:11:13Z",
        "TimeoutAt": "2023-02-22T10:41:13Z",
    }
}
FULL_STATE = JobState(
    job_id="j",
    state="Completed",
    executions=(
        ExecutionState(
            node_id="n",
            job_id="j",
            shard_index=2,
            compute_reference="e-1",
            state="Completed",
            status="done",
            desired_state="Stopped",
            accepted_ask_for_bid=True,
            verification_proposal="aGk=",
            verification_result=VerificationResult(True, True),
            published_results=StorageSpec(
                *("S3", "n", "c", "u", "p", "sp", "r", True),
                s3=S3StorageSpec("b", "k", "c", "v", "e", "r"),
                metadata={"a": "b"},
            ),
            run_output=RunCommandResult("o", True, "e", True, 3, "r"),
            version=6,
            create_time="2023-02-22T10:11:12.123456789+05:30",
            update_time="2023-02-22T10:11:13Z",
        ),
    ),
    version=5,
    create_time="2023-02-22T10:11:12Z",
    update_time="2023-02-22T10:11:13Z",
    timeout_at="2023-02-22T10:41:13Z",
)
SHARDS = copy.deepcopy(FULL)
SHARDS["state"]["Shards"] = {"2": {"Executions": SHARDS["state"].pop("Executions")}}
NODES = sharded(_2={**EXECUTION_SENT, "ExecutionId": "e-1"})
NEWER = newer(
    {
        "ID": "e-1",
        "NodeID": "n",
        "JobID": "j",
        "DesiredState": {"StateType": 2, "Message": "stopped"},
        "ComputeState": {"StateType": 10, "Message": "failed"},
        "PublishedResult": {
            "Type": "s3",
            "Params": {
                "Bucket": "b",
                "Key": "k",
                "ChecksumSHA256": "c",
                "VersionID": "v",
                "Endpoint": "e",
                "Region": "r",
            },
        },
        "RunOutput": {
            "Stdout": "o",
            "StdoutTruncated": True,
            "stderr": "e",
            "StderrTruncated": True,
            "ExitCode": 3,
            "ErrorMsg": "r",
        },
        "Revision": 6,
        "CreateTime": 1677060672123456789,
        "ModifyTime": 1677060673100000000,
    },
    Name="a name",
    State={"StateType": "Failed", "Message": "why"},
    Revision=5,
    CreateTime=1677060672000000000,
    ModifyTime=1677060673000000000,
)
del NEWER["Executions"]["NextToken"]
NEWER_STATE = JobState(
    job_id="j",
    state="Error",
    status="why",
    executions=(
        ExecutionState(
            node_id="n",
            job_id="j",
            compute_reference="e-1",
            state="Failed",
            status="failed. stopped",
            desired_state="Stopped",
            published_results=StorageSpec("s3", s3=S3StorageSpec("b", "k", "c", "v", "e", "r")),
            run_output=RunCommandResult("o", True, "e", True, 3, "r"),
            version=6,
            create_time="2023-02-22T10:11:12.123456789Z",
            update_time="2023-02-22T10:11:13.1Z",
        ),
    ),
    version=5,
    create_time="2023-02-22T10:11:12Z",
    update_time="2023-02-22T10:11:13Z",
)
ERAS = {"nodes": NODES, "shards": SHARDS, "last": FULL, "newer": NEWER}


def test_every_member_of_every_record_has_its_place():
    assert decoded(FULL) == decoded(SHARDS) == FULL_STATE
    assert decoded(NODES) == JobState(state="Completed", executions=FULL_STATE.executions)
    assert decoded(NEWER, "v1.9.3") == NEWER_STATE


def test_decoding_changes_nothing_in_the_object_given():
    for document in ERAS.values():
        before = copy.deepcopy(document)
        assert bac_states.decode(document).raw == before
        assert document == before


def _members(value, path=()):
    """The path and the value of every member below a value."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key), item
        if isinstance(item, (dict, list)):
            yield from _members(item, (*path, key))


def _with(document, path, value):
    document = copy.deepcopy(document)
    target = document
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return document


def _dotted(path):
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)[1:]


def _wrong_values():
    """Every member of every record, with values of the JSON types that it is not."""
    numbers = {"nodes": ["State", "DesiredState"], "newer": ["StateType"]}
    for era, document in ERAS.items():
        for path, right in _members(document):
            kinds = {type(right)}
            if path[-1] in numbers.get(era, ["DesiredState"]) and path[0] != "Job":
                kinds = {str, int}  # a state's word or its number
            wrongs = [wrong for wrong in ("1", 1, True, 1.0, [], {}) if type(wrong) not in kinds]
            yield pytest.param(era, path, wrongs, id=f"{era}: {_dotted(path)}")


@pytest.mark.parametrize("era, path, wrongs", list(_wrong_values()))
def test_a_wrong_type_anywhere_is_an_error_that_says_where(era, path, wrongs):
    for wrong in wrongs:
        broken = _with(ERAS[era], path, wrong)
        error = undecoded(broken, "v1.9.3")
        if era == "newer":  # a shape that is folded: at least the nearest member
            *parents, nearest = error.path.split(".")
            assert _dotted(path).startswith(".".join(parents))
            assert nearest in _dotted(path).split(".")[-3:]
        else:
            assert error.path == _dotted(path)
        assert error.path in error.message
        assert undecoded(json.dumps(broken).encode(), "v1.9.3").path == error.path


@pytest.mark.parametrize("era", ERAS)
def test_a_null_anywhere_is_absent(era):
    for path, _ in _members(ERAS[era]):
        if len(path) > 1 or path == ("Executions",):
            assert isinstance(decoded(_with(ERAS[era], path, None), "v1.9.3"), JobState)


@pytest.mark.parametrize(
    "member, field, empty",
    [
        ("RunOutput", "run_output", RunCommandResult()),
        ("VerificationResult", "verification_result", VerificationResult()),
        ("PublishedResults", "published_results", StorageSpec()),
    ],
)
def test_an_absent_or_null_record_is_none_and_an_empty_one_is_not(member, field, empty):
    job = decoded(listed({}, {member: None}, {member: {}}))
    assert [getattr(e, field) for e in job.executions] == [None, None, empty]


def test_s3_absent_or_null_is_none_and_empty_is_not():
    specs = [{"PublishedResults": s3} for s3 in ({}, {"S3": None}, {"S3": {}})]
    found = [e.published_results.s3 for e in decoded(listed(*specs)).executions]
    assert found == [None, None, S3StorageSpec()]


def test_a_null_in_a_list_or_map_is_an_empty_record():
    assert decoded(listed(None, {"NodeId": "n"})).executions == (
        ExecutionState(),
        ExecutionState("n"),
    )
    assert decoded(sharded(_0=None)).executions == (ExecutionState("n"),)
    (execution,) = decoded(listed({"PublishedResults": {"Metadata": {"a": None}}})).executions
    assert execution.published_results.metadata == {"a": ""}


DEEP = 100000
NO_JSON = {
    "nothing": b"",
    "spaces": b"  \n",
    "HTML": b"<!DOCTYPE html><title>502 Bad Gateway</title>",
    "cut": b'{"state":{"State":"New"',
    "two documents": b'{"state":{}}{"state":{}}',
    "single quotes": b"{'state':{}}",
    "UTF-16": '{"state":{}}'.encode("utf-16"),
    "UTF-16 without a mark": '{"state":{}}'.encode("utf-16-le"),
    "UTF-32": '{"state":{}}'.encode("utf-32"),
    "bad UTF-8": b'{"state":{"State":"\xff"}}',
    "overlong UTF-8": b'{"state":{"State":"\xc0\x80"}}',
    "a surrogate in UTF-8": b'{"state":{"State":"\xed\xa0\x80"}}',
    "NaN": b'{"state":{"Version":NaN}}',
    "NaN where nobody reads": b'{"state":{"X":NaN}}',
    "Infinity": b'{"state":{"Version":Infinity}}',
    "-Infinity": b'{"state":{"X":[-Infinity]}}',
    "gzip": gzip.compress(b'{"state":{}}'),
    "depth 100,000 of lists": b'{"state":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "depth 100,000 of objects": b'{"state":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
}
NO_STATE = {
    "a list": b"[]",
    "a text": b'"Completed"',
    "a number": b"1",
    "null": b"null",
    "true": b"true",
    "an empty object": b"{}",
    "something else": b'{"error":"Job not found"}',
    "a state of null": b'{"state":null}',
    "a state that is a text": b'{"state":"Completed"}',
    "a state that is a list": b'{"state":[]}',
    "a job of null": b'{"Job":null}',
    "a job that is a text": b'{"Job":"j"}',
    "executions without a job": b'{"Executions":{"Items":[]}}',
}


@pytest.mark.parametrize("name", [*NO_JSON, *NO_STATE])
def test_what_is_no_document_with_a_state_is_a_decode_error(serve, name):
    body = {**NO_JSON, **NO_STATE}[name]
    assert undecoded(body).__cause__ is not None
    error = refused(serve(reply(body)), DecodeError)
    assert (error.status_code, error.url[-17:]) == (200, "/requester/states")
    assert error.url in error.message
    assert error.body == body[:8192].decode("utf-8", "replace")
    assert error.__cause__ is not None


@pytest.mark.parametrize("document", [None, 5, 1.5, [], (), {1, 2}, object], ids=str)
def test_an_object_that_is_no_document_is_a_decode_error(document):
    assert isinstance(undecoded(document), ValueError)


@pytest.mark.skipif(not hasattr(sys, "get_int_max_str_digits"), reason="int() takes all digits")
def test_a_number_that_int_refuses_is_a_decode_error():
    undecoded('{"state":{"Version":' + "1" * 5000 + "}}")


def test_a_number_beyond_all_floats_is_no_integer():
    assert undecoded('{"state":{"JobID":"j","Version":1e999}}').path == "state.Version"


def test_big_integers_keep_all_their_digits():
    assert decoded(listed(Version=2**53 + 1)).version == 2**53 + 1


def test_a_byte_order_mark_is_accepted():
    assert decoded(b"\xef\xbb\xbf" + json.dumps(FULL).encode()) == FULL_STATE


def test_a_lone_surrogate_is_kept():
    assert decoded(b'{"state":{"JobID":"j","State":"\\ud800"}}').state == "\ud800"


@pytest.mark.parametrize("count, size", [(20000, 9), (99, 100000)], ids=["many", "long"])
def test_names_that_nobody_knows_leave_nothing_behind(importing, tmp_path, count, size):
    shutil.copy(str(SOURCE), str(tmp_path / "copied_fresh.py"))
    fresh = importing("copied_fresh")
    fresh.decode(FULL)
    tracemalloc.start()
    try:
        members = {f"{i:0{size}}": "x" for i in range(count)}
        fresh.decode(listed(members, **members))
        del members
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < MIB // 4
    finally:
        tracemalloc.stop()


# Up to v0.2.7 a shard's state was a number, and v0.2.6 gave five of them another meaning. From
# then on an index of 0 is left out, by which the numberings are told apart.

FIRST_NUMBERS = ["", *"Bidding Cancelled Waiting Running Error Verifying Completed".split()]
OTHER_NUMBERS = ["", *"Bidding Waiting Running Verifying Cancelled Error Completed".split()]


@pytest.mark.parametrize("number", range(8))
def test_shard_states_are_numbered_by_what_the_release_does_with_an_index_of_0(number):
    first = decoded(sharded(_0={"shard_index": 0, "state": number}))
    other = decoded(sharded(_0={"State": number}))
    assert first.executions[0].state == FIRST_NUMBERS[number]
    assert other.executions[0].state == OTHER_NUMBERS[number]


def test_one_index_of_0_settles_the_numbering_of_the_whole_document():
    shards = {"1": {"ShardIndex": 1, "State": 2}}, {"0": {"ShardIndex": 0, "State": 2}}
    for order in (shards, shards[::-1]):
        nodes = {f"n{i}": {"Shards": shard} for i, shard in enumerate(order)}
        found = decoded({"state": {"Nodes": nodes}}).executions
        assert [e.state for e in found] == ["Cancelled", "Cancelled"]


@pytest.mark.parametrize("number", [8, 12, -1])
def test_a_shard_state_of_no_table_stays_its_digits_and_counts_as_active(number):
    job = decoded(sharded(_0={"State": number}, _1={"State": 7}))
    assert (job.executions[0].state, job.state) == (str(number), "InProgress")


def test_a_shard_has_its_index_and_its_node_from_their_keys_where_it_leaves_them_out():
    shards = {"_0": {}, "_3": {"NodeId": ""}, "_1": {"NodeId": "c", "ShardIndex": 2}}
    found = [(e.node_id, e.shard_index) for e in decoded(sharded(**shards)).executions]
    assert found == [("n", 0), ("n", 3), ("c", 2)]


@pytest.mark.parametrize("key", ["", "x", "-1", "1.0", "²", "1_0", " 1", "9" * 5000], ids=ascii)
def test_a_shard_whose_key_is_no_number_is_a_decode_error(key):
    assert undecoded(json.dumps(sharded(**{"_" + key: {}}))).path.startswith("state")


def test_an_execution_id_of_v0_3_17_is_the_compute_reference():
    assert decoded(sharded(_0={"ExecutionId": "e"})).executions[0].compute_reference == "e"


@pytest.mark.parametrize(
    "shards, job",
    [
        ([""], "New"),
        (["Bidding"], "InProgress"),
        (["Cancelled"], "New"),
        (["Bidding", "Cancelled"], "InProgress"),
        (["Waiting"], "InProgress"),
        (["Running"], "InProgress"),
        (["Verifying"], "InProgress"),
        (["SomethingNew"], "InProgress"),
        (["Completed"], "Completed"),
        (["Completed", "Cancelled", "Cancelled"], "Completed"),
        (["Completed", "Bidding"], "Completed"),
        (["Completed", ""], "Completed"),
        (["Error"], "Error"),
        (["Error", "Cancelled"], "Error"),
        (["Error", "Bidding"], "Error"),
        (["Error", "Completed"], "Error"),
        (["Completed", "Waiting"], "InProgress"),
        (["Error", "Running"], "InProgress"),
        (["Completed", "Error", "Verifying"], "InProgress"),
        (["Error", "Completed", "SomethingNew"], "InProgress"),
    ],
    ids=str,
)
def test_a_job_without_a_state_has_one_by_its_shards(shards, job):
    for order in (shards, shards[::-1]):
        document = sharded(**{f"_{i}": {"State": word} for i, word in enumerate(order)})
        assert decoded(document).state == job


@pytest.mark.parametrize(
    "sent, read",
    [
        (". ", ""),
        (". execution completed", "execution completed"),
        ("Accepted job. ", "Accepted job"),
        ("Accepted job. execution completed", "Accepted job. execution completed"),
        ("a. b. c", "a. b. c"),
    ],
)
def test_the_joint_beside_an_empty_message_is_dropped_from_a_status(sent, read):
    (execution,) = decoded(listed({"Status": sent, "DesiredState": 1})).executions
    assert (execution.status, execution.desired_state) == (read, "Running")


def test_a_desired_state_of_0_is_left_out_from_v1_0_4_on_and_unknown_before():
    assert decoded(listed({"Status": ". "})).executions[0].desired_state == "Pending"
    older = {"Status": "exit. ", "VerificationResult": {}}
    assert decoded(listed(older)).executions[0].desired_state == ""


@pytest.mark.parametrize("number, word", [(0, "Pending"), (1, "Running"), (2, "Stopped"), (3, "3")])
def test_a_desired_state_is_a_word(number, word):
    assert decoded(listed({"DesiredState": number})).executions[0].desired_state == word
    (execution,) = decoded(newer({"DesiredState": {"StateType": number}})).executions
    assert execution.desired_state == word


@pytest.mark.parametrize(
    "compute, desired, status",
    [
        ({"Message": "a"}, {"Message": "b"}, "a. b"),
        ({"Message": "a"}, {"StateType": 1}, "a"),
        ({"Message": ""}, {"Message": "b"}, "b"),
        ({"Message": None}, {"Message": ""}, ""),
    ],
    ids=str,
)
def test_the_newer_api_s_two_messages_are_joined_and_empty_ones_left_out(compute, desired, status):
    (execution,) = decoded(newer({"ComputeState": compute, "DesiredState": desired})).executions
    assert execution.status == status


@pytest.mark.parametrize(
    "sent, read",
    [
        *[("Pending", "New"), ("Running", "InProgress"), ("Failed", "Error")],
        *[("Stopped", "Cancelled"), ("Completed", "Completed"), ("Queued", "Queued")],
        *[("Undefined", "Undefined"), ("SomethingNew", "SomethingNew")],
    ],
)
def test_the_newer_api_s_job_states_become_the_operation_s_words(sent, read):
    assert decoded(newer(State={"StateType": sent})).state == read


ALIKE = "Undefined New AskForBid AskForBidAccepted AskForBidRejected BidAccepted".split()
OLD = [*ALIKE, *"BidRejected Completed Failed Cancelled 10 11 12".split()]
NEW = [*ALIKE, *"Running Publishing BidRejected Completed Failed Cancelled 12".split()]
UNKNOWN = [*ALIKE, *"6 7 8 9 Failed Cancelled 12".split()]


@pytest.mark.parametrize(
    "version, words",
    [
        *((version, OLD) for version in ("v1.0.4", "v1.4.0", "v1.5.0", "v1.5.1")),
        *((version, NEW) for version in ("v1.5.2", "v1.6.5", "v1.9.3", "v1.10.0", "v2.0.0")),
        *((version, UNKNOWN) for version in ("", "v0.0.0-xxxxxxx", "v0.0.0", "nonsense")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_numbers_of_execution_states_mean_what_they_mean_in_the_server_s_release(version, words):
    document = newer(*({"ComputeState": {"StateType": number}} for number in range(len(words))))
    assert [e.state for e in decoded(document, version).executions] == words


@pytest.mark.parametrize(
    "version, word", [("v1.4.0", "Completed"), ("v1.9.3", "Publishing"), ("", "7")]
)
def test_the_release_is_read_from_the_answer_s_header(serve, version, word):
    header = [f"X-Bacalhau-Git-Version: {version}"] if version else []
    document = newer({"ComputeState": {"StateType": 7}})
    response = ask(serve(GONE, reply(json.dumps(document), 200, *header)), "j")
    assert (response.server_version, response.state.executions[0].state) == (version, word)


@pytest.mark.parametrize("key", ["Items", "Executions"])
def test_the_newer_api_lists_executions_under_either_name(key):
    document = {"Job": {"ID": "j"}, "Executions": {"NextToken": "", key: [{"ID": "e-1"}]}}
    assert decoded(document).executions == (
        dataclasses.replace(decoded(newer({})).executions[0], compute_reference="e-1"),
    )


def test_the_newer_api_may_leave_executions_out():
    for document in ({"Job": {"ID": "j"}}, {"Job": {"ID": "j"}, "Executions": None}):
        assert decoded(document).executions == ()


@pytest.mark.parametrize(
    "kind, params, spec",
    [
        ("", {}, StorageSpec()),
        ("", None, StorageSpec()),
        ("ipfs", {"CID": "Qm"}, StorageSpec("ipfs", cid="Qm")),
        ("urlDownload", {"URL": "http://h"}, StorageSpec("urlDownload", url="http://h")),
        (
            "localDirectory",
            {"SourcePath": "/a", "ReadWrite": True},
            StorageSpec("localDirectory", source_path="/a", read_write=True),
        ),
        (
            "s3",
            {"Bucket": "b", "Key": "k", "ChecksumSHA256": "c"},
            StorageSpec("s3", s3=S3StorageSpec("b", "k", "c")),
        ),
    ],
    ids=str,
)
def test_the_newer_api_s_result_is_a_storage_spec(kind, params, spec):
    document = newer({"PublishedResult": {"Type": kind, "Params": params}})
    assert decoded(document).executions[0].published_results == spec


def test_the_newer_api_s_null_result_and_output_are_none():
    (execution,) = decoded(newer({"PublishedResult": None, "RunOutput": None})).executions
    assert (execution.published_results, execution.run_output) == (None, None)


@pytest.mark.parametrize(
    "nanoseconds, text",
    [
        (1795457478522190878, "2026-11-23T18:11:18.522190878Z"),
        (1700000000000000000, "2023-11-14T22:13:20Z"),
        (1700000000120000000, "2023-11-14T22:13:20.12Z"),
        (1700000000000000001, "2023-11-14T22:13:20.000000001Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (2**63 - 1, "2262-04-11T23:47:16.854775807Z"),
        (-(2**63), "1677-09-21T00:12:43.145224192Z"),
    ],
)
def test_nanoseconds_become_text_with_all_their_digits(nanoseconds, text):
    assert decoded(newer(CreateTime=nanoseconds)).create_time == text


@pytest.mark.parametrize("nanoseconds", [10**30, -(10**30), 10**400], ids=["+", "-", "++"])
def test_nanoseconds_beyond_all_years_are_a_decode_error(nanoseconds):
    undecoded(newer(CreateTime=nanoseconds))


@pytest.mark.parametrize(
    "sent, read",
    [
        ("0001-01-01T00:00:00Z", ""),
        ("2023-02-22T10:11:12Z", "2023-02-22T10:11:12Z"),
        ("2023-02-22T10:11:12.123456789+05:30", "2023-02-22T10:11:12.123456789+05:30"),
    ],
)
def test_times_stay_as_they_are_but_go_s_zero_is_none(sent, read):
    times = {"CreateTime": sent, "UpdateTime": sent}
    job = decoded(listed(times, **times, TimeoutAt=sent))
    (execution,) = job.executions
    assert {job.create_time, job.update_time, job.timeout_at} == {read}
    assert {execution.create_time, execution.update_time} == {read}


@pytest.mark.parametrize("job_id", ["job-2", "job", "JOB-1", "x-job-1", " job-1"])
def test_an_answer_about_another_job_is_a_decode_error(serve, job_id):
    refused(serve(state(job_id=job_id)), DecodeError, request="job-1")
    document = {"Job": {"ID": job_id, "Name": "another"}}
    refused(serve(reply(json.dumps(document))), DecodeError, request="job-1")


@pytest.mark.parametrize(
    "document",
    [
        listed(JobID="job-1"),
        listed(JobID="job-1-and-more"),
        listed(JobID=""),
        {"state": {"State": "New", "Version": 1}},
        sharded(_0={"State": "Waiting"}),
        newer(ID="j-2", Name="job-1"),
        newer(ID="job-1-and-more", Name="x"),
        newer(ID=None),
    ],
    ids=str,
)
def test_an_answer_about_the_job_by_id_short_id_or_name_is_taken(serve, document):
    assert ask(serve(reply(json.dumps(document))), "job-1").raw == document


# -------------------------------------------------------------------------------------- 4 Errors

TREE = {
    SDKError: (Exception,),
    BadRequest: (SDKError,),
    InternalServerError: (SDKError,),
    JobNotFound: (InternalServerError,),
    TransportError: (SDKError, OSError),
    TransportTimeout: (TransportError, TimeoutError),
    WaitTimeout: (SDKError, TimeoutError),
    DecodeError: (SDKError, ValueError),
}
each_error = pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)


@each_error
def test_the_tree_of_errors_is_as_documented(kind):
    assert kind.__bases__ == TREE[kind]
    assert re.search(rf"\b{kind.__name__}\b", bac_states.__doc__)


@each_error
def test_an_error_needs_its_message_only(kind):
    error = kind("what happened")
    assert str(error) == error.message == "what happened"
    more = {"path": ""} if kind is DecodeError else {}
    more = {"response": None} if kind is WaitTimeout else more
    expected = {"status_code": None, "body": "", "url": "", "retry_after": None, **more}
    assert {name: getattr(error, name) for name in expected} == expected
    with pytest.raises(TypeError):
        kind("what happened", 500)


@each_error
def test_an_error_pickles_and_copies_with_all_that_it_says(kind):
    more = {"path": "state.State"} if kind is DecodeError else {}
    more = {"response": MODELS[1]} if kind is WaitTimeout else more
    error = kind("words", status_code=500, body="b", url="http://h", retry_after=3, **more)
    for twin in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is kind
        assert (str(twin), twin.args, vars(twin)) == (str(error), error.args, vars(error))


def test_errors_survive_a_process_pool(serve):
    server = serve(reply(f"Job not found. ID: {JOB}\n", 500))
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        missing = pool.submit(bac_states.get, JOB, server_url=server.url).exception(60)
        broken = pool.submit(bac_states.decode, b'{"state":{"Executions":[1]}}').exception(60)
    assert type(missing) is JobNotFound
    assert (missing.status_code, missing.body) == (500, f"Job not found. ID: {JOB}\n")
    assert type(broken) is DecodeError
    assert broken.path == "state.Executions[0]"


# What the servers of each release really say. Up to v1.0.3 that is text, then an indented object
# of "error" and "message", and from v1.5.0 one of Status, Message, Code and Component.


class Refusal(typing.NamedTuple):
    releases: str
    route: str
    status: int
    kind: type
    body: str
    words: str


def _text(releases, route, status, kind, words):
    return Refusal(releases, route, status, kind, words + "\n", words)


def _echo(releases, route, status, kind, message, error=None):
    words = f"{message}: {error}" if error else message
    document = {"error": error or f"code={status}, message={message}", "message": message}
    return Refusal(releases, route, status, kind, json.dumps(document, indent=2) + "\n", words)


def _api(releases, route, status, kind, message, code, component, reason="", **more):
    words = f"{message}: {reason}" if reason else message
    more.update({"Details": {"reason": reason}} if reason else {})
    body = api_error(status, message, code, component, **more)
    return Refusal(releases, route, status, kind, body, words)


UUID = "0b3d3ff0-4a26-4d9e-9a0c-5d1f6f1a2b3c"
EOF = "code=400, message=unexpected EOF, internal=unexpected EOF"
JWT = (
    "var/lib/bacalhau/policy_ns_anon.rego:100: eval_builtin_error: io.jwt.decode_verify: "
    "encoded JWT had no period separators"
)
MANY = (
    "Multiple jobs found for jobID prefix: j-, matching jobIDs: [j-12a199a1-030c-4735-8e3d-"
    "67323378032c j-1a6c0e5c-8e4f-47e8-83c4-0f45706eeb58 j-2501233d-4eb6-4265-87fa-f0db7d1827a5 "
    "...]"
)
OUTDATED = (
    '{"Error":"Client version is outdated. Update your client","MinVersion":"1.4.0",'
    '"ClientVersion":"1.3.0","ServerVersion":"1.4.0"}\n'
)
NOBODY = {"reason": "Missing Authorization header", "Hint": "Unauthorized principal."}
CANNOT = {"reason": "user 'nodekey' does not have the required capability 'read:job'"}
ERROR, API, AUTH = "InternalError", "APIServer", "Authorizer"
SERVER, OTHER = InternalServerError, SDKError
REFUSALS = [
    _text("v0.2.0-v0.2.5", STATES, 500, JobNotFound, f"no job found: {UUID}"),
    _text("v0.2.6-v0.3.16", STATES, 500, JobNotFound, f"Job not found. ID: {UUID}"),
    _text("v0.3.17-v1.0.3", REQUESTER, 500, JobNotFound, f"Job not found. ID: {UUID}"),
    _echo("v1.0.4-v1.4.0", REQUESTER, 500, JobNotFound, f"Job not found. ID: {UUID}"),
    _text("a later one", REQUESTER, 500, JobNotFound, f"JOB NOT FOUND: {UUID}"),
    _echo("v1.4.0", JOBS, 500, JobNotFound, "Internal Server Error", f"Job not found. ID: {UUID}"),
    _api("v1.5.0+", JOBS, 404, JobNotFound, f"job not found: {UUID}", "NotFound", "JobStore"),
    _text("v0.2.0-v0.3.16", STATES, 400, BadRequest, "unexpected EOF"),
    _text("v0.3.17-v1.0.3", REQUESTER, 400, BadRequest, "unexpected EOF"),
    _echo("v1.0.4-v1.4.0", REQUESTER, 400, BadRequest, EOF),
    _api("v1.5.0+", JOBS, 400, BadRequest, EOF, ERROR, API),
    _echo("v1.1.4-v1.4.0", REQUESTER, 500, SERVER, MANY),
    _echo("v1.4.0", JOBS, 500, SERVER, "Internal Server Error", MANY),
    _api("v1.5.1+", JOBS, 500, SERVER, "multiple jobs found for id j-", "MultipleJobs", "JobStore"),
    _echo("v1.4.0", REQUESTER, 500, SERVER, JWT),
    _api("v1.5.0-v1.7.0", REQUESTER, 500, SERVER, JWT, ERROR, API),
    _api("v1.7.0", REQUESTER, 500, SERVER, "missing authorization header", ERROR, API),
    _api("v1.7.0", REQUESTER, 500, SERVER, "authentication failed: invalid API key", ERROR, API),
    _api("v1.8.0+", REQUESTER, 500, SERVER, "unexpected authorization error", ERROR, AUTH),
    _echo("v1.2.2-v1.4.0", REQUESTER, 401, OTHER, "Invalid token. "),
    _api("v1.5.0-v1.7.0", REQUESTER, 401, OTHER, "Invalid token. ", ERROR, API),
    _api("v1.8.0+", REQUESTER, 401, OTHER, "Request Unauthorized", "Unauthorized", AUTH, **NOBODY),
    _echo("v1.2.2-v1.4.0", REQUESTER, 403, OTHER, "Access denied. "),
    _api("v1.5.0-v1.7.0", JOBS, 403, OTHER, "Access denied. ", ERROR, API),
    _api("v1.8.0+", JOBS, 403, OTHER, "Request Forbidden", "Forbidden", AUTH, **CANNOT),
    Refusal(
        "v1.4.0+", JOBS, 403, OTHER, OUTDATED, "Client version is outdated. Update your client"
    ),
    _text("v0.2.2-v1.0.3", REQUESTER, 429, OTHER, "You have reached maximum request limit."),
    _echo("v1.0.4-v1.4.0", REQUESTER, 429, OTHER, "rate limit exceeded"),
    _echo("v1.0.4-v1.4.0", REQUESTER, 413, OTHER, "Request Entity Too Large"),
    _text("v0.2.6-v1.4.0", REQUESTER, 503, OTHER, "Server Timeout!"),
    Refusal("a proxy", REQUESTER, 502, OTHER, "", "Bad Gateway"),
]


@pytest.mark.parametrize(
    "refusal", REFUSALS, ids=lambda r: f"{r.releases} {r.status} {r.words[:40]}"
)
def test_each_release_s_words_end_in_the_right_class_and_in_the_message(serve, refusal):
    lacking = {REQUESTER: [], JOBS: [MISSING_V1_9], STATES: [GO_404, GO_404]}[refusal.route]
    server = serve(*lacking, reply(refusal.body, refusal.status))
    error = refused(server, refusal.kind, request=UUID)
    assert len(server.requests) == len(lacking) + 1
    url = server.url + server.requests[-1].path
    assert error.message.rstrip() == f"HTTP {refusal.status} from {url}: {refusal.words.rstrip()}"
    assert (error.status_code, error.body, error.url) == (refusal.status, refusal.body, url)
    assert error.retry_after is None


def test_a_404_is_a_missing_job_where_the_job_store_says_so_and_a_missing_route_elsewhere(serve):
    for colon in (":", " : "):
        server = serve(reply(f'{{"Message":"no","Component"{colon}"JobStore"}}', 404), state())
        assert refused(server, JobNotFound).status_code == 404
        assert len(server.requests) == 1
    for body in ('{"Message":"no","Component":"BoltDB"}', "job not found: JobStore", ""):
        assert ask(serve(reply(body, 404), state())).state.succeeded


NUMBERS_OF_SECONDS = {"0": 0, "1": 1, "120": 120, " 7 ": 7, "007": 7}
NO_SECONDS = ["", "-1", "+1", "1.5", "1_0", "1e3", "0x10", "soon", "\xb2", "1, 2", "1 2", "x" * 999]
DATES = ["Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 99 Foo 99999999999 99:99:99 +99999999999"]


@pytest.mark.parametrize("header", [*NUMBERS_OF_SECONDS, *NO_SECONDS, *DATES], ids=ascii)
def test_retry_after_is_whole_seconds_or_none(serve, header):
    error = refused(serve(reply("slow down", 429, f"Retry-After: {header}")))
    assert error.retry_after == NUMBERS_OF_SECONDS.get(header)


@pytest.mark.parametrize("digits", [30, 5000])
def test_retry_after_of_many_digits_raises_nothing(serve, digits):
    error = refused(serve(reply("slow down", 429, f"Retry-After: {'9' * digits}")), SDKError)
    assert error.retry_after in (None, 10**digits - 1)


@pytest.mark.parametrize("status", [400, 403, 418, 500, 503])
def test_retry_after_is_told_of_any_refusal(serve, status):
    error = refused(serve(reply("x", status, "Retry-After: 5")))
    assert (error.retry_after, error.status_code) == (5, status)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location",
    [
        *[
            "/requester/states",
            "https://example.test/a?b#c",
            "//example.test/",
            "file:///etc/passwd",
        ],
        *["ftp://example.test/", "http://[bad", "rubbish \x7f\x1b[2J"],
    ],
    ids=ascii,
)
def test_a_redirect_is_reported_with_its_location_and_never_followed(serve, status, location):
    server = serve(reply("", status, f"Location: {location}"), state())
    error = refused(server, SDKError)
    assert ascii(location)[1:-1] in error.message
    assert error.message.startswith(f"HTTP {status} from {server.url}/requester/states: ")
    assert (error.status_code, len(server.requests)) == (status, 1)


@pytest.mark.parametrize("status", [300, 301, 304, 307])
def test_a_redirect_without_a_location_is_reported_as_well(serve, status):
    server = serve(reply("", status), state())
    assert refused(server, SDKError).status_code == status
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [101, 201, 204, 206, 402, 418, 501, 505, 599, 999])
def test_any_other_status_is_the_base_class_with_its_code(serve, status):
    assert refused(serve(reply("", status)), SDKError).status_code == status


# What a server says reaches people, terminals and logs.

NASTY = (
    "\x1b[2J\x1b]0;title\x07 \r\n\t\x00\x08\x7f\x85\x9b0m \u202egpj.exe\u2066 \u200b\ufeff "
    "\u2028\u2029 \ud83d \U000e0041 root:x:0:0"
)
NASTY_BYTES = NASTY.encode("utf-8", "surrogatepass")
NASTY_LINE = "\x1b[2J\x00\x08\x7f\x85\x9b0m"


def _json(document):
    return reply(json.dumps(document))


NASTY_ANSWERS = {
    "a body": reply(NASTY_BYTES, 500),
    "a message": reply(json.dumps({"Message": NASTY}), 500),
    "a reason in details": reply(json.dumps({"Message": "m", "Details": {"reason": NASTY}}), 403),
    "megabytes of a body": reply(NASTY_BYTES * 50000, 500),
    "a body in one word": reply(b"x" * MIB, 500),
    "a message of a megabyte": reply(json.dumps({"message": "y" * MIB}), 400),
    "the reason phrase": head(status=f"503 {NASTY_LINE}"),
    "a long reason phrase": head(status="503 " + "z" * 60000),
    "a location": head(f"Location: {NASTY_LINE}", status="302 Found"),
    "a long location": head("Location: http://h/" + "l" * 60000, status="302 Found"),
    "a status line": NASTY_LINE.encode("latin-1") + head(),
    "a coding": head(f"Transfer-Encoding: {NASTY_LINE}"),
    "a length": length(NASTY_LINE),
    "a job id": _json({"state": {"JobID": NASTY, "State": "x"}}),
    "a member's name": _json({"state": {"Nodes": {NASTY: {"Shards": 1}}}}),
    "a long member's name": _json({"state": {"Nodes": {"n" * MIB: {"Shards": 1}}}}),
    "a shard's key": _json(sharded(**{"_" + NASTY: {}})),
    "no JSON": reply(NASTY_BYTES),
    "a number": _json({"state": {"Version": "1" * MIB}}),
}


@pytest.mark.parametrize("where", NASTY_ANSWERS)
def test_a_message_is_one_printable_line_of_at_most_400_characters(serve, where):
    error = refused(serve(NASTY_ANSWERS[where]))
    assert str(error) == error.message
    assert error.message.isprintable()
    assert 0 < len(error.message) <= 400
    assert len(error.body) <= 8192
    assert error.args == (error.message,)


@each_error
def test_a_message_is_made_so_by_the_error_itself(kind):
    assert str(kind("a\nb\x1b[0m\u202e")) == r"a\nb\x1b[0m\u202e"
    assert len(str(kind("x" * 10**6))) == 400


def test_a_message_says_what_happened_to_which_url_and_the_server_s_words_last(serve):
    server = serve(reply("it broke\n", 500))
    url = f"{server.url}/requester/states"
    assert refused(server).message == f"HTTP 500 from {url}: it broke"
    server = serve(b"")
    assert f"{server.url}/requester/states" in refused(server, TransportError).message
    server = serve(reply("[]"))
    assert f"{server.url}/requester/states" in refused(server, DecodeError).message


def test_a_long_id_leaves_room_for_what_happened(serve):
    error = refused(serve(GONE, reply("it broke", 500)), request="x" * 1000)
    assert error.message.startswith("HTTP 500 from http://127.0.0.1:")
    assert error.message.endswith("it broke")


def test_a_body_is_kept_up_to_8_kib_of_text(serve):
    assert refused(serve(reply("x" * 8192, 500))).body == "x" * 8192
    assert refused(serve(reply("x" * 100000, 500))).body == "x" * 8192
    assert refused(serve(reply("é" * 100000, 500))).body.startswith("é" * 4000)
    assert len(refused(serve(reply("é" * 100000, 500))).body) <= 8192
    assert refused(serve(reply("x" * 100000)), DecodeError).body == "x" * 8192
    assert refused(serve(reply(b"caf\xe9", 500))).body == "caf\ufffd"


CREDENTIALS = [
    {"Authorization": f"Bearer {SECRET}"},
    {"Authorization": "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()},
    {"authorization": SECRET},
    {"X-Api-Key": SECRET},
]
ECHOES = {
    "a body": lambda said: reply(f"you sent {said} to us", 500),
    "a message": lambda said: reply(json.dumps({"Message": f"bad: {said}"}), 401),
    "the reason phrase": lambda said: head(status=f"503 {said}"),
    "a location": lambda said: reply("", 302, f"Location: http://h/?token={said}"),
    "no JSON": reply,
    "a job id": lambda said: state(job_id=said),
    "a path": lambda said: _json({"state": {"Nodes": {said: {"Shards": 1}}}}),
    "a missing route": lambda said: reply(said, 404),
    "no HTTP": str.encode,
}


def _told(error):
    """All that an error says to whoever prints or logs it."""
    more = [*error.args, getattr(error, "path", "")]
    return "\n".join([str(error), repr(error), error.body, error.url, *map(str, more)])


@pytest.mark.parametrize("credentials", CREDENTIALS, ids=str)
@pytest.mark.parametrize("where", ECHOES)
def test_credentials_are_never_told_even_where_the_server_echoes_them(serve, credentials, where):
    ((name, value),) = credentials.items()
    encoded = value.split(" ")[-1]
    for said in (value, encoded, SECRET):
        error = refused(serve(ECHOES[where](said)), headers=credentials)
        assert not any(secret in _told(error) for secret in (value, encoded, SECRET))


def test_a_cookie_is_hidden_with_and_without_its_name(serve):
    for said in (f"session={SECRET}", SECRET):
        error = refused(serve(reply(said, 500)), headers={"Cookie": f"session={SECRET}"})
        assert SECRET not in _told(error)


@pytest.mark.parametrize("start", [*range(290, 400, 11), *range(8160, 8192, 5)])
def test_a_cut_never_saves_the_beginning_of_a_credential(serve, start):
    server = serve(reply("x" * start + SECRET + "y" * 500, 500))
    error = refused(server, headers={"Authorization": f"Bearer {SECRET}"})
    assert SECRET[:5] not in _told(error)


def test_a_chunk_s_end_never_saves_the_beginning_of_a_credential(serve):
    chunks = chunk(b"x" * 8186 + SECRET[:7].encode()) + chunk(SECRET[7:].encode()) + LAST_CHUNK
    server = serve(head("Transfer-Encoding: chunked", status="500 No") + chunks)
    error = refused(server, headers={"Authorization": f"Bearer {SECRET}"})
    assert SECRET[:5] not in _told(error)


@pytest.mark.parametrize("names", [["KEY"], ["USERNAME", "PASSWORD"]], ids=str)
def test_credentials_of_the_environment_are_never_told(serve, monkeypatch, names):
    server = serve(lambda peer: reply(f"{peer.request.headers['authorization']} {SECRET}", 401))
    monkeypatch.setenv("BACALHAU_API_HOST", server.url)
    for name in names:
        monkeypatch.setenv(f"BACALHAU_API_{name}", SECRET)
    error = error_of(SDKError, bac_states.get, JOB)
    pair = base64.b64encode(f"{SECRET}:{SECRET}".encode()).decode()
    assert SECRET not in _told(error) and pair not in _told(error)


# ------------------------------------------------------------------------------------- 5 Request


def test_the_request_is_exactly_this(serve):
    server = serve(state())
    ask(server, StateRequest(JOB, "me"))
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/requester/states")
    assert json.loads(request.body) == {"client_id": "me", "job_id": JOB}
    assert request.headers == {
        "host": f"127.0.0.1:{server.port}",
        "content-type": "application/json",
        "content-length": str(len(request.body)),
        "accept-encoding": "identity",
        "connection": "close",
        "user-agent": f"bac_states/{VERSION}",
    }
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)


def test_the_newer_route_is_asked_without_a_body(serve):
    server = serve(GONE, state())
    ask(server)
    request = server.requests[1]
    path = f"/api/v1/orchestrator/jobs/{JOB}?include=executions"
    assert (request.method, request.path, request.body) == ("GET", path, b"")
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["connection"] == "close"
    assert request.headers["user-agent"] == f"bac_states/{VERSION}"


def test_the_oldest_route_is_asked_as_the_first_is(serve):
    server = serve(GO_404, GO_404, state())
    ask(server)
    assert server.requests[2] == server.requests[0]._replace(path="/states")


def test_a_body_is_ascii_whatever_the_ids_are(serve):
    server = serve(state(job_id=""))
    ask(server, StateRequest('jöb-☃ "\\', "ü"))
    document = json.loads(server.requests[0].body.decode("ascii"))
    assert document == {"client_id": "ü", "job_id": 'jöb-☃ "\\'}


@pytest.mark.parametrize("path", ["", "/", "///", "/a", "/a/b/", "/a%20b/~c", "/a:b@c;d=e,f!"])
def test_a_path_of_the_server_s_url_goes_before_the_route(serve, path):
    server = serve(GONE, GONE, state())
    ask(server, server_url=server.url + path)
    routes = [REQUESTER, f"{JOBS}{JOB}?include=executions", STATES]
    assert [request.path for request in server.requests] == [path.rstrip("/") + r for r in routes]


# As the servers' router decodes it: only where the segment is written exactly as Go would.
ENCODED = {
    "a/b": "a%2Fb",
    "a?b": "a%3Fb",
    "a#b": "a%23b",
    "100%25": "100%2525",
    "no such job": "no%20such%20job",
    "jöb-☃": "j%C3%B6b-%E2%98%83",
    "a+b&c,d:e;f=g@h$i": "a+b&c,d:e;f=g@h$i",
    "a!b'c(d)e*f": "a%21b%27c%28d%29e%2Af",
    'a"b<c>': "a%22b%3Cc%3E",
    "../jobs": "..%2Fjobs",
    "a\\b": "a%5Cb",
    "a-b_c.d~e": "a-b_c.d~e",
    "{}{0.__class__}": "%7B%7D%7B0.__class__%7D",
    "%s%(x)s": "%25s%25%28x%29s",
    "...": "...",
}


@pytest.mark.parametrize("job_id", ENCODED)
def test_a_job_id_is_percent_encoded_as_go_does(serve, job_id):
    server = serve(GONE, state(job_id=""))
    ask(server, job_id)
    assert server.requests[1].path == f"{JOBS}{ENCODED[job_id]}?include=executions"


# Routes


def _no_capability(name):
    """As servers with users say it, v1.7.0 and later ones."""
    reason = f"user 'reader' does not have the required capability '{name}'"
    return (
        reply(api_error(500, reason, ERROR, API), 500),
        reply(
            api_error(403, "Request Forbidden", "Forbidden", AUTH, Details={"reason": reason}), 403
        ),
    )


@pytest.mark.parametrize(
    "refusals",
    [
        *[[GONE], [GO_404], [MISSING_V1_7], [MISSING_V1_9], [NOT_ALLOWED]],
        *[[refusal] for refusal in _no_capability("write:node")],
        *[[GO_404, GO_404], [NOT_ALLOWED, GONE], [GONE, NOT_ALLOWED]],
        *[[refusal, MISSING_V1_9] for refusal in _no_capability("write:node")],
    ],
    ids=lambda refusals: " ".join(str(refusal[9:12], "ascii") for refusal in refusals),
)
def test_a_missing_route_is_passed_over(serve, refusals):
    server = serve(*refusals, state())
    assert ask(server).state.succeeded
    routes = [(r.method, r.path.split(JOB)[0]) for r in server.requests]
    assert routes == [("POST", REQUESTER), ("GET", JOBS), ("POST", STATES)][: len(refusals) + 1]


@pytest.mark.parametrize("refusal", _no_capability("read:job"), ids=["v1.7", "v1.8"])
def test_without_the_capability_to_read_jobs_no_other_route_is_asked(serve, refusal):
    server = serve(GONE, refusal, state())
    assert "capability 'read:job'" in refused(server).message
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 502, 503, 504])
def test_no_other_refusal_is_asked_about_again(serve, status):
    server = serve(reply("no", status), state())
    assert refused(server).status_code == status
    assert len(server.requests) == 1


def test_where_all_routes_are_missing_one_error_names_each(serve):
    server = serve(GONE, NOT_ALLOWED, GO_404, state())
    error = refused(server, SDKError)
    assert len(server.requests) == 3
    for status, request in zip((410, 405, 404), server.requests):
        assert f"{status} from {server.url}{request.path[:30]}" in error.message
    assert (error.status_code, error.url) == (404, server.url + "/states")
    assert error.__cause__ is not None


def test_where_all_routes_are_missing_each_is_named_even_of_a_long_id(serve):
    server = serve(GONE, NOT_ALLOWED, GO_404)
    message = refused(server, SDKError, request="x" * 1000).message
    for part in ("410 from", "405 from", "404 from", REQUESTER, f"{JOBS}xx"):
        assert part in message
    assert message.endswith(f"{server.url}/states")


@pytest.mark.parametrize("label", ["text/plain; charset=utf-8", "text/html", "", "rubbish", None])
def test_the_label_of_an_answer_is_never_trusted(serve, label):
    header = [] if label is None else [f"Content-Type: {label}"]
    assert ask(serve(reply(DOCUMENTED, 200, *header))).state.succeeded


# The environment


@pytest.fixture
def connections(monkeypatch):
    """The (host, port) of each connection that is tried; all are refused."""
    tried = []

    def resolve(host, port, *args, **options):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]

    def connect(address, *args, **options):
        tried.append(address)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    return tried


@pytest.mark.parametrize(
    "environment, url",
    [
        ({}, "http://127.0.0.1:1234"),
        ({"HOST": "h.test"}, "http://h.test:1234"),
        ({"PORT": "80"}, "http://127.0.0.1:80"),
        ({"HOST": "h.test", "PORT": "8080"}, "http://h.test:8080"),
        ({"HOST": "", "PORT": ""}, "http://127.0.0.1:1234"),
        ({"HOST": "::1"}, "http://[::1]:1234"),
        ({"HOST": "[::1]", "PORT": "80"}, "http://[::1]:80"),
        ({"HOST": "10.0.0.1", "TLS_USETLS": "true"}, "https://10.0.0.1:1234"),
        ({"HOST": "h.test", "TLS_USETLS": "false"}, "http://h.test:1234"),
        ({"HOST": "h.test", "TLS_USETLS": ""}, "http://h.test:1234"),
        ({"HOST": "http://h.test"}, "http://h.test:1234"),
        ({"HOST": "https://h.test"}, "https://h.test:1234"),
        ({"HOST": "https://h.test", "PORT": "9"}, "https://h.test:9"),
        ({"HOST": "https://h.test:8"}, "https://h.test:8"),
        ({"HOST": "http://h.test:8", "PORT": "9"}, "http://h.test:8"),
        ({"HOST": "http://h.test:8", "TLS_USETLS": "true"}, "http://h.test:8"),
        ({"HOST": "http://h.test:8/path/"}, "http://h.test:8/path"),
    ],
    ids=str,
)
def test_the_environment_names_the_server(monkeypatch, connections, environment, url):
    for name, value in environment.items():
        monkeypatch.setenv(f"BACALHAU_API_{name}", value)
    assert error_of(TransportError, bac_states.get, JOB).url == f"{url}/requester/states"
    parts = urllib.parse.urlsplit(url)
    assert connections == [(parts.hostname, parts.port)]


def test_the_environment_is_read_at_call_time(monkeypatch, serve):
    for server in (serve(state()), serve(state())):
        monkeypatch.setenv("BACALHAU_API_HOST", "127.0.0.1")
        monkeypatch.setenv("BACALHAU_API_PORT", str(server.port))
        assert bac_states.get(JOB).state.succeeded
        assert len(server.requests) == 1


BAD_PORTS = ["abc", "0", "-1", "65536", "80.5", "²", "１２", "8 0", "+80", "8_0", "9" * 5000]
BAD_HOSTS = [
    *["h test", "http://", "ftp://h", "file:///etc/passwd", f"http://me:{SECRET}@h", "h\nh", "hö"],
    *[f"me:{SECRET}@h", "http://h:0", "http://h:x", f"http://h?{SECRET}", f"h#{SECRET}", "h\\h"],
]


@pytest.mark.parametrize(
    "name, value",
    [*(("PORT", port) for port in BAD_PORTS), *(("HOST", host) for host in BAD_HOSTS)],
    ids=lambda value: ascii(value)[:30],
)
def test_a_bad_server_in_the_environment_is_a_value_error(monkeypatch, connections, name, value):
    monkeypatch.setenv(f"BACALHAU_API_{name}", value)
    with pytest.raises(ValueError, match="BACALHAU_API_HOST") as caught:
        bac_states.get(JOB)
    assert type(caught.value) is ValueError
    assert SECRET not in str(caught.value)
    assert connections == []


BEARER, BASIC = "Bearer key", "Basic " + base64.b64encode("me:pass:wörd".encode()).decode()
USER = {"USERNAME": "me", "PASSWORD": "pass:wörd"}


@pytest.mark.parametrize(
    "environment, sent",
    [
        ({}, None),
        ({"KEY": "key"}, BEARER),
        (USER, BASIC),
        ({"KEY": "key", **USER}, BEARER),
        ({"KEY": "", **USER}, BASIC),
        ({"USERNAME": "me"}, None),
        ({"PASSWORD": "pass"}, None),
    ],
    ids=str,
)
def test_credentials_of_the_environment_go_to_its_server_and_to_no_other(
    monkeypatch, serve, environment, sent
):
    server = serve(GONE, state())
    monkeypatch.setenv("BACALHAU_API_HOST", server.url)
    for name, value in environment.items():
        monkeypatch.setenv(f"BACALHAU_API_{name}", value)
    bac_states.get(JOB)
    bac_states.wait(JOB)
    bac_states.get(JOB, server_url=server.url)
    bac_states.wait(JOB, server_url=server.url)
    seen = [request.headers.get("authorization") for request in server.requests]
    assert seen == [sent, sent, sent, None, None]


def test_a_key_with_a_line_break_is_a_value_error_that_does_not_tell_it(monkeypatch, connections):
    monkeypatch.setenv("BACALHAU_API_KEY", f"{SECRET}\nX-Injected: 1")
    with pytest.raises(ValueError, match="Authorization") as caught:
        bac_states.get(JOB)
    assert SECRET not in str(caught.value)
    assert connections == []


# The caller's headers


def test_the_caller_s_headers_are_added_and_left_as_they_are(monkeypatch, serve):
    server = serve(GONE, GONE, state())
    monkeypatch.setenv("BACALHAU_API_HOST", server.url)
    monkeypatch.setenv("BACALHAU_API_KEY", "key")
    headers = {"X-Trace": "a b\tc", "authorization": "Bearer mine", "X-Empty": "", "X-Latin": "é"}
    before = dict(headers)
    bac_states.get(JOB, headers=headers)
    assert headers == before
    for request in server.requests:
        assert request.headers["x-trace"] == "a b\tc"
        assert request.headers["authorization"] == "Bearer mine"
        assert request.headers["x-empty"] == ""


OURS = {
    "Content-Type": "text/xml",
    "User-Agent": "theirs",
    "Content-Length": "1",
    "Transfer-Encoding": "chunked",
    "Accept-Encoding": "gzip",
    "Connection": "keep-alive",
    "Expect": "100-continue",
    "Upgrade": "h2c",
    "TE": "trailers",
    "Trailer": "X",
}


@pytest.mark.parametrize("spelling", [str, str.lower, str.upper], ids=["Usual", "lower", "UPPER"])
def test_content_type_user_agent_and_framing_stay_ours(serve, spelling):
    theirs = {spelling(name): value for name, value in OURS.items()}
    server = serve(GONE, GONE, state(), GONE, GONE, state())
    ask(server)
    ask(server, headers=theirs)
    assert server.requests[3:] == server.requests[:3]


# Bad arguments

BAD_URLS = [
    *["", " ", "h", "h:1234", "//h", "http:", "http:/h", "http://", "http:///path", "http://:80"],
    *["ftp://h", "file:///etc/passwd", "javascript:alert(1)", "http+unix://h", "httpss://h"],
    *[f"http://me:{SECRET}@h", f"http://{SECRET}@h", f"http://h?token={SECRET}", "http://h/?"],
    *[f"http://h#{SECRET}", "http://h/#", f"http://h/{SECRET} path", " http://h", "http://h "],
    *[f"http://h\\{SECRET}", "http://h/a\\b", "http://h:0", "http://h:65536", "http://h:-1"],
    *["http://h:+80", "http://h:8_0", "http://h:abc", "http://h:１２", "http://h:" + "9" * 5000],
    *["http://hö", "http://h/é", "http://h/\x00", "http://h/\x7f", "http://h\n", "http://h\tt"],
    *["http://h/\r\nX-Injected: 1", "http://h..h", "http://.h", "http://[::1", "http://::1"],
    *["http://[zz]", "http://" + "h" * 5000, "http://h%2e"],
]


@pytest.mark.parametrize("url", BAD_URLS, ids=lambda url: ascii(url)[:40])
def test_an_unusable_url_is_a_value_error_that_does_not_repeat_it(connections, url):
    for function in (bac_states.get, bac_states.wait):
        with pytest.raises(ValueError, match="server_url") as caught:
            function(JOB, server_url=url)
        assert type(caught.value) is ValueError
        assert SECRET not in str(caught.value)
        assert len(url) < 12 or url not in str(caught.value)
    assert connections == []


GOOD_URLS = [
    *["http://h", "HTTP://H", "https://a-b.c_d.test:443/", "http://127.0.0.1:65535", "http://h:1"],
    *["http://[::1]", "http://[::1]:80/a", "http://xn--h-fga.test", "http://h./", "http://h/a@b"],
]


@pytest.mark.parametrize("url", GOOD_URLS)
def test_a_usable_url_is_asked(connections, url):
    error_of(TransportError, bac_states.get, JOB, server_url=url)
    assert len(connections) == 1


NAN, INFINITY = float("nan"), float("inf")
BAD_VALUES = {
    "request": [
        *["", ".", "..", "x" * 1001, "a\nb", "a\x00", "\x7f", "\ud800", "\u202e", "\t"],
        *[StateRequest(""), StateRequest("x" * 1001), StateRequest("j", "c" * 1001)],
    ],
    "timeout": [0, 0.0, -1, -0.5, NAN, INFINITY, -INFINITY],
    "headers": [
        *[{"A": value} for value in ("b\nc", "b\r\nX: y", "b\r", "b\x00", "\n", "☃")],
        *[{name: "c"} for name in ("A\nB", "A:", "A B", "", "Ä")],
    ],
}
BAD_TYPES = {
    "request": [
        *[None, 5, b"j", ["j"], {"job_id": "j"}, StateRequest(5), StateRequest(None)],
        *[StateRequest("j", None), StateRequest("j", 5)],
    ],
    "timeout": ["5", None, [5], b"5", 1j],
    "server_url": [5, b"http://h", ["http://h"]],
    "headers": [{"A": 5}, {"A": None}, {"A": b"b"}, {5: "b"}, {b"A": "b"}, 5, ["A", "b"]],
    "ssl_context": ["x", True],
}
BAD_ARGUMENTS = [
    (kind, name, value)
    for kind, arguments in ((ValueError, BAD_VALUES), (TypeError, BAD_TYPES))
    for name, values in arguments.items()
    for value in values
]


@pytest.mark.parametrize(
    "kind, name, value",
    BAD_ARGUMENTS,
    ids=lambda value: getattr(value, "__name__", ascii(value)[:40]),
)
def test_a_bad_argument_is_told_before_any_connection(connections, kind, name, value):
    for function in (bac_states.get, bac_states.wait):
        with pytest.raises(kind, match=".") as caught:
            function(**{"request": JOB, "server_url": "http://h.test", name: value})
        assert type(caught.value) is kind
    assert connections == []


@pytest.mark.parametrize("limit", [0, -1, NAN, INFINITY, "5", [5], 1j])
def test_a_bad_limit_is_told_before_any_connection(connections, limit):
    kind = ValueError if isinstance(limit, (int, float)) else TypeError
    with pytest.raises(kind, match=".") as caught:
        bac_states.wait(JOB, limit=limit, server_url="http://h.test")
    assert type(caught.value) is kind
    assert connections == []


def test_a_bad_header_s_value_is_not_told(connections):
    with pytest.raises(ValueError, match="Authorization") as caught:
        bac_states.get(JOB, server_url="http://h", headers={"Authorization": f"{SECRET}\n"})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("seconds", [1, 1.5, 10**9, 1e300, 10**400], ids=lambda s: str(s)[:9])
def test_any_finite_number_above_0_is_a_timeout(serve, seconds):
    assert ask(serve(state()), timeout=seconds).state.succeeded


@pytest.mark.parametrize("job_id", ["x", "x" * 1000, "...", "a b", "☃", "a/b", "'\"<>&"], ids=ascii)
def test_a_job_id_of_1_to_1000_printable_characters_is_asked_for(serve, job_id):
    server = serve(state(job_id=job_id))
    assert ask(server, StateRequest(job_id, "c" * 1000)).state.job_id == job_id
    assert json.loads(server.requests[0].body) == {"client_id": "c" * 1000, "job_id": job_id}


# Proxies

DEAD = "http://127.0.0.1:1"  # a port that nobody listens on


def test_a_proxy_of_the_environment_is_used(monkeypatch, serve):
    proxy = serve(state())
    monkeypatch.setenv("http_proxy", proxy.url)
    assert bac_states.get(JOB, server_url="http://h.test:8/a").state.succeeded
    (request,) = proxy.requests
    assert (request.method, request.path) == ("POST", "http://h.test:8/a/requester/states")
    assert request.headers["host"] == "h.test:8"
    assert request.headers["connection"] == "close"


def test_a_proxy_is_bypassed_where_no_proxy_says_so(monkeypatch, serve):
    monkeypatch.setenv("http_proxy", DEAD)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert ask(serve(state())).state.succeeded


def test_https_goes_through_a_proxy_by_connect(monkeypatch, serve, tls):
    proxy = serve(tls.tunnel(state()))
    monkeypatch.setenv("https_proxy", proxy.url)
    options = {"ssl_context": tls.client, "headers": {"Authorization": f"Bearer {SECRET}"}}
    assert bac_states.get(JOB, server_url="https://127.0.0.1:8", **options).state.succeeded
    (connect,) = proxy.requests
    assert (connect.method, connect.path) == ("CONNECT", "127.0.0.1:8")
    assert SECRET not in str(connect.headers)


UNUSABLE_PROXIES = [
    *[DEAD, "socks5://127.0.0.1:1", "ftp://127.0.0.1:1", "file:///etc/passwd", "://", "nonsense"],
    *["http://127.0.0.1:port", "http://127.0.0.1:65536", "http://[::1", "http://", "http://a b"],
    *["http://ö.test:1", "http://..:1"],
]


@pytest.mark.parametrize("proxy", UNUSABLE_PROXIES)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_dead_or_unusable_proxy_is_a_transport_error(monkeypatch, scheme, proxy):
    monkeypatch.setenv(f"{scheme}_proxy", proxy)
    with in_time(), pytest.raises(TransportError):
        bac_states.get(JOB, server_url=f"{scheme}://127.0.0.1:8", timeout=2)


def test_a_proxy_of_an_unknown_kind_is_not_spoken_to(monkeypatch, serve):
    for kind in ("socks5", "socks4a", "ftp", "quic"):
        proxy = serve(state())
        monkeypatch.setenv("http_proxy", f"{kind}://127.0.0.1:{proxy.port}")
        error_of(TransportError, bac_states.get, JOB, server_url="http://h.test")
        assert proxy.requests == []


PROXIES_WITH_A_PASSWORD = [
    *[f"http://me:{SECRET}@127.0.0.1:{port}" for port in ("1", "x", "65536", "")],
    *[f"http://me:{SECRET}/x@127.0.0.1:1", f"http://me:{SECRET}#x@127.0.0.1:1"],
    *[
        f"http://me:{SECRET}",
        f"me:{SECRET}",
        f"http://{SECRET}@127.0.0.1:1",
        f"socks5://me:{SECRET}@h",
    ],
]


@pytest.mark.parametrize("proxy", PROXIES_WITH_A_PASSWORD)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_s_password_is_in_no_traceback(monkeypatch, scheme, proxy):
    monkeypatch.setenv(f"{scheme}_proxy", proxy)
    with pytest.raises(TransportError) as caught:
        bac_states.get(JOB, server_url=f"{scheme}://127.0.0.1:8", timeout=2)
    error = caught.value
    assert SECRET not in _told(error)
    assert SECRET not in "".join(traceback.format_exception(type(error), error, None))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_credentials_of_a_proxy_are_sent_to_it_and_never_told(monkeypatch, serve, scheme):
    pair, quoted = base64.b64encode(f"me:{SECRET}".encode()).decode(), SECRET.replace("-", "%2D")
    proxy = serve(head(f"X: {SECRET}", status=f"407 {pair} {SECRET}") + f"{pair} {SECRET}".encode())
    monkeypatch.setenv(f"{scheme}_proxy", f"http://me:{quoted}@127.0.0.1:{proxy.port}")
    error = error_of(None, bac_states.get, JOB, server_url=f"{scheme}://127.0.0.1:8")
    assert proxy.requests[0].headers["proxy-authorization"] == f"Basic {pair}"
    assert SECRET not in _told(error) and pair not in _told(error)


@pytest.mark.parametrize(
    "answer",
    [reply("no", 403), reply("", 302, "Location: http://h"), b"rubbish\r\n\r\n", b"", reset()],
    ids=["403", "302", "rubbish", "nothing", "reset"],
)
def test_a_proxy_that_does_not_connect_is_a_transport_error(monkeypatch, serve, answer):
    proxy = serve(answer)
    monkeypatch.setenv("https_proxy", proxy.url)
    error_of(TransportError, bac_states.get, JOB, server_url="https://127.0.0.1:8")
    assert len(proxy.requests) == 1


# TLS. The key guards nothing: its certificates are for 127.0.0.1 alone, one of them valid from
# 2020 to 2120, the other in the year 2000.

KEY = """-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgfDHFhYagYdjyngov
oPOg6Xs0OgBgMqogPs9zouqfJ1ehRANCAAQeoZ/bb1/frR7gx01faIX+hu9V0O9i
VXIY3tHymkdyYlT9peFKDP1bng19xNQ9sjCObsTCVfICGBAGVdI08MV5
-----END PRIVATE KEY-----
"""
CERTIFICATE = """-----BEGIN CERTIFICATE-----
MIIBjDCCATGgAwIBAgIBATAKBggqhkjOPQQDAjATMREwDwYDVQQDDAhsb29wYmFj
azAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMFowEzERMA8GA1UEAwwI
bG9vcGJhY2swWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQeoZ/bb1/frR7gx01f
aIX+hu9V0O9iVXIY3tHymkdyYlT9peFKDP1bng19xNQ9sjCObsTCVfICGBAGVdI0
8MV5o3QwcjAPBgNVHRMBAf8EBTADAQH/MA4GA1UdDwEB/wQEAwIChDAdBgNVHQ4E
FgQUHUa+a0ASxVyJEpiQYcgVXpEzZoIwHwYDVR0jBBgwFoAUHUa+a0ASxVyJEpiQ
YcgVXpEzZoIwDwYDVR0RBAgwBocEfwAAATAKBggqhkjOPQQDAgNJADBGAiEA8ksI
7m9ZG8eTA+fdFFQN/NjiwNv83axctcaH4+Y4gGACIQCvrYC6DqP637JE70AgMl0/
nMPX2aPPOcLr1liLMywJrw==
-----END CERTIFICATE-----
"""
EXPIRED = """-----BEGIN CERTIFICATE-----
MIIBiTCCAS+gAwIBAgIBATAKBggqhkjOPQQDAjATMREwDwYDVQQDDAhsb29wYmFj
azAeFw0wMDAxMDEwMDAwMDBaFw0wMTAxMDEwMDAwMDBaMBMxETAPBgNVBAMMCGxv
b3BiYWNrMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEHqGf229f360e4MdNX2iF
/obvVdDvYlVyGN7R8ppHcmJU/aXhSgz9W54NfcTUPbIwjm7EwlXyAhgQBlXSNPDF
eaN0MHIwDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAoQwHQYDVR0OBBYE
FB1GvmtAEsVciRKYkGHIFV6RM2aCMB8GA1UdIwQYMBaAFB1GvmtAEsVciRKYkGHI
FV6RM2aCMA8GA1UdEQQIMAaHBH8AAAEwCgYIKoZIzj0EAwIDSAAwRQIhAJEL4ufo
LwfgJI5gfP/uVzPZGAUI6TuGS+ZSpMFyW2NSAiBzan50TFbfaphT98dPnsIrem2e
5J4aYZuVE3z+ns+CoA==
-----END CERTIFICATE-----
"""


class Tls:
    """The two ends of TLS with a certificate that nobody signed but itself."""

    def __init__(self, certificate, path):
        path.write_text(KEY + certificate)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(str(path))
        self.client = ssl.create_default_context(cadata=certificate)

    def tunnel(self, answer):
        """A proxy's answer to CONNECT, and then that of the server behind it."""

        def connected(peer):
            peer.send(head(status="200 Connection established"))
            peer.secure(self.server)
            if peer.read_request():
                peer.say(answer)

        return connected


@pytest.fixture
def tls(tmp_path):
    return Tls(CERTIFICATE, tmp_path / "tls.pem")


def test_a_certificate_that_nobody_vouches_for_is_refused(serve, tls):
    server = serve(state(), tls=tls.server)
    assert "certificate verify failed" in refused(server, TransportError).message
    assert server.requests == []


def test_the_caller_s_context_says_what_is_trusted(serve, tls):
    anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anything.check_hostname = False
    anything.verify_mode = ssl.CERT_NONE
    for context in (tls.client, anything):
        assert ask(serve(state(), tls=tls.server), ssl_context=context).state.succeeded


def test_an_expired_certificate_is_refused(serve, tmp_path):
    expired = Tls(EXPIRED, tmp_path / "expired.pem")
    server = serve(state(), tls=expired.server)
    assert "expired" in refused(server, TransportError, ssl_context=expired.client).message


def test_a_certificate_for_another_host_is_refused(monkeypatch, serve, tls):
    server = serve(state(), tls=tls.server)
    monkeypatch.setattr(socket, "getaddrinfo", _resolving_to(server.port))
    url = "https://other.test"
    error = refused(server, TransportError, server_url=url, ssl_context=tls.client)
    assert "other.test" in error.message
    assert server.requests == []


@pytest.mark.parametrize(
    "answer", [state(), b"", b"\x16\x03\x03\x40\x00"], ids=["HTTP", "nothing", "cut"]
)
def test_a_server_that_speaks_no_tls_is_a_transport_error(serve, answer):
    server = serve(answer, greets=True)
    refused(server, TransportError, server_url=server.url.replace("http:", "https:"))


def _resolving_to(*ports):
    """A getaddrinfo by which every name has these ports of 127.0.0.1 as its addresses."""

    def getaddrinfo(host, port, *args, **options):
        found = [port] if host == "127.0.0.1" else ports
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("127.0.0.1", port)) for port in found]

    return getaddrinfo


# A hostile network. What a peer may send or leave out, and what it comes to.

BODY = json.dumps({"state": {"JobID": JOB, "State": "Completed"}}).encode()
FAULTS = {
    "closed without a word": b"",
    "reset without a word": reset(),
    "reset in the head": reset(b"HTTP/1.1 200 OK\r\nX: y\r\n"),
    "reset in the body": reset(length(100) + BODY[:9]),
    "cut in the status line": b"HTTP/1.1 20",
    "an empty line": b"\r\n\r\n",
    "words": b"hello\r\n\r\n",
    "HTTP/0.9": BODY,
    "HTML": b"<html></html>",
    "another HTTP": b"HTTP/2 200 OK\r\n\r\n" + BODY,
    "no HTTP": b"ICY 200 OK\r\n\r\n" + BODY,
    "an SSH server": b"SSH-2.0-OpenSSH_9.6\r\n",
    "an SMTP server": b"220 mail.test ESMTP\r\n",
    "an IMAP server": b"* OK IMAP4rev1 ready\r\n",
    "a TLS server": b"\x15\x03\x01\x00\x02\x02\x46",
    "zeros": b"\0" * 1000,
    "a status line without an end": b"HTTP/1.1 200 " + b"x" * 200000,
    "a header flood": head(*(f"X-{i}: y" for i in range(1000))) + BODY,
    "a header of 64 KiB": head("X: " + "y" * 65536) + BODY,
    "a header of a megabyte": head("X: " + "y" * MIB) + BODY,
    "a header's name of 64 KiB": head("x" * 65536 + ": y") + BODY,
    "a header without a colon": head("X: y", "no colon here", "Content-Length: 3") + BODY,
    "a header without a colon first": head("no colon here", f"Content-Length: {len(BODY)}") + BODY,
    "a header without a colon, then a coding": head("x", "Transfer-Encoding: chunked") + BODY,
    "two lengths": head("Content-Length: 3", f"Content-Length: {len(BODY)}") + BODY,
    "a length and a bad one": head(f"Content-Length: {len(BODY)}", "Content-Length: x") + BODY,
    "chunked twice": head(*["Transfer-Encoding: chunked"] * 2) + chunk(BODY) + LAST_CHUNK,
    "cut short": length(len(BODY) + 1) + BODY[:-5],
    "cut short where it is valid JSON": length(len(BODY) + 1) + BODY,
    "cut short to nothing": length(2),
    "100 Continue and nothing more": head(status="100 Continue"),
    "a chunk without a size": CHUNKED + b"\r\n" + BODY + LAST_CHUNK,
    "a chunk with less than its size": CHUNKED + chunk(BODY, b"%x" % (len(BODY) + 9)) + LAST_CHUNK,
    "a chunk with more than its size": CHUNKED + chunk(BODY, b"%x" % (len(BODY) - 9)) + LAST_CHUNK,
    "no last chunk": CHUNKED + chunk(BODY),
    "half a last chunk": CHUNKED + chunk(BODY) + b"0",
    "no chunk at all": CHUNKED,
    "cut in a chunk": CHUNKED + chunk(BODY)[:20],
    "cut in a chunk's size": CHUNKED + chunk(BODY) + b"1",
}
BAD_CODES = [*"abc -200 +abc 200.0 2 20 99 1000 0".split(), "", "2" * 100]
BAD_LENGTHS = [
    *["-1", f"-{len(BODY)}", "abc", f"+{len(BODY)}", "1_0", "1e3", "0x10", "1.0", "²", "1 2"],
    *[f"{len(BODY)}, {len(BODY) + 1}", "9" * 30, "9" * 5000, str(10**13)],
]
BAD_CODINGS = [
    *["gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked", "identity", "xchunked", "x"],
]
BAD_SIZES = ["zz", "-1", f"+{len(BODY):x}", f"_{len(BODY):x}", f"0x{len(BODY):x}", "f" * 16, "²"]
FAULTS.update(
    **{f"code {c[:9]!r}": head(status=f"{c} OK") + BODY for c in BAD_CODES},
    **{f"length {n[:20]}": length(n) + BODY for n in BAD_LENGTHS},
    **{
        f"coding {coding}": head(f"Transfer-Encoding: {coding}") + chunk(BODY) + LAST_CHUNK
        for coding in BAD_CODINGS
    },
    **{
        f"content coding {coding}": head(f"Content-Encoding: {coding}") + gzip.compress(BODY)
        for coding in ("gzip", "deflate", "br", "gzip, identity", "x")
    },
    **{
        f"chunk size {size[:9]}": CHUNKED + chunk(BODY, size.encode("latin-1")) + LAST_CHUNK
        for size in [*BAD_SIZES, "f" * 1000, "0" * MIB]
    },
)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_complete_answer_is_a_transport_error(serve, fault):
    with in_time():
        error = refused(serve(FAULTS[fault]), TransportError)
    assert error.status_code is None
    assert error.__cause__ is not None
    assert error.url.endswith("/requester/states")
    assert error.url in error.message


@pytest.mark.parametrize(
    "answer",
    [
        length(len(BODY)) + BODY,
        length(len(BODY)) + BODY + b"what comes after is not read",
        length(f"{len(BODY)} ") + BODY,
        length(f"000{len(BODY)}") + BODY,
        head(*[f"Content-Length: {len(BODY)}"] * 2) + BODY,
        head() + BODY,
        head("Content-Encoding: identity") + BODY,
        head(status="100 Continue") + length(len(BODY)) + BODY,
        head(status="102 Processing") + head("L: x", status="103 Hints") + length(len(BODY)) + BODY,
        head().replace(b"/1.1", b"/1.0") + BODY,
        head().replace(b" OK", b"") + BODY,
        head(f"Content-Length: {len(BODY)}").replace(b"\r", b"") + BODY,
        CHUNKED + chunk(BODY) + LAST_CHUNK,
        CHUNKED + b"".join(chunk(bytes([byte])) for byte in BODY) + LAST_CHUNK,
        CHUNKED + chunk(BODY, b"000%X" % len(BODY)) + LAST_CHUNK,
        CHUNKED + chunk(BODY, b"%x;name=value" % len(BODY)) + LAST_CHUNK,
        CHUNKED + chunk(BODY, b"%x ; name" % len(BODY)) + LAST_CHUNK,
        CHUNKED + chunk(BODY + b" " * 99999) + b"0\r\nTrailer: x\r\n\r\n",
        CHUNKED.replace(b"chunked", b"Chunked") + chunk(BODY) + LAST_CHUNK,
        lambda peer: peer.drip(reply(BODY, chunked=True)),
    ],
    ids=lambda answer: ascii(answer)[12:60] if isinstance(answer, bytes) else "dripped",
)
def test_an_answer_is_read_however_it_is_framed(serve, answer):
    assert ask(serve(answer)).state.succeeded


@pytest.mark.parametrize(
    "odd", ["N: a\0b", "C: a\rb", "X: a\x85b", "L: \xe9", "E:", " : x"], ids=ascii
)
def test_odd_headers_are_read_over_or_a_transport_error(serve, odd):
    with contextlib.suppress(TransportError):
        assert ask(serve(head(odd, f"Content-Length: {len(BODY)}") + BODY)).state.succeeded


# Time. Whatever stalls or drips, and in whatever phase: the deadline is the whole call's.

SLOW = {
    "nothing is said": stall(),
    "the status line stalls": stall(b"HTTP/1.1 20"),
    "the status line drips": drip(b"HTTP/1.1 200 "),
    "the head stalls": stall(b"HTTP/1.1 200 OK\r\n"),
    "a header drips": drip(b"HTTP/1.1 200 OK\r\nX: "),
    "headers drip": drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "100 Continue drips": drip(b"", head(status="100 Continue")),
    "100 Continue has no end": endless(b"", head(status="100 Continue")),
    "the body stalls": stall(length(100)),
    "the body stalls where it is valid JSON": stall(length(len(BODY) + 1) + BODY),
    "the body drips": drip(length(10**6), b" "),
    "a body without a length stalls": stall(head() + BODY),
    "a body without a length drips": drip(head(), b" "),
    "a chunk's size stalls": stall(CHUNKED),
    "a chunk's size drips": drip(CHUNKED, b"0"),
    "a chunk's extension drips": drip(CHUNKED + b"5;"),
    "a chunk stalls": stall(CHUNKED + b"64\r\nabc"),
    "chunks drip": drip(CHUNKED, chunk(b" ")),
    "the last chunk stalls": stall(CHUNKED + chunk(BODY)),
    "the trailers stall": stall(CHUNKED + chunk(BODY) + b"0\r\n"),
    "a trailer drips": drip(CHUNKED + chunk(BODY) + b"0\r\nX: "),
    "trailers have no end": endless(CHUNKED + chunk(BODY) + b"0\r\n", b"X: y\r\n"),
}


@pytest.mark.parametrize("phase", SLOW)
def test_a_deadline_ends_every_phase(serve, phase):
    with in_time():
        error = refused(serve(SLOW[phase]), TransportTimeout, timeout=SOON)
    assert error.__cause__ is not None
    assert error.url in error.message


TLS_RECORD = b"\x16\x03\x03\x40\x00"  # announces 16 KiB of a handshake


@pytest.mark.parametrize("answer", [stall(), drip(TLS_RECORD, b"\0")], ids=["stalls", "drips"])
def test_a_deadline_ends_a_tls_handshake(serve, answer):
    url = serve(answer, greets=True).url.replace("http:", "https:")
    with in_time():
        error_of(TransportTimeout, bac_states.get, JOB, server_url=url, timeout=SOON)


@pytest.mark.parametrize("phase", ["the head stalls", "a header drips", "the body drips"])
def test_a_deadline_ends_what_is_slow_behind_tls(serve, tls, phase):
    server = serve(SLOW[phase], tls=tls.server)
    with in_time():
        refused(server, TransportTimeout, ssl_context=tls.client, timeout=SOON)


SLOW_TUNNELS = {
    "nothing is said": stall(),
    "the status line drips": drip(b"HTTP/1.1 200 "),
    "the head stalls": stall(b"HTTP/1.1 200 OK\r\n"),
    "headers drip": drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "TLS stalls": stall(head()),
    "TLS drips": drip(head() + TLS_RECORD, b"\0"),
}


@pytest.mark.parametrize("phase", SLOW_TUNNELS)
def test_a_deadline_ends_a_proxy_s_connect(monkeypatch, serve, phase):
    monkeypatch.setenv("https_proxy", serve(SLOW_TUNNELS[phase]).url)
    with in_time(), pytest.raises(TransportError):
        bac_states.get(JOB, server_url="https://127.0.0.1:8", timeout=SOON)


def test_a_deadline_is_not_begun_anew_behind_a_proxy(monkeypatch, serve):
    def late(peer):
        peer.closing.wait(1.3)
        peer.send(head())
        peer.stall()

    monkeypatch.setenv("https_proxy", serve(late).url)
    start = time.perf_counter()
    error_of(TransportTimeout, bac_states.get, JOB, server_url="https://127.0.0.1:8", timeout=1.5)
    assert time.perf_counter() - start < 2.4


def test_a_deadline_ends_sending(serve):
    server = serve(lambda peer: peer.closing.wait(IN_TIME) and None, greets=True)
    with in_time():
        refused(server, TransportTimeout, headers={"X": "x" * 12 * MIB}, timeout=SOON)


def test_a_flood_of_a_proxy_s_headers_ends(monkeypatch, serve):
    monkeypatch.setenv("https_proxy", serve(endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n")).url)
    with in_time(), pytest.raises(TransportError):
        bac_states.get(JOB, server_url="https://127.0.0.1:8", timeout=SOON)


def test_one_deadline_is_over_all_routes(serve):
    def late(peer):
        peer.closing.wait(SOON * 0.6)
        return GONE

    server = serve(late)
    with in_time():
        refused(server, TransportTimeout, timeout=SOON)
    assert len(server.requests) == 2


def test_nobody_listening_is_a_transport_error():
    error = error_of(TransportError, bac_states.get, JOB, server_url=DEAD)
    assert "Connection refused" in error.message


def test_a_name_that_does_not_resolve_is_a_transport_error(monkeypatch):
    def unknown(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = error_of(TransportError, bac_states.get, JOB, server_url="http://no.test")
    assert "Name or service not known" in error.message


def test_of_several_addresses_the_first_that_answers_is_asked(monkeypatch, serve):
    server = serve(state())
    monkeypatch.setattr(socket, "getaddrinfo", _resolving_to(1, 1, server.port, 1))
    assert ask(server, server_url="http://several.test").state.succeeded
    monkeypatch.setattr(socket, "getaddrinfo", _resolving_to(1, 1))
    refused(server, TransportError, server_url="http://several.test")


@pytest.fixture
def black_hole():
    """The port of a listener whose queue is full, which lets nobody in and says so to nobody."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        probe = stack.enter_context(socket.socket())
        probe.settimeout(0.05)
        if probe.connect_ex(listener.getsockname()) == 0:
            pytest.skip("this system lets everybody in")
        yield listener.getsockname()[1]


def test_a_deadline_ends_connecting(black_hole):
    url = f"http://127.0.0.1:{black_hole}"
    with in_time():
        error_of(TransportTimeout, bac_states.get, JOB, server_url=url, timeout=SOON)


def test_an_address_that_lets_nobody_in_leaves_time_for_the_next(monkeypatch, serve, black_hole):
    server = serve(state())
    monkeypatch.setattr(socket, "getaddrinfo", _resolving_to(black_hole, server.port))
    with in_time():
        assert ask(server, server_url="http://several.test", timeout=1).state.succeeded


# Size. Over 16 MiB is refused, declared or counted, and costs no more memory than the cap.


@pytest.mark.parametrize("size", [16 * MIB + 1, 10**13, 10**17])
def test_a_declared_length_over_16_mib_is_refused_before_it_is_read(serve, size):
    with in_time():
        error = refused(serve(stall(length(size) + BODY)), TransportError)
    assert "16 MiB" in error.message


TOO_LARGE = {
    "without a length": endless(head(), b" "),
    "in chunks": endless(CHUNKED, chunk(b" " * 8192)),
    "in one chunk": endless(CHUNKED + b"ffffffff\r\n", b" "),
    "by one byte": head() + BODY + b" " * (16 * MIB + 1 - len(BODY)),
}


@pytest.mark.parametrize("how", TOO_LARGE)
def test_a_body_over_16_mib_is_refused_and_costs_no_more_memory_than_the_cap(serve, how):
    server = serve(TOO_LARGE[how])
    tracemalloc.start()
    try:
        error = refused(server, TransportError, timeout=30)
        assert tracemalloc.get_traced_memory()[1] < 24 * MIB
    finally:
        tracemalloc.stop()
    assert "16 MiB" in error.message


def test_a_body_of_exactly_16_mib_is_read(serve):
    assert ask(serve(reply(BODY + b" " * (16 * MIB - len(BODY))))).state.succeeded


# The body of an error answer is best effort, and never changes the class.

WHY = b"Transfer-Encoding: chunked\r\n\r\n4\r\nwhy?\r\n"
REST = {
    "complete": b"Content-Length: 4\r\n\r\nwhy?",
    "without a length": b"\r\nwhy?",
    "cut": b"Content-Length: 100\r\n\r\nwhy?",
    "of a bad length": b"Content-Length: x\r\n\r\nwhy?",
    "in bad chunks": WHY + b"zz",
    "in cut chunks": WHY,
    "stalled": (stall, b"Content-Length: 100\r\n\r\nwhy?"),
    "stalled in a chunk": (stall, WHY + b"64\r\n"),
    "dripped": (drip, b"Content-Length: 1000000\r\n\r\nwhy?"),
    "endless": (endless, b"\r\nwhy?"),
    "of 10 TB": (endless, b"Content-Length: 10000000000000\r\n\r\nwhy?"),
    "reset": (reset, b"Content-Length: 100\r\n\r\n"),
    "never sent": (stall, b"Content-Length: 100\r\n\r\n"),
    "compressed": b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"why?"),
}


def _refusal(status, rest):
    start = b"HTTP/1.1 %d No\r\nRetry-After: 9\r\n" % status
    if isinstance(rest, bytes):
        return start + rest
    how, beginning = rest
    return how(start + beginning)


@pytest.mark.parametrize("rest", REST)
@pytest.mark.parametrize("status, kind", [(400, BadRequest), (500, SERVER), (429, OTHER)])
def test_the_rest_of_an_error_answer_never_changes_its_class(serve, status, kind, rest):
    with in_time():
        error = refused(serve(_refusal(status, REST[rest])), kind, timeout=SOON)
    assert (error.status_code, error.retry_after) == (status, 9)
    assert len(error.body) <= 8192
    if rest not in ("reset", "never sent", "compressed"):
        assert error.body.startswith("why?")


@pytest.mark.parametrize("rest", ["cut", "in bad chunks", "endless", "of 10 TB", "stalled"])
def test_a_missing_route_is_passed_over_whatever_its_body_is(serve, rest):
    assert ask(serve(_refusal(404, REST[rest]), state()), timeout=1).state.succeeded


# No exception of the lower layers gets out.


def _lower_exceptions():
    for name, kind in vars(http.client).items():
        if inspect.isclass(kind) and issubclass(kind, http.client.HTTPException):
            yield name, kind("some words")
    for number, name in errno.errorcode.items():
        if number != errno.EINTR:  # Python tries again itself (PEP 475)
            yield name, OSError(number, os.strerror(number))
    for name, kind in vars(ssl).items():
        if inspect.isclass(kind) and issubclass(kind, Exception):
            yield name, kind(1, "some words")
    for kind in (socket.gaierror, socket.herror, socket.timeout, TimeoutError, OSError):
        yield kind.__name__, kind(1, "some words")
    for kind in (ValueError, UnicodeError, OverflowError):
        yield kind.__name__, kind("some words")


def _raise_in(phase, monkeypatch, error):
    """Makes one phase of an exchange raise it."""
    receive = socket.socket.recv_into
    received = []

    def fail(*args, **options):
        raise error

    def fail_later(sock, buffer, *args):
        if received:
            raise error
        received.append(receive(sock, buffer, *args))
        return received[0]

    owner, name, failing = {
        "connecting": (socket, "create_connection", fail),
        "sending": (socket.socket, "sendall", fail),
        "awaiting": (http.client.HTTPConnection, "getresponse", fail),
        "reading the head": (socket.socket, "recv_into", fail),
        "reading the body": (socket.socket, "recv_into", fail_later),
    }[phase]
    monkeypatch.setattr(owner, name, failing)


each_phase = pytest.mark.parametrize(
    "phase", ["connecting", "sending", "awaiting", "reading the head", "reading the body"]
)


@each_phase
def test_no_exception_of_the_lower_layers_gets_out(monkeypatch, serve, phase):
    server = serve(stall(length(100)))
    names = set()
    for name, lower in _lower_exceptions():
        names.add(name)
        with monkeypatch.context() as patch, pytest.raises(TransportError) as caught:
            _raise_in(phase, patch, lower)
            ask(server, timeout=2)
        error = caught.value
        late = isinstance(lower, (socket.timeout, TimeoutError))
        assert type(error) is (TransportTimeout if late else TransportError), name
        assert error.__cause__ is not None, name
        assert error.url in str(error), name
    assert {"ECONNREFUSED", "ECONNRESET", "EPIPE", "ETIMEDOUT", "EHOSTUNREACH", "EMFILE"} < names
    assert {"IncompleteRead", "BadStatusLine", "LineTooLong", "SSLCertVerificationError"} < names


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
@each_phase
def test_what_is_not_the_network_s_is_left_alone(monkeypatch, serve, kind, phase):
    _raise_in(phase, monkeypatch, kind())
    with pytest.raises(kind):
        ask(serve(stall(length(100))), timeout=2)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors cannot be counted")
def test_no_descriptor_is_left_open_and_no_resource_warning_given(monkeypatch, serve, tls):
    answers = [state(), GONE, *FAULTS.values(), *NASTY_ANSWERS.values()]
    answers += [stall(), stall(length(9)), _refusal(500, REST["stalled"])]
    servers = [serve(answer) for answer in answers] + [serve(state(), tls=tls.server)]
    refusals = [reply("", 403), b"", b"rubbish\r\n", stall(), stall(head()), tls.tunnel(b"")]
    proxies = [serve(answer) for answer in refusals]

    def descriptors():
        for server in servers + proxies:
            server.join_connections()
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        before = descriptors()
        for server in servers:
            with contextlib.suppress(SDKError):
                ask(server, timeout=0.1)
        error_of(TransportError, bac_states.get, JOB, server_url=DEAD)
        for proxy in proxies:
            monkeypatch.setenv("https_proxy", proxy.url)
            error_of(None, bac_states.get, JOB, server_url="https://127.0.0.1:8", timeout=0.1)
        assert descriptors() == before
    assert [str(warning.message) for warning in warned] == []


# ------------------------------------------------------------------------------------- 6 Waiting


class Clock:
    """A clock on which pauses take no time."""

    def __init__(self, monkeypatch):
        self.pauses = []
        self.skipped = 0.0
        real = time.monotonic
        monkeypatch.setattr(bac_states.time, "monotonic", lambda: real() + self.skipped)
        monkeypatch.setattr(bac_states.time, "sleep", self.sleep)

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.skipped += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def wait_for(server, **options):
    return bac_states.wait(JOB, **{"server_url": server.url, "timeout": 5, **options})


def test_wait_asks_until_the_job_has_ended(serve, clock):
    server = serve(state("New"), state("InProgress"), BUSY, state("Completed"))
    response = wait_for(server)
    assert response.state == JobState(JOB, "Completed")
    assert len(server.requests) == 4
    assert clock.pauses == [0.5, 0.75, 1.125]


@pytest.mark.parametrize(
    "word", ["Completed", "CompletedPartially", "Cancelled", "Error", "PartialError"]
)
def test_wait_returns_any_end(serve, clock, word):
    assert wait_for(serve(state(word))).state.state == word
    assert clock.pauses == []


def test_pauses_grow_by_half_from_half_a_second_to_five(serve, clock):
    wait_for(serve(*[state("InProgress")] * 10, state()))
    expected = [0.5, 0.75, 1.125, 1.6875, 2.53125, 3.796875, 5, 5, 5, 5]
    assert clock.pauses == pytest.approx(expected)


def test_a_job_without_a_state_yet_is_waited_for(serve, clock):
    for nothing in ('{"state":{}}', '{"state":{"nodes":null}}', '{"state":{"Nodes":{}}}'):
        assert wait_for(serve(reply(nothing), state())).state.succeeded


def test_a_lost_bid_ends_no_wait(serve, clock):
    lost = '{"state":{"Nodes":{"n":{"Shards":{"0":{"State":"Cancelled"}}}}}}'
    assert wait_for(serve(reply(lost), state())).state.succeeded


@pytest.mark.parametrize(
    "passing",
    [
        b"",
        reset(head()),
        b"rubbish\r\n\r\n",
        length(100) + BODY,
        *(reply("", status) for status in (429, 502, 503, 504)),
    ],
    ids=lambda answer: ascii(answer)[:20],
)
def test_wait_goes_on_through_what_passes(serve, clock, passing):
    server = serve(passing, state("InProgress"), passing, passing, state())
    assert wait_for(server).state.succeeded
    assert len(server.requests) == 5


def test_wait_goes_on_through_a_server_that_stalls(serve, clock):
    assert wait_for(serve(stall(), state()), timeout=SOON).state.succeeded


@pytest.mark.parametrize(
    "answer, kind",
    [
        (reply("", 400), BadRequest),
        (reply("it broke", 500), InternalServerError),
        (reply(f"Job not found. ID: {JOB}", 500), JobNotFound),
        (reply('{"Component":"JobStore"}', 404), JobNotFound),
        *((reply("", status), SDKError) for status in (302, 401, 403, 404, 501)),
        (reply("no JSON"), DecodeError),
    ],
    ids=lambda value: ascii(value)[11:16],
)
def test_everything_else_ends_a_wait_at_once(serve, clock, answer, kind):
    server = serve(state("InProgress"), answer)
    error_of(kind, wait_for, server, limit=60)
    assert clock.pauses == [0.5]


def test_without_a_limit_ten_failures_in_a_row_are_passed_over_and_no_more(serve, clock):
    assert wait_for(serve(*[BUSY] * 10, state())).state.succeeded
    server = serve(BUSY)
    error = error_of(SDKError, wait_for, server)
    assert error.status_code == 503
    assert len(server.requests) == 11


def test_failures_are_counted_anew_after_an_answer(serve, clock):
    answers = [BUSY] * 9 + [state("InProgress")] + [BUSY] * 9 + [state()]
    assert wait_for(serve(*answers)).state.succeeded


def test_with_a_limit_failures_are_passed_over_until_it(serve, clock):
    assert wait_for(serve(*[BUSY] * 30, state()), limit=1000).state.succeeded


@pytest.mark.parametrize(
    "header, pauses",
    [
        ("3", [3]),
        ("0", [0.5]),
        ("120", [120]),
        ("-3", [0.5]),
        ("soon", [0.5]),
        ("Wed, 21 Oct 2026 07:28:00 GMT", [0.5]),
    ],
)
@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_retry_after_is_honoured(serve, clock, status, header, pauses):
    server = serve(reply("", status, f"Retry-After: {header}"), state())
    assert wait_for(server).state.succeeded
    assert clock.pauses == pauses


@pytest.mark.parametrize("header", ["60", "999999999", "9" * 30, "rubbish"])
def test_retry_after_never_outlasts_the_limit(serve, clock, header):
    server = serve(reply("", 429, f"Retry-After: {header}"))
    error = error_of(WaitTimeout, wait_for, server, limit=7)
    assert error.response is None
    assert sum(clock.pauses) <= 7


def test_a_limit_ends_a_wait_with_the_last_answer(serve, clock):
    server = serve(state("New"), state("InProgress"))
    error = error_of(WaitTimeout, wait_for, server, limit=10)
    assert error.response.state == JobState(JOB, "InProgress")
    assert isinstance(error, TimeoutError)
    assert sum(clock.pauses) == pytest.approx(10, abs=1)
    assert sum(clock.pauses) <= 10
    assert JOB in error.message and "InProgress" in error.message and "10 s" in error.message


def test_a_limit_ends_a_wait_without_an_answer(serve, clock):
    error = error_of(WaitTimeout, wait_for, serve(BUSY), limit=10)
    assert error.response is None
    assert isinstance(error.__cause__, SDKError)
    assert error.__cause__.status_code == 503


def test_a_limit_cuts_the_deadline_of_each_request(serve):
    server = serve(state("InProgress"), stall())
    with in_time():
        error = error_of(WaitTimeout, wait_for, server, limit=0.8, timeout=60)
    assert error.response.state.state == "InProgress"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "refusals, route",
    [([], REQUESTER), ([GONE], JOBS), ([GO_404, GO_404], STATES)],
)
def test_the_route_that_answered_is_asked_first_from_then_on(serve, clock, refusals, route):
    server = serve(*refusals, state("New"), BUSY, state("InProgress"), state())
    assert wait_for(server).state.succeeded
    paths = [request.path for request in server.requests[len(refusals) :]]
    assert len(paths) == 4
    assert all(path.startswith(route) for path in paths)


def test_each_call_finds_its_route_anew(serve):
    server = serve(GONE, state(), GONE, state())
    assert ask(server) == ask(server)
    assert [request.method for request in server.requests] == ["POST", "GET"] * 2


def test_200_calls_on_8_threads_get_200_right_answers(serve):
    def about(peer):
        if peer.request.method == "POST":
            return GONE
        job_id = re.search("jobs/(.*)[?]", peer.request.path)[1]
        return reply(json.dumps({"Job": {"ID": job_id, "Revision": int(job_id[4:])}}))

    server = serve(about)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda i: ask(server, f"job-{i}"), range(200)))
    found = [(response.state.job_id, response.state.version) for response in responses]
    assert found == [(f"job-{i}", i) for i in range(200)]


# ------------------------------------------------------------------------------------- 7 Command

DEMO_TABLE = """\
9304c616-291f-41ad-b862-54e133c0149e  Completed
NODE                                            STATE      EXIT  RESULT                            \
                     STATUS
QmSyJ8VUd4YSPwZFJSJsHmmmmg7sd4BAc2yHY73nisJo86  Cancelled
QmYgxZiySj3MRkwLSL4X2MF5F9f2PMhAE3LV49XkfNL1o3  Cancelled
QmdZQ7ZbhnvWY1J12XYKGHApJ6aufKyLNSvf8jZBrBaAVL  Completed  0     ipfs://QmTVmC7JBD2ES2qGPqBNVWnX1K\
eEPNrPGb7rJ8cpFgtefe  Got results proposal of length: 0
"""


def test_the_demo_prints_the_documented_job(capsys):
    assert command(capsys, "--demo") == (0, DEMO_TABLE, "")
    assert command(capsys, "--demo", JOB) == (0, DEMO_TABLE, "")
    assert command(capsys, "--demo", "--wait", "--wait-timeout", "5") == (0, DEMO_TABLE, "")


def test_the_demo_gives_the_documented_json(capsys):
    code, out, err = command(capsys, "--demo", "--json")
    expected = json.loads(json.dumps(dataclasses.asdict(decoded(DOCUMENTED))))
    assert json.loads(out) == {"state": expected, "server_version": ""}
    assert (code, err) == (0, "")


def test_the_demo_knows_its_own_job_only(capsys):
    code, out, err = command(capsys, "--demo", "another")
    assert (code, out) == (1, "")
    assert re.fullmatch(
        r"bac_states: HTTP 500 from http://127\.0\.0\.1:\d+/requester/states: "
        r"Job not found\. ID: another\n",
        err,
    )


def test_the_demo_goes_past_any_proxy_and_environment(capsys, monkeypatch):
    monkeypatch.setenv("http_proxy", DEAD)
    monkeypatch.setenv("all_proxy", DEAD)
    monkeypatch.setenv("BACALHAU_API_HOST", "h.test")
    monkeypatch.setenv("BACALHAU_API_KEY", "key")
    assert command(capsys, "--demo") == (0, DEMO_TABLE, "")


def test_the_demo_leaves_no_thread_behind(capsys):
    before = threading.active_count()
    command(capsys, "--demo")
    deadline = time.monotonic() + IN_TIME
    while threading.active_count() > before and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert threading.active_count() == before


def _table(*executions, **members):
    """The answer of a server about such executions."""
    return _json(listed(*executions, **{"State": "Completed", **members}))


def _lines(capsys, server, job_id="j", *options):
    code, out, err = command(capsys, job_id, "--server", server.url, *options)
    assert (code, err) == (0, "")
    assert out.endswith("\n")
    return out[:-1].split("\n")


def test_the_table_has_a_line_an_execution_and_columns_that_fit(capsys, serve):
    server = serve(
        _table(
            {
                "NodeId": "node-1",
                "State": "Completed",
                "PublishedResults": {"StorageSource": "ipfs", "CID": "Qm"},
                "RunOutput": {"exitCode": -1},
                "Status": "done",
            },
            {
                "NodeId": "n2",
                "State": "Completed",
                "PublishedResults": {"StorageSource": "S3", "S3": {"Bucket": "b", "Key": "k/l"}},
                "RunOutput": {"exitCode": 3},
            },
            {"NodeId": "n3", "State": "Completed", "PublishedResults": {"URL": "http://h/x"}},
            {"NodeId": "n4", "State": "Failed", "RunOutput": {"exitCode": 1}, "Status": "it broke"},
            {"NodeId": "n5", "State": "BidAccepted", "PublishedResults": {}, "RunOutput": {}},
        )
    )
    assert _lines(capsys, server) == [
        "j  Completed",
        "NODE    STATE        EXIT  RESULT      STATUS",
        "node-1  Completed    -1    ipfs://Qm   done",
        "n2      Completed    3     s3://b/k/l",
        "n3      Completed          http://h/x",
        "n4      Failed                         it broke",
        "n5      BidAccepted",
    ]


def test_a_shard_is_shown_where_the_job_was_sharded(capsys, serve):
    shards = {"0": {"State": "Completed"}, "1": {"State": "Error"}}
    server = serve(_json({"state": {"Nodes": {"n": {"Shards": shards}}}}))
    assert _lines(capsys, server, "my-job") == [
        "my-job  Error",
        "NODE  SHARD  STATE      EXIT  RESULT  STATUS",
        "n     0      Completed",
        "n     1      Error",
    ]


def test_a_job_without_executions_is_one_line(capsys, serve):
    assert _lines(capsys, serve(reply('{"state":{}}')), "asked") == ["asked  New"]
    failed = newer(State={"StateType": "Failed", "Message": "no nodes\n• n"})
    assert _lines(capsys, serve(_json(failed))) == [r"j  Error  no nodes\n• n"]


def test_the_job_s_whole_id_is_shown_where_a_short_one_was_asked_for(capsys, serve):
    assert _lines(capsys, serve(state()), JOB[:8]) == [f"{JOB}  Completed"]


def test_a_cell_over_200_characters_is_cut(capsys, serve):
    whole, over = "w" * 200, "o" * 201
    lines = _lines(capsys, serve(_table({"NodeId": whole, "Status": over})))
    assert lines[2].split() == [whole, "o" * 197 + "..."]


def test_nothing_from_a_server_acts_on_the_terminal_or_forges_a_row(capsys, serve):
    server = serve(
        _table(
            {
                "NodeId": NASTY,
                "State": NASTY,
                "Status": NASTY + "\nn-9  Completed  0",
                "PublishedResults": {"CID": NASTY},
            },
            {"PublishedResults": {"URL": NASTY}},
            {"PublishedResults": {"S3": {"Bucket": NASTY, "Key": NASTY}}},
            State=NASTY,
            JobID="j" + NASTY,
        )
    )
    lines = _lines(capsys, server)
    assert len(lines) == 5
    assert all(line.isprintable() for line in lines)


def test_nothing_from_a_server_acts_on_the_terminal_by_way_of_an_error(capsys, serve):
    for where, answer in NASTY_ANSWERS.items():
        code, out, err = command(capsys, JOB, "--server", serve(answer).url)
        assert (code, out) == (1, ""), where
        assert err.startswith("bac_states: ") and err[:-1].isprintable() and err[-1] == "\n", where
        assert len(err) <= len("bac_states: \n") + 400, where


def test_json_is_one_ascii_document_of_the_same_keys_for_every_release(capsys, serve):
    for exchange in HISTORY:
        server = serve(*exchange.refusals, exchange.answer())
        code, out, err = command(capsys, exchange.job_id, "--server", server.url, "--json")
        assert (code, err) == (0, "")
        assert re.fullmatch("[ -~\n]*", out)
        assert json.loads(out) == {
            "state": json.loads(json.dumps(dataclasses.asdict(exchange.state))),
            "server_version": exchange.version,
        }


def test_json_survives_whatever_a_server_says(capsys, serve):
    server = serve(_table({"NodeId": NASTY, "Status": "\ud800"}, State=NASTY))
    code, out, _ = command(capsys, "j", "--server", server.url, "--json")
    assert code == 0
    assert json.loads(out)["state"]["state"] == NASTY
    assert re.fullmatch("[ -~\n]*", out)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_tells_all_options_and_exit_codes(capsys, option):
    code, out, err = command(capsys, option)
    assert (code, err) == (0, "")
    for word in "--version --server --timeout --json --wait --wait-timeout --demo JOB_ID".split():
        assert word in out
    for word in ("0", "1", "2", "3", "124", "BACALHAU_API_HOST", "BACALHAU_API_KEY"):
        assert word in out
    assert max(map(len, out.split("\n"))) <= 80


def test_help_fits_a_terminal_of_any_width(capsys, monkeypatch):
    for columns in ("1", "10", "1000"):
        monkeypatch.setenv("COLUMNS", columns)
        assert command(capsys, "--help")[::2] == (0, "")


def test_version_is_told(capsys):
    assert command(capsys, "--version") == (0, f"bac_states {VERSION}\n", "")


@pytest.mark.parametrize(
    "arguments", ["", "--json", "--nonsense", "a b", "--timeout", "--timeout x j", "--server"]
)
def test_wrong_usage_is_exit_2_with_the_usage(capsys, arguments):
    code, out, err = command(capsys, *arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith("usage: bac_states ")
    assert err.split("\n")[-2].startswith("bac_states: ")


@pytest.mark.parametrize(
    "arguments",
    [
        *[[".."], ["a\nb"], ["x" * 1001]],
        *[["j", "--server", url] for url in ("", "nonsense", f"http://me:{SECRET}@h")],
        *[["j", "--timeout", seconds] for seconds in ("0", "-1", "nan", "inf")],
        *[["j", "--wait-timeout", seconds] for seconds in ("0", "-5", "nan")],
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
def test_a_bad_argument_is_exit_2_with_one_line(capsys, connections, arguments):
    code, out, err = command(capsys, *arguments)
    assert (code, out, connections) == (2, "", [])
    assert err.startswith("bac_states: ") and err.count("\n") == 1
    assert SECRET not in err


def test_an_empty_job_id_is_exit_2(capsys, connections):
    code, out, _ = command(capsys, "")
    assert (code, out, connections) == (2, "", [])


@pytest.mark.parametrize("name, value", [("PORT", "abc"), ("PORT", "65536"), ("HOST", "h h")])
def test_a_bad_environment_is_exit_2_with_one_line(capsys, connections, monkeypatch, name, value):
    monkeypatch.setenv(f"BACALHAU_API_{name}", value)
    code, out, err = command(capsys, JOB)
    assert (code, out, connections) == (2, "", [])
    assert err.startswith("bac_states: ") and err.count("\n") == 1
    assert "BACALHAU_API_" in err


@pytest.mark.parametrize(
    "answer, words",
    [
        (reply("Job not found. ID: j\n", 500), "Job not found. ID: j"),
        (reply("not you", 401), "not you"),
        (b"", "no complete answer"),
        (reply("[]"), "state"),
    ],
    ids=["missing", "refused", "closed", "no state"],
)
def test_no_answer_is_exit_1_with_one_line(capsys, serve, answer, words):
    server = serve(answer)
    code, out, err = command(capsys, JOB, "--server", server.url)
    assert (code, out) == (1, "")
    assert err.startswith("bac_states: ") and err.count("\n") == 1
    assert words in err and server.url in err


def test_the_command_s_timeout_is_the_call_s(capsys, serve):
    with in_time():
        code, _, err = command(capsys, JOB, "--server", serve(stall()).url, "--timeout", str(SOON))
    assert code == 1
    assert err.startswith("bac_states: ")


@pytest.mark.parametrize(
    "word, code",
    [
        ("Completed", 0),
        ("Error", 3),
        ("Cancelled", 3),
        ("CompletedPartially", 3),
        ("PartialError", 3),
    ],
)
def test_with_wait_the_exit_code_tells_how_the_job_ended(capsys, serve, clock, word, code):
    for options in (["--wait"], ["--wait-timeout", "60"], ["--wait", "--wait-timeout", "60"]):
        server = serve(state("New"), state("InProgress"), BUSY, state(word))
        found, out, err = command(capsys, JOB, "--server", server.url, *options)
        assert (found, out) == (code, f"{JOB}  {word}\n")
        assert [line.split(" ")[0] for line in err.split("\n")[:-1]] == ["bac_states:"] * 2
        assert [line.split(" ")[-1] for line in err.split("\n")[:-1]] == ["InProgress", word]


def test_without_wait_any_state_is_exit_0(capsys, serve):
    for word in ("New", "InProgress", "Error", "Cancelled", "Completed"):
        code, out, err = command(capsys, JOB, "--server", serve(state(word)).url)
        assert (code, out, err) == (0, f"{JOB}  {word}\n", "")


def test_a_wait_that_runs_out_is_exit_124(capsys, serve, clock):
    server = serve(state("InProgress"))
    code, out, err = command(capsys, JOB, "--server", server.url, "--wait-timeout", "30")
    assert (code, out) == (124, "")
    assert err.startswith("bac_states: ") and err.count("\n") == 1


def test_the_server_of_the_environment_is_asked(capsys, monkeypatch, serve):
    server = serve(state())
    monkeypatch.setenv("BACALHAU_API_HOST", server.url)
    monkeypatch.setenv("BACALHAU_API_KEY", "key")
    assert command(capsys, JOB) == (0, f"{JOB}  Completed\n", "")
    assert server.requests[0].headers["authorization"] == "Bearer key"


def test_with_server_the_environment_s_credentials_are_sent_there(capsys, monkeypatch, serve):
    server = serve(state())
    monkeypatch.setenv("BACALHAU_API_HOST", "h.test")
    monkeypatch.setenv("BACALHAU_API_KEY", "key")
    assert command(capsys, JOB, "--server", server.url)[0] == 0
    assert server.requests[0].headers["authorization"] == "Bearer key"


def test_main_reads_the_command_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bac_states.py", "--demo"])
    assert bac_states.main() == 0
    assert capsys.readouterr().out == DEMO_TABLE


def test_output_is_escaped_where_its_encoding_lacks_a_character(serve):
    answer = _table({"NodeId": "nöde-☃", "State": "Completed"}, Status="€")
    for encoding, shown in (("ascii", r"n\xf6de-\u2603"), ("latin-1", "nöde-\\u2603")):
        environment = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
        code, out, err = python(
            *(SOURCE, "j", "--server", serve(answer).url), env=environment, encoding=encoding
        )
        assert (code, err) == (0, "")
        assert out.split("\n")[2].split() == [shown, "Completed"]


def _shell(redirection, *arguments):
    return run(["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, SOURCE, *arguments])


@pytest.mark.skipif(os.name != "posix", reason="no shell")
@pytest.mark.parametrize("target", [">&-", ">/dev/full"], ids=["closed", "full"])
@pytest.mark.parametrize("option", ["--demo", "--json", "--help", "--version"])
def test_standard_output_closed_or_full_is_exit_1_with_one_line(target, option):
    if not os.path.exists(target.strip(">&-") or "/"):
        pytest.skip("no full disk to write to")
    code, _, err = _shell(target, "--demo", option)
    assert code == 1
    assert err.startswith("bac_states: ") and err.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="no shell")
def test_standard_error_closed_says_nothing_anywhere():
    assert _shell("2>&-", "--demo", "another") == (1, "", "")


def test_a_reader_that_went_away_is_exit_141_and_nothing_is_said():
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:
        code, _, err = python(SOURCE, "--demo", "--json", stdout=pipe)
    assert (code, err) == (141, "")


@pytest.fixture
def interruptible():
    """SIGINT as a terminal's processes have it, which a shell's background jobs have not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name != "posix", reason="no signals to die by")
@pytest.mark.parametrize("moment", ["connecting", "reading", "sleeping"])
def test_ctrl_c_ends_by_the_signal_without_a_traceback(serve, interruptible, moment):
    reached = threading.Event()

    def asked(peer):
        if moment == "sleeping":
            peer.send(state("InProgress"))
            peer.sock.shutdown(socket.SHUT_WR)
            peer.stall()
            reached.set()
        else:
            reached.set()
            peer.stall()

    server = serve(asked, greets=moment == "connecting")
    url = server.url.replace("http:", "https:") if moment == "connecting" else server.url
    process = subprocess.Popen(
        [sys.executable, str(SOURCE), JOB, "--wait", "--server", url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_plain_environment(),
    )
    assert reached.wait(30)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (-signal.SIGINT, b"", b"")


# ------------------------------------------------------------------------------------ 8 The file


def test_the_file_runs_isolated_without_site_packages():
    assert python("-I", "-S", SOURCE, "--demo") == (0, DEMO_TABLE, "")


def test_the_file_gives_no_warning_in_development_mode():
    assert python("-W", "error", "-X", "dev", SOURCE, "--demo") == (0, DEMO_TABLE, "")


def test_the_file_runs_as_a_module():
    at = str(SOURCE.parent)
    assert python("-m", "bac_states", "--demo", cwd=at) == (0, DEMO_TABLE, "")


def test_the_file_runs_from_standard_input():
    with SOURCE.open() as file:
        assert python("-", "--demo", stdin=file) == (0, DEMO_TABLE, "")


@pytest.fixture
def importing(monkeypatch, tmp_path):
    """Imports a copy of the file, and forgets it at the end."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(name, path=tmp_path):
        monkeypatch.syspath_prepend(str(path))
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - before:
        if name.startswith("copied_"):
            del sys.modules[name]


def _works(module, server):
    response = module.get(JOB, server_url=server.url)
    assert type(response) is module.StateResponse
    assert response.state == module.JobState(JOB, "Completed")
    assert pickle.loads(pickle.dumps(response)) == response
    with pytest.raises(module.DecodeError):
        module.decode("[]")
    error = module.DecodeError("x", path="a")
    assert pickle.loads(pickle.dumps(error)).path == "a"


def test_a_copy_works_under_another_name(serve, importing, tmp_path):
    shutil.copy(str(SOURCE), str(tmp_path / "copied_states.py"))
    _works(importing("copied_states"), serve(state()))


def test_a_copy_works_inside_a_package(serve, importing, tmp_path):
    package = tmp_path / "copied_package" / "vendored"
    package.mkdir(parents=True)
    (tmp_path / "copied_package" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("from .states import get\n")
    shutil.copy(str(SOURCE), str(package / "states.py"))
    _works(importing("copied_package.vendored.states"), serve(state()))


def test_a_copy_works_from_a_zip(serve, importing, tmp_path):
    with zipfile.ZipFile(str(tmp_path / "copied.zip"), "w") as archive:
        archive.write(str(SOURCE), "copied_zipped.py")
    module = importing("copied_zipped", tmp_path / "copied.zip")
    assert "copied.zip" in module.__file__
    _works(module, serve(state()))


def test_two_copies_live_in_one_process(serve, importing, tmp_path):
    for name in ("copied_one", "copied_two"):
        shutil.copy(str(SOURCE), str(tmp_path / (name + ".py")))
    one, two = importing("copied_one"), importing("copied_two")
    server = serve(state())
    _works(one, server)
    _works(two, server)
    assert one.JobState is not two.JobState
    assert one.JobState() != two.JobState()
    assert not issubclass(one.SDKError, two.SDKError)


TEXT = SOURCE.read_text(encoding="utf-8")
CODE = ast.parse(TEXT)


def test_the_file_says_that_it_may_be_copied():
    assert TEXT.startswith("# SPDX-License-Identifier: MIT-0\n")


def test_the_file_is_as_short_and_as_narrow_as_promised():
    lines = TEXT.splitlines()
    assert len(lines) <= PROMISED_LINES
    if README.exists():
        assert f"one file of {PROMISED_LINES:,} lines" in README.read_text(encoding="utf-8")
    assert max(map(len, lines)) <= 100


def test_no_function_has_more_than_40_lines():
    for node in ast.walk(CODE):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            last = max(getattr(inner, "lineno", 0) for inner in ast.walk(node))
            assert last - node.lineno < 40, node.name


STANDARD_LIBRARY = set(
    "__future__ argparse base64 binascii codecs collections contextlib copy dataclasses datetime "
    "email enum errno functools http io itertools json math operator os re select signal socket "
    "socketserver ssl string struct sys textwrap threading time types typing urllib".split()
)


def test_the_file_imports_the_standard_library_only():
    imported = set()
    for node in ast.walk(CODE):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module)
    assert {name.split(".")[0] for name in imported} <= STANDARD_LIBRARY


def test_every_public_name_has_a_docstring():
    assert len(bac_states.__doc__) > 500
    for name in bac_states.__all__:
        public = getattr(bac_states, name)
        assert public.__doc__ and not public.__doc__.startswith(name + "("), name
        if inspect.isclass(public):
            for member, value in vars(public).items():
                if isinstance(value, property):
                    assert value.__doc__, (name, member)


def _readme_blocks(opening):
    if not README.exists():
        pytest.skip("the file was copied without its README")
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```{opening}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_readme_s_python_compiles():
    blocks = _readme_blocks("python")
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")


def test_the_readme_s_demo_shows_what_the_demo_prints():
    shown = [
        block.split("\n", 1)[1]
        for block in _readme_blocks("[a-z]*")
        if block.startswith("$ python bac_states.py --demo\n")
    ]
    assert shown and all(output.strip() == DEMO_TABLE.strip() for output in shown)
