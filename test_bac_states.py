# SPDX-License-Identifier: MIT-0
"""What bac_states.py promises, one promise a test: python -m pytest test_bac_states.py

Helpers      a loopback server that answers by route, byte for byte what it is told to say
1 The call   the documented example, the public names, an import that touches nothing
2 Models     frozen, compared, hashed, copied, pickled; words that end; what success means
3 Decoding   the history of the service as data; spellings, nulls, wrong types, numbers
4 Errors     the tree; each release's words for each error; safe to print, to pickle, to log
5 Request    bytes on the wire, routes, environment, arguments, proxies, TLS, a hostile network
6 Waiting    pauses, limits, what is passed over and what is not
7 Command    exit codes, the table, --output, --json, --demo, broken outputs, Ctrl-C
8 The file   copies of it, its size, its README and what that shows
"""

import ast
import base64
import collections
import concurrent.futures
import contextlib
import copy
import dataclasses
import errno
import functools
import gc
import gzip
import http.client
import inspect
import io
import itertools
import json
import os
import pathlib
import pickle
import queue
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
import types
import typing
import urllib.parse
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

try:
    import tracemalloc
except ImportError:  # PyPy has none
    tracemalloc = None

SOURCE = pathlib.Path(bac_states.__file__)
VERSION = bac_states.__version__
SOON = 0.05  # seconds: the deadline of a test that has to wait for it
IN_TIME = 15.0  # seconds: before that any test has ended, and after it a peer gives up
MIB = 1024 * 1024

JOB = "9304c616-291f-41ad-b862-54e133c0149e"  # as given out up to v1.0.3
NEWER_JOB = "j-86c83767-fae6-49f0-9c9c-3eba304004d9"  # as given out by the newer API
SECRET = "s3cret-T0ken"

counts_memory = pytest.mark.skipif(tracemalloc is None, reason="this Python counts no memory")
on_posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell and signals")

# --------------------------------------------------------------------------------------- Helpers


@pytest.fixture(autouse=True)
def _of_all_tests(monkeypatch):
    """They have a clean environment, end in time, and leave no socket open."""
    for name in list(os.environ):
        if name.startswith("BACALHAU_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    start = time.perf_counter()
    sockets = []
    connect = socket.socket.connect

    def connected(sock, address):
        sockets.append(sock)
        return connect(sock, address)

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", connected)
        yield
    assert {sock.fileno() for sock in sockets} <= {-1}
    assert time.perf_counter() - start < IN_TIME


# The routes by which a server may be asked.
ROUTES = {
    "requester": "POST (.*)/requester/states",
    "jobs": r"GET (.*)/api/v1/orchestrator/jobs/([^/?]*)\?include=executions",
    "states": "POST (.*)/states",
}


class Request(typing.NamedTuple):
    method: str
    path: str
    headers: dict  # by names in lower case
    body: bytes

    @property
    def route(self):
        """The name of the route that is asked, "" if it is none of those above."""
        asked = f"{self.method} {self.path}"
        return next((name for name in ROUTES if re.fullmatch(ROUTES[name], asked)), "")


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
                assert len(headers) == len(lines), "a header comes twice"
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

    def flood(self, data):
        while True:
            self.send(data)

    def stall(self):
        while self.sock.recv(65536):
            pass

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def secure(self, context):
        self.sock = context.wrap_socket(self.sock, server_side=True)


class Server:
    """Answers by route: `Server(jobs=answer)` knows that one alone, and says 404 elsewhere.

    `Server(answer)` says the same whatever is asked. An answer is bytes, sent as they are, or a
    function that is called with the Peer; a list of answers is given one by one, the last of them
    again and again. `greets`: it does not wait for a request. `tls`: the context to speak TLS with.
    """

    def __init__(self, anything=None, greets=False, tls=None, **routes):
        self.requests = []
        self.anything = GO_404 if anything is None else anything
        self.routes = routes
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

    @property
    def asked(self):
        """The names of the known routes that were asked, in their order."""
        return [request.route for request in self.requests if request.route]

    def asked_by(self, route):
        """The requests that were made on a route."""
        return [request for request in self.requests if request.route == route]

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
            if self.tls:
                peer.sock.unwrap()  # without it, OpenSSL 3 fails in Python 3.7 to 3.9
        peer.sock.close()

    def next_answer(self, request):
        with self.lock:
            if request:
                self.requests.append(request)
            answer = self.routes.get(request and request.route, self.anything)
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            return answer

    def close(self):
        self.closing.set()
        with socket.socket() as knock:
            knock.connect(("127.0.0.1", self.port))
        for thread in self.threads:
            thread.join(IN_TIME)
        self.listener.close()


@pytest.fixture
def serve():
    """Starts a Server with the answers given."""
    with contextlib.ExitStack() as stack:

        def start(*answers, **routes):
            server = Server(*answers, **routes)
            stack.callback(server.close)
            return server

        yield start


# Answers that stop somewhere, or go on for ever.


def stall(start=b""):
    return lambda peer: peer.send(start) or peer.stall()


def reset(start=b""):
    return lambda peer: peer.send(start) or peer.reset()


def drip(start=b"", piece=b"x"):
    """One byte after the other without an end."""
    return lambda peer: peer.send(start) or peer.drip(itertools.cycle(piece))


def endless(start=b"", piece=b"x"):
    """As fast as they are taken."""
    return lambda peer: peer.send(start) or peer.flood(piece * max(1, 65536 // len(piece)))


# Answers that are complete.


def head(*lines, status="200 OK"):
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


def length(number):
    return head(f"Content-Length: {number}")


def chunk(data, size=None):
    return (size or b"%x" % len(data)) + b"\r\n" + data + b"\r\n"


CHUNKED = head("Transfer-Encoding: chunked")
LAST_CHUNK = b"0\r\n\r\n"


def reply(body="", status=200, *headers):
    """An answer as Go sends it: a body of over 2048 bytes in chunks, a shorter one whole."""
    body = body if isinstance(body, bytes) else body.encode()
    framing = f"Content-Length: {len(body)}"
    if len(body) > 2048:
        framing = "Transfer-Encoding: chunked"
        pieces = [body[at : at + 65536] for at in range(0, len(body), 65536)]
        body = b"".join(map(chunk, pieces)) + LAST_CHUNK
    reason = http.client.responses.get(status, "Odd")
    return head(*headers, "Connection: close", framing, status=f"{status} {reason}") + body


def json_reply(document, status=200, *headers):
    return reply(json.dumps(document), status, *headers)


def job_is(word="Completed", job_id=JOB, **members):
    """The answer of a v1.0.3 server about a job in that state."""
    return json_reply({"state": {"JobID": job_id, "State": word, **members}})


# What servers say of a route that they do not have (yet, or any more).


def api_error(status, message, code, component, **more):
    """The body of a refusal of v1.5.0 and later."""
    document = {"Status": status, "Message": message, "RequestID": "", "Code": code}
    return json.dumps({**document, "Component": component, **more}, separators=(",", ":")) + "\n"


GO_404 = reply("404 page not found\n", 404, "Content-Type: text/plain; charset=utf-8")
GONE = reply(
    '"This endpoint is deprecated. See the migration guide at https://docs.bacalhau.org/references/cli-reference/command-migration for more information"\n',
    410,
)
MISSING_V1_7 = reply(api_error(404, "Not Found", "InternalError", "APIServer"), 404)
NO_SUCH_URL = "The requested resource/URL was not found."
MISSING_V1_8 = reply(api_error(404, NO_SUCH_URL, "NotFound", "APIServer", Hint="..."), 404)
NOT_ALLOWED = reply("Method Not Allowed", 405)
NOT_FOUND = reply(f"Job not found. ID: {JOB}\n", 500)
BUSY = reply("busy", 503)

# Documents of three eras, for tests that are about a member or two.


def listed(*executions, **members):
    """A state with a list of executions, as from v0.3.24 on."""
    return {"state": {"JobID": "j", "State": "New", "Executions": list(executions), **members}}


def of_shards(**shards):
    """A state of one node, as up to v0.3.19: the shards by their keys without the first _."""
    return {"state": {"Nodes": {"n": {"Shards": {key[1:]: s for key, s in shards.items()}}}}}


def of_job(*executions, **members):
    """A job and its executions, as the newer API gives them."""
    items = {"NextToken": "", "Items": list(executions)}
    return {"Job": {"ID": "j", **members}, "Executions": items}


def decoded(document, version=""):
    return bac_states.decode(document, server_version=version).state


def executions_of(document, version=""):
    return decoded(document, version).executions


def compact(model):
    """A model as nested dicts and lists, without what has its default."""
    if isinstance(model, tuple):
        return [compact(item) for item in model]
    if not dataclasses.is_dataclass(model):
        return model
    values = {field: getattr(model, field.name) for field in dataclasses.fields(model)}
    return {field.name: compact(v) for field, v in values.items() if v != field.default}


# Asking, and what comes of it.


def ask(server, request=JOB, **options):
    return bac_states.get(request, **{"server_url": server.url, "timeout": 5, **options})


def wait_for(server, request=JOB, **options):
    return bac_states.wait(request, **{"server_url": server.url, "timeout": 5, **options})


def error_of(kind, function, *args, **options):
    """The error that a call raises, which is of exactly that class where one is named."""
    with pytest.raises(SDKError) as caught:
        function(*args, **options)
    assert kind is None or type(caught.value) is kind, repr(caught.value)
    return caught.value


def refused(server, kind=None, **options):
    return error_of(kind, ask, server, **options)


def undecoded(document, version=""):
    return error_of(DecodeError, bac_states.decode, document, server_version=version)


def everything_told(error):
    """All that an error, its cause and its context say to whoever prints or logs them."""
    errors = [each for each in (error, error.__cause__, error.__context__) if each is not None]
    held = [(repr(each), each.args, vars(each)) for each in errors]
    return "\n".join([*traceback.format_exception(type(error), error, None), *map(str, held)])


@pytest.fixture
def clock(monkeypatch):
    """A clock on which pauses take no time: it tells how long each was."""
    clock = types.SimpleNamespace(pauses=[], skipped=0.0)
    real = time.monotonic

    def sleep(seconds):
        clock.pauses.append(seconds)
        clock.skipped += seconds

    monkeypatch.setattr(time, "monotonic", lambda: real() + clock.skipped)
    monkeypatch.setattr(time, "sleep", sleep)
    return clock


def resolving_to(*addresses):
    """A getaddrinfo by which every name has these addresses: ports of 127.0.0.1, or whole ones."""

    def getaddrinfo(host, port, *args, **options):
        ports = [port] if host == "127.0.0.1" else addresses
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("127.0.0.1", p)) if isinstance(p, int) else p for p in ports]

    return getaddrinfo


@pytest.fixture
def connections(monkeypatch):
    """The (host, port) of each connection that is tried; all are refused."""
    tried = []

    def resolve(host, port, *args, **options):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]

    def connect(sock, address):
        tried.append(address)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket.socket, "connect", connect)
    return tried


def set_environment(monkeypatch, **variables):
    """Sets BACALHAU_API_HOST and so on, each named by what is special in its name."""
    for name, value in variables.items():
        monkeypatch.setenv(f"BACALHAU_API_{name}", value)


# The command, in this process and in one of its own.


class Ran(typing.NamedTuple):
    code: int
    out: str
    err: str


def command(capsys, *arguments):
    """Runs the command in this process."""
    try:
        code = bac_states.main(list(arguments))
    except SystemExit as leaving:
        code = leaving.code
    return Ran(code, *capsys.readouterr())


def plain_environment():
    """Without what a developer's shell may say to Python, as PYTHONUNBUFFERED."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "FORCE_COLOR"))}
    return {**plain, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8"}


def run(arguments, env=None, **options):
    """Runs a program."""
    done = subprocess.run(
        list(map(str, arguments)),
        **{"stdout": subprocess.PIPE, "encoding": "utf-8", **options},
        stderr=subprocess.PIPE,
        env={**plain_environment(), **(env or {})},
        timeout=60,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def python(*arguments, **options):
    return run([sys.executable, *arguments], **options)


# TLS. The key guards nothing: its certificate, to 2120, is for 127.0.0.1 and loopback.test alone.


def pem(kind, text):
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN {kind}-----\n{lines}\n-----END {kind}-----\n"


KEY = pem(
    "PRIVATE KEY",
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgfDHFhYagYdjyngovoPOg6Xs0OgBgMqogPs9zouqfJ1ehRANCAAQeoZ/bb1/frR7gx01faIX+hu9V0O9iVXIY3tHymkdyYlT9peFKDP1bng19xNQ9sjCObsTCVfICGBAGVdI08MV5",
)
CERTIFICATE = pem(
    "CERTIFICATE",
    "MIIBnTCCAUKgAwIBAgIBATAKBggqhkjOPQQDAjATMREwDwYDVQQDDAhsb29wYmFjazAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMFowEzERMA8GA1UEAwwIbG9vcGJhY2swWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQeoZ/bb1/frR7gx01faIX+hu9V0O9iVXIY3tHymkdyYlT9peFKDP1bng19xNQ9sjCObsTCVfICGBAGVdI08MV5o4GEMIGBMA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgKEMB0GA1UdDgQWBBQdRr5rQBLFXIkSmJBhyBVekTNmgjAfBgNVHSMEGDAWgBQdRr5rQBLFXIkSmJBhyBVekTNmgjAeBgNVHREEFzAVhwR/AAABgg1sb29wYmFjay50ZXN0MAoGCCqGSM49BAMCA0kAMEYCIQC5mE7Ixwav2buRhVAjqurDYzOP8AlzPBdAuc9GiRuI2wIhAI2pDXEryHg5QX+ha6w1EQoHFWGc8oN8sK48FdlJZDPp",
)
REVOCATIONS = pem(  # none of its certificates are revoked
    "X509 CRL",
    "MIGsMFQCAQEwCgYIKoZIzj0EAwIwEzERMA8GA1UEAwwIbG9vcGJhY2sXDTI2MTEyODA5MDk0MFoYDzIxMjYxMTA0MDkwOTQwWqAOMAwwCgYDVR0UBAMCAQEwCgYIKoZIzj0EAwIDSAAwRQIgHpFP4kkhZD/xe5/YKDEvOz5GknvqRu2rcGYgu1IrG3cCIQDcPcAgbDuJxj1UraqidtHJXlHELwtCEeUdaBHN9OksYw==",
)


class Tls:
    """The two ends of TLS with a certificate that nobody signed but itself."""

    def __init__(self, path):
        self.trusted = path / "trusted.pem"
        self.trusted.write_text(CERTIFICATE)
        (path / "tls.pem").write_text(KEY + CERTIFICATE)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(str(path / "tls.pem"))
        self.client = ssl.create_default_context(cadata=CERTIFICATE)

    def tunnel(self, answer, status="200 Connection established"):
        """A proxy's answer to CONNECT, and then that of the server behind it."""

        def connected(peer):
            peer.send(head(status=status))
            peer.secure(self.server)
            if peer.read_request():
                peer.say(answer)

        return connected


@pytest.fixture
def tls(tmp_path):
    return Tls(tmp_path)


# ------------------------------------------------------------------------------------ 1 The call

DOCUMENTED = r"""
{"state": {"Nodes": {
 "QmSyJ8VUd4YSPwZFJSJsHmmmmg7sd4BAc2yHY73nisJo86": {"Shards": {"0": {
  "NodeId": "QmSyJ8VUd4YSPwZFJSJsHmmmmg7sd4BAc2yHY73nisJo86", "State": "Cancelled", "VerificationResult": {}, "PublishedResults": {}}}},
 "QmYgxZiySj3MRkwLSL4X2MF5F9f2PMhAE3LV49XkfNL1o3": {"Shards": {"0": {
  "NodeId": "QmYgxZiySj3MRkwLSL4X2MF5F9f2PMhAE3LV49XkfNL1o3", "State": "Cancelled", "VerificationResult": {}, "PublishedResults": {}}}},
 "QmdZQ7ZbhnvWY1J12XYKGHApJ6aufKyLNSvf8jZBrBaAVL": {"Shards": {"0": {
  "NodeId": "QmdZQ7ZbhnvWY1J12XYKGHApJ6aufKyLNSvf8jZBrBaAVL", "State": "Completed", "Status": "Got results proposal of length: 0", "VerificationResult": {"Complete": true, "Result": true},
  "PublishedResults": {
   "StorageSource": "IPFS", "Name": "job-9304c616-291f-41ad-b862-54e133c0149e-shard-0-host-QmdZQ7ZbhnvWY1J12XYKGHApJ6aufKyLNSvf8jZBrBaAVL",
   "CID": "QmTVmC7JBD2ES2qGPqBNVWnX1KeEPNrPGb7rJ8cpFgtefe"},
  "RunOutput": {"stdout": "Thu Nov 17 13:32:55 UTC 2022\n", "stdouttruncated": false, "stderr": "", "stderrtruncated": false, "exitCode": 0, "runnerError": ""}}}}}}}
"""
DOCUMENTED_STATE = json.loads(r"""
{"state": "Completed",
 "executions": [
  {"node_id": "QmSyJ8VUd4YSPwZFJSJsHmmmmg7sd4BAc2yHY73nisJo86", "state": "Cancelled", "verification_result": {}, "published_results": {}},
  {"node_id": "QmYgxZiySj3MRkwLSL4X2MF5F9f2PMhAE3LV49XkfNL1o3", "state": "Cancelled", "verification_result": {}, "published_results": {}},
  {"node_id": "QmdZQ7ZbhnvWY1J12XYKGHApJ6aufKyLNSvf8jZBrBaAVL", "state": "Completed", "status": "Got results proposal of length: 0",
   "verification_result": {"complete": true, "result": true},
   "published_results": {
    "storage_source": "IPFS", "name": "job-9304c616-291f-41ad-b862-54e133c0149e-shard-0-host-QmdZQ7ZbhnvWY1J12XYKGHApJ6aufKyLNSvf8jZBrBaAVL",
    "cid": "QmTVmC7JBD2ES2qGPqBNVWnX1KeEPNrPGb7rJ8cpFgtefe"},
   "run_output": {"stdout": "Thu Nov 17 13:32:55 UTC 2022\n"}}]}
""")
PUBLIC_NAMES = (
    "BadRequest DecodeError ExecutionState InternalServerError JobNotFound JobState NodeState "
    "RunCommandResult S3StorageSpec SDKError StateRequest StateResponse StorageSpec TransportError "
    "TransportTimeout VerificationResult WaitTimeout decode get main wait"
).split()


def test_the_documented_example_reads_value_by_value(serve):
    server = serve(reply(DOCUMENTED, 200, "Content-Type: text/plain; charset=utf-8"))
    response = ask(server)
    assert (response.server_version, response.raw) == ("", json.loads(DOCUMENTED))
    job = response.state
    assert compact(job) == DOCUMENTED_STATE
    assert (job.is_terminal, job.succeeded) == (True, True)
    assert list(job.nodes) == [execution.node_id for execution in job.executions]
    assert job.nodes[job.executions[2].node_id].shards == {0: job.executions[2]}


def test_decode_takes_bytes_text_or_the_parsed_object():
    document = json.loads(DOCUMENTED)
    encoded = DOCUMENTED.encode()
    ordered = json.loads(DOCUMENTED, object_pairs_hook=collections.OrderedDict)
    for form in (DOCUMENTED, encoded, bytearray(encoded), document, ordered):
        response = bac_states.decode(form, server_version="v0.3.17")
        assert (compact(response.state), response.raw) == (DOCUMENTED_STATE, document)
        assert response.server_version == "v0.3.17"
    odd = {"state": {"JobID": "j", 1: (2, 3)}}
    assert bac_states.decode(odd).raw is odd


def test_an_object_that_no_json_has_is_a_decode_error_and_never_another_one():
    circular = {"state": {}}
    circular["state"]["Nodes"] = circular
    for odd in (object(), {("a", "b"): 1}, {"state": {"Executions": [object()]}}, {1j}, circular):
        assert undecoded(odd).path == ""
    assert decoded({"state": {"JobID": "j", 1: 2, None: 3}, 4: 5}).job_id == "j"


def test_options_are_keywords_of_the_promised_names_and_defaults():
    def options(function):
        first, *others = inspect.signature(function).parameters.values()
        assert all(option.kind == option.KEYWORD_ONLY for option in others)
        return [first.name, {option.name: option.default for option in others}]

    same = {"server_url": None, "timeout": 10.0, "headers": None, "ssl_context": None}
    assert options(bac_states.get) == ["request", same]
    assert options(bac_states.wait) == ["request", {"limit": None, **same}]
    assert options(bac_states.decode) == ["document", {"server_version": ""}]
    assert str(inspect.signature(bac_states.main)).startswith("(argv")


def test_all_is_exactly_the_public_names_and_nothing_else_is_public():
    assert sorted(bac_states.__all__) == PUBLIC_NAMES
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


@pytest.mark.parametrize(
    "change",
    [
        "http.client.HTTPResponse.__init__ = lambda response, sock, more: None",
        "http.client.HTTPResponse.__init__ = lambda response, sock: sock.fileno()",
        "del http.client.HTTPResponse.begin",
        "http.client.HTTPResponse.begin = lambda response, more: None",
        "del http.client.HTTPResponse.read1",
        "http.client.HTTPResponse.read1 = lambda response, size: b'{'",
        "http.client.CONTINUE = 0",  # a 100 is an answer then
        "del urllib.request.proxy_bypass",
    ],
)
def test_the_import_fails_if_what_is_not_documented_has_changed(change):
    script = f"import http.client, urllib.request; {change}; import bac_states"
    ran = python("-c", script, cwd=str(SOURCE.parent))
    assert (ran.code, ran.out) == (1, "") and "bac_states.py" in ran.err


# -------------------------------------------------------------------------------------- 2 Models

# The fields of each model, whose defaults are "" unless others are named.
FIELDS = {
    StateRequest: "job_id client_id",
    StateResponse: "state=JobState() server_version raw=None",
    JobState: "job_id state status executions=() version=0 create_time update_time timeout_at "
    "job_type",
    NodeState: "shards={}",
    ExecutionState: "node_id job_id shard_index=0 compute_reference state status desired_state "
    "accepted_ask_for_bid=False verification_proposal verification_result=None "
    "published_results=None run_output=None version=0 create_time update_time",
    VerificationResult: "complete=False result=False",
    StorageSpec: "storage_source name cid url path source_path repo read_write=False s3=None "
    "metadata=None",
    S3StorageSpec: "bucket key checksum version_id endpoint region",
    RunCommandResult: "stdout stdout_truncated=False stderr stderr_truncated=False exit_code=0 "
    "runner_error",
}
EXECUTION = ExecutionState(
    node_id="n",
    state="Completed",
    verification_result=VerificationResult(True, True),
    published_results=StorageSpec("S3", s3=S3StorageSpec("b", "k"), metadata={"a": "b"}),
    run_output=RunCommandResult("out", exit_code=3),
)
JOB_STATE = JobState("j", "Completed", executions=(EXECUTION, ExecutionState(shard_index=1)))
MODELS = [StateRequest("j", "c"), StateResponse(JOB_STATE, "v1.9.3", {"state": {}}), JOB_STATE]
MODELS += [NodeState({0: EXECUTION}), EXECUTION, EXECUTION.verification_result]
MODELS += [EXECUTION.published_results, EXECUTION.published_results.s3, EXECUTION.run_output]
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)


@pytest.mark.parametrize("model", FIELDS, ids=lambda model: model.__name__)
def test_a_model_has_the_promised_fields_in_order_with_their_defaults(model):
    expected = [field.partition("=") for field in FIELDS[model].split()]
    instance = model("") if model is StateRequest else model()
    assert list(vars(instance)) == [name for name, _, _ in expected]
    defaults = [eval(default or "''") for _, _, default in expected]
    assert list(map(repr, vars(instance).values())) == list(map(repr, defaults))
    with pytest.raises(TypeError):
        StateRequest()


@each_model
def test_a_model_is_frozen_and_equals_and_hashes_as_its_copies(model):
    pickled = (pickle.dumps(model, p) for p in range(pickle.HIGHEST_PROTOCOL + 1))
    for twin in (copy.copy(model), copy.deepcopy(model), *map(pickle.loads, pickled)):
        assert (type(twin), twin, hash(twin)) == (type(model), model, hash(model))
    for field in dataclasses.fields(model):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(model, field.name, None)
    assert dataclasses.replace(model, **{dataclasses.fields(model)[0].name: None}) != model


def test_metadata_is_compared_the_raw_document_neither_compared_nor_shown_all_is_json():
    assert StorageSpec(metadata={"a": "b"}) != StorageSpec(metadata={"a": "c"})
    assert StorageSpec(metadata={}) != StorageSpec()
    assert StateResponse(raw={"secret": 1}) == StateResponse(raw=None)
    assert "secret" not in repr(StateResponse(raw={"secret": 1}))
    document = json.loads(json.dumps(JOB_STATE, default=vars))
    assert document == json.loads(json.dumps(dataclasses.asdict(JOB_STATE)))


@pytest.mark.skipif(sys.version_info < (3, 10), reason="annotations are written as from 3.10 on")
@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_the_annotations_of_every_public_name_resolve(name):
    public = getattr(bac_states, name)
    hints = typing.get_type_hints(public)
    if dataclasses.is_dataclass(public):
        assert list(hints) == [field.name for field in dataclasses.fields(public)]
        assert object not in hints.values()  # for which cattrs has no reader


ENDED_JOB = "Completed CompletedPartially Cancelled Error PartialError".split()
ACTIVE_JOB = ["", *"New InProgress Queued Undefined completed Failed SomethingNew 7".split()]
ENDED_EXECUTION = ["AskForBidRejected", "BidRejected", "ResultRejected"]
ENDED_EXECUTION += ["Completed", "Failed", "Cancelled", "Error"]
ACTIVE_EXECUTION = ["", *"New AskForBid AskForBidAccepted BidAccepted ResultAccepted".split()]
ACTIVE_EXECUTION += "WaitingVerification Running Bidding Waiting Verifying SomethingNew 12".split()


def test_a_job_and_an_execution_have_ended_by_their_words():
    for word in ENDED_JOB + ACTIVE_JOB:
        job = JobState(state=word)
        assert job.is_terminal is (word in ENDED_JOB), word
        assert job.succeeded is (word == "Completed"), word
    for word in ENDED_EXECUTION + ACTIVE_EXECUTION:
        execution = ExecutionState(state=word)
        assert execution.is_terminal is (word in ENDED_EXECUTION), word
        assert execution.succeeded is (word == "Completed"), word


# The states of a job and of its executions with the exit codes of their programs, and whether that
# is a success. -1 is a WASM program that returned without a code; 7 or 9 may be Completed in a
# release that is unknown.
SUCCESSES = """
Completed                                           yes
Completed            Completed 0                    yes
Completed            Completed -1, Completed        yes
Completed            Completed 0, Completed 3       no
Completed            Failed 1, Completed 0          yes
Completed            Cancelled 137, BidAccepted 2   yes
Completed            Completed 4026531839           no
Completed            8 1, 7 0, 9                    yes
Completed            7 3                            no
Completed            9 3                            no
Error                Completed 0                    no
CompletedPartially   Completed 0                    no
InProgress           Completed 0                    no
"""


@pytest.mark.parametrize(
    "row", SUCCESSES.strip().split("\n"), ids=lambda row: " ".join(row.split())
)
def test_a_job_succeeded_if_it_completed_and_no_completed_program_failed(row):
    word, attempts, success = re.fullmatch(r"(\w+) +(.*?) *(yes|no)", row).groups()
    executions = []
    for attempt in filter(None, attempts.split(", ")):
        state, _, code = attempt.partition(" ")
        output = RunCommandResult(exit_code=int(code)) if code else None
        executions.append(ExecutionState(state=state, run_output=output))
        well = state == "Completed" and code in ("", "0", "-1")
        assert executions[-1].succeeded is well
    job = JobState(state=word, executions=tuple(executions))
    assert job.succeeded is (success == "yes")


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
# The history of the service: what servers said, and what it is read as, without the members that
# have their defaults. All were recorded; that of v0.3.17 is the documented example above. A member
# is added by hand: white space does not count here.

HISTORY = r"""
## v0.2.4 states 5ead9bdc-2027-49ac-ad0e-0e4b3f751302: with the output; a bid that lost is 2, Cancelled
{"state": {"nodes": {
 "QmQCAxC4jLTvYCVpTPsMVaMfmf4CTgropmjpnTheZVwfT9": {"shards": {"0": {
  "node_id": "QmQCAxC4jLTvYCVpTPsMVaMfmf4CTgropmjpnTheZVwfT9", "shard_index": 0, "state": 7, "status": "Got results proposal of length: 0", "verification_proposal": null,
  "verification_result": {"complete": true, "result": true},
  "published_results": {
   "engine": 1, "engine_name": "", "name": "job-5ead9bdc-2027-49ac-ad0e-0e4b3f751302-shard-0-host-QmQCAxC4jLTvYCVpTPsMVaMfmf4CTgropmjpnTheZVwfT9",
   "cid": "QmPDn6ug88drWg9yEmVSGuxnEAew7c9NWesvREhips7u4e", "url": "", "path": "", "metadata": null},
  "run_output": {"stdout": "hello from docker", "stdouttruncated": false, "stderr": "a line on stderr", "stderrtruncated": false, "exitCode": 0, "runnerError": ""}}}},
 "QmT9tjqtYsRXJrwpnijx7rp2VowjRCZyK82efFThXEz8gA": {"shards": {"0": {
  "node_id": "QmT9tjqtYsRXJrwpnijx7rp2VowjRCZyK82efFThXEz8gA", "shard_index": 0, "state": 2, "status": "", "verification_proposal": null,
  "verification_result": {"complete": false, "result": false}, "published_results": {"engine_name": "", "name": "", "cid": "", "url": "", "path": "", "metadata": null}, "run_output": null}}}}}}
is read as
{"state": "Completed",
 "executions": [
  {"node_id": "QmQCAxC4jLTvYCVpTPsMVaMfmf4CTgropmjpnTheZVwfT9", "state": "Completed", "status": "Got results proposal of length: 0",
   "verification_result": {"complete": true, "result": true},
   "published_results": {
    "name": "job-5ead9bdc-2027-49ac-ad0e-0e4b3f751302-shard-0-host-QmQCAxC4jLTvYCVpTPsMVaMfmf4CTgropmjpnTheZVwfT9", "cid": "QmPDn6ug88drWg9yEmVSGuxnEAew7c9NWesvREhips7u4e"},
   "run_output": {"stdout": "hello from docker", "stderr": "a line on stderr"}},
  {"node_id": "QmT9tjqtYsRXJrwpnijx7rp2VowjRCZyK82efFThXEz8gA", "state": "Cancelled", "verification_result": {}, "published_results": {}}]}
## v0.2.6 states 230481d5-dc45-48ee-83de-28af8d99dbee: other numbers, 6 is Error; what is empty is left out
{"state": {"Nodes": {"QmaishMDZV2aypzLifCTvvaA5eTEkorD8VE7e4dAg32MST": {"Shards": {"0": {
 "NodeId": "QmaishMDZV2aypzLifCTvvaA5eTEkorD8VE7e4dAg32MST", "State": 6,
 "Status": "[QmaishMD] shard: 230481d5-dc45-48ee-83de-28af8d99dbee:0 at state: Error error completing job due to Error response from daemon: OCI runtime create failed: exec: \"no-such-command\": executable file not found in $PATH: unknown",
 "VerificationResult": {}, "PublishedResults": {},
 "RunOutput": {
  "stdout": "", "stdouttruncated": false, "stderr": "", "stderrtruncated": false, "exitCode": 0,
  "runnerError": "failed to start container: Error response from daemon: OCI runtime create failed: exec: \"no-such-command\": executable file not found in $PATH: unknown"}}}}}}}
is read as
{"state": "Error",
 "executions": [{
  "node_id": "QmaishMDZV2aypzLifCTvvaA5eTEkorD8VE7e4dAg32MST", "state": "Error",
  "status": "[QmaishMD] shard: 230481d5-dc45-48ee-83de-28af8d99dbee:0 at state: Error error completing job due to Error response from daemon: OCI runtime create failed: exec: \"no-such-command\": executable file not found in $PATH: unknown",
  "verification_result": {}, "published_results": {},
  "run_output": {"runner_error": "failed to start container: Error response from daemon: OCI runtime create failed: exec: \"no-such-command\": executable file not found in $PATH: unknown"}}]}
## v0.3.22 requester ecdbe6f5-23e9-498b-a2fc-1d467a2132f9: executions under shards, a state of the job, times
{"state": {
 "JobID": "ecdbe6f5-23e9-498b-a2fc-1d467a2132f9",
 "Shards": {"0": {
  "JobID": "ecdbe6f5-23e9-498b-a2fc-1d467a2132f9", "ShardIndex": 0,
  "Executions": [{
   "JobID": "ecdbe6f5-23e9-498b-a2fc-1d467a2132f9", "ShardIndex": 0, "NodeId": "QmVUxaSrsHLnvrTmn1HHdgH3oazGtcmgjNrSQLiGkyDQsn", "ComputeReference": "e-cf3dc0b3-a400-41b6-90fd-2d694be01e3e",
   "State": "Completed", "VerificationResult": {"Complete": true, "Result": true},
   "PublishedResults": {
    "StorageSource": "IPFS", "Name": "job-ecdbe6f5-23e9-498b-a2fc-1d467a2132f9-shard-0-host-QmVUxaSrsHLnvrTmn1HHdgH3oazGtcmgjNrSQLiGkyDQsn",
    "CID": "QmTc6tDD3yyEUxyHJo8cbR3XuU1j7mik5VKg2PdLsHNY1a"},
   "RunOutput": {"stdout": "about to fail\n", "stdouttruncated": false, "stderr": "fatal: something went wrong\n", "stderrtruncated": false, "exitCode": 3, "runnerError": ""}, "Version": 6,
   "CreateTime": "2026-11-23T18:24:32.155672752Z", "UpdateTime": "2026-11-23T18:24:31.997196616Z"}],
  "State": "Completed", "Version": 2, "CreateTime": "2026-11-23T18:24:31.982114074Z", "UpdateTime": "2026-11-23T18:24:32.155697308Z"}},
 "State": "Completed", "Version": 2, "CreateTime": "2026-11-23T18:24:31.982115796Z", "UpdateTime": "2026-11-23T18:24:32.155700293Z", "TimeoutAt": "0001-01-01T00:00:00Z"}}
is read as
{"job_id": "ecdbe6f5-23e9-498b-a2fc-1d467a2132f9", "state": "Completed",
 "executions": [{
  "node_id": "QmVUxaSrsHLnvrTmn1HHdgH3oazGtcmgjNrSQLiGkyDQsn", "job_id": "ecdbe6f5-23e9-498b-a2fc-1d467a2132f9", "compute_reference": "e-cf3dc0b3-a400-41b6-90fd-2d694be01e3e",
  "state": "Completed", "verification_result": {"complete": true, "result": true},
  "published_results": {
   "storage_source": "IPFS", "name": "job-ecdbe6f5-23e9-498b-a2fc-1d467a2132f9-shard-0-host-QmVUxaSrsHLnvrTmn1HHdgH3oazGtcmgjNrSQLiGkyDQsn",
   "cid": "QmTc6tDD3yyEUxyHJo8cbR3XuU1j7mik5VKg2PdLsHNY1a"},
  "run_output": {"stdout": "about to fail\n", "stderr": "fatal: something went wrong\n", "exit_code": 3}, "version": 6, "create_time": "2026-11-23T18:24:32.155672752Z", "update_time": "2026-11-23T18:24:31.997196616Z"}], "version": 2, "create_time": "2026-11-23T18:24:31.982115796Z", "update_time": "2026-11-23T18:24:32.155700293Z"}
## v1.0.3 requester fd305b3c-7eed-4c2f-a143-a8ee54a5f978: AcceptedAskForBid
{"state": {
 "JobID": "fd305b3c-7eed-4c2f-a143-a8ee54a5f978",
 "Executions": [{
  "JobID": "fd305b3c-7eed-4c2f-a143-a8ee54a5f978", "NodeId": "QmSVpNKv8dMVps5m9TUqRgwrKVTys5AGejcwwVbt7GkN6b", "ComputeReference": "e-dfa32491-ebb9-471b-b6e1-37099fed0a50",
  "State": "Completed", "AcceptedAskForBid": true, "VerificationResult": {"Complete": true, "Result": true},
  "PublishedResults": {"StorageSource": "IPFS", "Name": "ipfs://QmTc6tDD3yyEUxyHJo8cbR3XuU1j7mik5VKg2PdLsHNY1a", "CID": "QmTc6tDD3yyEUxyHJo8cbR3XuU1j7mik5VKg2PdLsHNY1a"},
  "RunOutput": {"stdout": "about to fail\n", "stdouttruncated": false, "stderr": "fatal: something went wrong\n", "stderrtruncated": false, "exitCode": 3, "runnerError": ""}, "Version": 6,
  "CreateTime": "2026-11-23T18:44:06.430029257Z", "UpdateTime": "2026-11-23T18:44:06.400331316Z"}],
 "State": "Completed", "Version": 5, "CreateTime": "2026-11-23T18:44:06.3843369Z", "UpdateTime": "2026-11-23T18:44:06.430050017Z", "TimeoutAt": "0001-01-01T00:00:00Z"}}
is read as
{"job_id": "fd305b3c-7eed-4c2f-a143-a8ee54a5f978", "state": "Completed",
 "executions": [{
  "node_id": "QmSVpNKv8dMVps5m9TUqRgwrKVTys5AGejcwwVbt7GkN6b", "job_id": "fd305b3c-7eed-4c2f-a143-a8ee54a5f978", "compute_reference": "e-dfa32491-ebb9-471b-b6e1-37099fed0a50",
  "state": "Completed", "accepted_ask_for_bid": true, "verification_result": {"complete": true, "result": true},
  "published_results": {"storage_source": "IPFS", "name": "ipfs://QmTc6tDD3yyEUxyHJo8cbR3XuU1j7mik5VKg2PdLsHNY1a", "cid": "QmTc6tDD3yyEUxyHJo8cbR3XuU1j7mik5VKg2PdLsHNY1a"},
  "run_output": {"stdout": "about to fail\n", "stderr": "fatal: something went wrong\n", "exit_code": 3}, "version": 6, "create_time": "2026-11-23T18:44:06.430029257Z", "update_time": "2026-11-23T18:44:06.400331316Z"}], "version": 5, "create_time": "2026-11-23T18:44:06.3843369Z", "update_time": "2026-11-23T18:44:06.430050017Z"}
## v1.1.6 requester c4e925c0-0f14-40d0-a7eb-471b62baead5: DesiredState is a number; ". " before the only message
{"state": {
 "JobID": "c4e925c0-0f14-40d0-a7eb-471b62baead5",
 "Executions": [{
  "JobID": "c4e925c0-0f14-40d0-a7eb-471b62baead5", "NodeId": "Qmbs8TKW6Ee6Abc5u1YCGcK2K2URBdn1Lu9BbSWQSw1P7b", "ComputeReference": "e-36b8bbdb-25bd-408b-a8ed-6d4eb2564be0",
  "State": "Completed", "Status": ". execution completed", "DesiredState": 2, "PublishedResults": {"StorageSource": "ipfs", "CID": "QmVy2yBZs4ebfSBFM25YjNa1iG31WEbimrLhzs2GCPLLD2"},
  "RunOutput": {"stdout": "hello from wasm\n", "stdouttruncated": false, "stderr": "a line on stderr\n", "stderrtruncated": false, "exitCode": -1, "runnerError": ""}, "Version": 6,
  "CreateTime": "2026-11-23T18:36:02.152930429Z", "UpdateTime": "2026-11-23T18:36:02.252890791Z"}],
 "State": "Completed", "Version": 3, "CreateTime": "2026-11-23T18:36:02.14399034Z", "UpdateTime": "2026-11-23T18:36:02.254279524Z", "TimeoutAt": "2026-11-23T19:06:02.14399034Z"}}
is read as
{"job_id": "c4e925c0-0f14-40d0-a7eb-471b62baead5", "state": "Completed",
 "executions": [{
  "node_id": "Qmbs8TKW6Ee6Abc5u1YCGcK2K2URBdn1Lu9BbSWQSw1P7b", "job_id": "c4e925c0-0f14-40d0-a7eb-471b62baead5", "compute_reference": "e-36b8bbdb-25bd-408b-a8ed-6d4eb2564be0",
  "state": "Completed", "status": "execution completed", "desired_state": "Stopped", "published_results": {"storage_source": "ipfs", "cid": "QmVy2yBZs4ebfSBFM25YjNa1iG31WEbimrLhzs2GCPLLD2"},
  "run_output": {"stdout": "hello from wasm\n", "stderr": "a line on stderr\n", "exit_code": -1}, "version": 6, "create_time": "2026-11-23T18:36:02.152930429Z", "update_time": "2026-11-23T18:36:02.252890791Z"}], "version": 3, "create_time": "2026-11-23T18:36:02.14399034Z", "update_time": "2026-11-23T18:36:02.254279524Z", "timeout_at": "2026-11-23T19:06:02.14399034Z"}
## v1.4.0 jobs j-fe26dbc0-b948-42e9-b581-f9912053e88c: the newer API; what took too long ended with its records null
{"Job": {
  "ID": "j-fe26dbc0-b948-42e9-b581-f9912053e88c", "Name": "total-timeout", "Namespace": "default", "Type": "batch", "Priority": 0, "Count": 1, "Constraints": [],
  "Meta": {"bacalhau.org/requester.id": "n-9a82e542-dc64-4d1d-98f3-5de55cc01c24"}, "Labels": {},
  "Tasks": [{"Name": "main", "Engine": {"Type": "wasm", "Params": {"EntryModule": {"Alias": "", "Source": {"Params": {"URL": "data:application/wasm;base64,AGFzbQEAAAABGgVgBH9/f38Bf2ABfwBgA39/fwBg"}, "Type": "inline"}, "Target": "/main.wasm"}, "Entrypoint": "_start"}}, "Publisher": {"Type": ""}, "Resources": {}, "Network": {"Type": "None"}, "Timeouts": {"TotalTimeout": 4}}],
  "State": {"StateType": "Failed", "Message": "Job timed out. Job took longer than 4s"}, "Version": 0, "Revision": 3, "CreateTime": 1795457524032219940, "ModifyTime": 1795457528045393334},
 "Executions": {
  "NextToken": "",
  "Items": [{
   "ID": "e-397e4ab7-4dfd-4986-a827-d15c289d584e", "Namespace": "default", "EvalID": "d59f68b4-17bf-4a17-8efe-7994a4e98e54", "Name": "", "NodeID": "n-9a82e542-dc64-4d1d-98f3-5de55cc01c24",
   "JobID": "j-fe26dbc0-b948-42e9-b581-f9912053e88c", "AllocatedResources": {"Tasks": {}}, "DesiredState": {"StateType": 2, "Message": "execution failed"},
   "ComputeState": {"StateType": 8, "Message": "Execution timed out after 4s"}, "PublishedResult": null, "RunOutput": null, "PreviousExecution": "", "NextExecution": "",
   "FollowupEvalID": "", "Revision": 5, "CreateTime": 1795457524033923941, "ModifyTime": 1795457528045000500}]}}
is read as
{"job_id": "j-fe26dbc0-b948-42e9-b581-f9912053e88c", "state": "Error", "status": "Job timed out. Job took longer than 4s",
 "executions": [{
  "node_id": "n-9a82e542-dc64-4d1d-98f3-5de55cc01c24", "job_id": "j-fe26dbc0-b948-42e9-b581-f9912053e88c", "compute_reference": "e-397e4ab7-4dfd-4986-a827-d15c289d584e", "state": "Failed",
  "status": "Execution timed out after 4s. execution failed", "desired_state": "Stopped", "version": 5, "create_time": "2026-11-23T18:12:04.033923941Z",
  "update_time": "2026-11-23T18:12:08.0450005Z"}], "version": 3, "create_time": "2026-11-23T18:12:04.03221994Z", "update_time": "2026-11-23T18:12:08.045393334Z", "job_type": "batch"}
## v1.5.2 jobs j-86c83767-fae6-49f0-9c9c-3eba304004d9: executions renumbered, 9 is Completed
{"Job": {
  "ID": "j-86c83767-fae6-49f0-9c9c-3eba304004d9", "Name": "exit-code-3", "Namespace": "default", "Type": "batch", "Priority": 0, "Count": 1, "Constraints": [],
  "Meta": {"bacalhau.org/orchestrator.id": "n-33ccc330-c7f9-4558-8c4b-9b1a603151ee", "bacalhau.org/requester.id": "n-33ccc330-c7f9-4558-8c4b-9b1a603151ee", "bacalhau.org/server.instance.id": "0035969ec53f6e7f0fb40f08cc9ed4783aa99c2000cf1ebe4187c10dd0d8370f"},
  "Labels": {},
  "Tasks": [{"Name": "main", "Engine": {"Type": "wasm", "Params": {"EntryModule": {"Alias": "", "Source": {"Params": {"URL": "data:application/wasm;base64,AGFzbQEAAAABGgVgBH9/f38Bf2ABfwBgA39/fwBg"}, "Type": "inline"}, "Target": "/main.wasm"}, "Entrypoint": "_start"}}, "Publisher": {"Type": ""}, "Resources": {"CPU": "500m", "Memory": "1gb"}, "Network": {"Type": "None"}, "Timeouts": {}}],
  "State": {"StateType": "Completed"}, "Version": 0, "Revision": 3, "CreateTime": 1795458144771291805, "ModifyTime": 1795458144804391728},
 "Executions": {
  "NextToken": "",
  "Items": [{
   "ID": "e-899cca1f-709d-4d06-8539-5a70cdb52116", "Namespace": "default", "EvalID": "ad3d0991-a49b-4ca7-b83a-016eebe6a607", "Name": "", "NodeID": "n-33ccc330-c7f9-4558-8c4b-9b1a603151ee",
   "JobID": "j-86c83767-fae6-49f0-9c9c-3eba304004d9", "AllocatedResources": {"Tasks": {}}, "DesiredState": {"StateType": 2, "Message": "execution completed"},
   "ComputeState": {"StateType": 9}, "PublishedResult": {"Type": ""},
   "RunOutput": {"Stdout": "partial output\n", "StdoutTruncated": false, "stderr": "boom: exiting with 3\n", "StderrTruncated": false, "ExitCode": 3, "ErrorMsg": ""},
   "PreviousExecution": "", "NextExecution": "", "FollowupEvalID": "", "Revision": 4, "CreateTime": 1795458144773272026, "ModifyTime": 1795458144803811487}]}}
is read as
{"job_id": "j-86c83767-fae6-49f0-9c9c-3eba304004d9", "state": "Completed",
 "executions": [{
  "node_id": "n-33ccc330-c7f9-4558-8c4b-9b1a603151ee", "job_id": "j-86c83767-fae6-49f0-9c9c-3eba304004d9", "compute_reference": "e-899cca1f-709d-4d06-8539-5a70cdb52116",
  "state": "Completed", "status": "execution completed", "desired_state": "Stopped", "published_results": {},
  "run_output": {"stdout": "partial output\n", "stderr": "boom: exiting with 3\n", "exit_code": 3}, "version": 4, "create_time": "2026-11-23T18:22:24.773272026Z",
  "update_time": "2026-11-23T18:22:24.803811487Z"}], "version": 3, "create_time": "2026-11-23T18:22:24.771291805Z", "update_time": "2026-11-23T18:22:24.804391728Z", "job_type": "batch"}
## v1.9.3 jobs j-f4a67c37-e0c4-4468-91fc-545cbc4531c8: each execution carries a stale copy of the job
{"Job": {
  "ID": "j-f4a67c37-e0c4-4468-91fc-545cbc4531c8", "Name": "publisher-local", "Namespace": "default", "Type": "batch", "Priority": 0, "Count": 1, "Constraints": [],
  "Meta": {"bacalhau.org/orchestrator.id": "n-b2c7ed29-4d34-47da-8b9a-3ce51daedc11", "bacalhau.org/requester.id": "n-b2c7ed29-4d34-47da-8b9a-3ce51daedc11", "bacalhau.org/server.instance.id": "0035969ec53f6e7f0fb40f08cc9ed4783aa99c2000cf1ebe4187c10dd0d8370f"},
  "Labels": {},
  "Tasks": [{"Name": "main", "Engine": {"Type": "wasm", "Params": {"EntryModule": "/main.wasm", "Entrypoint": "_start"}}, "Publisher": {"Type": "local"}, "InputSources": [{"Source": {"Type": "inline", "Params": {"URL": "data:application/wasm;base64,AGFzbQEAAAABGgVgBH9/f38Bf2ABfwBgA39/fwBg"}}, "Alias": "", "Target": "/main.wasm"}], "ResultPaths": [{"Name": "outputs", "Path": "/outputs"}], "Resources": {"CPU": "500m", "Memory": "512mb"}, "Network": {"Type": "Default"}, "Timeouts": {}}],
  "State": {"StateType": "Completed"}, "Version": 1, "Revision": 3, "CreateTime": 1795457374578569287, "ModifyTime": 1795457374601829390},
 "Executions": {
  "NextToken": "",
  "Items": [{
   "ID": "e-62d55e73-dbce-4063-90df-718a1b948914", "Namespace": "default", "EvalID": "49a5c17b-6870-41a0-bd00-62c927684400", "Name": "", "NodeID": "n-b2c7ed29-4d34-47da-8b9a-3ce51daedc11",
   "JobID": "j-f4a67c37-e0c4-4468-91fc-545cbc4531c8",
   "Job": {
    "ID": "j-f4a67c37-e0c4-4468-91fc-545cbc4531c8", "Name": "publisher-local", "Namespace": "default", "Type": "batch", "Priority": 0, "Count": 1, "Constraints": [],
    "Meta": {"bacalhau.org/orchestrator.id": "n-b2c7ed29-4d34-47da-8b9a-3ce51daedc11", "bacalhau.org/requester.id": "n-b2c7ed29-4d34-47da-8b9a-3ce51daedc11", "bacalhau.org/server.instance.id": "0035969ec53f6e7f0fb40f08cc9ed4783aa99c2000cf1ebe4187c10dd0d8370f"},
    "Labels": {},
    "Tasks": [{"Name": "main", "Engine": {"Type": "wasm", "Params": {"EntryModule": "/main.wasm", "Entrypoint": "_start"}}, "Publisher": {"Type": "local"}, "InputSources": [{"Source": {"Type": "inline", "Params": {"URL": "data:application/wasm;base64,AGFzbQEAAAABGgVgBH9/f38Bf2ABfwBgA39/fwBg"}}, "Alias": "", "Target": "/main.wasm"}], "ResultPaths": [{"Name": "outputs", "Path": "/outputs"}], "Resources": {"CPU": "500m", "Memory": "512mb"}, "Network": {"Type": "Default"}, "Timeouts": {}}],
    "State": {"StateType": "Pending"}, "Version": 1, "Revision": 1, "CreateTime": 1795457374578569287, "ModifyTime": 1795457374578569337},
   "JobVersion": 1, "AllocatedResources": {"Tasks": {}}, "DesiredState": {"StateType": 2, "Message": "execution completed"}, "ComputeState": {"StateType": 9, "Message": "Running"},
   "PublishedResult": {"Type": "urlDownload", "Params": {"URL": "http://127.0.0.1:6001/e-62d55e73-dbce-4063-90df-718a1b948914.tar.gz"}},
   "RunOutput": {"Stdout": "hello from wasm\nline two: é€\n", "StdoutTruncated": false, "stderr": "a warning on stderr\n", "StderrTruncated": false, "ExitCode": -1, "ErrorMsg": ""},
   "PreviousExecution": "", "NextExecution": "", "FollowupEvalID": "", "Revision": 4, "CreateTime": 1795457374592385874, "ModifyTime": 1795457374601262078}]}}
is read as
{"job_id": "j-f4a67c37-e0c4-4468-91fc-545cbc4531c8", "state": "Completed",
 "executions": [{
  "node_id": "n-b2c7ed29-4d34-47da-8b9a-3ce51daedc11", "job_id": "j-f4a67c37-e0c4-4468-91fc-545cbc4531c8", "compute_reference": "e-62d55e73-dbce-4063-90df-718a1b948914",
  "state": "Completed", "status": "Running. execution completed", "desired_state": "Stopped",
  "published_results": {"storage_source": "urlDownload", "url": "http://127.0.0.1:6001/e-62d55e73-dbce-4063-90df-718a1b948914.tar.gz"},
  "run_output": {"stdout": "hello from wasm\nline two: é€\n", "stderr": "a warning on stderr\n", "exit_code": -1}, "version": 4, "create_time": "2026-11-23T18:09:34.592385874Z",
  "update_time": "2026-11-23T18:09:34.601262078Z"}], "version": 3, "create_time": "2026-11-23T18:09:34.578569287Z", "update_time": "2026-11-23T18:09:34.60182939Z", "job_type": "batch"}
"""


class Exchange(typing.NamedTuple):
    release: tuple  # of numbers, for v1.10.0 is newer than v1.9.3
    route: str
    job_id: str
    what_is_new: str
    sent: dict
    read_as: dict

    @property
    def name(self):
        return "v{}.{}.{}".format(*self.release)

    @property
    def version(self):
        """What servers say in X-Bacalhau-Git-Version, from v1.2.1 on."""
        return self.name if self.release >= (1, 2, 1) else ""

    def served(self):
        """A server's routes: the one that answers, and what the release says of the others."""
        since = {(0, 2): GO_404, (1, 4): GONE, (1, 7): MISSING_V1_7, (1, 8): MISSING_V1_8}
        refusal = since[max(release for release in since if release <= self.release)]
        header = [f"X-Bacalhau-Git-Version: {self.version}"] if self.version else []
        return {"anything": refusal, self.route: json_reply(self.sent, 200, *header)}


def numbered(release):
    return tuple(map(int, release[1:].split(".")))


def exchanges():
    for told in HISTORY.split("\n## ")[1:]:
        title, documents = told.split("\n", 1)
        names, what_is_new = title.split(": ", 1)
        release, route, job_id = names.split(" ")
        sent, read_as = map(json.loads, documents.split("\nis read as\n"))
        yield Exchange(numbered(release), route, job_id, what_is_new, sent, read_as)


EXCHANGES = list(exchanges())


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda e: f"{e.name}: {e.what_is_new}")
def test_each_release_is_answered_with_every_value_in_its_place(serve, exchange):
    server = serve(**exchange.served())
    response = ask(server, exchange.job_id)
    assert compact(response.state) == exchange.read_as
    assert (response.server_version, response.raw) == (exchange.version, exchange.sent)
    assert server.asked[-1] == exchange.route


def test_what_has_not_happened_yet_may_be_null_empty_or_absent():
    for nodes in (None, {}, {"QmNode": {}}, {"QmNode": None}, {"QmNode": {"Shards": None}}):
        assert decoded({"state": {"Nodes": nodes}}) == JobState(state="New")
    assert decoded({"state": {}}) == decoded({"state": {"State": None}}) == JobState(state="New")
    assert decoded({"state": {"JobID": "j"}}) == JobState("j")
    for empty in ({}, {"Executions": []}, {"Shards": {}}, {"Shards": {"0": {}}}):
        document = {"state": {"JobID": "j", "State": "Queued", **empty}}
        assert decoded(document) == JobState("j", "Queued")
    listed_too = {"state": {"JobID": "j", "Executions": [{"NodeId": "n"}], "Shards": {}}}
    assert executions_of(listed_too) == (ExecutionState("n"),)
    for absent in ({}, {"Executions": None}, {"Executions": {}}, {"Executions": {"Items": []}}):
        assert decoded({"Job": {"ID": "j"}, **absent}) == JobState("j")


@pytest.mark.parametrize("member", ["nodes", "Nodes", "State", "executions"])
def test_a_known_member_that_is_null_has_not_happened_yet_whatever_is_beside_it(member):
    assert decoded({"state": {member: None, "Extra": 1}}) == JobState(state="New")


def test_names_match_ignoring_case_and_underscores():
    for name in ("node_id", "NodeId", "NodeID", "nodeid", "NODE_ID", "nOdE_iD"):
        assert executions_of(listed({name: "n"})) == (ExecutionState("n"),), name
    assert decoded({"STATE": {"s_t_a_t_e": "New", "JOB_ID": "j"}}) == JobState("j", "New")
    assert decoded({"job": {"id": "j", "state": {"statetype": "Pending"}}}) == JobState("j", "New")
    for name in ("ComputeReference", "ExecutionId", "execution_id"):  # v0.3.17 to .19
        assert executions_of(of_shards(_0={name: "e-1"}))[0].compute_reference == "e-1"
    for name in ("runner_error", "ErrorMsg", "error_msg"):
        assert executions_of(of_job({"runOutput": {name: "x"}}))[0].run_output.runner_error == "x"


def test_keys_that_are_data_keep_their_spelling_and_unknown_ones_are_ignored():
    shard = {"Shards": {"0": {"PublishedResults": {"Metadata": {"A_b": "c"}}}}}
    job = decoded({"state": {"Nodes": {"Qm_Node": shard, "qmnode": shard}}})
    assert list(job.nodes) == ["Qm_Node", "qmnode"]
    assert job.executions[0].published_results.metadata == {"A_b": "c"}
    document = {**listed({"Y": 1.5, "Z": {"State": 1}}, X=[{}]), "W": [1]}
    assert decoded(document) == JobState("j", "New", executions=(ExecutionState(),))


@counts_memory
def test_names_that_are_unknown_leave_no_memory_behind():
    long = {"x" * MIB + str(number): 0 for number in range(3)}
    many = {f"{number:090}": 0 for number in range(5000)}
    documents = [document(names) for names in (long, many) for document in (listed, of_job)]
    texts = list(map(json.dumps, documents))
    shapes = [{f"{number:09}": 0} for number in range(9000)]
    texts.append(json.dumps({"state": {"Executions": shapes}}))
    tracemalloc.start()
    try:
        for text in texts:
            bac_states.decode(text)
        assert tracemalloc.get_traced_memory()[0] < MIB / 2
    finally:
        tracemalloc.stop()


def test_of_names_that_fold_to_one_the_last_wins_unless_it_is_null():
    for first, second in (('State":"A"', 'state":"B"'), ('state":"A"', 'State":"B"')):
        assert decoded(f'{{"state":{{"JobID":"j","{first},"{second}}}}}').state == "B"
    # Those before it are not even read: 16 MiB of them would take a minute.
    spelled = '"EXECUTIONS":[1],"ExecutionS":5,"executions":[{"NodeId":"n"}],"EXECUTIONs":null'
    for members in (spelled, f'"Shards":{{"0":{{{spelled}}}}}'):
        (only,) = executions_of(f'{{"state":{{{members}}}}}')
        assert only.node_id == "n"
    error = undecoded('{"state":{"EXECUTIONS":[{}],"executions":[{"State":1}]}}')
    assert error.path == "state.executions[0].State"
    told = {'"State":"B","state":null': "B", '"State":"B","Nodes":null': "B", '"Nodes":{}': "New"}
    for members, state in told.items():
        assert decoded(f'{{"state":{{"JobID":"j",{members}}}}}').state == state


# Every member of every record. One that is added here has its wrong types and null tested, too.

EXECUTION_SENT = json.loads("""
{"JobID": "j", "NodeId": "n", "ShardIndex": 2, "ComputeReference": "e-1", "State": "Completed", "Status": "done", "DesiredState": 2, "AcceptedAskForBid": true,
 "VerificationProposal": "aGk=", "VerificationResult": {"Complete": true, "Result": true},
 "PublishedResults": {
  "StorageSource": "S3", "Name": "n", "CID": "c", "URL": "u", "Path": "p", "SourcePath": "sp", "Repo": "r", "ReadWrite": true,
  "S3": {"Bucket": "b", "Key": "k", "Checksum": "c", "VersionID": "v", "Endpoint": "e", "Region": "r"}, "Metadata": {"a": "b"}},
 "RunOutput": {"stdout": "o", "stdouttruncated": true, "stderr": "e", "stderrtruncated": true, "exitCode": 3, "runnerError": "r"}, "Version": 6,
 "CreateTime": "2023-02-22T10:11:12.123456789+05:30", "UpdateTime": "2023-02-22T10:11:13Z"}
""")
EXECUTION_READ = json.loads("""
{"node_id": "n", "job_id": "j", "shard_index": 2, "compute_reference": "e-1", "state": "Completed", "status": "done", "desired_state": "Stopped", "accepted_ask_for_bid": true,
 "verification_proposal": "aGk=", "verification_result": {"complete": true, "result": true},
 "published_results": {
  "storage_source": "S3", "name": "n", "cid": "c", "url": "u", "path": "p", "source_path": "sp", "repo": "r", "read_write": true,
  "s3": {"bucket": "b", "key": "k", "checksum": "c", "version_id": "v", "endpoint": "e", "region": "r"}, "metadata": {"a": "b"}},
 "run_output": {"stdout": "o", "stdout_truncated": true, "stderr": "e", "stderr_truncated": true, "exit_code": 3, "runner_error": "r"}, "version": 6,
 "create_time": "2023-02-22T10:11:12.123456789+05:30", "update_time": "2023-02-22T10:11:13Z"}
""")
JOB_SENT = json.loads("""
{"JobID": "j", "State": "Completed", "Status": "why", "Version": 5, "CreateTime": "2023-02-22T10:11:12Z", "UpdateTime": "2023-02-22T10:11:13Z", "TimeoutAt": "2023-02-22T10:41:13Z"}
""")
LIST = {"state": {**JOB_SENT, "Executions": [EXECUTION_SENT]}}
SHARDS = {"state": {**JOB_SENT, "Shards": {"2": {"Executions": [EXECUTION_SENT]}}}}
NODES = of_shards(_2=EXECUTION_SENT)
JOB_READ = json.loads("""
{"job_id": "j", "state": "Completed", "status": "why", "version": 5, "create_time": "2023-02-22T10:11:12Z", "update_time": "2023-02-22T10:11:13Z", "timeout_at": "2023-02-22T10:41:13Z"}
""")
JOB_READ["executions"] = [EXECUTION_READ]
NEWER = json.loads("""
{"Job": {"ID": "j", "Type": "service", "State": {"StateType": "Failed", "Message": "why"}, "Revision": 5, "CreateTime": 1677060672000000000, "ModifyTime": 1677060673000000000},
 "Executions": {"Items": [
  {"ID": "e-1", "NodeID": "n", "JobID": "j", "PartitionIndex": 2, "DesiredState": {"StateType": 2, "Message": "stopped"}, "ComputeState": {"StateType": 10, "Message": "failed"},
   "PublishedResult": {"Type": "s3", "Params": {"Bucket": "b", "Key": "k", "ChecksumSHA256": "c", "VersionID": "v", "Endpoint": "e", "Region": "r"}},
   "RunOutput": {"Stdout": "o", "StdoutTruncated": true, "stderr": "e", "StderrTruncated": true, "ExitCode": 3, "ErrorMsg": "r"}, "Revision": 6, "CreateTime": 1677060672123456789,
   "ModifyTime": 1677060673100000000},
  {"PublishedResult": {"Type": "any", "Params": {"CID": "c", "URL": "u", "SourcePath": "sp", "ReadWrite": true}}}]}}
""")
NEWER_READ = json.loads("""
{"job_id": "j", "state": "Error", "status": "why",
 "executions": [
  {"node_id": "n", "job_id": "j", "shard_index": 2, "compute_reference": "e-1", "state": "Failed", "status": "failed. stopped", "desired_state": "Stopped",
   "published_results": {"storage_source": "s3", "s3": {"bucket": "b", "key": "k", "checksum": "c", "version_id": "v", "endpoint": "e", "region": "r"}},
   "run_output": {"stdout": "o", "stdout_truncated": true, "stderr": "e", "stderr_truncated": true, "exit_code": 3, "runner_error": "r"}, "version": 6,
   "create_time": "2023-02-22T10:11:12.123456789Z", "update_time": "2023-02-22T10:11:13.1Z"},
  {"published_results": {"storage_source": "any", "cid": "c", "url": "u", "source_path": "sp", "read_write": true}}],
 "version": 5, "create_time": "2023-02-22T10:11:12Z", "update_time": "2023-02-22T10:11:13Z", "job_type": "service"}
""")
ERAS = {"nodes": NODES, "shards": SHARDS, "list": LIST, "newer": NEWER}
READ = {"shards": JOB_READ, "list": JOB_READ, "newer": NEWER_READ}
READ["nodes"] = {"state": "Completed", "executions": [EXECUTION_READ]}
# What an era has no member for; all else has to be in its document above.
LACKING = {"nodes": "timeout_at job_type", "shards": "job_type", "list": "job_type"}
LACKING["newer"] = "timeout_at accepted_ask_for_bid verification_proposal verification_result"
LACKING["newer"] += " complete result name path repo metadata"


@pytest.mark.parametrize("era", ERAS)
def test_every_member_of_every_record_has_its_place_and_the_document_is_left_alone(era):
    document = copy.deepcopy(ERAS[era])
    response = bac_states.decode(document, server_version="v1.9.3")
    assert compact(response.state) == READ[era]
    assert document == response.raw == ERAS[era]


def members(value, path=()):
    """The path and the value of every member below a value."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key), item
        if isinstance(item, (dict, list)):
            yield from members(item, (*path, key))


NOTHING = object()


def replaced(document, path, value=NOTHING):
    """A copy of the document with another value at that path, or without it."""
    document = copy.deepcopy(document)
    *parents, last = path
    target = functools.reduce(lambda value, key: value[key], parents, document)
    target[last] = value
    if value is NOTHING:
        del target[last]
    return document


@pytest.mark.parametrize("era", ERAS)
def test_the_documents_of_these_tests_have_every_member_that_an_era_knows(era):
    models = [JobState, ExecutionState, VerificationResult, StorageSpec, S3StorageSpec]
    models.append(RunCommandResult)
    known = {field.name for model in models for field in dataclasses.fields(model)}
    assert known - {path[-1] for path, _ in members(READ[era])} == set(LACKING[era].split())


def dotted(path):
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)[1:]


def wrong_values():
    """Every member of every record, with values of the JSON types that it is not."""
    numbers = {"nodes": ["State", "DesiredState"], "newer": ["StateType"]}
    for era, document in ERAS.items():
        for path, right in members(document):
            kinds = {type(right)}
            if path[-1] in numbers.get(era, ["DesiredState"]):
                kinds = {str, int}  # a state's word or its number
            wrongs = [wrong for wrong in ("1", 1, True, 1.0, [], {}) if type(wrong) not in kinds]
            yield pytest.param(era, path, wrongs, id=f"{era}: {dotted(path)}")


@pytest.mark.parametrize("era, path, wrongs", list(wrong_values()))
def test_a_wrong_type_anywhere_is_an_error_that_says_where(era, path, wrongs):
    for wrong in wrongs:
        error = undecoded(replaced(ERAS[era], path, wrong), "v1.9.3")
        assert error.path == dotted(path)
        assert error.path in error.message


def outcome(document):
    try:
        return decoded(document, "v1.9.3")
    except DecodeError:
        return DecodeError


@pytest.mark.parametrize("era", ERAS)
def test_a_null_anywhere_is_absent_and_as_an_element_an_empty_record(era):
    for path, value in members(ERAS[era]):
        empty = {str: ""}.get(type(value), {})
        element = type(path[-1]) is int or {"Nodes", "Shards", "Metadata"} & set(path[-2:-1])
        absent = replaced(ERAS[era], path, empty if element else NOTHING)
        assert outcome(replaced(ERAS[era], path, None)) == outcome(absent), path


def test_an_absent_or_null_record_is_none_and_an_empty_one_is_not():
    fields = "run_output verification_result published_results".split()
    for name, field in zip(("RunOutput", "VerificationResult", "PublishedResults"), fields):
        absent, null, empty = executions_of(listed({}, {name: None}, {name: {}}))
        assert getattr(absent, field) is getattr(null, field) is None
        assert compact(getattr(empty, field)) == {}
    specs = [{"PublishedResults": s3} for s3 in ({}, {"S3": None}, {"S3": {}})]
    found = [execution.published_results.s3 for execution in executions_of(listed(*specs))]
    assert found == [None, None, S3StorageSpec()]


DEEP = 100000
NO_JSON = {
    "nothing": b"",
    "HTML": b"<!DOCTYPE html><title>502 Bad Gateway</title>",
    "cut": b'{"state":{"State":"New"',
    "two documents": b'{"state":{}}{"state":{}}',
    "UTF-16": '{"state":{}}'.encode("utf-16"),
    "bad UTF-8": b'{"state":{"State":"\xff"}}',
    "a surrogate in UTF-8": b'{"state":{"State":"\xed\xa0\x80"}}',
    "NaN": b'{"state":{"Version":NaN}}',
    "NaN where nobody reads": b'{"state":{"State":"New","X":NaN}}',
    "-Infinity": b'{"state":{"State":"New"},"X":[-Infinity]}',
    "gzip": gzip.compress(b'{"state":{}}'),
    "depth 100,000 of lists": b'{"state":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "depth 100,000 of objects": b'{"state":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
}
NO_STATE = {
    "null": b"null",
    "an empty object": b"{}",
    "something else": b'{"error":"Job not found"}',
    "a state in which nothing is known": b'{"state":{"StateType":"Completed","Message":""}}',
    "a null that is not known": b'{"state":{"Foo":null}}',
    "a Job printed alone is no state": b'{"ID":"j-1","Name":"n","Type":"batch","State":{"StateType":"Completed","Message":""},"Revision":2}',
    "a job without an id": b'{"Job":{"State":{"StateType":"Completed"}}}',
    "a job with an empty id": b'{"Job":{"ID":""},"Executions":{"Items":[]}}',
    "a job document of v0.3.17 under Job": b'{"job":{"APIVersion":"V1beta1","Metadata":{"ID":"9304c616-0000-4000-8000-000000000000"},"Spec":{}}}',
    "executions without a job": b'{"Executions":{"Items":[]}}',
}


OBJECTS = {repr(value): value for value in (None, 5, 1.5, [], (), {1}, object)}


@pytest.mark.parametrize("name", [*NO_JSON, *NO_STATE, *OBJECTS])
def test_what_is_no_document_with_a_state_is_a_decode_error(name):
    body = {**NO_JSON, **NO_STATE, **OBJECTS}[name]
    error = undecoded(body)
    assert (error.status_code, error.url, error.body) == (None, "", "")


@pytest.mark.parametrize("name", ["nothing", "HTML", "bad UTF-8", "depth 100,000 of lists", "null"])
def test_such_an_answer_of_a_server_is_told_with_its_url_and_its_body(serve, name):
    body = {**NO_JSON, **NO_STATE}[name]
    in_chunks = CHUNKED + (chunk(body) if body else b"") + LAST_CHUNK
    for answer in (reply(body), in_chunks):
        server = serve(requester=answer)
        error = refused(server, DecodeError)
        assert (error.status_code, error.url) == (200, server.url + "/requester/states")
        assert error.body == body[:8192].decode("utf-8", "replace")
        assert error.url in error.message


def test_numbers_are_taken_whole_marks_accepted_and_lone_surrogates_kept():
    assert decoded(listed(Version=2**53 + 1)).version == 2**53 + 1
    assert undecoded('{"state":{"JobID":"j","Version":1e999}}').path == "state.Version"
    for marked in (b"\xef\xbb\xbf" + json.dumps(LIST).encode(), "\ufeff" + json.dumps(LIST)):
        assert compact(decoded(marked)) == JOB_READ
    assert decoded(b'{"state":{"JobID":"j","State":"\\ud800"}}').state == "\ud800"


def test_an_integer_that_int_refuses_is_a_decode_error():  # since 3.7.14, 3.8.14, 3.9.14, 3.10.7
    assert decoded('{"state":{"JobID":"j","X":' + "1" * 4300 + "}}").job_id == "j"
    assert "4300" in str(undecoded('{"state":{"JobID":"j","X":' + "1" * 4301 + "}}"))


def test_an_array_of_over_50_000_elements_is_a_decode_error():
    assert len(executions_of(listed(*[{}] * 50000))) == 50000
    many = [{}] * 50001
    assert undecoded(listed(*many)).path == "state.Executions"
    assert undecoded(of_job(*many)).path == "Executions.Items"
    in_one, in_all = {"0": {"Executions": many}}, dict.fromkeys("12", {"Executions": many[:25001]})
    none = dict.fromkeys(map(str, range(50001)))
    for shards, path in (
        (in_one, "state.Shards.0.Executions"),
        (in_all, "state.Shards"),
        (none, "state.Shards"),
    ):
        assert undecoded({"state": {"JobID": "j", "Shards": shards}}).path == path
    assert undecoded({"state": {"Nodes": {"n": {"Shards": none}}}}).path == "state.Nodes.n.Shards"
    assert undecoded({"state": {"JobID": "j", **none}}).path == "state"  # names of nothing
    nodes = dict.fromkeys("12", {"Shards": dict.fromkeys(map(str, range(25001)))})
    for too_many in (nodes, none):
        assert undecoded({"state": {"Nodes": too_many}}).path == "state.Nodes"


# Up to v0.2.7 a shard's state was a number. v0.2.6 changed five, and leaves an index of 0 out.

FIRST_NUMBERS = ["", *"Bidding Cancelled Waiting Running Error Verifying Completed".split()]
OTHER_NUMBERS = ["", *"Bidding Waiting Running Verifying Cancelled Error Completed".split()]


def test_shard_states_are_numbered_by_what_the_release_does_with_an_index_of_0():
    for number in range(8):
        (first,) = executions_of(of_shards(_0={"shard_index": 0, "state": number}))
        other, another = executions_of(of_shards(_0={"State": number}, _1={"State": number}))
        assert other.state == another.state
        assert (first.state, other.state) == (FIRST_NUMBERS[number], OTHER_NUMBERS[number])
    shards = {"1": {"ShardIndex": 1, "State": 2}}, {"0": {"ShardIndex": 0, "State": 2}}
    for order in (shards, shards[::-1]):  # one index of 0 settles it for the whole document
        nodes = {f"n{i}": {"Shards": shard} for i, shard in enumerate(order)}
        found = executions_of({"state": {"Nodes": nodes}})
        assert [execution.state for execution in found] == ["Cancelled", "Cancelled"]


def test_a_shard_state_of_no_table_stays_its_digits_and_counts_as_active():
    for number in (8, 12, -1):
        job = decoded(of_shards(_0={"State": number}, _1={"State": 7}))
        assert (job.executions[0].state, job.state) == (str(number), "InProgress")
        assert not job.executions[0].is_terminal


def test_a_shard_has_its_index_and_its_node_from_their_keys_where_it_leaves_them_out():
    own = {"_1": {"NodeId": "c", "ShardIndex": 2}, "_4": {"ShardIndex": 0}}
    shards = {"_0": {}, "_3": {"NodeId": "", "ShardIndex": None}, **own}
    found = [(e.node_id, e.shard_index) for e in executions_of(of_shards(**shards))]
    assert found == [("n", 0), ("n", 3), ("c", 2), ("n", 0)]
    for key in ("", "x", "-1", "1.0", "²", "1_0", " 1", "00", "01", "9" * 5000):
        assert undecoded(json.dumps(of_shards(**{"_" + key: {}}))).path[:15] == "state.Nodes.n.S"


STATES_BY_SHARDS = """
New: -, Cancelled
InProgress: Bidding, Bidding Cancelled, Waiting, Running, Verifying, SomethingNew,
 Completed Waiting, Error Running, Completed Error Verifying, Error Completed SomethingNew
Completed: Completed, Completed Cancelled Cancelled, Completed Bidding, Completed -
Error: Error, Error Cancelled, Error Bidding, Error Completed
"""


@pytest.mark.parametrize(
    "row", re.split(r"\n(?! )", STATES_BY_SHARDS.strip()), ids=lambda row: row[:9]
)
def test_a_job_without_a_state_has_one_by_its_shards(row):
    job, shards = row.split(": ")
    for words in re.split(r",\s+", shards):
        states = words.replace("-", " ").split(" ")
        for order in (states, states[::-1]):
            document = of_shards(**{f"_{i}": {"State": word} for i, word in enumerate(order)})
            assert decoded(document).state == job, words


# Statuses and desired states of the legacy converter, v1.0.4 to v1.4.0.


def test_the_joint_beside_an_empty_message_is_dropped_from_a_status():
    joints = {". ": "", ". done": "done", "begun. ": "begun", "a. b": "a. b", "a. \n": "a. \n"}
    for sent, read in joints.items():
        (execution,) = executions_of(listed({"Status": sent, "DesiredState": 1}))
        assert (execution.status, execution.desired_state) == (read, "Running")


def test_a_desired_state_is_a_word_or_empty_where_it_is_absent():
    for number, word in enumerate(["Pending", "Running", "Stopped", "3"]):
        (execution,) = executions_of(listed({"DesiredState": number}))
        (newer,) = executions_of(of_job({"DesiredState": {"StateType": number}}))
        assert execution.desired_state == newer.desired_state == word
    for absent in ({}, {"Status": ". "}, {"Status": "exit. ", "VerificationResult": {}}):
        assert executions_of(listed(absent))[0].desired_state == ""
    assert executions_of(of_job({"DesiredState": {"Message": "m"}}))[0].desired_state == ""


MESSAGES = {("a", "b"): "a. b", ("a", None): "a", ("", "b"): "b", (None, ""): ""}
MESSAGES.update({("Running", "Running"): "Running", ("a", "a b"): "a. a b"})


def test_the_two_messages_are_joined_and_two_equal_messages_said_once():
    for (compute, desired), status in MESSAGES.items():
        states = {"ComputeState": {"Message": compute}, "DesiredState": {"Message": desired}}
        assert executions_of(of_job(states))[0].status == status


def test_a_job_has_the_operation_s_words_and_the_type_that_the_newer_api_tells():
    words = {"Pending": "New", "Running": "InProgress", "Failed": "Error", "Stopped": "Cancelled"}
    for sent in (*words, "Completed", "Queued", "Undefined", "SomethingNew"):
        assert decoded(of_job(State={"StateType": sent})).state == words.get(sent, sent)
    for kind in ("batch", "ops", "service", "daemon", "something new"):
        assert decoded(of_job(Type=kind)).job_type == kind
    assert decoded(listed(JobType="batch")).job_type == ""


ALIKE = "Undefined New AskForBid AskForBidAccepted AskForBidRejected BidAccepted".split()
OLD_WORDS = [*ALIKE, *"BidRejected Completed Failed Cancelled 10 11 12".split()]
NEW_WORDS = [*ALIKE, *"Running Publishing BidRejected Completed Failed Cancelled 12".split()]
SURE_WORDS = [*ALIKE, *"6 7 8 9 Failed Cancelled 12".split()]
NUMBERINGS = {
    **dict.fromkeys("v1.0.4 v1.4.0 v1.4.0-rc2 v1.5.0 v1.5.1".split(), OLD_WORDS),
    **dict.fromkeys("v1.5.2 v1.6.5 v1.9.3 v1.10.0 v2.0.0".split(), NEW_WORDS),
    **dict.fromkeys("v1.9.0-rc1 v1.6.0+dirty v1.9.3-4-g0a1b2c3 1.9.3".split(), NEW_WORDS),
    " v1.9.3\n": NEW_WORDS,
    **dict.fromkeys("v1.5.1-36-g0a1b2c3 v1.5.1+dirty v1.5.1-rc1".split(), SURE_WORDS),
    **dict.fromkeys(["", "v0.0.0-xxxxxxx", "v0.0.0", "nonsense", "v1.9.\u0663"], SURE_WORDS),
}


@pytest.mark.parametrize("version", NUMBERINGS, ids=ascii)
def test_numbers_of_execution_states_mean_what_they_mean_in_the_server_s_release(version):
    words = NUMBERINGS[version]
    document = of_job(*({"ComputeState": {"StateType": number}} for number in range(len(words))))
    assert [execution.state for execution in executions_of(document, version)] == words


def test_executions_are_listed_under_either_name_and_partitions_of_one_node_kept_apart():
    partitions = [{"NodeID": "n-1", "PartitionIndex": i, "Revision": i} for i in range(3)]
    del partitions[0]["PartitionIndex"]  # as Go leaves a 0 out
    for key in ("Items", "Executions"):
        job = decoded({"Job": {"ID": "j"}, "Executions": {"NextToken": "", key: partitions}})
        assert [execution.shard_index for execution in job.executions] == [0, 1, 2]
        found = {index: e.version for index, e in job.nodes["n-1"].shards.items()}
        assert found == {0: 0, 1: 1, 2: 2}


RESULTS = [
    ("", {}, {}),
    ("", {"CID": "Qm"}, {}),
    ("ipfs", {"CID": "Qm"}, {"cid": "Qm"}),
    ("ipfs", {"CID": "Qm", "Bucket": 5}, {"cid": "Qm"}),
    ("urlDownload", {"URL": "http://h"}, {"url": "http://h"}),
    ("local", {"SourcePath": "/", "ReadWrite": True}, {"source_path": "/", "read_write": True}),
    ("s3", {"Bucket": "b", "ChecksumSHA256": "c"}, {"s3": {"bucket": "b", "checksum": "c"}}),
    ("s3", {"Bucket": "b", "CID": 5}, {"s3": {"bucket": "b"}}),
    ("S3", {"Bucket": "b"}, {"s3": {"bucket": "b"}}),
    ("s3", {}, {"s3": {}}),
    ("s3", None, {"s3": {}}),
    ("s3managed", {"JobID": "j-1", "ExecutionID": "e-1"}, {}),
]


def test_a_result_is_read_by_its_type_and_a_null_one_is_none():
    for kind, params, expected in RESULTS:
        document = of_job({"PublishedResult": {"Type": kind, "Params": params}})
        source = {"storage_source": kind} if kind else {}
        found = executions_of(document)[0].published_results
        assert compact(found) == {**source, **expected}
    (execution,) = executions_of(of_job({"PublishedResult": None, "RunOutput": None}))
    assert (execution.published_results, execution.run_output) == (None, None)


TIMES = {
    1795457478522190878: "2026-11-23T18:11:18.522190878Z",
    1700000000000000000: "2023-11-14T22:13:20Z",
    1700000000120000000: "2023-11-14T22:13:20.12Z",
    1: "1970-01-01T00:00:00.000000001Z",
    2**63 - 1: "2262-04-11T23:47:16.854775807Z",
    **{0: "", -1: "", -6795364578871345152: ""},  # what Go makes of its zero time
}


def test_times_become_text_with_all_their_digits_or_stay_as_they_are():
    for sent, read in TIMES.items():
        job = decoded(of_job({"ModifyTime": sent}, CreateTime=sent))
        assert (job.create_time, job.executions[0].update_time) == (read, read)
    texts = {text: text for text in ("2023-02-22T10:11:12Z", "2023-02-22T10:11:12.123456789+05:30")}
    for sent, read in {**texts, "0001-01-01T00:00:00Z": ""}.items():
        job = decoded(listed({"CreateTime": sent}, UpdateTime=sent, TimeoutAt=sent))
        assert {job.update_time, job.timeout_at, job.executions[0].create_time} == {read}
    for beyond in (10**30, 10**400):
        assert undecoded(of_job(CreateTime=beyond)).path == "Job.CreateTime"


def test_an_answer_is_about_the_job_by_id_short_id_or_name_or_about_none(serve):
    by_id = [listed(JobID=job_id) for job_id in ("job-1", "job-1-and-more", "")]
    by_newer = [of_job(ID="j-2", Name="job-1"), of_job(ID="job-1-and-more", Name="x")]
    by_none = [{"state": {"State": "New", "Version": 1}}, of_shards(_0={"State": "Waiting"})]
    for document in by_id + by_newer + by_none:
        assert ask(serve(json_reply(document)), "job-1").raw == document
    for job_id in ("job-2", "job", "JOB-1", "x-job-1", " job-1"):
        with_nodes = {"state": {"JobID": job_id, "Nodes": {}}}
        for document in (listed(JobID=job_id), of_job(ID=job_id, Name="another"), with_nodes):
            refused(serve(json_reply(document)), DecodeError, request="job-1")


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
    more = {DecodeError: {"path": ""}, WaitTimeout: {"response": None}}.get(kind, {})
    expected = {"status_code": None, "body": "", "url": "", "retry_after": None, **more}
    assert {name: getattr(error, name) for name in expected} == expected
    with pytest.raises(TypeError):
        kind("what happened", 500)
    assert str(kind("a\nb\x1b[0m\u202e")) == r"a\nb\x1b[0m\u202e"
    assert len(str(kind("x" * 10**6))) == 400


@each_error
def test_an_error_pickles_and_copies_with_all_that_it_says(kind):
    more = {DecodeError: {"path": "state.State"}, WaitTimeout: {"response": MODELS[1]}}
    details = {"status_code": 500, "body": "b", "url": "http://h", "retry_after": 3}
    error = kind("words", **details, **more.get(kind, {}))
    for twin in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is kind
        assert (str(twin), twin.args, vars(twin)) == (str(error), error.args, vars(error))


# What the servers of each release really say: up to v1.0.3 text, then an indented object of "error"
# and "message", and from v1.5.0 one that has a Code and a Component too.

JWT = "var/lib/bacalhau/policy_ns_anon.rego:100: eval_builtin_error: io.jwt.decode_verify: encoded JWT had no period separators"
MANY = "Multiple jobs found for jobID prefix: j-, matching jobIDs: [j-12a199a1-030c-4735-8e3d-67323378032c j-1a6c0e5c-8e4f-47e8-83c4-0f45706eeb58 ...]"
REFUSALS = f"""
v0.2.0 states 500 JobNotFound: no job found: {JOB}
v0.2.6 states 500 JobNotFound: Job not found. ID: {JOB}
v1.0.3 requester 500 JobNotFound: JOB NOT FOUND: {JOB}
v1.0.4 requester 500 JobNotFound: Job not found. ID: {JOB}
v1.4.0 jobs 500 JobNotFound: Internal Server Error, because Job not found. ID: {JOB}
v1.5.0 jobs 404 JobNotFound NotFound JobStore: job not found: {JOB}
v1.0.3 requester 400 BadRequest: unexpected EOF
v1.0.4 requester 400 BadRequest: code=400, message=unexpected EOF, internal=unexpected EOF
v1.5.0 jobs 400 BadRequest InternalError APIServer: code=400, message=unexpected EOF
v1.4.0 jobs 500 InternalServerError: Internal Server Error, because {MANY}
v1.5.1 jobs 500 InternalServerError MultipleJobsFound JobStore: multiple jobs found for id j-
v1.4.0 requester 500 InternalServerError: {JWT}
v1.7.0 requester 500 InternalServerError InternalError APIServer: missing authorization header
v1.2.2 requester 401 SDKError: Invalid token.
v1.8.0 jobs 401 SDKError Unauthorized Authorizer: Request Unauthorized, because Missing Authorization header
v1.2.2 requester 403 SDKError: Access denied.
v1.8.0 jobs 403 SDKError Forbidden Authorizer: Request Forbidden, because user 'nodekey' does not have the required capability 'read:job'
v0.2.2 requester 429 SDKError: You have reached maximum request limit.
v1.0.4 requester 413 SDKError: Request Entity Too Large
v0.2.6 requester 503 SDKError: Server Timeout!
v0.2.6 requester 502 SDKError: job not found, says a proxy of itself
"""


@pytest.mark.parametrize("row", REFUSALS.strip().split("\n"), ids=lambda row: row[:60])
def test_each_release_s_words_end_in_the_right_class_and_in_the_message(serve, row):
    names, words = row.split(": ", 1)
    release, route, status, kind, *codes = names.split(" ")
    message, _, why = words.partition(", because ")
    body = message + "\n"
    if codes:
        body = api_error(int(status), message, *codes, Details={"reason": why})
    elif numbered(release) >= (1, 0, 4):
        error = why or f"code={status}, message={message}"
        body = json.dumps({"error": error, "message": message}, indent=2) + "\n"
    server = serve(**{route: reply(body, int(status))})
    error = refused(server, getattr(bac_states, kind))
    url = server.url + server.requests[-1].path
    said = ": ".join(filter(None, (message, why)))
    assert error.message == f"HTTP {status} from {url}: {said}"
    assert (error.status_code, error.body, error.url) == (int(status), body, url)
    assert (server.asked[-1], error.retry_after) == (route, None)


def test_the_server_s_words_are_told_last_however_long_the_rest_is(serve):
    assert refused(serve(reply("", 502))).message.endswith(": Bad Gateway")
    outdated = "Client version is outdated. Update your client"
    assert refused(serve(json_reply({"Error": outdated}, 403))).message.endswith(f": {outdated}")
    message = refused(serve(jobs=reply("it broke", 500)), request="x" * 1000).message
    assert message.startswith("HTTP 500 from http://127.0.0.1:") and message.endswith(": it broke")
    error = undecoded({"state": {"Nodes": {"n" * 1000: []}}})
    assert "expected dict, got list at state.Nodes.n" in error.message and len(error.path) == 200


def test_a_404_is_a_missing_job_where_the_job_store_says_so_and_a_missing_route_elsewhere(serve):
    store, other = (f'{{"Message":"no","Component" : "{name}"}}' for name in ("JobStore", "BoltDB"))
    for body, status in ((store, 404), ("Job not found. ID: capability", 500)):
        refused(serve(requester=reply(body, status), jobs=job_is()), JobNotFound)
    for body, status in ((other, 404), ("job not found: JobStore", 404), ("", 404), (store, 410)):
        assert ask(serve(requester=reply(body, status), jobs=job_is())).state.succeeded
    assert type(refused(serve(requester=reply(store, 405), jobs=job_is()))) is SDKError


NUMBERS_OF_SECONDS = {"0": 0, "1": 1, "120": 120, " 7 ": 7, "007": 7}
NO_SECONDS = ["", "-1", "+1", "1.5", "1_0", "1e3", "0x10", "soon", "\xb2", "1, 2", "1 2", "x" * 99]
NO_SECONDS += ["Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 99 Foo 99999999999 99:99:99 +99999999999"]


@pytest.mark.parametrize("header", [*NUMBERS_OF_SECONDS, *NO_SECONDS], ids=ascii)
def test_retry_after_is_whole_seconds_or_none(serve, header):
    error = refused(serve(reply("slow down", 429, f"Retry-After: {header}")))
    assert error.retry_after == NUMBERS_OF_SECONDS.get(header)


LOCATIONS = ["/requester/states", "https://example.test/a?b#c", "//example.test/"]
LOCATIONS += ["file:///etc/passwd", "ftp://example.test/", "http://[bad", "rubbish \x7f\x1b[2J"]


@pytest.mark.parametrize("location", LOCATIONS, ids=ascii)
def test_a_redirect_is_reported_with_its_location_and_never_followed(serve, location):
    for status in (300, 301, 302, 303, 307, 308):
        server = serve(requester=[reply("", status, f"Location: {location}"), job_is()])
        error = refused(server, SDKError)
        assert error.message.startswith(f"HTTP {status} from {server.url}/requester/states: ")
        assert ascii(location)[1:-1] in error.message
        assert (error.status_code, server.asked) == (status, ["requester"])


@pytest.mark.parametrize("status", [101, 201, 204, 206, 300, 304, 402, 418, 501, 505, 599, 999])
def test_any_other_status_is_the_base_class_with_its_code(serve, status):
    server = serve(requester=[reply("no", status, *["Location: x"] * (status > 400)), job_is()])
    error = refused(server, SDKError)
    assert (error.status_code, "redirect" in error.message) == (status, False)
    assert server.asked == ["requester"]


# What a server says reaches people, terminals and logs.

NASTY = (
    "\x1b[2J\x1b]0;title\x07 \r\n\t\x00\x08\x7f\x85\x9b0m \u202egpj.exe\u2066 \u200b\ufeff "
    "\u2028\u2029 \ud83d \U000e0041 root:x:0:0"
)
NASTY_BYTES = NASTY.encode("utf-8", "surrogatepass")
NASTY_LINE = "\x1b[2J\x00\x08\x7f\x85\x9b0m"
NASTY_ANSWERS = {
    "a body": reply(NASTY_BYTES, 500),
    "a message": json_reply({"Message": NASTY}, 500),
    "a message that escapes make too long": json_reply({"Message": NASTY[:40] * 4}, 500),
    "megabytes of a body": reply(NASTY_BYTES * 50000, 500),
    "a message of a megabyte": json_reply({"message": "y" * MIB}, 400),
    "the reason phrase": head(status=f"503 {NASTY_LINE}"),
    "a location": head(f"Location: {NASTY_LINE}", status="302 Found"),
    "a long location": head("Location: http://h/" + "l" * 60000, status="302 Found"),
    "a status line": NASTY_LINE.encode("latin-1") + head(),
    "a job id": json_reply({"state": {"JobID": NASTY, "State": "x"}}),
    "a member's name": json_reply({"state": {"Nodes": {NASTY: {"Shards": 1}}}}),
    "a shard's key": json_reply(of_shards(**{"_" + NASTY: {}})),
    "no JSON": reply(NASTY_BYTES),
}


@pytest.mark.parametrize("where", NASTY_ANSWERS)
def test_a_message_is_one_printable_line_of_at_most_400_characters(serve, where):
    error = refused(serve(NASTY_ANSWERS[where]))
    assert str(error) == error.message and error.args == (error.message,)
    assert error.message.isprintable() and 0 < len(error.message) <= 400
    assert len(error.body) <= 8192


def test_a_body_is_kept_up_to_8_kib_of_text(serve):
    assert refused(serve(reply("x" * 8192, 500))).body == "x" * 8192
    assert refused(serve(reply("x" * 100000, 500))).body == "x" * 8192
    body = refused(serve(reply("é" * 100000, 500))).body
    assert body.startswith("é" * 4000) and len(body) <= 8192
    assert refused(serve(reply("x" * 100000)), DecodeError).body == "x" * 8192
    assert refused(serve(reply(b"caf\xe9", 500))).body == "caf\ufffd"
    unfinished = head("Content-Length: 1000000000", status="500 No") + b"x" * 100000
    assert refused(serve(stall(unfinished)), timeout=600).body == "x" * 8192  # at once


ECHOES = {
    "a body": lambda said: reply(f"you sent {said} to us", 500),
    "a message": lambda said: json_reply({"Message": f"bad: {said}"}, 401),
    "the reason phrase": lambda said: head(status=f"503 {said}"),
    "a location": lambda said: reply("", 302, f"Location: http://h/?token={said}"),
    "a job id": lambda said: job_is(job_id=said),
    "path": lambda said: reply('{"state":{"nodes":{"' + said.replace("s3", r"\u00733") + '":1}}}'),
    "a missing route": lambda said: reply(said, 404),
    "no JSON": reply,
    "no JSON, at the end": lambda said: reply("x" * 70000 + said),
    "no UTF-8": lambda said: reply(said.encode() + b"\xff"),
    "no HTTP": str.encode,
    "a chunk's size": lambda said: head("Transfer-Encoding: chunked") + f"{said}\r\n".encode(),
}


@pytest.mark.parametrize("where", ECHOES)
def test_a_credential_is_never_told_even_where_the_server_echoes_it(serve, where):
    value = f"Bearer {SECRET} "
    for said in (value, SECRET):
        error = refused(serve(ECHOES[where](said)), headers={"Authorization": value})
        assert SECRET not in everything_told(error)


def test_what_an_error_is_raised_from_does_not_hold_a_credential_of_any_spelling(serve):
    for secret in ('it\'s-"quoted"', "back\\slashed", "amp&ersand<>", "\xe9t\xe9-\xe9t\xe9-2"):
        error = refused(serve(reply(f"no JSON {secret}")), headers={"X-Key": secret})
        assert error.__cause__ is None and secret not in error.body
    assert error_of(DecodeError, bac_states.decode, "no JSON").__cause__ is not None


CARRIERS = [f"Authorization: {scheme} " for scheme in ("Basic", "Bearer", "Digest a=b,")]
CARRIERS += ["authorization: ", "Proxy-AUTH: ", "X-Api-Key: ", "Cookie: session=", "X-Passphrase: "]
CARRIERS += ["Client-Secret: ", "X-Session-Id: ", "X-Auth-Token: ", "X-Token: a b c\t"]


@pytest.mark.parametrize("beginning", CARRIERS)
def test_the_headers_that_carry_a_credential_are_known_by_their_names(serve, beginning):
    name, value = f"{beginning}{SECRET}".split(": ")
    for said in (value, value.split()[-1]):
        error = refused(serve(reply(f"you sent {said}", 500)), headers={name: value})
        assert SECRET not in everything_told(error)
        assert error.message.endswith("you sent ***")


def test_what_is_no_credential_or_a_short_one_masks_nothing_and_a_long_one_no_meaning(serve):
    for headers in ({"X-Trace": "innocent text"}, {"X-Key": "e"}, {"X-Token": "1234567"}):
        error = refused(serve(reply("innocent text 1234567", 500)), headers=headers)
        assert error.message.endswith(f": {error.body}") and error.body == "innocent text 1234567"
    error = refused(serve(reply("pass:wörd", 500)), headers={"Authorization": BASIC})
    assert error.body == "pass:wörd"  # what is inside a Basic authorization is not looked for
    in_json = {
        "12345678": "12345678",
        r'a"b\c<d>&e': r"a\"b\\c\u003cd\u003e\u0026e",  # by Go
        r'a"b\c<d>&é': r"a\"b\\c<d>&é",  # by JavaScript
        r'a"b\c<d>/é': r"a\"b\\c<d>/\u00e9",  # by Python
        r'a"b\c<d>&/é': r"a\"b\\c<d>&\/\u00e9",  # by PHP
    }
    for key, said in in_json.items():
        error = refused(serve(reply(f"key: {said}", 500)), headers={"X-Key": key})
        assert error.message.endswith(": key: ***") and error.body == "key: ***"
    error = refused(
        serve(reply("sécret-key".encode("latin-1"), 500)), headers={"X-Key": "sécret-key"}
    )
    assert error.body == "***"  # as it was sent
    quoted = "HTTP/1.1 302 No\r\nLocation: sécret-key\r\n\r\n".encode()  # in UTF-8
    error = refused(serve(quoted), headers={"X-Key": "sécret-key"})
    assert "***" in error.message and "ret-key" not in error.message
    error = refused(serve(NOT_FOUND), JobNotFound, headers={"X-Key": "not found"})
    assert "not found" not in error.message
    server = serve(requester=reply("no capability 'write:node'", 403), jobs=job_is())
    assert ask(server, headers={"Cookie": "capability"}).state.succeeded


def test_a_cut_or_a_chunk_s_end_never_saves_the_beginning_of_a_credential(serve):
    headers = {"Authorization": f"Bearer {SECRET}"}
    for start in [*range(290, 400, 11), *range(8160, 8192, 5)]:
        server = serve(reply("x" * start + SECRET + "y" * 500, 500))
        assert SECRET[:5] not in everything_told(refused(server, headers=headers)), start
    chunks = chunk(b"x" * 8186 + SECRET[:7].encode()) + chunk(SECRET[7:].encode()) + LAST_CHUNK
    answers = [head("Transfer-Encoding: chunked", status="500 No") + chunks]
    headers["X-Key"] = long = "".join(map(str, range(400)))
    answers += [reply(long * 20, 403), json_reply({"state": {"Nodes": {long: 5}}})]
    for answer in answers:
        told = everything_told(refused(serve(answer), headers=headers))
        assert SECRET[:5] not in told and long[:8] not in told and "***" in told
    urls = [DEAD, *(serve(answer).url for answer in (reply("", 401), reply("", 404), reply("")))]
    for start, url in itertools.product(range(50, 200, 7), urls):
        url = f"{url}/{'x' * start}{SECRET}"
        error = error_of(None, bac_states.get, JOB, server_url=url, headers=headers)
        assert SECRET[:5] not in error.message, start


def test_credentials_of_the_environment_are_never_told(serve, monkeypatch):
    server = serve(lambda peer: reply(peer.request.headers["authorization"], 401))
    for names in ({"KEY": SECRET}, {"KEY": "", "USERNAME": "me", "PASSWORD": SECRET}):
        set_environment(monkeypatch, HOST=server.url, **names)
        error = error_of(SDKError, bac_states.get, JOB)
        assert error.message.endswith(": ***")
        assert server.requests[-1].headers["authorization"] not in everything_told(error)


# ------------------------------------------------------------------------------------- 5 Request


def test_the_request_is_exactly_this(serve):
    server = serve(requester=job_is())
    by_id, by_request = ask(server), ask(server, StateRequest(JOB, "me"))
    assert by_id == by_request
    plain, request = server.asked_by("requester")
    assert json.loads(plain.body) == {"client_id": "", "job_id": JOB}
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
    server = serve(requester=job_is(job_id=""))
    ask(server, StateRequest('jöb-☃ "\\', "ü"))
    document = json.loads(server.asked_by("requester")[0].body.decode("ascii"))
    assert document == {"client_id": "ü", "job_id": 'jöb-☃ "\\'}


def test_the_other_routes_are_asked_so_the_newer_one_without_a_body(serve):
    server = serve()
    refused(server)
    (first,), (newer,), (oldest,) = map(server.asked_by, ROUTES)
    assert oldest == first._replace(path="/states")
    path = f"/api/v1/orchestrator/jobs/{JOB}?include=executions"
    assert (newer.method, newer.path, newer.body) == ("GET", path, b"")
    for name in ("host", "accept-encoding", "connection", "user-agent"):
        assert newer.headers[name] == first.headers[name]


@pytest.mark.parametrize(
    "path", ["", "/", "///", "/a", "/a/b/", "/a%20b/~c", "/a:b@c;d=e,f!"], ids=repr
)
def test_a_path_of_the_server_s_url_goes_before_every_route(serve, path):
    server = serve()
    refused(server, server_url=server.url + path)
    for route in ROUTES:
        (request,) = server.asked_by(route)
        found = re.fullmatch(ROUTES[route], f"{request.method} {request.path}")
        assert found[1] == path.rstrip("/")


# As the servers' router decodes it: only where the segment is written exactly as Go would.
ENCODED = {
    "a/b?c#d e%25": "a%2Fb%3Fc%23d%20e%2525",
    "a+b&c,d:e;f=g@h$i": "a+b&c,d:e;f=g@h$i",
    "a!b'c(d)e*f": "a%21b%27c%28d%29e%2Af",
    'a\\b"c<d>e': "a%5Cb%22c%3Cd%3Ee",
    "jöb-☃_.~": "j%C3%B6b-%E2%98%83_.~",
    "{}{0.__class__}%s%(x)s": "%7B%7D%7B0.__class__%7D%25s%25%28x%29s",
}


@pytest.mark.parametrize("job_id", [*ENCODED, "..."])
def test_a_job_id_is_percent_encoded_as_go_does(serve, job_id):
    server = serve(jobs=json_reply(of_job(ID=job_id)))
    ask(server, job_id)
    (request,) = server.asked_by("jobs")
    written = ENCODED.get(job_id, job_id)
    assert request.path == f"/api/v1/orchestrator/jobs/{written}?include=executions"


ORDERS = {JOB: ["requester", "jobs", "states"], NEWER_JOB: ["jobs", "requester", "states"]}


def answering(job_id):
    return {
        "requester": job_is(job_id=job_id),
        "jobs": json_reply(of_job(ID=job_id, State={"StateType": "Completed"})),
        "states": job_is(job_id=job_id),
    }


NO_SUCH_ROUTE = {"Go's 404": GO_404, "404 of v1.7": MISSING_V1_7, "404 of v1.8": MISSING_V1_8}
NO_SUCH_ROUTE.update({"405": NOT_ALLOWED, "410": GONE})


@pytest.mark.parametrize("job_id", ORDERS, ids=["an older id", "j-"])
@pytest.mark.parametrize("how", NO_SUCH_ROUTE)
def test_the_routes_are_asked_in_the_order_of_the_id_until_one_answers(serve, job_id, how):
    for number, route in enumerate(ORDERS[job_id]):
        server = serve(NO_SUCH_ROUTE[how], **{route: answering(job_id)[route]})
        assert ask(server, job_id).state.succeeded
        assert server.asked == ORDERS[job_id][: number + 1]


@pytest.mark.parametrize("status", [403, 500])
def test_a_missing_capability_means_a_missing_route_on_the_requester_s_route_alone(serve, status):
    lacking = "user 'reader' does not have the required capability 'read:job'"  # or 'write:node'
    refusal = reply(api_error(status, "no", "Code", "Any", Details={"reason": lacking}), status)
    server = serve(requester=refusal, jobs=answering(JOB)["jobs"])
    assert ask(server).state.succeeded
    assert server.asked == ["requester", "jobs"]
    for job_id, order in ORDERS.items():
        server = serve(jobs=refusal, states=job_is(job_id=job_id))
        error = refused(server, request=job_id)
        assert (error.status_code, server.asked) == (status, order[: order.index("jobs") + 1])
        assert error.message.endswith(f": no: {lacking}")


def test_no_other_refusal_is_asked_about_again(serve):
    answers = [reply("capability", status) for status in (400, 401, 429, 502, 503, 504)]
    answers += [reply("no", 403), reply("no", 500), json_reply({"error": "Job not found"}, 500)]
    answers.append(reply(api_error(404, "job not found: x", "NotFound", "JobStore"), 404))
    for answer in answers:
        for job_id, (first, second, _) in ORDERS.items():
            server = serve(**{first: answer, second: job_is()})
            refused(server, request=job_id)
            assert server.asked == [first]


def test_a_job_without_its_executions_counts_only_if_no_other_route_answers(serve, clock):
    job = {"Job": {"ID": NEWER_JOB, "State": {"StateType": "Running"}}}
    unlisted = (None, {}, {"NextToken": ""}, {"Rows": [{}]})
    for more in ({}, *({"Executions": each} for each in unlisted)):
        without = json_reply({**job, **more})
        server = serve(jobs=without, requester=job_is("Completed", NEWER_JOB))
        assert ask(server, NEWER_JOB).state.state == "Completed"
        assert server.asked == ["jobs", "requester"]
        server = serve(jobs=without, requester=[job_is("New", NEWER_JOB), job_is(job_id=NEWER_JOB)])
        assert wait_for(server, NEWER_JOB).state.succeeded
        assert server.asked == ["jobs", "requester", "jobs", "requester"]
        assert ask(server, NEWER_JOB[:10]).state.state == "Completed"  # by the whole id, then
        assert json.loads(server.asked_by("requester")[-1].body)["job_id"] == NEWER_JOB
    odd = json_reply({"Job": {"ID": f"{NEWER_JOB}\ud800"}})  # half a pair, which has no UTF-8
    assert ask(serve(GONE, jobs=odd), NEWER_JOB).state.state == ""
    for name in ("Items", "Executions"):  # as Go writes an empty list
        server = serve(jobs=json_reply({**job, "Executions": {name: None}}), requester=job_is())
        assert ask(server, NEWER_JOB).state == JobState(NEWER_JOB, "InProgress")
    job["Job"]["Type"] = "service"  # which only this route tells
    job["Job"]["State"]["Message"] = "why"  # and this
    server = serve(jobs=json_reply(job), requester=job_is("InProgress", NEWER_JOB))
    state = wait_for(server, NEWER_JOB, limit=10).state
    assert (state.job_type, state.status) == ("service", "why")
    assert server.asked == ["jobs", "requester"]
    told = json_reply({"state": {"JobID": NEWER_JOB, "State": "Error", "Status": "as told"}})
    assert ask(serve(told, jobs=json_reply(job)), NEWER_JOB).state.status == "as told"
    del job["Job"]["Type"], job["Job"]["State"]["Message"]
    for other in (GONE, NOT_FOUND, reply("no", 400), reply("no", 401), reply("no", 403)):
        server = serve(other, jobs=without)
        assert ask(server, NEWER_JOB).state == JobState(NEWER_JOB, "InProgress")
        assert server.asked == ["jobs", "requester", "states"]
    for status in (302, 408, 429, 500, 501, 503):  # a program may have failed
        server = serve(reply("no", status), jobs=without)
        assert refused(server, request=NEWER_JOB).status_code == status
    zipped = head("Content-Encoding: gzip") + BODY
    for odd in (b"no HTTP", zipped, length(16 * MIB + 1)):
        assert refused(serve(odd, jobs=without), TransportError, request=NEWER_JOB)
    assert refused(serve(reply("no state"), jobs=without), DecodeError, request=NEWER_JOB)
    for names in ("Job Executions Items", "Job Executions Executions", "job EXECUTIONS items"):
        job, executions, items = names.split()
        empty = {job: {"ID": NEWER_JOB}, executions: {"NextToken": "", items: []}}
        server = serve(jobs=json_reply(empty), requester=job_is(job_id=NEWER_JOB))
        assert (ask(server, NEWER_JOB).raw, server.asked) == (empty, ["jobs"])


def test_a_job_without_its_executions_does_not_count_if_the_next_certificate_is_untrusted(
    serve, tls
):
    class Fickle(ssl.SSLContext):
        names = iter(["127.0.0.1", "other.test"])

        def wrap_socket(self, sock, server_hostname):
            return super().wrap_socket(sock, server_hostname=next(self.names))

    job = {"Job": {"ID": NEWER_JOB, "State": {"StateType": "Completed"}}}
    server = serve(jobs=json_reply(job), tls=tls.server)
    context = Fickle(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(tls.trusted)
    error = refused(server, TransportError, request=NEWER_JOB, ssl_context=context)
    assert "not trusted" in error.message
    assert server.asked == ["jobs"]


@pytest.mark.parametrize("job_id", [*ORDERS, "x" * 1000], ids=["an older id", "j-", "a long id"])
def test_where_all_routes_are_missing_one_error_names_each(serve, job_id):
    server = serve(requester=GONE, jobs=NOT_ALLOWED, states=GO_404)
    error = refused(server, SDKError, request=job_id)
    assert [request.route for request in server.requests] == ORDERS.get(job_id, ORDERS[JOB])
    for status, route in ((410, "requester"), (405, "jobs"), (404, "states")):
        (request,) = server.asked_by(route)
        assert f"{status} from {server.url}{request.path[:30]}" in error.message
    assert (error.status_code, error.url) == (404, server.url + "/states")
    assert error.__cause__ is not None
    far = f"{server.url}/{'path/' * 60}"
    error = error_of(SDKError, bac_states.get, job_id, server_url=far)
    for told in (
        "410 from .*/requester/states",
        "405 from .*/orchestrator/jobs/",
        "404 from .*/states$",
    ):
        assert re.search(told, error.message)


def test_where_all_routes_are_missing_the_error_has_what_the_last_answer_said(serve):
    gone = reply("route gone", 410, "Retry-After: 5")
    server = serve(requester=gone, jobs=gone, states=gone)
    error = refused(server, SDKError)
    assert (error.status_code, error.body, error.retry_after) == (410, "route gone", 5)
    error = refused(server, SDKError, headers={"X-Key": JOB})
    assert JOB not in error.message and "jobs/***" in error.message
    options = {"server_url": f"{server.url}/{SECRET}", "headers": {"X-Key": SECRET}}
    assert SECRET not in everything_told(error_of(SDKError, bac_states.get, JOB, **options))


ENVIRONMENTS = """
HOST=h.test                          http://h.test:1234
HOST=h.test PORT=8080                http://h.test:8080
PORT=80                              http://127.0.0.1:80
HOST= PORT= TLS_USETLS=              http://127.0.0.1:1234
HOST=::1                             http://[::1]:1234
HOST=[::1] PORT=80                   http://[::1]:80
HOST=http://h.test                   http://h.test:1234
HOST=https://h.test                  https://h.test:1234
HOST=https://h.test PORT=9           https://h.test:9
HOST=http://h.test:8 PORT=9          http://h.test:8
HOST=http://h.test:8 TLS_USETLS=1    http://h.test:8
HOST=http://h.test:8/path/           http://h.test:8/path
HOST=h.test\\n                       http://h.test:1234
HOST=\\th.test PORT=80\\r\\n          http://h.test:80
HOST=\\n PORT=\\r\\n TLS_USETLS=\\n   http://127.0.0.1:1234
TLS_USETLS=true\\n                   https://127.0.0.1:1234
"""
for flag in "1 t T TRUE true True".split():
    ENVIRONMENTS += f"TLS_USETLS={flag}  https://127.0.0.1:1234\n"
for flag in "0 f F FALSE false False".split():
    ENVIRONMENTS += f"TLS_USETLS={flag}  http://127.0.0.1:1234\n"


@pytest.mark.parametrize(
    "row", ["", *ENVIRONMENTS.strip().split("\n")], ids=lambda r: " ".join(r.split()) or "nothing"
)
def test_the_environment_names_the_server(monkeypatch, connections, row):
    *variables, url = row.split() or ["http://127.0.0.1:1234"]
    for variable in variables:
        name, value = variable.encode().decode("unicode_escape").split("=", 1)
        monkeypatch.setenv(f"BACALHAU_API_{name}", value)
    assert error_of(TransportError, bac_states.get, JOB).url.startswith(url + "/")
    parts = urllib.parse.urlsplit(url)
    assert connections == [(parts.hostname, parts.port)]


BAD_PORTS = ["abc", "0", "-1", "65536", "²", "8 0", "9" * 5000]
BAD_HOSTS = ["h test", "ftp://h", f"http://me:{SECRET}@h", f"me:{SECRET}@h", "http://h:0", "hö"]
BAD_FLAGS = ["yes", "on", "tRUE", "2", "nonsense"]
BAD_ENVIRONMENTS = [
    *(({"PORT": port}, "PORT") for port in BAD_PORTS),
    *(({"HOST": host}, "HOST") for host in BAD_HOSTS),
    *(({"TLS_USETLS": flag, "KEY": SECRET}, "TLS_USETLS") for flag in BAD_FLAGS),
    ({"USERNAME": "reader"}, "PASSWORD"),
    ({"PASSWORD": SECRET}, "USERNAME"),
    ({"USERNAME": "reader", "PASSWORD": " \n"}, "PASSWORD"),
    ({"KEY": SECRET, "USERNAME": "reader", "PASSWORD": "p"}, "KEY"),
    ({"KEY": SECRET, "PASSWORD": "p"}, "KEY"),
    ({"KEY": f"{SECRET}\nX-Injected: 1"}, "KEY"),
    ({"KEY": f"{SECRET}☃"}, "KEY"),
    ({"TLS_USETLS": "true", "TLS_CAFILE": "/nowhere/ca.pem"}, "TLS_CAFILE"),
    ({"TLS_USETLS": "true", "TLS_CAFILE": str(SOURCE)}, "TLS_CAFILE"),
]


@pytest.mark.parametrize("variables, named", BAD_ENVIRONMENTS, ids=lambda v: ascii(v)[:50])
def test_a_bad_variable_is_a_value_error_that_names_it(monkeypatch, connections, variables, named):
    set_environment(monkeypatch, **variables)
    for function in (bac_states.get, bac_states.wait):
        with pytest.raises(ValueError, match=f"BACALHAU_API_{named}") as caught:
            function(JOB)
        assert type(caught.value) is ValueError
        assert SECRET not in str(caught.value)
        assert "server_url" not in str(caught.value)
        assert connections == []
    error_of(TransportError, bac_states.get, JOB, server_url="http://h.test")
    assert connections == [("h.test", 80)]  # for which the environment does not matter


BEARER, BASIC = "Bearer key", "Basic " + base64.b64encode("me:pass:wörd".encode()).decode()
USER = {"USERNAME": "me", "PASSWORD": "pass:wörd"}


@pytest.mark.parametrize(
    "variables, sent",
    [({}, None), ({"KEY": "key"}, BEARER), (USER, BASIC), ({"KEY": "", **USER}, BASIC)]
    + [({"KEY": " key\r\n"}, BEARER), ({"USERNAME": "me\n", "PASSWORD": "pass:wörd\n"}, BASIC)],
    ids=str,
)
def test_credentials_of_the_environment_go_to_its_server_and_to_no_other(
    monkeypatch, serve, variables, sent
):
    ours, others = serve(states=job_is()), serve(states=job_is())
    set_environment(monkeypatch, HOST=ours.url, **variables)
    for function in (bac_states.get, bac_states.wait):
        function(JOB)
        function(JOB, server_url=others.url)
    assert {request.headers.get("authorization") for request in ours.requests} == {sent}
    assert {request.headers.get("authorization") for request in others.requests} == {None}


def test_the_caller_s_headers_are_added_and_left_as_they_are(monkeypatch, serve):
    server = serve(states=job_is())
    set_environment(monkeypatch, HOST=server.url, KEY="key")
    headers = {"X-Trace": "a b\tc", "authorization": "Bearer mine", "X-Empty": "", "host": "é.test"}
    headers["Proxy-Authorization"] = "for nobody"
    before = dict(headers)
    bac_states.get(JOB, headers=headers)
    assert headers == before
    for request in server.requests:
        assert request.headers["x-trace"] == "a b\tc"
        assert request.headers["authorization"] == "Bearer mine"
        assert request.headers["x-empty"] == ""
        assert request.headers["host"] == "é.test"
        assert "proxy-authorization" not in request.headers


@pytest.mark.parametrize("spelling", [str, str.lower, str.upper], ids=["Usual", "lower", "UPPER"])
def test_content_type_user_agent_and_framing_stay_ours(serve, spelling):
    names = "Content-Type User-Agent Content-Length Transfer-Encoding Accept-Encoding Expect"
    theirs = dict.fromkeys(f"{names} Connection Upgrade TE Trailer".split(), "1")
    plain, with_theirs = serve(states=job_is()), serve(states=job_is())
    ask(plain)
    ask(with_theirs, headers={spelling(name): value for name, value in theirs.items()})
    for expected, request in zip(plain.requests, with_theirs.requests):
        headers = {**expected.headers, "host": f"127.0.0.1:{with_theirs.port}"}
        assert request == expected._replace(headers=headers)


BAD_URLS = [
    *["", " ", "h", "h:1234", "//h", "http:", "http:/h", "http://", "http:///path", "http://:80"],
    *["ftp://h", "file:///etc/passwd", "http+unix://h", "http://[zz]", "http://[1.2.3.4]"],
    *[f"http://me:{SECRET}@h", f"http://{SECRET}@h", f"http://h?token={SECRET}", "http://h/?"],
    *[f"http://h#{SECRET}", "http://h/#", f"http://h/{SECRET} path", " http://h", "http://h "],
    *[f"http://h\\{SECRET}", "http://h/a\\b", "http://h:0", "http://h:65536", "http://h:-1"],
    *["http://h:+80", "http://h:8_0", "http://h:abc", "http://h:１２", "http://h:" + "9" * 5000],
    *["http://hö", "http://h/é", "http://h/\x00", "http://h/\x7f", "http://h\n", "http://h\tt"],
    *["http://h/\r\nX-Injected: 1", "http://h..h", "http://.h", "http://[::1", "http://::1"],
    *["http://[:::1]", "http://h%2e", "http://h:", "http://h:/"],
]
GOOD_URLS = [
    *["http://h", "HTTP://H", "https://h", "https://a-b.c_d.test:443/", "http://127.0.0.1:65535"],
    *["http://[::1]", "http://[::1]:80/a", "http://xn--h-fga.test", "http://h./", "http://h/a@b"],
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


@pytest.mark.parametrize("url", GOOD_URLS)
def test_a_usable_url_is_asked_with_any_finite_timeout(connections, url):
    for seconds in (1, 1.5, 10**9, 1e300, 10**400):
        error_of(TransportError, bac_states.get, JOB, server_url=url, timeout=seconds)
    port = urllib.parse.urlsplit(url).port or (443 if url.startswith("https:") else 80)
    assert [number for _, number in connections] == [port] * 5


NAN, INFINITY = float("nan"), float("inf")
REQUESTS = ["", " ", ".", "..", " .\n", "x" * 1001, "a\nb", "a\0", "\x7f", "\ud800", "\u202e", "\t"]
REQUESTS += [StateRequest(""), StateRequest("x" * 1001), StateRequest("j", "c" * 1001)]
VALUES = ("b\nc", "b\r\nX: y", "b\r", "b\0", "\n", "☃")
BAD_VALUES = {
    "request": REQUESTS,
    "timeout": [0, 0.0, -1, -0.5, NAN, INFINITY, -INFINITY],
    "limit": [0, -1, NAN, INFINITY],
    "headers": [{"Authorization": SECRET + value} for value in VALUES]
    + [{name: "c"} for name in ("A\nB", "A:", "A B", "", "Ä")],
}
BAD_TYPES = {
    "request": [None, 5, b"j", ["j"], {"job_id": "j"}, StateRequest(5), StateRequest("j", None)],
    "timeout": ["5", None, [5], b"5", 1j, True],
    "limit": ["5", [5], 1j],
    "server_url": [5, b"http://h", ["http://h"]],
    "headers": [{"A": 5}, {"A": None}, {"A": b"b"}, {5: "b"}, {b"A": "b"}, 5, ["A", "b"], [], ""],
    "ssl_context": ["x", True],
}
BAD_ARGUMENTS = [
    pytest.param(kind, name, value, id=f"{name}={ascii(value)[:40]}")
    for kind, arguments in ((ValueError, BAD_VALUES), (TypeError, BAD_TYPES))
    for name, values in arguments.items()
    for value in values
]


@pytest.mark.parametrize("kind, name, value", BAD_ARGUMENTS)
def test_a_bad_argument_is_told_before_any_connection(connections, kind, name, value):
    for function in (bac_states.get, bac_states.wait)[name == "limit" :]:
        with pytest.raises(kind, match=".") as caught:
            function(**{"request": JOB, "server_url": "http://h.test", name: value})
        assert type(caught.value) is kind
        assert SECRET not in str(caught.value)
    assert connections == []


def test_a_bad_limit_is_told_before_a_proxy_or_a_file_of_certificates(monkeypatch):
    monkeypatch.setenv("http_proxy", "socks5://h:1")
    with pytest.raises(ValueError, match="^limit"):
        bac_states.wait(JOB, server_url="http://h.test", limit=-1)
    monkeypatch.setenv("BACALHAU_API_TLS_CAFILE", "/nowhere")
    with pytest.raises(TypeError, match="^limit"):
        bac_states.wait(JOB, limit="x")


def test_a_job_id_of_1_to_1000_printable_characters_is_asked_for_without_blanks_around(serve):
    for job_id in ("x", "x" * 1000, "...", "a b", "☃", "a/b", "'\"<>&"):
        for written in (job_id, f" {job_id}\n", f"\t{job_id}\r\n"):
            server = serve(requester=job_is(job_id=job_id))
            assert ask(server, StateRequest(written, "c" * 1000)).state.job_id == job_id
            (request,) = server.asked_by("requester")
            assert json.loads(request.body) == {"client_id": "c" * 1000, "job_id": job_id}


DEAD = "http://127.0.0.1:1"  # a port that nobody listens on


def test_a_proxy_of_the_environment_is_used_if_it_speaks_http(monkeypatch, serve):
    for scheme in ("http://", "HTTP://", ""):
        proxy = serve(requester=job_is())
        monkeypatch.setenv("http_proxy", proxy.url.replace("http://", scheme))
        assert bac_states.get(JOB, server_url="http://h.test:8/a").state.succeeded
        (request,) = proxy.asked_by("requester")
        assert (request.method, request.path) == ("POST", "http://h.test:8/a/requester/states")
        assert request.headers["host"] == "h.test:8"
        assert request.headers["connection"] == "close"
    for kind, scheme in itertools.product(("socks5", "ftp", "quic", "https"), ("http", "https")):
        proxy = serve(job_is())
        monkeypatch.setenv(f"{scheme}_proxy", f"{kind}://me:{SECRET}@127.0.0.1:{proxy.port}")
        error_of(TransportError, bac_states.get, JOB, server_url=f"{scheme}://h.test")
        assert proxy.requests == []


def test_https_goes_through_a_proxy_by_connect(monkeypatch, serve, tls):
    proxy = serve(tls.tunnel(lambda peer: job_is(Status=str(peer.request.headers))))
    monkeypatch.setenv("https_proxy", proxy.url.replace("//", "//me:for-the-proxy@"))
    options = {"ssl_context": tls.client, "headers": {"Authorization": f"Bearer {SECRET}"}}
    answer = bac_states.get(JOB, server_url="https://loopback.test:8", **options)
    refused(proxy, TransportError, server_url="https://h.test")
    connect, other = proxy.requests
    assert (connect.method, connect.path) == ("CONNECT", "loopback.test:8")
    assert other.path == other.headers["host"] == "h.test:443"
    assert SECRET not in str(connect.headers) and "proxy-auth" not in answer.state.status
    monkeypatch.setenv("https_proxy", serve(tls.tunnel(job_is(), status="204 No Content")).url)
    assert bac_states.get(JOB, server_url="https://loopback.test", **options).state.succeeded


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.8.9.1", "127.1", "127.0.0.1.", "localhost", "LOCALHOST."]
    + ["[::1]", "[0::1]", "[0:0:0:0:0:0:0:1]", "[::0001]", "[::ffff:127.0.0.1]"],
)
def test_loopback_and_what_no_proxy_names_are_never_asked_through_a_proxy(
    monkeypatch, connections, scheme, host
):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://proxy.test:9")
    error_of(TransportError, bac_states.get, JOB, server_url=f"{scheme}://{host}:8")
    assert [(name.lower(), port) for name, port in connections] == [(host.strip("[]").lower(), 8)]
    monkeypatch.setenv("no_proxy", "h.test")
    for host in ("h.test", "other.test"):
        error = error_of(TransportError, bac_states.get, JOB, server_url=f"{scheme}://{host}:8")
        assert ("proxy" in error.message) is (host == "other.test")
    assert connections[1:] == [("h.test", 8), ("proxy.test", 9)]


UNUSABLE_PROXIES = [
    *[DEAD, "socks5://127.0.0.1:1", "ftp://127.0.0.1:1", "file:///etc/passwd", "://", "nonsense"],
    *["http://127.0.0.1:port", "http://127.0.0.1:65536", "http://[::1", "http://", "http://a b"],
    *["http://ö.test:1", "http://..:1"],
]
PASSWORD_PROXIES = [
    *[f"http://me:{SECRET}@127.0.0.1:{port}" for port in ("1", "x", "65536", "")],
    *[f"http://me:{SECRET}/x@127.0.0.1:1", f"http://me:{SECRET}#x@127.0.0.1:1", f"me:{SECRET}"],
    *[f"http://me:{SECRET}", f"http://{SECRET}@127.0.0.1:1", f"socks5://me:{SECRET}@h"],
]


@pytest.mark.parametrize("proxy", UNUSABLE_PROXIES + PASSWORD_PROXIES)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_dead_or_unusable_proxy_is_blamed_and_its_password_never_told(monkeypatch, scheme, proxy):
    monkeypatch.setenv(f"{scheme}_proxy", proxy)
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to(1))
    error = error_of(None, bac_states.get, JOB, server_url=f"{scheme}://h.test:8", timeout=2)
    assert isinstance(error, TransportError)
    assert "proxy" in error.message
    assert SECRET not in everything_told(error)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_credentials_of_a_proxy_are_sent_to_it_and_never_told(monkeypatch, serve, scheme):
    pair, quoted = base64.b64encode(f"mé:{SECRET}".encode()).decode(), SECRET.replace("-", "%2D")
    own = "the-caller-s-own"
    proxy = serve(
        lambda peer: head(status=f"407 {peer.request.headers.get('proxy-authorization')}")
    )
    spaced = f" http://m%C3%A9:{quoted}@127.0.0.1:{proxy.port}\r"
    for url, headers, sent in (
        (spaced, {}, f"Basic {pair}"),
        (spaced, {"proxy-authorization": own}, own),
        (f"http://me@127.0.0.1:{proxy.port}", {}, None),
        (f"http://me@127.0.0.1:{proxy.port}", {"Proxy-Authorization": own}, own),
        (f"http://me:p@s://w@127.0.0.1:{proxy.port}", {}, "Basic bWU6cEBzOi8vdw=="),
    ):
        monkeypatch.setenv(f"{scheme}_proxy", url)
        server = f"{scheme}://h.test:8"
        error = error_of(None, bac_states.get, JOB, server_url=server, headers=headers)
        assert proxy.requests[-1].headers.get("proxy-authorization") == sent
        for told in (SECRET, pair, own):
            assert told not in everything_told(error)


REFUSED_TUNNELS = {"403": reply("no", 403), "302": reply("", 302, "Location: http://h")}
REFUSED_TUNNELS.update(rubbish=b"rubbish\r\n\r\n", nothing=b"", reset=reset())


@pytest.mark.parametrize("how", REFUSED_TUNNELS)
def test_a_proxy_that_does_not_connect_is_a_transport_error_and_blamed(monkeypatch, serve, how):
    proxy = serve(REFUSED_TUNNELS[how])
    monkeypatch.setenv("https_proxy", proxy.url)
    error = error_of(TransportError, bac_states.get, JOB, server_url="https://h.test:8")
    assert "proxy" in error.message
    assert not how.isdigit() or f"refuses a tunnel: {how} " in error.message
    assert len(proxy.requests) == 1


def test_a_certificate_that_nobody_vouches_for_is_refused_unless_a_context_says_otherwise(
    serve, tls
):
    server = serve(job_is(), tls=tls.server)
    other = server.url.replace("127.0.0.1", "localhost") + "/" + "p" * 200
    for url, context in ((server.url, None), (other, tls.client)):
        error = error_of(TransportError, bac_states.get, JOB, server_url=url, ssl_context=context)
        assert "not trusted" in error.message
        assert "BACALHAU_API_TLS_CAFILE" in error.message and "ssl_context" in error.message
    assert server.requests == []
    anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anything.check_hostname = False
    anything.verify_mode = ssl.CERT_NONE
    for context in (tls.client, anything):
        assert ask(server, ssl_context=context).state.succeeded


def test_an_untrusted_certificate_is_told_to_the_peer_and_named_even_if_that_is_gone(
    monkeypatch, serve, tls
):
    send, sent = socket.socket.sendall, []

    def send_once(sock, data):
        if sent:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        sent.append(data)
        send(sock, data)

    server = serve(job_is(), tls=tls.server)
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "sendall", send_once)
        assert "its certificate is not trusted" in refused(server, TransportError).message
    alerts = queue.Queue()

    def secure(peer):
        with pytest.raises(ssl.SSLError) as caught:
            peer.secure(tls.server)
        alerts.put(caught.value.reason)

    url = serve(secure, greets=True).url.replace("http:", "https:")
    refused(server, TransportError, server_url=url)
    assert "ALERT" in alerts.get(timeout=IN_TIME)


def test_a_file_of_revocations_alone_is_no_file_of_certificates(monkeypatch, tmp_path):
    revocations = tmp_path / "revocations.pem"
    revocations.write_text(REVOCATIONS)
    set_environment(monkeypatch, HOST="https://127.0.0.1:1", TLS_CAFILE=str(revocations))
    with pytest.raises(ValueError, match="BACALHAU_API_TLS_CAFILE") as caught:
        bac_states.get(JOB)
    assert type(caught.value) is ValueError


def test_the_environment_s_certificates_are_trusted_for_its_server_alone(monkeypatch, serve, tls):
    server = serve(job_is(), tls=tls.server)
    set_environment(monkeypatch, HOST=server.url, TLS_CAFILE=f"{tls.trusted}\n")
    assert bac_states.get(JOB).state.succeeded
    refused(server, TransportError)
    monkeypatch.setenv("BACALHAU_API_TLS_CAFILE", "/nowhere")
    assert bac_states.get(JOB, ssl_context=tls.client).state.succeeded


def test_a_certificate_is_for_its_host_without_the_trailing_dot(monkeypatch, serve, tls):
    server = serve(job_is(), tls=tls.server)
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to(server.port))
    options = {"ssl_context": tls.client, "server_url": "https://other.test"}
    assert "other.test" in refused(server, TransportError, **options).message
    assert server.requests == []
    for host in ("loopback.test", "loopback.test."):
        assert ask(server, **{**options, "server_url": f"https://{host}"}).state.succeeded


def test_a_server_that_speaks_no_tls_is_a_transport_error(serve):
    for answer in (job_is(), b"", b"\x16\x03\x03\x40\x00"):
        server = serve(answer, greets=True)
        error = refused(server, TransportError, server_url=server.url.replace("http:", "https:"))
        assert "_ssl.c" not in error.message and "[" not in error.message


def test_nobody_listening_and_a_name_that_does_not_resolve_are_transport_errors(monkeypatch):
    error = error_of(TransportError, bac_states.get, JOB, server_url=DEAD)
    assert error.message.count("refused") == 1 and "***" not in error.message
    masking = {"server_url": DEAD, "headers": {"X-Key": "e"}}
    assert error_of(None, bac_states.get, JOB, **masking).message == error.message

    def unknown(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = error_of(TransportError, bac_states.get, JOB, server_url="http://no.test")
    assert error.message.endswith("Name or service not known")


UNKNOWN_FAMILY = (255, socket.SOCK_STREAM, 6, "", ("::1", 8, 0, 0))


def test_of_several_addresses_the_first_that_answers_is_asked(monkeypatch, serve):
    server = serve(job_is())
    options = {"server_url": "http://several.test"}
    for addresses in ([1, 1, server.port, 1], [UNKNOWN_FAMILY, server.port]):
        monkeypatch.setattr(socket, "getaddrinfo", resolving_to(*addresses))
        assert ask(server, **options).state.succeeded
    for addresses in ([1, 1], [UNKNOWN_FAMILY], [1, UNKNOWN_FAMILY], []):
        monkeypatch.setattr(socket, "getaddrinfo", resolving_to(*addresses))
        refused(server, TransportError, **options)


def test_an_address_is_connected_to_whole(monkeypatch, connections):
    scoped = ("fe80::1", 8, 0, 3)
    address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", scoped)
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to(address))
    error_of(TransportError, bac_states.get, JOB, server_url="http://h.test:8")
    assert connections == [scoped]


def test_the_addresses_share_the_time(monkeypatch, serve):
    server = serve(job_is())
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to(1, 2, server.port))
    connect, shares, tried = socket.socket.connect, [], []

    def slow(sock, address):
        assert {each.fileno() for each in tried} <= {-1}  # a name may have thousands of addresses
        tried.append(sock)
        shares.append(sock.gettimeout())
        if address[1] < 3:
            raise socket.timeout("timed out")
        return connect(sock, address)

    monkeypatch.setattr(socket.socket, "connect", slow)
    assert ask(server, server_url="http://several.test", timeout=600).state.succeeded
    assert shares == pytest.approx([200, 300, 600], rel=0.1)
    ask(server, server_url="http://several.test", timeout=1e300)
    assert max(shares) * 1000 < 2**31  # as poll has it


# A hostile network. What a peer may send or leave out, and what it comes to.

BODY = json.dumps({"state": {"JobID": JOB, "State": "Completed"}}).encode()
FAULTS = {
    "closed without a word": b"",
    "reset without a word": reset(),
    "reset in the body": reset(length(100) + BODY[:9]),
    "HTTP/0.9": BODY,
    "another HTTP": b"HTTP/2 200 OK\r\n\r\n" + BODY,
    "no HTTP": b"ICY 200 OK\r\n\r\n" + BODY,
    "a status line without an end": b"HTTP/1.1 200 " + b"x" * 200000,
    "long headers": head(status="100 Continue") + head("X: " + "x" * 50000) + BODY,
    "a header flood": head(*(f"X-{i}: y" for i in range(1000))) + BODY,
    "two lengths": head("Content-Length: 3", f"Content-Length: {len(BODY)}") + BODY,
    "a length and a bad one": head(f"Content-Length: {len(BODY)}", "Content-Length: x") + BODY,
    "chunked twice": head(*["Transfer-Encoding: chunked"] * 2) + chunk(BODY) + LAST_CHUNK,
    "cut in the headers": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a refusal cut in its first line": b"HTTP/1.1 404 Not Fou",
    "a refusal cut in its headers": b"HTTP/1.1 500 No\r\nContent-Type: text/pl",
    "cut after the headers": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
    "cut in the last chunk's size": CHUNKED + chunk(BODY) + b"0",
    "cut in the last chunk's line end": CHUNKED + chunk(BODY) + b"0\r",
    "cut before the last line end": CHUNKED + chunk(BODY) + b"0\r\n",
    "cut short beside an empty coding": head("Transfer-Encoding:", "Content-Length: 999") + BODY,
    "nothing after the head": head(),
    "cut short": length(len(BODY) + 1) + BODY[:-5],
    "cut short where it is valid JSON": length(len(BODY) + 1) + BODY,
    "100 Continue and nothing more": head(status="100 Continue"),
    "a chunk without a size": CHUNKED + b"\r\n" + BODY + LAST_CHUNK,
    "a chunk of no number": CHUNKED + chunk(BODY, b"zz") + LAST_CHUNK,
    "a chunk's size of a megabyte": CHUNKED + chunk(BODY, b"0" * MIB) + LAST_CHUNK,
    "no last chunk": CHUNKED + chunk(BODY),
    "cut in a chunk": CHUNKED + chunk(BODY)[:20],
}
BAD_CODES = [*"abc -200 +abc 200.0 2 20 99 1000 0".split(), "", "2" * 100]
BAD_LENGTHS = [
    *["-1", f"-{len(BODY)}", "abc", f"+{len(BODY)}", "1_0", "1e3", "0x10", "1.0", "²", "1 2"],
    *[f"{len(BODY)}, {len(BODY) + 1}", "9" * 30, "9" * 5000, str(10**13)],
]
BAD_CODINGS = ["gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked", "identity", "xchunked"]
BAD_ENCODINGS = ["gzip", "deflate", "br", "gzip, identity", "x"]
FAULTS.update({f"code {c[:9]!r}": head(status=f"{c} OK") + BODY for c in BAD_CODES})
FAULTS.update({f"length {n[:20]}": length(n) + BODY for n in BAD_LENGTHS})
for coding in BAD_CODINGS:
    chunks = chunk(BODY) + LAST_CHUNK
    FAULTS[f"coding {coding}"] = head(f"Transfer-Encoding: {coding}") + chunks
for coding in BAD_ENCODINGS:
    FAULTS[f"encoding {coding}"] = head(f"Content-Encoding: {coding}") + gzip.compress(BODY)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_complete_answer_is_a_transport_error(serve, fault):
    server = serve(FAULTS[fault])
    error = refused(server, TransportError)
    assert error.status_code is None
    assert error.__cause__ is not None
    assert error.url == server.url + server.requests[-1].path
    assert error.url in error.message
    if fault in ("a chunk without a size", "a chunk of no number"):
        assert error.message.endswith(": the answer has a bad chunk size")
    if fault in ("no HTTP", "another HTTP", "a header flood"):
        assert ": it is not valid HTTP (" in error.message
    if fault == "long headers":
        assert error.message.endswith(": its headers are too long")
    if fault == "two lengths":  # of which one may be right
        assert error.message.endswith(": the answer has a bad Content-Length")


def test_a_content_type_that_python_cannot_parse_is_a_transport_error_or_no_matter(serve):
    answer = head("Content-Type: multipart/x; boundary*=x; boundary*0=y") + BODY
    try:
        assert ask(serve(answer)).state.succeeded  # since Python 3.14
    except TransportError as error:
        assert isinstance(error.__cause__.__cause__, TypeError)


FRAMED = {
    "a length": length(len(BODY)) + BODY,
    "a length and a blank": length(f"{len(BODY)} ") + BODY,
    "a length twice": head(*[f"Content-Length: {len(BODY)}"] * 2) + BODY,
    "no length": head() + BODY,
    "an empty coding": head("Transfer-Encoding:") + BODY,
    "chunks beside a large length": head("Transfer-Encoding: chunked", "Content-Length: 99999999")
    + chunk(BODY)
    + LAST_CHUNK,
    "lines that end in LF": head().replace(b"\r\n", b"\n") + BODY + b" " * 99999,
    "labelled as rubbish": head("Content-Type: rubbish") + BODY,
    "encoded as identity": head("Content-Encoding: identity") + BODY,
    "encoded as Identity, and a blank": head("Content-Encoding: Identity ") + BODY,
    "after 100 Continue": head(status="100 Continue") + length(len(BODY)) + BODY,
    "after many": head("X: " + "x" * 7000, status="100 Continue") * 20 + length(len(BODY)) + BODY,
    "after 20 kB of headers": head("X: " + "x" * 20000) + BODY,
    "HTTP/1.0": head().replace(b"/1.1", b"/1.0") + BODY,
    "no reason phrase": head().replace(b" OK", b"") + BODY,
    "a chunk": CHUNKED + chunk(BODY) + LAST_CHUNK,
    "chunks of a byte": CHUNKED + b"".join(chunk(bytes([b])) for b in BODY) + LAST_CHUNK,
    "an extension": CHUNKED + chunk(BODY, b"%x;name=value" % len(BODY)) + LAST_CHUNK,
    "a trailer": CHUNKED + chunk(BODY + b" " * 99999) + b"0\r\nTrailer: x\r\n\r\n",
    "exactly 16 MiB": head() + BODY + b" " * (16 * MIB - len(BODY)),
    "a length, too": CHUNKED[:-2] + b"Content-Length: 9999\r\n\r\n" + chunk(BODY) + LAST_CHUNK,
    "Chunked": CHUNKED.replace(b"chunked", b"Chunked") + chunk(BODY) + LAST_CHUNK,
    "dripped": lambda peer: peer.drip(CHUNKED + chunk(BODY) + LAST_CHUNK),
}


@pytest.mark.parametrize("how", FRAMED)
def test_an_answer_is_read_however_it_is_framed(serve, tls, how):
    assert ask(serve(FRAMED[how]), timeout=60).state.succeeded
    secure = serve(FRAMED[how], tls=tls.server)
    assert ask(secure, timeout=60, ssl_context=tls.client).state.succeeded


def test_an_answer_that_tls_finds_broken_is_not_complete(serve, tls):
    def broken(peer):
        peer.send(head() + BODY)
        socket.socket.send(peer.sock, b"\x17\x03\x03\x00\x20" + b"x" * 32)  # past its TLS

    error = refused(serve(broken, tls=tls.server), TransportError, ssl_context=tls.client)
    assert ": TLS failed: " in error.message


def test_a_request_of_many_tls_records_is_sent_whole(serve, tls):
    server, value = serve(job_is(), tls=tls.server), "x" * 99999
    assert ask(server, headers={"X": value}, ssl_context=tls.client).state.succeeded
    assert server.requests[0].headers["x"] == value


# Time. Whatever stalls or drips, and in whatever phase: the deadline is the whole call's.

SLOW = {
    "nothing is said": stall(),
    "the status line drips": drip(b"HTTP/1.1 200 "),
    "the head stalls": stall(b"HTTP/1.1 200 OK\r\n"),
    "headers drip": drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "100 Continue drips": drip(b"", head(status="100 Continue")),
    "100 Continue has no end": endless(b"", head(status="100 Continue")),
    "the body stalls where it is valid JSON": stall(length(len(BODY) + 1) + BODY),
    "the body drips": drip(length(10**6), b" "),
    "a body without a length drips": drip(head(), b" "),
    "a chunk's size drips": drip(CHUNKED, b"0"),
    "a chunk stalls": stall(CHUNKED + b"64\r\nabc"),
    "the trailers stall": stall(CHUNKED + chunk(BODY) + b"0\r\n"),
    "a trailer drips": drip(CHUNKED + chunk(BODY) + b"0\r\nX: "),
    "trailers have no end": endless(CHUNKED + chunk(BODY) + b"0\r\n", b"X: y\r\n"),
}


@pytest.mark.parametrize("phase", SLOW)
def test_a_deadline_ends_every_phase(serve, phase):
    error = refused(serve(SLOW[phase]), timeout=SOON)
    # Python 3.15 counts what has no end, and may lose patience before the deadline.
    patient = not phase.endswith("no end") or sys.version_info < (3, 15)
    assert isinstance(error, TransportTimeout if patient else TransportError)
    if patient:
        assert error.message.endswith("timed out after 0.05 s")
    assert error.__cause__ is not None
    assert error.url in error.message


TLS_RECORD = b"\x16\x03\x03\x40\x00"  # announces 16 KiB of a handshake
SLOW_HANDSHAKES = {
    "handshake": stall(),
    "handshake drips": drip(TLS_RECORD, b"\0"),
}


@pytest.mark.parametrize("phase", [*SLOW_HANDSHAKES, "the head stalls", "the body drips"])
def test_a_deadline_ends_what_is_slow_in_tls_or_behind_it(serve, tls, phase):
    if phase in SLOW:
        server = serve(SLOW[phase], tls=tls.server)
    else:
        server = serve(SLOW_HANDSHAKES[phase], greets=True)
    url = server.url.replace("http:", "https:")
    refused(server, TransportTimeout, server_url=url, ssl_context=tls.client, timeout=SOON)


SLOW_TUNNELS = {
    "nothing is said": stall(),
    "the status line drips": drip(b"HTTP/1.1 200 "),
    "the head stalls": stall(b"HTTP/1.1 200 OK\r\n"),
    "headers have no end": endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "TLS stalls": stall(head()),
    "TLS drips": drip(head() + TLS_RECORD, b"\0"),
}


@pytest.mark.parametrize("phase", SLOW_TUNNELS)
def test_a_deadline_ends_a_proxy_s_connect(monkeypatch, serve, phase):
    monkeypatch.setenv("https_proxy", serve(SLOW_TUNNELS[phase]).url)
    with pytest.raises(TransportError):
        bac_states.get(JOB, server_url="https://h.test:8", timeout=SOON)


def test_a_deadline_is_begun_anew_neither_behind_a_proxy_nor_for_another_route(
    monkeypatch, serve, clock
):
    def late(peer):
        clock.skipped += 600 - SOON
        if peer.request.method == "CONNECT":
            peer.send(head())
            peer.stall()
        peer.send(GONE)

    proxy = serve(late)
    monkeypatch.setenv("https_proxy", proxy.url)
    error_of(TransportTimeout, bac_states.get, JOB, server_url="https://h.test", timeout=600)
    server = serve(requester=late, jobs=stall())
    error = refused(server, TransportTimeout, timeout=600)
    assert error.message.endswith("timed out after 600 s")


def test_a_deadline_is_begun_anew_neither_after_connecting_nor_after_the_handshake(
    monkeypatch, serve, clock, tls
):
    def secure_late(peer):
        clock.skipped += 600 - SOON
        peer.secure(tls.server)
        peer.stall()

    server = serve(secure_late, greets=True)
    https = {"server_url": server.url.replace("http:", "https:"), "ssl_context": tls.client}
    refused(server, TransportTimeout, **https, timeout=600)
    connect = socket.socket.connect

    def connect_late(sock, address):
        clock.skipped += 600 - SOON
        connect(sock, address)

    server = serve(stall())
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_late)
        for url in (server.url, server.url.replace("http:", "https:")):
            refused(server, TransportTimeout, server_url=url, timeout=600)


def test_a_deadline_ends_sending(serve):
    server = serve(lambda peer: peer.closing.wait(IN_TIME) and None, greets=True)
    refused(server, TransportTimeout, headers={"X": "x" * 12 * MIB}, timeout=SOON)


# Size. Over 16 MiB is refused, declared or counted, and costs no more memory than the cap.


TOO_LARGE = {
    "without a length": endless(head(), b" "),
    "in chunks": endless(CHUNKED, chunk(b" " * 8192)),
    "in one chunk": endless(CHUNKED + b"ffffffff\r\n", b" "),
    "declared": stall(length(16 * MIB + 1) + BODY),
    "declared as 10 TB": stall(length(10**13) + BODY),
    "by one byte": head() + BODY + b" " * (16 * MIB + 1 - len(BODY)),
}


@counts_memory
@pytest.mark.parametrize("how", TOO_LARGE)
def test_a_body_over_16_mib_is_refused_and_costs_no_more_memory_than_the_cap(serve, how):
    server = serve(TOO_LARGE[how])
    tracemalloc.start()
    try:
        error = refused(server, TransportError, timeout=60)
        assert tracemalloc.get_traced_memory()[1] < 24 * MIB
    finally:
        tracemalloc.stop()
    assert "16 MiB" in error.message


# The body of an error answer is best effort, and never changes the class.

WHY = b"Transfer-Encoding: chunked\r\n\r\n4\r\nwhy?\r\n"
REST = {
    "complete": (bytes, b"Content-Length: 4\r\n\r\nwhy?"),
    "cut": (bytes, b"Content-Length: 100\r\n\r\nwhy?"),
    "of a bad length": (bytes, b"Content-Length: x\r\n\r\nwhy?"),
    "in bad chunks": (bytes, WHY + b"zz"),
    "stalled": (stall, b"Content-Length: 100\r\n\r\nwhy?"),
    "stalled in a chunk": (stall, WHY + b"64\r\n"),
    "dripped": (drip, b"Content-Length: 1000000\r\n\r\nwhy?"),
    "endless": (endless, b"\r\nwhy?"),
    "of 10 TB": (endless, b"Content-Length: 10000000000000\r\n\r\nwhy?"),
    "reset": (reset, b"Content-Length: 100\r\n\r\n"),
    "never sent": (stall, b"Content-Length: 100\r\n\r\n"),
    "compressed": (bytes, b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"why?")),
}


def cut_off(status, rest):
    how, beginning = REST[rest]
    return how(b"HTTP/1.1 %d No\r\nRetry-After: 9\r\n" % status + beginning)


def test_the_rest_of_an_error_answer_never_changes_its_class(serve):
    kinds = {400: BadRequest, 500: InternalServerError, 429: SDKError}
    cases = [(status, rest) for status in kinds for rest in REST]

    def ask_about(case):
        return refused(serve(cut_off(*case)), kinds[case[0]], timeout=1.5)

    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:  # they wait at the same time
        errors = dict(zip(cases, pool.map(ask_about, cases)))
    for (status, rest), error in errors.items():
        assert (error.status_code, error.retry_after) == (status, 9), rest
        assert len(error.body) <= 8192, rest
        if rest not in ("reset", "never sent", "compressed"):
            assert error.body.startswith("why?"), rest


@pytest.mark.parametrize("rest", ["cut", "in bad chunks", "endless", "of 10 TB", "stalled"])
def test_a_missing_route_is_passed_over_whatever_its_body_is(serve, rest):
    server = serve(requester=cut_off(404, rest), jobs=job_is())
    assert ask(server, timeout=1).state.succeeded


def lower_exceptions():
    """One of every class of them."""
    numbers = {type(OSError(number, "")): number for number in errno.errorcode}
    numbers.pop(InterruptedError)  # Python tries again itself (PEP 475)
    for number in [*numbers.values(), errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EMFILE]:
        yield OSError(number, os.strerror(number))
    for module in (http.client, ssl, socket):
        for name, kind in list(vars(module).items()):
            if name[0] != "_" and inspect.isclass(kind) and issubclass(kind, Exception):
                yield kind("words") if module is http.client else kind(1, "words")
    for kind in (OSError, ValueError, UnicodeError, OverflowError):
        yield kind("words")


# The phases of an exchange, and what is called in each of them: the first time, or the second.
PHASES = {
    "connecting": (socket.socket, "connect", 1),
    "sending": (socket.socket, "sendall", 1),
    "awaiting": (http.client.HTTPResponse, "begin", 1),
    "reading the head": (socket.socket, "recv_into", 1),
    "reading the body": (socket.socket, "recv_into", 2),
}


@contextlib.contextmanager
def raising(phase, monkeypatch, error):
    """Makes a phase raise it."""
    owner, name, when = PHASES[phase]
    real, calls = getattr(owner, name), itertools.count(1)

    def call(*args):
        if next(calls) >= when:
            raise error
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, call)
        yield


@pytest.mark.parametrize("phase", PHASES)
def test_no_exception_of_the_lower_layers_gets_out(monkeypatch, serve, phase):
    server = serve(stall(length(100)))
    kinds = set()
    for lower in lower_exceptions():
        kinds.add(type(lower))
        with raising(phase, monkeypatch, lower):
            error = refused(server)
        late = isinstance(lower, (socket.timeout, TimeoutError))
        assert type(error) is (TransportTimeout if late else TransportError), lower
        assert ("timed out after" in str(error)) == (late and lower.errno is None), lower
        assert error.__cause__ is not None and error.url in str(error), lower
    assert {ConnectionRefusedError, http.client.IncompleteRead, ssl.SSLEOFError} < kinds
    assert {socket.gaierror, socket.timeout} < kinds
    gc.collect()  # so that a warning about what was left open is this test's


@pytest.mark.parametrize("phase", PHASES)
def test_what_is_not_the_network_s_is_left_alone(monkeypatch, serve, phase):
    server = serve(stall(length(100)))
    for kind in (KeyboardInterrupt, MemoryError):
        with raising(phase, monkeypatch, kind()), pytest.raises(kind):
            ask(server)
    gc.collect()


# ------------------------------------------------------------------------------------- 6 Waiting


def test_wait_asks_until_the_job_has_ended_in_any_way(serve, clock):
    for word in ENDED_JOB:
        server = serve([job_is("New"), job_is("InProgress"), BUSY, job_is(word)])
        assert wait_for(server).state == JobState(JOB, word)
        assert len(server.requests) == 4
    clock.pauses.clear()
    assert (wait_for(serve(job_is())).state.succeeded, clock.pauses) == (True, [])


def test_pauses_grow_by_half_from_half_a_second_to_five(serve, clock):
    wait_for(serve([*[job_is("InProgress")] * 10, job_is()]))
    expected = [0.5, 0.75, 1.125, 1.6875, 2.53125, 3.796875, 5, 5, 5, 5]
    assert clock.pauses == pytest.approx(expected)


def test_a_wait_asks_first_the_route_that_answered_and_then_the_others(serve, clock):
    updated = {"states": [job_is("New"), job_is("New"), GO_404], "jobs": [GO_404, job_is()]}
    server = serve(**updated)
    assert wait_for(server).state.succeeded
    assert server.asked == [*ORDERS[JOB], "states", "states", "requester", "jobs"]


def test_what_is_no_end_yet_is_waited_for(serve, clock):
    lost = '{"state":{"Nodes":{"n":{"Shards":{"0":{"State":"Cancelled"}}}}}}'
    for answer in ('{"state":{}}', '{"state":{"nodes":null}}', '{"state":{"Nodes":{}}}', lost):
        server = serve([reply(answer), job_is()])
        assert wait_for(server).state.succeeded
        assert len(server.requests) == 2


KINDS = ["service: Pending Running", "daemon: Queued Running", "service: Pending Failed"]


@pytest.mark.parametrize("kind", [*KINDS, "batch: Running Completed", ": Running Stopped"])
def test_a_service_or_daemon_is_waited_for_until_it_runs(serve, clock, kind):
    kind, words = kind.split(": ")
    states = [of_job(ID=NEWER_JOB, Type=kind, State={"StateType": word}) for word in words.split()]
    server = serve(jobs=[json_reply(state) for state in states])
    assert wait_for(server, NEWER_JOB, limit=60).state == decoded(states[-1])
    assert server.asked == ["jobs"] * 2


PASSING = {
    "closed": b"",
    "reset": reset(head()),
    "rubbish": b"rubbish\r\n\r\n",
    "cut short": length(100) + BODY,
    "too large": length(16 * MIB + 1),
    "compressed": head("Content-Encoding: gzip") + BODY,
    **{f"{n}": reply("", n) for n in (408, 425, 429, 502, 503, 504, 505, 507, 511, 520, 599)},
}


@pytest.mark.parametrize("how", PASSING)
def test_wait_goes_on_through_what_passes(serve, clock, how):
    passing = PASSING[how]
    server = serve([passing, job_is("InProgress"), passing, passing, job_is()])
    assert wait_for(server).state.succeeded
    assert len(server.requests) == 5


ENDING = {
    "400": (reply("", 400), BadRequest),
    "500": (reply("it broke", 500), InternalServerError),
    "an unknown job": (NOT_FOUND, JobNotFound),
    "404 of the JobStore": (reply('{"Component":"JobStore"}', 404), JobNotFound),
    **{f"{n}": (reply("", n), SDKError) for n in (302, 401, 403, 404, 418, 501)},
    "no JSON": (reply("no JSON"), DecodeError),
}


@pytest.mark.parametrize("how", ENDING)
def test_everything_else_ends_a_wait_at_once(serve, clock, how):
    answer, kind = ENDING[how]
    server = serve([job_is("InProgress"), answer])
    error_of(kind, wait_for, server, limit=60)
    assert len(clock.pauses) == 1


def test_of_tls_s_faults_a_certificate_alone_ends_a_wait_at_once(serve, clock, tls):
    error_of(TransportError, wait_for, serve(job_is(), tls=tls.server))
    options = {"headers": {"X-Key": "certificate"}}  # a secret that is in the failure's own words
    error_of(TransportError, wait_for, serve(job_is(), tls=tls.server), **options)
    assert clock.pauses == []
    without_tls = serve(job_is(), greets=True).url.replace("http:", "https:")
    error_of(WaitTimeout, bac_states.wait, JOB, server_url=without_tls, limit=9)


def test_a_wait_goes_on_where_a_proxy_refuses_a_tunnel(monkeypatch, serve, clock, tls):
    refusal = head(status=f"407 not {SECRET}")
    proxy = serve([reply("busy", 502), refusal, tls.tunnel(job_is())])
    monkeypatch.setenv("https_proxy", proxy.url)
    options = {"headers": {"Proxy-Authorization": SECRET}, "ssl_context": tls.client}
    assert bac_states.wait(JOB, server_url="https://loopback.test", **options).state.succeeded
    assert len(clock.pauses) == 2


def test_the_eleventh_failure_in_a_row_ends_a_wait_without_a_limit(serve, clock):
    assert wait_for(serve([*[BUSY] * 10, job_is()])).state.succeeded
    answers = [BUSY] * 9 + [job_is("InProgress")] + [BUSY] * 9 + [job_is()]
    assert wait_for(serve(answers)).state.succeeded
    server = serve(BUSY)
    assert error_of(SDKError, wait_for, server).status_code == 503
    assert len(server.requests) == 11
    assert wait_for(serve([*[BUSY] * 30, job_is()]), limit=1000).state.succeeded


def test_a_connection_that_the_kernel_gives_up_does_not_end_a_wait(monkeypatch, clock):
    with raising("connecting", monkeypatch, OSError(errno.ETIMEDOUT, "given up")):
        wait = functools.partial(bac_states.wait, server_url="http://127.0.0.1", timeout=60)
        assert "given up" in error_of(WaitTimeout, wait, JOB, limit=9).message
    assert 8 < sum(clock.pauses) <= 9


def test_a_failure_that_comes_after_the_limit_is_still_the_reason(monkeypatch, clock):
    def look_up(*_, **__):
        clock.skipped += 60
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    wait = functools.partial(bac_states.wait, server_url="http://server.test")
    assert "no such name" in error_of(WaitTimeout, wait, JOB, limit=9).message


HONOURED = {"7": 7, "120": 120, "300": 300, "301": 300, "999999999": 300, "9" * 30: 300}


@pytest.mark.parametrize("header", HONOURED)
def test_retry_after_is_honoured_for_five_minutes_at_the_most(serve, clock, header):
    answers = [reply("", status, f"Retry-After: {header}") for status in (429, 503)]
    assert wait_for(serve([*answers, job_is()])).state.succeeded
    assert clock.pauses == [HONOURED[header]] * 2
    clock.pauses.clear()
    assert error_of(WaitTimeout, wait_for, serve(answers[0]), limit=5).response is None
    assert sum(clock.pauses) <= 5


def test_retry_after_does_not_shorten_a_pause(serve, clock):
    wait_for(serve([*[BUSY] * 3, job_is()]))
    usual = clock.pauses.copy()
    clock.pauses.clear()
    wait_for(serve([BUSY, BUSY, reply("", 503, "Retry-After: 1"), job_is()]))
    assert clock.pauses == usual


def test_a_limit_ends_a_wait_with_the_last_answer_its_state_and_its_status(serve, clock):
    last = {"StateType": "Queued", "Message": f"no node\nis free, {SECRET}"}
    pending = of_job(ID=NEWER_JOB, State={"StateType": "Pending"})
    server = serve(jobs=[BUSY, json_reply(pending), json_reply(of_job(ID=NEWER_JOB, State=last))])
    headers = {"X-Token": SECRET}
    error = error_of(WaitTimeout, wait_for, server, NEWER_JOB, limit=10, headers=headers)
    assert error.response.state == JobState(NEWER_JOB, "Queued", last["Message"])
    assert 9 < sum(clock.pauses) <= 10
    why = "it is Queued: no node is free, ***"
    assert error.message == f"the job {NEWER_JOB} has not ended within 10 s: {why}"


def test_a_limit_that_passes_without_an_answer_says_the_last_failure(serve, clock):
    error = error_of(WaitTimeout, wait_for, serve(BUSY), limit=10)
    assert (error.response, error.__cause__.status_code) == (None, 503)
    assert re.search("10 s.*HTTP 503.*busy", error.message)
    error = error_of(WaitTimeout, wait_for, serve([job_is("New"), BUSY]), limit=10)
    assert error.response.state.state == "New" and "busy" in error.message
    silent = serve(stall())
    error = error_of(WaitTimeout, wait_for, silent, limit=SOON)
    assert error.message.endswith(f": no answer came from {silent.url}")
    assert error.url == silent.url
    options = {"server_url": f"{silent.url}/{SECRET}", "headers": {"X-Key": SECRET}}
    error = error_of(WaitTimeout, bac_states.wait, JOB, limit=SOON, **options)
    assert SECRET not in everything_told(error) and error.url == f"{silent.url}/***"
    late = error_of(WaitTimeout, wait_for, serve(stall()), limit=10, timeout=SOON)
    assert late.message.endswith("timed out after 0.05 s")


def test_a_limit_cuts_the_deadline_of_each_request_and_blames_no_server_for_that(serve, clock):
    server = serve([job_is("InProgress"), stall()])
    error = error_of(WaitTimeout, wait_for, server, limit=0.9, timeout=60)
    assert error.response.state.state == "InProgress"
    assert "InProgress" in error.message and "timed out" not in error.message
    assert len(server.requests) == 2


# ------------------------------------------------------------------------------------- 7 Command

DEMO_TABLE = """\
9304c616-291f-41ad-b862-54e133c0149e  Completed
NODE                                            STATE      EXIT  RESULT                                                 STATUS
QmSyJ8VUd4YSPwZFJSJsHmmmmg7sd4BAc2yHY73nisJo86  Cancelled
QmYgxZiySj3MRkwLSL4X2MF5F9f2PMhAE3LV49XkfNL1o3  Cancelled
QmdZQ7ZbhnvWY1J12XYKGHApJ6aufKyLNSvf8jZBrBaAVL  Completed  0     ipfs://QmTVmC7JBD2ES2qGPqBNVWnX1KeEPNrPGb7rJ8cpFgtefe  Got results proposal of length: 0
"""


def asked_about(capsys, serve, document, *options, job_id="j"):
    """What the command says of such an answer."""
    server = serve(json_reply(document, 200, "X-Bacalhau-Git-Version: v1.9.3"))
    return command(capsys, job_id, "--server", server.url, *options)


def table(capsys, serve, document, **options):
    """The lines of the command's table."""
    ran = asked_about(capsys, serve, document, **options)
    assert (ran.code, ran.err, ran.out[-1]) == (0, "", "\n")
    return ran.out[:-1].split("\n")


def said(ran):
    """The one line that a command says of a problem, without its beginning."""
    assert ran.err.startswith("bac_states: ") and ran.err.count("\n") == 1, ran.err
    assert ran.err[:-1].isprintable() and len(ran.err) <= len("bac_states: \n") + 400
    return ran.err[len("bac_states: ") : -1]


def test_the_demo_prints_the_documented_job(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bac_states.py", "--demo"])
    assert (bac_states.main(), *capsys.readouterr()) == (0, DEMO_TABLE, "")
    assert command(capsys, "--demo", f" {JOB}\r\n") == (0, DEMO_TABLE, "")
    assert command(capsys, "--demo", "--output") == (0, "Thu Nov 17 13:32:55 UTC 2022\n", "")
    ran = command(capsys, "--demo", "--json")
    expected = json.loads(json.dumps(dataclasses.asdict(decoded(DOCUMENTED))))
    assert json.loads(ran.out) == {"state": expected, "server_version": ""}
    for job_id in ("another", "j-another"):
        ran = command(capsys, "--demo", job_id)
        assert (ran.code, ran.out) == (4, "")
        assert re.fullmatch(rf"HTTP 500 from http://127\.0\.0\.1:\d+/.*: Job .*{job_id}", said(ran))


def test_the_demo_goes_past_any_proxy_and_environment_and_leaves_no_thread(capsys, monkeypatch):
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, DEAD)
    set_environment(monkeypatch, HOST="h.test", KEY="key", USERNAME="me", TLS_USETLS="nonsense")
    before = set(threading.enumerate())
    assert command(capsys, "--demo", "--wait", "--wait-timeout", "5") == (0, DEMO_TABLE, "")
    for thread in set(threading.enumerate()) - before:
        thread.join(IN_TIME)
        assert not thread.is_alive()


@pytest.mark.parametrize("server", ["http://127.0.0.1:1", ""])
def test_the_demo_takes_no_server(capsys, server):
    with pytest.raises(SystemExit) as caught:
        bac_states.main(["--demo", "--server", server])
    assert caught.value.code == 2
    assert "--demo has a server of its own" in capsys.readouterr().err


def test_a_demo_without_a_port_says_that(capsys, monkeypatch):
    def bind(sock, address):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    ran = command(capsys, "--demo")
    assert (ran.code, ran.out) == (1, "")
    assert "port" in said(ran) and "Permission denied" in said(ran)


EVERY_KIND_OF_ROW = json.loads(r"""
{"state": {"JobID": "j", "State": "Completed", "Executions": [
 {"NodeId": "node-1", "State": "Completed", "PublishedResults": {"CID": "Qm"}, "RunOutput": {"exitCode": -1}, "Status": "done"},
 {"NodeId": "n2", "State": "Completed", "PublishedResults": {"S3": {"Bucket": "b", "Key": "k/l"}}, "RunOutput": {}},
 {"NodeId": "n3", "State": "Completed", "PublishedResults": {"URL": "http://h/x"}},
 {"NodeId": "n4", "State": "Failed", "RunOutput": {"exitCode": 137, "runnerError": "killed"}},
 {"NodeId": "n5", "State": "Failed", "RunOutput": {"exitCode": 0, "runnerError": "killed"}, "Status": "a\r\nb\n\nc\td"},
 {"NodeId": "n6", "State": "BidAccepted", "PublishedResults": {}, "RunOutput": {}},
 {"NodeId": "n7", "State": "Completed", "PublishedResults": {"StorageSource": "s3managed", "S3": {}}}]}}
""")


def test_the_table_has_a_line_an_execution_and_columns_that_fit(capsys, serve):
    assert table(capsys, serve, EVERY_KIND_OF_ROW) == [
        "j  Completed",
        "NODE    STATE        EXIT  RESULT      STATUS",
        "node-1  Completed    -1    ipfs://Qm   done",
        "n2      Completed    0     s3://b/k/l",
        "n3      Completed          http://h/x",
        "n4      Failed       137               killed",
        "n5      Failed                         a b c d",
        "n6      BidAccepted",
        "n7      Completed          s3managed",
    ]


NO_PLACE = "not enough nodes to run job. requested: 1, available: 1, suitable: 0.\n• Node n-4f0e53ab: labels map[name:n-4f0e53ab-0000-4000-8000-000000000000 os_type:linux arch:amd64] don't match required selectors [region = nowhere]\n"


def test_the_first_line_holds_the_whole_reason(capsys, serve):
    reasons = {NO_PLACE: NO_PLACE.strip().replace("\n", " "), "x" * 2000: "x" * 2000}
    reasons[NO_PLACE.replace("\n", "\r\n")] = reasons[NO_PLACE]
    for message, shown in reasons.items():
        document = of_job(State={"StateType": "Failed", "Message": message})
        assert table(capsys, serve, document) == [f"j  Error  {shown}"]
    document = of_job(State={"StateType": "Failed", "Message": "x" * 5000})
    assert len(table(capsys, serve, document)[0]) == len("j  Error  ") + 2000


def test_a_shard_or_partition_is_shown_where_there_are_several(capsys, serve):
    shards = {"_0": {"State": "Completed"}, "_1": {"State": "Error"}}
    assert table(capsys, serve, of_shards(**shards), job_id="my-job") == [
        "my-job  Error",
        "NODE  SHARD  STATE      EXIT  RESULT  STATUS",
        "n     0      Completed",
        "n     1      Error",
    ]
    assert "SHARD" not in table(capsys, serve, of_shards(_0={}))[1]


def test_a_cell_over_200_characters_is_cut_but_an_id_is_whole_or_the_one_asked(capsys, serve):
    lines = table(capsys, serve, listed({"NodeId": "w" * 200, "Status": "o" * 201}))
    assert lines[2].split() == ["w" * 200, "o" * 197 + "..."]
    assert table(capsys, serve, listed(JobID=JOB), job_id=JOB[:8]) == [f"{JOB}  New"]
    for asked in ("asked", "a" * 600):
        assert table(capsys, serve, {"state": {}}, job_id=asked) == [f"{asked}  New"]


def test_nothing_from_a_server_acts_on_the_terminal_or_forges_a_row(capsys, serve):
    executions = [
        {"NodeId": NASTY, "State": NASTY, "Status": NASTY + "\nn-9  Completed  0"},
        {"PublishedResults": {"CID": NASTY}, "RunOutput": {"exitCode": 2, "stderr": NASTY * 50}},
        {"PublishedResults": {"URL": NASTY}},
        {"PublishedResults": {"S3": {"Bucket": NASTY, "Key": NASTY}}},
        {"PublishedResults": {"StorageSource": NASTY}, "State": "Failed"},
    ]
    members = {"State": NASTY, "JobID": "j" + NASTY, "Status": NASTY}
    lines = table(capsys, serve, listed(*executions, **members))
    assert all(line.isprintable() for line in lines)
    assert sum("n-9" in line for line in lines) == 1
    for where, answer in NASTY_ANSWERS.items():
        ran = command(capsys, JOB, "--server", serve(answer).url)
        assert (ran.code, ran.out, said(ran) != "") == (1, "", True), where


TWO_PROGRAMS = json.loads(r"""
{"state": {"JobID": "j", "State": "Completed", "Executions": [
 {"NodeId": "n1", "State": "Completed", "RunOutput": {"stdout": "a\n", "stderr": "", "exitCode": 0}},
 {"NodeId": "n2", "State": "Completed", "RunOutput": {
  "stdout": "b", "stdouttruncated": true, "stderr": "one\ntwo\nthree\nfour\nfive\nsix\n", "exitCode": 2}}]}}
""")


def test_of_a_failed_program_the_last_five_lines_of_its_standard_error_follow(capsys, serve):
    heading, *words = table(capsys, serve, TWO_PROGRAMS)[4:]
    assert "n2" in heading
    assert words == ["  two", "  three", "  four", "  five", "  six"]
    failed = {"NodeId": "n3", "State": "Error", "RunOutput": {"stderr": "a\x1b[2J\n" + "x" * 201}}
    silent = {"NodeId": "n4", "State": "Failed", "RunOutput": {"stderr": "", "exitCode": 1}}
    active = {"NodeId": "n5", "State": "BidAccepted", "RunOutput": {"stderr": "not yet\n"}}
    heading, *words = table(capsys, serve, listed(failed, silent, active))[5:]
    assert "n3" in heading
    assert words == [r"  a\x1b[2J", "  " + "x" * 197 + "..."]
    odd = {
        "State": "Failed",
        "RunOutput": {"stderr": "1%\r2%\r3%\r4%\r5%\r\n  why\x0c\x85 \u2028.\r\n"},
    }
    assert table(capsys, serve, listed(odd))[4:] == ["  1% 2% 3% 4% 5%", r"    why\x0c\x85 \u2028."]


def test_output_is_what_the_completed_programs_wrote(capsys, monkeypatch, serve, clock):
    ran = asked_about(capsys, serve, TWO_PROGRAMS, "--output")
    assert (ran.code, ran.out) == (0, "a\nb")
    assert said(ran) == "the server kept only a part of this output"
    assert asked_about(capsys, serve, TWO_PROGRAMS, "--output", "--wait")[:2] == (3, "a\nb")
    failed, bare = {"State": "Failed", "RunOutput": {"stdout": "x"}}, {"State": "Completed"}
    for executions, words in (
        ([failed], "no execution has completed"),
        ([bare], "kept no output"),
        ([], "lists no executions"),
    ):
        ran = asked_about(capsys, serve, listed(*executions), "--output")
        assert (ran.code, ran.out, words in said(ran)) == (0, "", True)
    kept = {"State": "Completed", "RunOutput": {"stdout": "x"}}
    ran = asked_about(capsys, serve, listed(kept, bare), "--output")
    assert (ran.code, ran.out, said(ran)) == (0, "x", "the server kept only a part of this output")
    unknown = listed({"State": "9", "RunOutput": {"stdout": "x"}})  # of an unknown release
    assert asked_about(capsys, serve, unknown, "--output")[:2] == (0, "x")
    nasty = listed({"State": "Completed", "RunOutput": {"stdout": "a\x1b[2J\n\u202ec\r\n"}})
    assert asked_about(capsys, serve, nasty, "--output").out == "a\x1b[2J\n\u202ec\r\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert asked_about(capsys, serve, nasty, "--output").out == "a\\x1b[2J\n\\u202ec\\r\n"


def test_json_is_one_ascii_document_of_the_same_keys_for_every_release(capsys, serve):
    for exchange in EXCHANGES[1], EXCHANGES[-1]:
        server = serve(**exchange.served())
        ran = command(capsys, exchange.job_id, "--server", server.url, "--json")
        assert (ran.code, ran.err) == (0, "")
        document = json.loads(ran.out)
        assert list(document) == ["state", "server_version"]
        assert document["server_version"] == exchange.version
        state = decoded(exchange.sent, exchange.version)
        assert document["state"] == json.loads(json.dumps(dataclasses.asdict(state)))
        assert "succeeded" not in ran.out and re.fullmatch("[ -~\n]*", ran.out)
    document = listed({"NodeId": NASTY, "Status": "\ud800"}, State=NASTY)
    ran = asked_about(capsys, serve, document, "--json")
    assert json.loads(ran.out)["state"]["state"] == NASTY
    assert re.fullmatch("[ -~\n]*", ran.out)


@pytest.mark.parametrize("colour", ["NO_COLOR", "FORCE_COLOR", "PYTHON_COLORS"])
def test_help_tells_all_options_and_exit_codes_without_colour(capsys, monkeypatch, colour):
    monkeypatch.setenv(colour, "1")
    ran = command(capsys, "--help")
    assert (ran.code, ran.err) == (0, "")
    options = "--version --server --timeout --json --output --wait --wait-timeout --demo JOB_ID"
    more = "0 1 2 3 4 124 141 130 BACALHAU_API_HOST BACALHAU_API_KEY http://127.0.0.1:1234"
    for word in f"{options} {more} example".split():
        assert re.search(rf"(?<![\w.]){word}(?![\w.])", ran.out), word
    assert re.fullmatch("[ -~\n]*", ran.out)
    for columns in ("1", "10", "1000"):
        monkeypatch.setenv("COLUMNS", columns)
        assert command(capsys, "-h")[::2] == (0, "")
    assert command(capsys, "--version") == (0, f"bac_states {VERSION}\n", "")


WRONG_USAGE = ["", "--json", "--nonsense", "a b", "--timeout", "--timeout x j", "--json --output j"]


@pytest.mark.parametrize("arguments", WRONG_USAGE, ids=lambda a: a or "nothing")
def test_wrong_usage_is_exit_2_with_the_usage(capsys, monkeypatch, arguments):
    monkeypatch.setenv("FORCE_COLOR", "1")
    ran = command(capsys, *arguments.split())
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("usage: bac_states ") and "\x1b" not in ran.err
    assert ran.err.split("\n")[-2].startswith("bac_states: ")


BAD_OPTIONS = [("JOB_ID", [job_id]) for job_id in ("", " ", "..", "a\nb", "x" * 1001)]
BAD_OPTIONS += [("--server", ["j", "--server", url]) for url in ("", "h", f"http://me:{SECRET}@h")]
BAD_OPTIONS += [("--timeout", ["j", "--timeout", s]) for s in ("0", "-1", "nan", "inf")]
BAD_OPTIONS += [("--wait-timeout", ["j", "--wait-timeout", s]) for s in ("0", "-5", "nan")]
BAD_OPTIONS += [(f"BACALHAU_API_{name}", ["j", SECRET]) for name in ("TLS_USETLS", "PORT")]


@pytest.mark.parametrize("named, arguments", BAD_OPTIONS, ids=lambda v: str(v)[:40])
def test_a_bad_argument_or_variable_is_exit_2_and_named_as_it_is_spelled(
    capsys, connections, monkeypatch, named, arguments
):
    if named.startswith("BACALHAU"):
        *arguments, value = arguments
        monkeypatch.setenv(named, value)
    ran = command(capsys, *arguments)
    assert (ran.code, ran.out, connections) == (2, "", [])
    assert said(ran).startswith(f"{named} ") and SECRET not in ran.err


def test_the_environment_s_credentials_and_certificates_are_used_for_server_too(
    capsys, monkeypatch, serve, tls
):
    server = serve(job_is(), tls=tls.server)
    set_environment(monkeypatch, HOST=server.url, KEY="key", TLS_CAFILE=str(tls.trusted))
    assert command(capsys, JOB) == (0, f"{JOB}  Completed\n", "")
    set_environment(monkeypatch, HOST="h.test")
    assert command(capsys, JOB, "--server", server.url).code == 0
    assert [r.headers["authorization"] for r in server.requests] == ["Bearer key"] * 2
    set_environment(monkeypatch, KEY="", USERNAME="reader")
    ran = command(capsys, JOB, "--server", server.url)
    assert (ran.code, ran.out) == (2, "") and said(ran).startswith("BACALHAU_API_PASSWORD ")


def test_no_answer_is_exit_1_with_one_line(capsys, serve):
    answers = {"not you": reply("not you", 401), "no complete answer": b"", "state": reply("[]")}
    for words, answer in answers.items():
        server = serve(answer)
        ran = command(capsys, JOB, "--server", server.url)
        assert (ran.code, ran.out) == (1, "")
        assert words in said(ran) and server.url in ran.err
    start = time.perf_counter()
    ran = command(capsys, JOB, "--server", serve(stall()).url, "--timeout", "0.2")
    assert time.perf_counter() - start < IN_TIME / 3  # by default, it would take 10 s
    assert (ran.code, ran.out) == (1, "")
    assert said(ran).endswith("timed out after 0.2 s")


def test_an_unknown_job_is_exit_4(capsys, serve, clock):
    for options in ([], ["--wait"], ["--wait-timeout", "5"]):
        ran = command(capsys, JOB, "--server", serve(NOT_FOUND).url, *options)
        assert (ran.code, ran.out) == (4, "")
        assert said(ran).endswith(f"Job not found. ID: {JOB}")


def job_ran(*attempts):
    """A job that is Completed after such states and exit codes of its executions."""
    outcomes = [{"State": state, "RunOutput": {"exitCode": code}} for state, code in attempts]
    return job_is(Executions=outcomes)


def job_of(kind, word):
    return json_reply(of_job(ID=JOB, Type=kind, State={"StateType": word}))


# What --wait makes of an answer; without it, each of them is exit 0.
ENDS = {
    **{word: (job_is(word), 0 if word == "Completed" else 3) for word in ENDED_JOB},
    "a program that returned 3": (job_ran(("Completed", 3)), 3),
    "a WASM program that returned without a code": (job_ran(("Completed", -1)), 0),
    "a retry that went well": (job_ran(("Failed", 1), ("Completed", 0)), 0),
    "a daemon": (job_of("daemon", "Running"), 0),
    "a service that failed": (job_of("service", "Failed"), 3),
    "a service to come": (job_of("service", "Pending"), 124),
    "a job that runs on": (job_is("InProgress"), 124),
}


@pytest.mark.parametrize("end", ENDS)
def test_with_wait_the_exit_code_tells_how_the_job_ended(capsys, serve, clock, end):
    answer, code = ENDS[end]
    plain = command(capsys, JOB, "--server", serve(answer).url)
    assert (plain.code, plain.err) == (0, "")
    for options in (["--wait-timeout", "9"], ["--wait", "--wait-timeout", "9"]):
        ran = command(capsys, JOB, "--server", serve(answer).url, *options)
        assert ran[:2] == (code, plain.out)
        assert (ran.err == "") is (code != 124)


def test_while_waiting_each_news_is_a_line_on_standard_error(capsys, serve, clock):
    states = [job_is("New"), job_is("New"), job_is("InProgress")]
    server = serve([*states, BUSY, BUSY, job_is("InProgress"), job_is("Completed")])
    ran = command(capsys, JOB, "--server", server.url, "--wait")
    assert (ran.code, ran.out) == (0, f"{JOB}  Completed\n")
    lines = ran.err.split("\n")
    assert len(lines) == 6 and lines[-1] == ""
    for line, words in zip(lines, ("New", "InProgress", "busy", "answers again", "Completed")):
        assert line.startswith("bac_states: ") and line.endswith(words)


def test_a_long_job_id_leaves_room_for_the_state_while_waiting(capsys, serve, clock):
    server = serve([job_is("New", ""), job_is(job_id="")])
    ran = command(capsys, "x" * 1000, "--server", server.url, "--wait")
    lines = [f"bac_states: {'x' * 96}...: {state}\n" for state in ("New", "Completed")]
    assert (ran.code, ran.err) == (0, "".join(lines))


def test_a_state_that_echoes_a_credential_is_masked_while_waiting(
    capsys, serve, clock, monkeypatch
):
    monkeypatch.setenv("BACALHAU_API_KEY", SECRET)
    server = serve([job_is(f"Bearer {SECRET}"), job_is()])
    ran = command(capsys, JOB, "--server", server.url, "--wait")
    assert (ran.code, ran.err) == (0, f"bac_states: {JOB}: ***\nbac_states: {JOB}: Completed\n")


def test_a_cut_job_id_saves_no_beginning_of_a_credential_while_waiting(serve, clock):
    job_id, headers = "x" * 90 + SECRET, {"X-Token": SECRET}
    server = serve(job_is("New", ""))
    error = error_of(WaitTimeout, wait_for, server, job_id, limit=1, headers=headers)
    assert error.message.startswith(f"the job {'x' * 90}*** has not ended")


def test_a_wait_that_runs_out_says_why(capsys, serve, clock):
    server = serve([job_is("New"), job_is("InProgress", Status="it takes long")])
    ran = command(capsys, JOB, "--server", server.url, "--wait-timeout", "30")
    assert (ran.code, ran.out) == (124, f"{JOB}  InProgress  it takes long\n")
    why = f"the job {JOB} has not ended within 30 s: it is InProgress: it takes long"
    assert ran.err.split("\n")[-2] == f"bac_states: {why}"
    ran = command(capsys, JOB, "--server", serve(job_is("")).url, "--wait-timeout", "30")
    assert (ran.code, ran.out) == (124, f"{JOB}\n")
    first, last = ran.err.splitlines()
    assert first == f"bac_states: {JOB}: in no state yet"
    assert last == f"bac_states: the job {JOB} has not ended within 30 s: it is in no state yet"
    ran = command(capsys, JOB, "--server", serve(BUSY).url, "--wait-timeout", "1.2")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.split("\n")[-2].endswith(": busy")


# Standard output and standard error


@pytest.mark.parametrize("buffer", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "cp1252", "utf-16"])
def test_output_is_escaped_where_its_encoding_lacks_a_character(serve, encoding, buffer):
    answer = json_reply(listed({"NodeId": "nöde-☃", "State": "Completed"}, Status="€"))
    ran = python(
        *(SOURCE, "j", "--server", serve(answer).url),
        env={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONUNBUFFERED": buffer},
        encoding=encoding,
    )
    assert (ran.code, ran.err) == (0, "")
    shown = "nöde-☃".encode(encoding, "backslashreplace").decode(encoding)
    assert ran.out.split("\n")[2].split() == [shown, "Completed"]


def test_a_problem_is_told_where_standard_error_lacks_a_character(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert bac_states.main(["--demo", "jöb"]) == 4
    assert rb"Job not found. ID: j\xf6b" in sys.stderr.buffer.getvalue()


def shell(redirection, *arguments):
    return run(["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, SOURCE, *arguments])


def test_line_ends_of_a_program_s_output_are_kept_where_the_system_has_others(serve):
    execution = {"State": "Completed", "RunOutput": {"stdout": "a\nb\r\n"}}
    as_on_windows = """import io, runpy, sys
sys.stdout = io.TextIOWrapper(sys.stdout.detach(), newline="\\r\\n")
runpy.run_path(sys.argv.pop(1), run_name="__main__")"""
    url = serve(json_reply(listed(execution))).url
    ran = python("-c", as_on_windows, SOURCE, "j", "--output", "--server", url, encoding=None)
    assert (ran.code, ran.out) == (0, b"a\nb\r\n")


@on_posix
@pytest.mark.parametrize("target", [">&-", ">/dev/full"], ids=["closed", "full"])
@pytest.mark.parametrize("option", ["--demo", "--output", "--help"])
def test_standard_output_closed_or_full_is_exit_1_with_one_line(target, option):
    if not os.path.exists(target.strip(">&-") or "/"):
        pytest.skip("no full disk to write to")
    ran = shell(target, "--demo", option)
    assert "Traceback" not in ran.err and "Exception" not in ran.err
    if option != "--help":  # which is argparse's
        assert (ran.code, "standard output" in said(ran)) == (1, True)


@on_posix
def test_a_disk_that_takes_a_part_is_exit_1_without_a_buffer_too(serve, tmp_path):
    execution = {"State": "Completed", "RunOutput": {"stdout": "x" * 100_000}}
    url = serve(json_reply(listed(execution))).url
    with open(str(tmp_path / "out"), "wb") as file:
        arguments = ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", sys.executable, "-u", SOURCE]
        ran = run([*arguments, "j", "--output", "--server", url], stdout=file)
    assert (ran.code, "standard output" in said(ran)) == (1, True)


def test_a_reader_that_went_away_is_exit_141_and_nothing_is_said():
    if os.name == "posix":
        assert shell("2>&-", "--demo", "another") == (4, "", "")
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:
        ran = python(SOURCE, "--demo", "--json", stdout=pipe)
    assert (ran.code, ran.err) == (141, "")


def stream(failure=None):
    """A host's stream, with no more than it needs; its failure, if it has one."""
    written = []

    def write(text):
        if failure:
            raise failure
        written.append(text)

    return types.SimpleNamespace(written=written, write=write, flush=lambda: None)


FAILURES = {
    "none": (None, 0),
    "full": (OSError(errno.ENOSPC, "No space left on device"), 1),
    "closed": (ValueError("I/O operation on closed file"), 1),
    "not writable": (OSError(errno.EINVAL, "Invalid argument"), 1),
    "a pipe closed": (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141),
    "a socket reset": (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), 141),
    "a pipe closed on Windows": (OSError(errno.EINVAL, "Invalid argument"), 141),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_main_leaves_a_host_s_process_and_streams_as_they_are(monkeypatch, failure):
    error, code = FAILURES[failure]
    out, err = stream(error), stream()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    if failure.endswith("Windows"):
        monkeypatch.setattr(sys, "platform", "win32")

    def process():
        files = [os.fstat(number).st_ino for number in (1, 2)]
        return files, sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT)

    before = process()
    assert bac_states.main(["--demo"]) == code
    assert process() == before
    assert "".join(out.written) == ("" if error else DEMO_TABLE)
    told = f"bac_states: cannot write to standard output: {error and error.args[-1]}\n"
    assert "".join(err.written) == (told if code == 1 else "")


def test_main_leaves_a_host_s_broken_pipe_as_it_is_and_takes_none(capsys, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    before = os.fstat(writing).st_ino
    with contextlib.suppress(OSError), open(writing, "w", encoding="ascii") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert bac_states.main(["--demo"]) == 141
        assert (os.fstat(writing).st_ino, pipe.encoding, pipe.errors) == (before, "ascii", "strict")
    monkeypatch.setattr(sys, "stdout", None)
    assert bac_states.main(["--demo", "--output"]) == 1
    assert "standard output" in said(Ran(1, *capsys.readouterr()))


def test_main_raises_nothing_where_a_host_s_standard_output_is_closed(capsys, monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    code = bac_states.main(["--demo"])
    told = said(Ran(code, "", capsys.readouterr().err))
    assert (code, told.split(":")[0]) == (1, "cannot write to standard output")


@pytest.mark.parametrize("state", ["Error", "InProgress"])
def test_an_answer_that_cannot_be_printed_outweighs_what_the_job_did(serve, monkeypatch, state):
    monkeypatch.setattr(sys, "stdout", None)
    options = ["--server", serve(job_is(state)).url, "--wait-timeout", "0.01"]
    assert bac_states.main([JOB, *options]) == 1


@on_posix
@pytest.mark.parametrize("moment", ["connecting", "reading", "sleeping"])
def test_ctrl_c_ends_by_the_signal_without_a_traceback(serve, moment):
    reached = threading.Event()

    def asked(peer):
        if moment == "sleeping":
            peer.send(job_is("InProgress"))
            peer.sock.shutdown(socket.SHUT_WR)
            peer.stall()
        reached.set()
        peer.stall()

    server = serve(asked, greets=moment == "connecting")
    url = server.url.replace("http:", "https:") if moment == "connecting" else server.url
    # As a terminal's processes have SIGINT, which a shell's background jobs have not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, str(SOURCE), JOB, "--wait", "--server", url],
        **dict.fromkeys(["stdout", "stderr"], subprocess.PIPE),
        env=plain_environment(),
    )
    signal.signal(signal.SIGINT, before)
    assert reached.wait(30)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (-signal.SIGINT, b"")
    assert err in (b"", f"bac_states: {JOB}: InProgress\n".encode())


@on_posix
def test_a_background_job_that_ignores_ctrl_c_goes_on(serve):
    reached, goes_on = threading.Event(), threading.Event()

    def asked(peer):
        reached.set()
        assert goes_on.wait(30)
        peer.send(job_is())

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen(
        [sys.executable, str(SOURCE), JOB, "--timeout", "30", "--server", serve(asked).url],
        stdout=subprocess.PIPE,
        env=plain_environment(),
    )
    signal.signal(signal.SIGINT, before)
    assert reached.wait(30)
    process.send_signal(signal.SIGINT)
    goes_on.set()
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, b"Completed" in out) == (0, True)


# ------------------------------------------------------------------------------------ 8 The file


RUNS = {
    "with the standard library only": ["-I", "-S", SOURCE],
    "in development mode, without a warning": ["-W", "error", "-X", "dev", SOURCE],
    "as a module": ["-m", "bac_states"],
    "from standard input": ["-"],
}


@pytest.mark.parametrize("how", RUNS)
def test_the_file_runs(how):
    with SOURCE.open() as file:
        ran = python(*RUNS[how], "--demo", cwd=str(SOURCE.parent), stdin=file)
    assert ran == (0, DEMO_TABLE, "")


USE_COPIES = """
import pickle, sys
sys.path.append("copies.zip")
import one, two, package.vendored.states, zipped
for module in (one, two, package.vendored.states, zipped):
    response = module.get(sys.argv[2], server_url=sys.argv[1])
    assert type(response) is module.StateResponse and response.state.succeeded
    assert pickle.loads(pickle.dumps(response)) == response
    try:
        module.decode("[]")
    except module.DecodeError as error:
        assert type(pickle.loads(pickle.dumps(error))) is module.DecodeError
    else:
        raise AssertionError("a list was decoded")
assert one.JobState() != two.JobState() and not issubclass(one.SDKError, two.SDKError)
print("copies.zip" in zipped.__file__)
"""


def test_a_copy_works_under_another_name_twice_in_a_package_and_from_a_zip(serve, tmp_path):
    (tmp_path / "package" / "vendored").mkdir(parents=True)
    (tmp_path / "package" / "vendored" / "__init__.py").write_text("from .states import get\n")
    for path in ("one.py", "two.py", "package/vendored/states.py"):
        shutil.copy(str(SOURCE), str(tmp_path / path))
    with zipfile.ZipFile(str(tmp_path / "copies.zip"), "w") as archive:
        archive.write(str(SOURCE), "zipped.py")
    ran = python("-c", USE_COPIES, serve(job_is()).url, JOB, cwd=str(tmp_path))
    assert ran == (0, "True\n", "")


TEXT = SOURCE.read_text(encoding="utf-8")


def test_the_file_says_its_licence_is_narrow_and_has_no_function_over_40_lines():
    assert TEXT.startswith("# SPDX-License-Identifier: MIT-0\n")
    assert max(map(len, TEXT.splitlines())) <= 100
    for node in ast.walk(ast.parse(TEXT)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            last = max(getattr(inner, "lineno", 0) for inner in ast.walk(node))
            assert last - node.lineno < 40, node.name


# The README, where it came along: what it shows is what happens, in bash and with a server of these
# tests in the place of HOST.

README = SOURCE.with_name("README.md")
README_TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
# The kind of each block, what is in it, and the block of its output.
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", README_TEXT, re.M | re.S)
SHOWN = {}  # scripts, and what they print
for kind, block, printed in BLOCKS:
    script = f"python - <<'END'\n{block}END\n" if kind == "python" else block
    if kind == "console":
        script = "".join(re.findall(r"^\$ (.*\n)", block, re.M))
        printed = re.sub(r"^\$ .*\n", "", block, flags=re.M)
    if printed:
        SHOWN[script] = printed

# The exit code, standard output and standard error of their programs.
README_JOBS = {
    "j-689e80ca-78b2-454e-86af-adba3d029190": (-1, "hello from wasm\n", ""),
    "j-fed9e784-99c4-414a-bec1-eea051e669e1": (3, "partial output\n", "boom: exiting with 3\n"),
}
has_readme = pytest.mark.skipif(not README_TEXT, reason="the file was copied without its README")
has_bash = pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")


def readme_answer(peer, word="Completed"):
    """What v1.9.3 says of a job of the README."""
    job_id = re.match(ROUTES["jobs"], f"{peer.request.method} {peer.request.path}")[2]
    if job_id not in README_JOBS:
        return reply(api_error(404, f"job not found: {job_id}", "NotFound", "JobStore"), 404)
    code, out, err = README_JOBS[job_id]
    execution = {
        "NodeID": "n-b2c7ed29-4d34-47da-8b9a-3ce51daedc11",
        "ComputeState": {"StateType": 9, "Message": "Running"},
        "DesiredState": {"StateType": 2, "Message": "execution completed"},
        "RunOutput": {"Stdout": out, "stderr": err, "ExitCode": code},
    }
    executions = [execution] if word == "Completed" else []
    document = of_job(*executions, ID=job_id, State={"StateType": word})
    return json_reply(document, 200, "X-Bacalhau-Git-Version: v1.9.3 ")


@pytest.fixture
def in_bash(serve, tls, tmp_path):
    """Runs a script as the README's reader would, HOST replaced; returns all that it prints."""
    shutil.copy(str(SOURCE), str(tmp_path))
    shutil.copy(str(tls.trusted), str(tmp_path / "ca.pem"))
    (tmp_path / "YOUR_PROJECT").mkdir()

    def run_script(script):
        pending = functools.partial(readme_answer, word="Pending")
        answers = [pending, readme_answer] if "--wait" in script else readme_answer
        server, secure = serve(jobs=answers), serve(jobs=readme_answer, tls=tls.server)
        found = {"http://HOST:1234": server.url, "https://HOST:1234": secure.url}
        for shown, real in found.items():
            script = script.replace(shown, real)
        script = f'exec 2>&1\npython() {{ "$PYTHON" "$@"; }}\n{script}'
        env = {"PYTHON": sys.executable}
        printed = run(["bash", "-c", script], cwd=str(tmp_path), env=env).out
        for shown, real in found.items():
            printed = printed.replace(real, shown)
        return printed

    return run_script


@has_readme
def test_the_readme_is_short_counts_the_file_s_lines_and_labels_all_its_blocks():
    assert f"one file of {len(TEXT.splitlines()):,} lines" in README_TEXT
    assert len(README_TEXT.splitlines()) <= 220
    fences = 2 * len(BLOCKS) + 2 * sum(bool(printed) for _, _, printed in BLOCKS)
    assert README_TEXT.count("\n```") == fences
    assert {kind for kind, _, _ in BLOCKS} == {"console", "python", "sh", "text"}
    assert all(printed for kind, _, printed in BLOCKS if kind == "python")


@has_bash
@pytest.mark.parametrize("script", SHOWN, ids=lambda script: max(script.split("\n"), key=len)[:60])
def test_the_readme_shows_what_happens(in_bash, script):
    if "| jq " in script and not shutil.which("jq"):
        pytest.skip("there is no jq")
    assert in_bash(script) == SHOWN[script]


@has_readme
@has_bash
def test_the_readme_s_shell_is_shell_and_its_first_command_runs(in_bash):
    for block in (block for kind, block, _ in BLOCKS if kind == "sh"):
        assert in_bash(f"bash -n <<'END'\n{block}END\n") == ""
    assert in_bash("cp bac_states.py YOUR_PROJECT/ && cd YOUR_PROJECT && ls") == "bac_states.py\n"


@has_readme
@has_bash
def test_the_readme_s_script_has_a_branch_for_each_exit_code(in_bash):
    script = next(block for _, block, _ in BLOCKS if "\ncase " in block)
    codes = [0, 1, 2, 3, 4, 124, 130, 141]
    said = {in_bash(f"set -e; python() {{ return {code}; }}\n{script}") for code in codes}
    assert len(said) == len(codes) and "" not in said


@has_readme
def test_the_readme_tells_the_errors_and_wait_s_arguments_as_they_are():
    tree = next(block for kind, block, _ in BLOCKS if "SDKError  " in block and kind == "text")
    bases = [Exception]
    for indent, name in re.findall(r"^([ │├└─]*)(\w+)", tree, re.M):
        depth = len(indent) // 4
        bases[depth + 1 :] = [getattr(bac_states, name)]
        assert bases[depth + 1].__bases__[0] is bases[depth]
    wait = inspect.signature(bac_states.wait)
    bare = [p.replace(annotation=p.empty) for p in wait.parameters.values()]
    told = wait.replace(parameters=bare, return_annotation=wait.empty)
    assert f"`wait{told}`" in README_TEXT
