# SPDX-License-Identifier: MIT-0
# One file, standard library only: copy it into your project, no notice needed.
"""The state of a Bacalhau job, as a server of any release from v0.2.0 to v1.9.3 tells it.

    import bac_states

    response = bac_states.get("9304c616-291f-41ad-b862-54e133c0149e")
    print(response.state.state, response.state.succeeded)    # Completed True
    for execution in response.state.executions:
        print(execution.node_id, execution.state, execution.run_output)

`get` asks once, `wait` asks until the job has ended, `decode` reads an answer that you have
already. Whatever goes wrong is one of these (bad arguments are ValueError or TypeError):

    SDKError(Exception)                    any other status; .message .status_code .body .url
     |                                     .retry_after
     +- BadRequest                         400
     +- InternalServerError                500
     |   +- JobNotFound                    the server does not know the job
     +- TransportError(OSError)            no complete answer: DNS, TLS, proxy, reset, cut short
     |   +- TransportTimeout(TimeoutError) no complete answer within `timeout`
     +- WaitTimeout(TimeoutError)          the job did not end within `limit`; .response
     +- DecodeError(ValueError)            a complete answer, but not a state; .path

From a shell: `python -m bac_states JOB_ID`, and `--help` for the rest. Without `server_url` or
`--server` the server is the one that Bacalhau's own tools would ask: BACALHAU_API_HOST,
BACALHAU_API_PORT, BACALHAU_API_TLS_USETLS, with BACALHAU_API_KEY or BACALHAU_API_USERNAME and
BACALHAU_API_PASSWORD; else http://127.0.0.1:1234.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import functools
import http.client
import io
import json
import os
import re
import socket
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

TYPE_CHECKING = False  # type checkers take it for true; at run time `typing` would cost 5 %
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

__all__ = ["get", "wait", "decode", "main"]
__all__ += ["StateRequest", "StateResponse", "JobState", "NodeState", "ExecutionState"]
__all__ += ["VerificationResult", "StorageSpec", "S3StorageSpec", "RunCommandResult"]
__all__ += ["SDKError", "BadRequest", "InternalServerError", "JobNotFound", "TransportError"]
__all__ += ["TransportTimeout", "WaitTimeout", "DecodeError"]
__version__ = "1.0.0"

_MAX_ANSWER = 16 * 1024 * 1024  # bytes; a real answer of 10,000 executions has 6 MB
_MAX_EXCERPT = 8 * 1024  # bytes of an error answer that are read and kept
_MAX_MESSAGE = 400  # characters of str(error)
_MAX_PART = 200  # characters of a cell, or of one part of a message

_ENDED_JOB = {"Completed", "CompletedPartially", "Cancelled", "Error", "PartialError"}
_REJECTED = {"AskForBidRejected", "BidRejected", "ResultRejected"}
_ENDED_EXECUTION = {"Completed", "Failed", "Cancelled", "Error", *_REJECTED}


def _line(text: str, limit: int = _MAX_PART) -> str:
    """One line that is safe on a terminal: what does not print is escaped, a long tail is cut."""
    text = text[: limit + 1]
    if not text.isprintable():  # controls, bidi, separators, surrogates
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)  # without its quotes
    return text if len(text) <= limit else text[: limit - 3] + "..."


# ---------------------------------------------------------------------------------------- errors


class SDKError(Exception):
    """The base of all errors; itself raised for a status that has no class of its own.

    `message` is one printable line of at most 400 characters. `status_code` is the answer's, None
    without one. `body` is the first 8 KiB of what the server said, as text. `url` is where it was
    asked. `retry_after` is in whole seconds, None where the server names none.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        body: str = "",
        url: str = "",
        retry_after: int | None = None,
    ) -> None:
        self.message = _line(message, _MAX_MESSAGE)
        super().__init__(self.message)
        self.status_code = status_code
        self.body = body
        self.url = url
        self.retry_after = retry_after


class BadRequest(SDKError):
    """400: the server could not read the request."""


class InternalServerError(SDKError):
    """500: the server failed, or found several jobs that begin with the id."""


class JobNotFound(InternalServerError):
    """The server does not know the job: 500 with that text up to v1.4.0, 404 from v1.5.0."""


class TransportError(SDKError, OSError):
    """No complete answer: DNS, refused, reset, TLS, proxy, not HTTP, cut short, too large."""


class TransportTimeout(TransportError, TimeoutError):
    """No complete answer within `timeout`."""


class WaitTimeout(SDKError, TimeoutError):
    """The job did not end within `limit`; `response` is the last answer, or None."""

    def __init__(
        self, message: str, *, response: StateResponse | None = None, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.response = response


class DecodeError(SDKError, ValueError):
    """A complete answer, but not a state; `path` says where, as in `state.Executions[3].State`."""

    def __init__(self, message: str, *, path: str = "", **details: Any) -> None:
        super().__init__(message, **details)
        self.path = path


# ---------------------------------------------------------------------------------------- models
# In the operation's own terms. What the server left out is "", 0, False or (); a record that it
# left out is None, which is not the same as an empty record.

_Time = str  # RFC 3339, with up to nine fractional digits


@dataclasses.dataclass(frozen=True)
class StateRequest:
    """What is asked. `client_id` is sent along and checked by no release."""

    job_id: str
    client_id: str = ""


@dataclasses.dataclass(frozen=True)
class VerificationResult:
    """Whether the results were verified, and whether they held (up to v1.0.3)."""

    complete: bool = False
    result: bool = False


@dataclasses.dataclass(frozen=True)
class S3StorageSpec:
    """Where in S3 the results are."""

    bucket: str = ""
    key: str = ""
    checksum: str = ""
    version_id: str = ""
    endpoint: str = ""
    region: str = ""


@dataclasses.dataclass(frozen=True)
class StorageSpec:
    """Where the results are. `storage_source` is "IPFS", "S3", ..., from v1.0.4 "ipfs", "s3"."""

    storage_source: str = ""
    name: str = ""
    cid: str = ""
    url: str = ""
    path: str = ""
    source_path: str = ""
    repo: str = ""
    read_write: bool = False
    s3: S3StorageSpec | None = None
    metadata: Mapping[str, str] | None = dataclasses.field(default=None, hash=False)


@dataclasses.dataclass(frozen=True)
class RunCommandResult:
    """What the job's program wrote and returned. A Completed one can have any exit code."""

    stdout: str = ""
    stdout_truncated: bool = False
    stderr: str = ""
    stderr_truncated: bool = False
    exit_code: int = 0
    runner_error: str = ""


@dataclasses.dataclass(frozen=True)
class ExecutionState:
    """One attempt at the job on one node, or at one shard of it where a job had shards.

    States are open words: Bidding, Waiting, Running, Verifying, Error, Cancelled, Completed (to
    v0.3.19); New, AskForBid, BidAccepted, Completed, Failed, ... (since). Times are RFC 3339 text
    with up to nine fractional digits. `verification_proposal` is base64.
    """

    node_id: str = ""
    job_id: str = ""
    shard_index: int = 0
    compute_reference: str = ""
    state: str = ""
    status: str = ""
    desired_state: str = ""
    accepted_ask_for_bid: bool = False
    verification_proposal: str = ""
    verification_result: VerificationResult | None = None
    published_results: StorageSpec | None = None
    run_output: RunCommandResult | None = None
    version: int = 0
    create_time: _Time = ""
    update_time: _Time = ""

    @property
    def is_terminal(self) -> bool:
        """Whether this attempt has ended, well or not."""
        return self.state in _ENDED_EXECUTION

    @property
    def succeeded(self) -> bool:
        """Whether this attempt ended well."""
        return self.state == "Completed"


@dataclasses.dataclass(frozen=True)
class NodeState:
    """What one node did: the last listed execution of each shard, by the shard's index."""

    shards: Mapping[int, ExecutionState] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True)
class JobState:
    """The job's state: New, Queued, InProgress, Completed, Error, Cancelled, or a newer word.

    `status` is the server's sentence about it (from v1.4.0). Times are RFC 3339 text.
    """

    job_id: str = ""
    state: str = ""
    status: str = ""
    executions: tuple[ExecutionState, ...] = ()
    version: int = 0
    create_time: _Time = ""
    update_time: _Time = ""
    timeout_at: _Time = ""

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended, well or not."""
        return self.state in _ENDED_JOB

    @property
    def succeeded(self) -> bool:
        """Whether the job ended well; CompletedPartially and PartialError did not."""
        return self.state == "Completed"

    @property
    def nodes(self) -> dict[str, NodeState]:
        """The documented Nodes/Shards view of `executions`, by node id; made anew each time."""
        shards: dict[str, dict[int, ExecutionState]] = {}
        for execution in self.executions:
            shards.setdefault(execution.node_id, {})[execution.shard_index] = execution
        return {node_id: NodeState(found) for node_id, found in shards.items()}


@dataclasses.dataclass(frozen=True)
class StateResponse:
    """An answer. `server_version` is what the server says of itself (from v1.2.1), else "".

    `raw` is the document as received.
    """

    state: JobState = JobState()
    server_version: str = ""
    raw: Any = dataclasses.field(default=None, compare=False, repr=False)


# -------------------------------------------------------------------------------------- decoding


class _Mismatch(ValueError):
    """A value of the wrong kind. The path grows on the way out: a good answer pays nothing."""

    def __init__(self, wanted: str, value: object) -> None:
        super().__init__(f"expected {wanted}, got {type(value).__name__}")
        self.path: list[str | int] = []


def _of_type(kind: type, value: Any) -> Any:
    """The value, if its type is exactly this one."""
    if type(value) is not kind:  # isinstance would take true for an integer
        raise _Mismatch(kind.__name__, value)
    return value


_text = functools.partial(_of_type, str)


class _Plan(dict):  # type: ignore[type-arg]
    """A field, its JSON type and a converter for each name, in all spellings that Go takes for one.

    NodeID, NodeId and node_id are one. A spelling is folded once, then it is known.
    """

    def __missing__(self, name: object) -> Any:
        folded = str(name).replace("_", "").lower()
        member = self.get(folded, (None, None, None))
        if len(self) < 99 and len(folded) < 99:  # so that no server fills the memory
            self[name] = member
        return member


def _record(build: Any, model: Any = None, **members: Any) -> Any:
    """A function that reads a JSON object, and builds something from its members as keywords.

    Members are those named here and the fields of the model: each a JSON type or a converter, or
    the keyword's name with one of these.
    """
    model = model or build
    for field in dataclasses.fields(model) if dataclasses.is_dataclass(model) else ():
        members.setdefault(field.name, _KINDS[field.type])
    plan = _Plan()
    for name, member in members.items():
        target, kind = member if isinstance(member, tuple) else (name, member)
        convert = functools.partial(_of_type, kind) if isinstance(kind, type) else kind
        plan[name.replace("_", "")] = (target, kind, convert)

    def read(value: Any) -> Any:
        fields = {}
        if type(value) is not dict:  # null in an array or map is an empty record, as in Go
            value = {} if value is None else _of_type(dict, value)
        try:
            for key, item in value.items():
                target, kind, convert = plan[key]
                if type(item) is kind:
                    fields[target] = item
                elif target is not None and item is not None:  # unknown members do not matter
                    fields[target] = convert(item)
        except _Mismatch as error:
            error.path[:0] = [key]
            raise
        return build(**fields)

    return read


def _each(kind: type, convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function that reads an array as a tuple, or a map as a dict, and converts each element."""

    def read(items: Any) -> Any:
        converted = {}
        _of_type(kind, items)
        try:
            for key, item in items.items() if kind is dict else enumerate(items):
                converted[key] = convert(item)
        except _Mismatch as error:
            error.path[:0] = [key]
            raise
        return converted if kind is dict else tuple(converted.values())

    return read


def _time(value: Any) -> Any:
    """A time as it was sent; "" for Go's zero time."""
    if value == "0001-01-01T00:00:00Z":
        return ""
    return value if type(value) is str else _text(value)


def _nanoseconds(value: Any) -> str:
    """Nanoseconds since 1970 as RFC 3339 text in UTC; final zeros are cut, as Go does."""
    seconds, fraction = divmod(_of_type(int, value), 10**9)
    try:
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    except OverflowError:
        raise _Mismatch("nanoseconds of a year up to 9999", value) from None
    return f"{moment.isoformat()}.{fraction:09}".rstrip("0").rstrip(".") + "Z"


def _number_or_word(state: Any) -> Any:
    """A state that becomes a word later, once the numbering is known."""
    return state if type(state) is int else _text(state)


def _word(state: Any, words: list[str]) -> Any:
    """A state's word; a number that has none stays its digits, never a guess."""
    if type(state) is int:
        return words[state] if 0 <= state < len(words) else str(state)
    return state if type(state) is str else _text(state)


_desired = functools.partial(_word, words=["Pending", "Running", "Stopped"])


def _fold_status(**fields: Any) -> ExecutionState:
    """An execution, whose status may be two messages joined."""
    # v1.0.4 to v1.4.0 join two messages by ". " even where one is empty, and leave a DesiredState
    # of 0 out. Older servers always send a VerificationResult, these never do.
    if "verification_result" not in fields and ". " in fields.get("status", ""):
        fields["status"] = re.sub(r"^\. |\. $", "", fields["status"])
        fields.setdefault("desired_state", _desired(0))
    return ExecutionState(**fields)


# How the fields of the models are read, by their annotations.
_KINDS: dict[Any, Any] = {"str": str, "int": int, "bool": bool, "_Time": _time}
_KINDS["Mapping[str, str] | None"] = _each(dict, lambda text: "" if text is None else _text(text))
_KINDS["VerificationResult | None"] = _record(VerificationResult)
_KINDS["S3StorageSpec | None"] = _s3 = _record(S3StorageSpec, checksum_sha256=("checksum", str))
_KINDS["StorageSpec | None"] = _storage = _record(StorageSpec)
_KINDS["RunCommandResult | None"] = _record(RunCommandResult, error_msg=("runner_error", str))
_EXECUTION = {
    "execution_id": ("compute_reference", str),  # v0.3.17 to v0.3.19
    "desired_state": _desired,
}
_executions = _each(list, _record(_fold_status, ExecutionState, **_EXECUTION))
_KINDS["tuple[ExecutionState, ...]"] = _executions

# The eras of the operation's own document: shards under nodes up to v0.3.19, executions under
# shards up to v0.3.23, and since then a list of executions, into which the others are folded.
# Up to v0.2.7 a shard's state was a number; v0.2.6 gave five of them other meanings.

_SHARD_STATES = ["", *"Bidding Cancelled Waiting Running Error Verifying Completed".split()]
_SHARD_STATES_V0_2_6 = ["", *"Bidding Waiting Running Verifying Cancelled Error Completed".split()]


def _fold_state(nodes: Any = None, shards: Any = None, **fields: Any) -> JobState:
    """A state, with the nodes or shards that it may have as a list of executions."""
    if shards:
        fields["executions"] = tuple(one for listed in shards.values() for one in listed)
    elif nodes is not None or not fields:  # {} is all that is sent before anything has happened
        return _fold_nodes(nodes or {})
    return JobState(**fields)


def _fold_nodes(nodes: dict[Any, Any]) -> JobState:
    """All shards as executions, and the job's state worked out from theirs."""
    shards = []
    words = _SHARD_STATES_V0_2_6
    for node_id, node in nodes.items():
        for index, shard in node.items():
            if not re.fullmatch("[0-9]{1,9}", str(index)):
                raise _Mismatch("a number as a shard's key", index)
            if shard.get("shard_index") == 0:  # left out from v0.2.6 on
                words = _SHARD_STATES
            shard["shard_index"] = shard.get("shard_index") or int(index)
            shard["node_id"] = shard.get("node_id") or str(node_id)
            shards.append(shard)
    for shard in shards:
        shard["state"] = _word(shard.get("state", ""), words)
    states = {shard["state"] for shard in shards}
    # Cancelled ends a node's bid, not the job; losers may stay Bidding for ever (v0.3.18).
    if states - {"", "Bidding", "Cancelled", "Error", "Completed"}:
        state = "InProgress"
    elif states & {"Error", "Completed"}:
        state = "Error" if "Error" in states else "Completed"
    else:
        state = "InProgress" if "Bidding" in states else "New"
    return JobState(executions=tuple(ExecutionState(**shard) for shard in shards), state=state)


def _only(member: str, kind: Any, default: Any) -> Any:
    """A reader of JSON objects of which one member matters."""
    return _record(lambda **fields: fields.get(member, default), **{member: kind})


_shards = _each(dict, _record(dict, ExecutionState, state=_number_or_word, **_EXECUTION))
_state = _record(
    _fold_state,
    JobState,
    nodes=_each(dict, _only("shards", _shards, {})),
    shards=_each(dict, _only("executions", _executions, ())),
)

# The newer API (all that answers from v1.4.0 on), in the operation's shape and words, as Bacalhau's
# own converter did it while both existed: pkg/models/migration/legacy/to.go, v1.0.4 to v1.4.0.

_JOB_STATES = {"Pending": "New", "Running": "InProgress", "Failed": "Error", "Stopped": "Cancelled"}
_FIRST_STATES = "Undefined New AskForBid AskForBidAccepted AskForBidRejected BidAccepted".split()
_COMPUTE_STATES = [*_FIRST_STATES, "BidRejected", "Completed", "Failed", "Cancelled"]
_COMPUTE_STATES_V1_5_2 = [*_FIRST_STATES, "Running", "Publishing", *_COMPUTE_STATES[6:]]
_COMPUTE_STATES_UNKNOWN = [*_FIRST_STATES, "6", "7", "8", "9", "Failed", "Cancelled"]


def _compute_states(server_version: str) -> list[str]:
    """The words for a release's numbers; for an unknown one, those that never changed."""
    numbers = re.fullmatch(r"v([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})", server_version)
    release = tuple(map(int, numbers.groups())) if numbers else (0, 0, 0)
    if release == (0, 0, 0):  # a build without a version says v0.0.0
        return _COMPUTE_STATES_UNKNOWN
    return _COMPUTE_STATES if release < (1, 5, 2) else _COMPUTE_STATES_V1_5_2


def _fold_results(source: str = "", params: Any = None) -> StorageSpec:
    """Where the results are: the parameters are fields of the record for their type."""
    if source.lower() == "s3":
        return StorageSpec(source, s3=_s3(params))
    return dataclasses.replace(_storage(params), storage_source=source) if source else StorageSpec()


def _fold_execution(compute: Any = ("", ""), desired: Any = ("", ""), **fields: Any) -> Any:
    """An execution's fields; its state stays a number until the release is known."""
    fields["state"], fields["desired_state"] = compute[0], _desired(desired[0])
    fields["status"] = ". ".join(filter(None, (compute[1], desired[1])))
    return fields


def _fold_job(state: Any = ("", ""), **fields: Any) -> Any:
    return {**fields, "state": _JOB_STATES.get(state[0], state[0]), "status": state[1]}


def _pair(state: Any = "", message: str = "") -> Any:
    """What the newer API has for a state: a word or number, and a message."""
    return state, message


_newer_state = _record(_pair, state_type=("state", _number_or_word), message=str)
_REVISION = {
    "revision": ("version", int),
    "create_time": _nanoseconds,
    "modify_time": ("update_time", _nanoseconds),
}
_results = _record(_fold_results, type=("source", str), params=dict)
_newer_execution = _record(
    _fold_execution,
    id=("compute_reference", str),
    job_id=str,
    node_id=str,
    compute_state=("compute", _newer_state),
    desired_state=("desired", _newer_state),
    published_result=("published_results", _results),
    run_output=_KINDS["RunCommandResult | None"],
    **_REVISION,
)
_newer_job = _record(
    _fold_job,
    id=("job_id", str),
    name=str,
    state=_record(_pair, state_type=("state", str), message=str),
    **_REVISION,
)
_items = _each(list, _newer_execution)
_listing = _record(dict, items=_items, executions=("items", _items))  # items since v1.4.0
_document = _record(dict, state=_state, job=_newer_job, executions=_listing)


def decode(document: object, *, server_version: str = "") -> StateResponse:
    """Decodes an answer of any release: bytes or text of JSON, or the object parsed from it.

    `server_version`, as "v1.5.2", settles what the newer API's numbers mean. Raises DecodeError.
    """
    return _decode(document, server_version)


def _decode(document: Any, server_version: str, asked: str = "") -> StateResponse:
    """Decodes an answer, which has to be about the job that was asked for."""
    try:
        if isinstance(document, (bytes, bytearray)):
            document = document.decode("utf-8")
        if isinstance(document, str):
            # int raises ValueError for NaN and Infinity, which json would accept.
            document = json.loads(document[document.startswith("\ufeff") :], parse_constant=int)
        found = _document(document)
        name = None
        if "state" in found:
            state = found["state"]
        elif "job" in found:
            job, words = found["job"], _compute_states(server_version)
            name = job.pop("name", None)
            executions = found.get("executions", {}).get("items", ())
            for fields in executions:
                fields["state"] = _word(fields["state"], words)
            state = JobState(executions=tuple(ExecutionState(**f) for f in executions), **job)
        else:
            raise _Mismatch("a state or a Job in it", document)
        if state.job_id and not state.job_id.startswith(asked) and name != asked:
            raise ValueError(f"it is about the job {_line(state.job_id)}")
    except (ValueError, RecursionError) as error:
        steps: Any = getattr(error, "path", [])
        path = "".join(f"[{step}]" if type(step) is int else f".{step}" for step in steps)[1:]
        raise DecodeError(f"no state of a job: {path}{path and ': '}{error}", path=path) from error
    return StateResponse(state, server_version, document)


# ------------------------------------------------------------------------------------- transport
# urllib with what it lacks: a deadline for the whole call, a cap, strict framing, no redirects.

_NETWORK_ERRORS = (OSError, http.client.HTTPException)
_LOWER_ERRORS = (*_NETWORK_ERRORS, ValueError, OverflowError)


def _left(deadline: float) -> float:
    """The seconds left to a deadline."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout("timed out")
    return left


class _DeadlineReader(io.RawIOBase):
    """A socket's raw reader that stops at the deadline, however slowly the bytes drip."""

    def __init__(self, raw: Any, sock: socket.socket, deadline: float) -> None:
        self._raw, self._sock, self.deadline = raw, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self.deadline))
        count: int | None = self._raw.readinto(buffer)
        self._sock.settimeout(_left(self.deadline))  # for TLS, which follows a proxy's answer
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """A response that reads itself, within the deadline."""

    def __init__(self, sock: socket.socket, *args: Any, deadline: float, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._reader = _DeadlineReader(self.fp.detach(), sock, deadline)
        self.fp = io.BufferedReader(self._reader)

    def _read_status(self) -> Any:
        # http.client passes over a 100 alone, RFC 9110 over every interim answer (15.2).
        version, status, reason = super()._read_status()  # type: ignore[misc]
        while 102 <= status <= 199:
            http.client.parse_headers(self.fp)
            version, status, reason = super()._read_status()  # type: ignore[misc]
        return version, status, reason

    def _read_next_chunk_size(self) -> int:
        # http.client accepts what int() accepts, as -1 and 1_0.
        size = re.fullmatch(rb"([0-9A-Fa-f]{1,8})[ \t]*(;.*)?\r?\n", self.fp.readline(65536))
        if size is None:
            raise http.client.HTTPException("bad chunk size")
        return int(size[1], 16)

    def whole(self) -> bytearray:
        """The body, if it is as long as it says, and not too long."""
        lengths, codings, encodings = (
            [value.strip().lower() for value in self.headers.get_all(name, [])]
            for name in ("Content-Length", "Transfer-Encoding", "Content-Encoding")
        )
        if self.headers.get_payload():  # http.client ends the headers at such a line
            raise http.client.HTTPException("a header line without a colon")
        if len(set(lengths)) > 1 or not all(re.fullmatch("[0-9]{1,18}", n) for n in lengths):
            raise http.client.HTTPException("bad Content-Length")
        if codings != (["chunked"] if self.chunked else []) or set(encodings) - {"identity"}:
            raise http.client.HTTPException("a coding that was not asked for")
        body = bytearray()
        if (self.length or 0) <= _MAX_ANSWER:
            self._read_to(body, _MAX_ANSWER)
        if len(body) + (self.length or 0) > _MAX_ANSWER:
            raise http.client.HTTPException("over 16 MiB")
        if self.length:  # what is missing; http.client does not mind
            raise http.client.HTTPException(f"cut short by {self.length} bytes")
        return body

    def excerpt(self) -> bytearray:
        """What can be read of an error's body in half the time left: other routes may follow."""
        body = bytearray()
        with contextlib.suppress(*_LOWER_ERRORS):
            self._reader.deadline -= _left(self._reader.deadline) / 2
            # Twice what is kept, so that a credential at the cut is found whole and hidden.
            self._read_to(body, 2 * _MAX_EXCERPT)
        return body

    def _read_to(self, body: bytearray, limit: int) -> None:
        piece = b"..."
        while piece and len(body) <= limit:
            piece = self.read1(65536)
            body += piece


class _Connection(http.client.HTTPConnection):
    """A connection that takes a deadline (of time.monotonic) for its timeout.

    urllib hands its timeout on unread, so that it can be one.
    """

    def __init__(self, host: str, timeout: float, **kwargs: Any) -> None:
        super().__init__(host, **kwargs)
        self._deadline = timeout
        self._create_connection = self._dial
        self.response_class = self._respond  # type: ignore
        self._response: Any = None

    def _respond(self, *args: Any, **kwargs: Any) -> _Response:
        self._response = response = _Response(*args, deadline=self._deadline, **kwargs)
        return response

    def _tunnel(self) -> None:
        try:
            super()._tunnel()  # type: ignore[misc]
        finally:
            if self._response is not None:  # as http.client does since 3.11
                self._response.close()

    def _dial(self, address: tuple[str, int], *_: Any) -> socket.socket:
        """Connects to the first address that answers; they share the time that is left."""
        failure = OSError("the host has no address")
        found: Any = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        for untried, (*_, where) in zip(range(len(found), 0, -1), found):
            try:
                sock = socket.create_connection(where[:2], _left(self._deadline) / untried)
            except OSError as error:
                failure = error
            else:
                sock.settimeout(max(self._deadline - time.monotonic(), 0.001))  # for TLS
                return sock
        raise failure

    def send(self, data: Any) -> None:
        if self.sock is not None:
            self.sock.settimeout(_left(self._deadline))
        super().send(data)


class _SecureConnection(_Connection, http.client.HTTPSConnection):
    pass


def _opener(ssl_context: ssl.SSLContext | None, proxies: Any) -> urllib.request.OpenerDirector:
    """Opens http and https, and nothing else; follows no redirect and raises for no status."""
    handler: Any = urllib.request.AbstractHTTPHandler()

    def http_open(request: urllib.request.Request) -> Any:
        # The type is a proxy's by now, and of a kind that nobody opens if it is not http.
        return handler.do_open(_Connection, request) if request.type == "http" else None

    handler.http_open = http_open
    handler.https_open = functools.partial(handler.do_open, _SecureConnection, context=ssl_context)
    handler.http_request = handler.https_request = handler.do_request_
    opener = urllib.request.OpenerDirector()
    opener.add_handler(urllib.request.ProxyHandler(proxies))
    opener.add_handler(handler)
    return opener


# ---------------------------------------------------------------------------------------- asking

_ROUTES = (
    ("POST", "/requester/states"),  # v0.3.17 to v1.3.2
    ("GET", "/api/v1/orchestrator/jobs/{}?include=executions"),  # all that answers from v1.4.0 on
    ("POST", "/states"),  # v0.2.0 to v0.3.16
)
_OURS = {
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "User-Agent": f"bac_states/{__version__}",
}
_FRAMING = "connection|content-length|expect|te|trailer|transfer-encoding|upgrade"  # ours as well
_JOB_STORE = r'"Component"\s*:\s*"JobStore"'  # in a 404 that means the job, not the route
_said = _record(dict, message=str, error=str, details=_only("reason", str, ""))


def _secrets(headers: Mapping[str, str], proxies: Mapping[str, str]) -> list[str]:
    """What no error may repeat: credentials that are sent, their parts, passwords in them."""
    secret = re.compile("auth|cookie|key|pass|secret|session|token", re.IGNORECASE)
    sent = [value for name, value in headers.items() if secret.search(name)]
    for proxy in proxies.values():
        if "@" in proxy:
            pair = urllib.parse.unquote(proxy.rpartition("@")[0].rpartition("/")[2])
            sent.append("Basic " + base64.b64encode(os.fsencode(pair)).decode())
    secrets = []
    for value in sent:
        secrets += [value, *re.split("[ ;,=]+", value)[1:]]
        with contextlib.suppress(ValueError):  # it was no user:password
            secrets.append(base64.b64decode(value.split(" ")[-1]).decode().partition(":")[2])
    return sorted(filter(None, secrets), key=len, reverse=True)


def _is_missing(route: tuple[str, str], error: SDKError) -> bool:
    """Whether the server lacks the route, rather than the job."""
    if error.status_code in (403, 500):
        # Servers with users (v1.7+) answer so for a route that they do not have.
        return route == _ROUTES[0] and "capability" in error.body
    return error.status_code in (404, 405, 410) and not re.search(_JOB_STORE, error.body)


class _Server:
    """A server to ask: its URL, the headers that it gets, and the opener that reaches it."""

    def __init__(self, url: str, headers: Any, context: Any = None, proxies: Any = None) -> None:
        proxies = urllib.request.getproxies() if proxies is None else proxies
        self._url = url
        self._headers = headers
        self._secrets = _secrets(headers, proxies)
        self._routes = list(_ROUTES)
        self._opener = _opener(context, proxies)

    def ask(self, request: StateRequest, timeout: float) -> StateResponse:
        """Asks on one route after the other; one that answered is the first from then on."""
        deadline = time.monotonic() + min(timeout, 2e6)  # a socket's timeout overflows at 24 days
        missing: list[SDKError] = []
        for route in list(self._routes):
            try:
                response = self._ask(*route, request, deadline)
            except SDKError as error:
                if not _is_missing(route, error):
                    raise
                missing.append(error)
            else:
                self._routes.sort(key=lambda known: known != route)  # the others keep their order
                return response
        said = ", ".join(f"{error.status_code} from {_line(error.url, 99)}" for error in missing)
        last = missing[-1]
        details: Any = {"status_code": last.status_code, "body": last.body, "url": last.url}
        raise SDKError(f"the server has no route for it: HTTP {said}", **details) from last

    def _ask(self, method: str, path: str, request: StateRequest, deadline: float) -> StateResponse:
        url = self._url + path.format(urllib.parse.quote(request.job_id, safe="$&+,:;=@"))
        asked = {"client_id": request.client_id, "job_id": request.job_id}
        data = json.dumps(asked).encode() if method == "POST" else None
        question = urllib.request.Request(url, data, self._headers, method=method)
        try:
            response = self._opener.open(question, timeout=deadline)
            if response is None:  # no handler took it
                raise OSError("the environment names a proxy of an unknown kind")
            with response:
                body = response.whole() if response.status == 200 else response.excerpt()
        except _LOWER_ERRORS as error:
            raise self._no_answer(url, error) from error
        text = body[: 2 * _MAX_EXCERPT].decode("utf-8", "replace")
        if response.status != 200:
            raise self._refusal(response, url, text)
        try:
            version = response.headers.get("X-Bacalhau-Git-Version", "")
            return _decode(body, version, request.job_id)
        except DecodeError as error:
            what, more = "the answer of", {"status_code": 200, "path": self._hide(error.path)}
            raise self._error(DecodeError, what, url, str(error), text, **more) from error

    def _no_answer(self, url: str, error: Exception) -> Any:
        """What urllib and the layers below raise, as our error."""
        what = "no complete answer from"
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, (socket.timeout, TimeoutError)):
            return self._error(TransportTimeout, what, url, "it is too late")
        words = reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}"
        if isinstance(error, http.client.InvalidURL) or not isinstance(error, _NETWORK_ERRORS):
            # The server's URL was checked, so it is a proxy's, and may be quoted with a password.
            error.args, error.__context__ = (), None
            words = f"unusable proxy ({type(error).__name__})"
        return self._error(TransportError, what, url, words)

    def _refusal(self, response: _Response, url: str, body: str) -> Any:
        """The error for an answer that is not 200."""
        status, headers = response.status, response.headers
        kind = {400: BadRequest, 500: InternalServerError}.get(status, SDKError)
        unknown = {500: "(?i)job not found|no job found", 404: _JOB_STORE}.get(status)
        if unknown and re.search(unknown, body):
            kind = JobNotFound
        words = body.strip() or response.reason or "no word of why"
        with contextlib.suppress(ValueError, RecursionError):  # up to v1.0.3 it is text, not JSON
            said = _said(json.loads(body))
            message, error = said.get("message", ""), said.get("error", "")
            parts = (message, "" if message and message in error else error, said.get("details"))
            words = ": ".join(filter(None, parts)) or words
        if 300 <= status < 400:
            words = f"not followed to {headers.get('Location', 'nowhere')}"
        seconds = re.fullmatch("[0-9]{1,9}", headers.get("Retry-After", "").strip())
        details = {"status_code": status, "retry_after": int(seconds[0]) if seconds else None}
        return self._error(kind, f"HTTP {status} from", url, words, body, **details)

    def _error(self, kind: Any, what: str, url: str, why: str, body: str = "", **more: Any) -> Any:
        """An error that repeats no credential, even if the server did."""
        message = f"{what} {_line(url)}: {self._hide(why)}"
        return kind(message, url=url, body=self._hide(body)[:_MAX_EXCERPT], **more)

    def _hide(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _usable_url(name: str, url: str, port: str = "") -> str:
    """A URL that can be asked. The error never repeats it: it may hold a password."""
    if not isinstance(url, str):
        raise TypeError(f"{name} has to be text")
    host = r"[\w-]{1,63}(?:\.[\w-]{1,63})*\.?|\[[\da-f:.]+\]"
    path = r"/[!\"$->@-[\]-~]*"  # printable ASCII without space ? # and \
    pattern = rf"(https?)://({host})(?::(\d{{1,5}}))?({path})?"
    parts = re.fullmatch(pattern, url, re.ASCII | re.IGNORECASE)
    port = (parts and parts[3]) or port
    if not parts or (port and not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536)):
        raise ValueError(f"{name} has to be http(s)://host[:port][/path], in printable ASCII")
    return f"{parts[1]}://{parts[2]}{port and ':'}{port}{parts[4] or ''}".rstrip("/")


def _environment() -> tuple[str, str, dict[str, str]]:
    """The server that Bacalhau's own tools would ask, its port, and the credentials for it."""
    names = ("HOST", "PORT", "TLS_USETLS", "KEY", "USERNAME", "PASSWORD")
    host, port, tls, key, user, password = (os.environ.get(f"BACALHAU_API_{n}", "") for n in names)
    if "://" not in host:
        host = f"[{host}]" if host.count(":") > 1 and "[" not in host else host or "127.0.0.1"
        host = ("https://" if tls.lower() in ("1", "t", "true") else "http://") + host
    if key:
        return host, port, {"Authorization": f"Bearer {key}"}
    if user and password:
        pair = base64.b64encode(os.fsencode(f"{user}:{password}")).decode()
        return host, port, {"Authorization": f"Basic {pair}"}
    return host, port, {}


def _server(server_url: Any, headers: Any, ssl_context: Any = None) -> _Server:
    """The server that the arguments name, and what is sent to it."""
    if server_url is None:
        url, port, credentials = _environment()
        url = _usable_url("the server of BACALHAU_API_HOST and _PORT", url, port or "1234")
        headers = {**credentials, **(headers or {})}  # which go to no other server
    else:
        url = _usable_url("server_url", server_url)
    if ssl_context is not None and not isinstance(ssl_context, ssl.SSLContext):
        raise TypeError("ssl_context has to be an ssl.SSLContext")
    sent = {}
    for name, value in {**(headers or {})}.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", name, re.ASCII):
            raise ValueError("the name of a header has to be a token")
        if not re.fullmatch(r"[\t -~\xa0-\xff]*", value):
            raise ValueError(f"the header {name} has to be one line of Latin-1 text")
        if not re.fullmatch(_FRAMING, name, re.IGNORECASE):
            sent[name.title()] = value
    return _Server(url, {**sent, **_OURS}, ssl_context)


def _usable_request(request: str | StateRequest) -> StateRequest:
    """A request that can be sent."""
    request = request if isinstance(request, StateRequest) else StateRequest(request)
    if not isinstance(request.job_id, str) or not isinstance(request.client_id, str):
        raise TypeError("job_id and client_id have to be text")
    if not 1 <= len(request.job_id) <= 1000 or not request.job_id.isprintable():
        raise ValueError("job_id has to be 1 to 1000 printable characters")
    if request.job_id in (".", ".."):
        raise ValueError("job_id cannot be . or ..")
    if len(request.client_id) > 1000:
        raise ValueError("client_id has to be 1000 characters at the most")
    return request


def _usable_seconds(name: str, seconds: float) -> float:
    """A number of seconds that a clock can take."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} has to be a number of seconds")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{name} has to be a finite number of seconds above 0")
    return float(min(seconds, 1e9))


def _answers(server: _Server, request: Any, timeout: Any, limit: Any) -> Iterator[StateResponse]:
    """Yields each answer; the last one is that the job has ended."""
    request, timeout = _usable_request(request), _usable_seconds("timeout", timeout)
    left = float("inf") if limit is None else _usable_seconds("limit", limit)
    end = time.monotonic() + left
    response, failure = None, None
    pause, failures = 0.5, 0
    while left > 0:
        delay = pause
        try:
            response, failure, failures = server.ask(request, min(timeout, left)), None, 0
        except SDKError as error:
            passing = isinstance(error, TransportError) or error.status_code in (429, 502, 503, 504)
            failure, failures = error, failures + 1
            if not passing or (limit is None and failures > 10):
                raise
            delay = max(pause, error.retry_after or 0)
        else:
            yield response
            if response.state.is_terminal:
                return
        time.sleep(max(0, min(delay, end - time.monotonic())))
        pause = min(pause * 1.5, 5)
        left = end - time.monotonic()
    seen = f"its state is {response.state.state or 'none yet'}" if response else "no answer came"
    words = f"the job {_line(request.job_id, 99)} has not ended within {limit:g} s: {seen}"
    raise WaitTimeout(words, response=response) from failure


def get(
    request: str | StateRequest,
    *,
    server_url: str | None = None,
    timeout: float = 10.0,
    headers: Mapping[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> StateResponse:
    """Asks once for the state of the job that a job id or a StateRequest names.

    `server_url` is http(s)://host[:port][/path]; without it, the environment's server is asked,
    with the environment's credentials. `timeout` is in seconds, for all but resolving names.
    `headers` are added. Raises SDKError; before anything is sent, ValueError or TypeError.
    """
    server = _server(server_url, headers, ssl_context)
    return server.ask(_usable_request(request), _usable_seconds("timeout", timeout))


def wait(
    request: str | StateRequest,
    *,
    limit: float | None = None,
    server_url: str | None = None,
    timeout: float = 10.0,
    headers: Mapping[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> StateResponse:
    """Asks, as `get` does, until the job has ended: after 0.5 s, then ever later, up to 5 s.

    Goes on after a TransportError, 429, 502, 503 and 504; without a `limit`, at most ten times in
    a row. Raises WaitTimeout after `limit` seconds, and all that `get` raises.
    """
    for response in _answers(_server(server_url, headers, ssl_context), request, timeout, limit):
        pass
    return response


# ----------------------------------------------------------------------------------- the command

_DEMO_JOB = "9304c616-291f-41ad-b862-54e133c0149e"
_DEMO_ANSWER = """{"state":{"Nodes":{
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
"stderr":"","stderrtruncated":false,"exitCode":0,"runnerError":""}}}}}}}"""


@contextlib.contextmanager
def _demo_server() -> Iterator[_Server]:
    """A real server on a free loopback port; it answers with the example, as v0.3.17 would."""
    import http.server
    import socketserver
    import threading

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["job_id"]
            known = asked == _DEMO_JOB
            text = _DEMO_ANSWER.replace("\n", "") if known else f"Job not found. ID: {asked}"
            self.send_response(200 if known else 500)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.end_headers()
            self.wfile.write(f"{text}\n".encode())

        def log_message(self, *_: Any) -> None:
            pass

    with socketserver.TCPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield _Server(f"http://127.0.0.1:{server.server_address[1]}", _OURS, proxies={})
        finally:
            server.shutdown()


def _table(state: JobState, asked: str) -> str:
    """A line for the job, and under headings one for each execution."""
    facts = (state.job_id or asked, state.state, state.status)
    lines = ["  ".join(_line(fact) for fact in facts if fact)]
    rows = [("NODE", "SHARD", "STATE", "EXIT", "RESULT", "STATUS")]
    for execution in state.executions:
        results, output = execution.published_results or StorageSpec(), execution.run_output
        place = f"ipfs://{results.cid}" if results.cid else results.url
        if results.s3:
            place = f"s3://{results.s3.bucket}/{results.s3.key}"
        code = str(output.exit_code) if output and execution.succeeded else ""
        shard = str(execution.shard_index)
        rows.append((execution.node_id, shard, execution.state, code, place, execution.status))
    columns = [[_line(cell) for cell in column] for column in zip(*rows)]
    if not any(execution.shard_index for execution in state.executions):
        del columns[1]
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns) if state.executions else ():
        lines.append("  ".join(map(str.ljust, row, widths)).rstrip())
    return "\n".join(lines)


def _print(stream: Any, text: str) -> None:
    """Writes text in the stream's encoding; OSError if that fails."""
    if stream is None:
        raise OSError("it is closed")
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError:
        # The interpreter flushes once more at its end, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise


def _say(message: str) -> None:
    with contextlib.suppress(OSError):
        _print(sys.stderr, f"bac_states: {_line(message, _MAX_MESSAGE)}\n")


def _options(argv: list[str] | None) -> Any:
    """The command line's options."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def _print_message(self, message: str, file: Any = None) -> None:
            _print(file, message)  # argparse's own hides that it failed

    parser = Parser(
        prog="bac_states",
        description="Prints the state of a Bacalhau job.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes: 0 printed (--wait: the job succeeded), 1 no answer, 2 usage,\n"
        "  3 --wait: the job ended without success, 124 --wait-timeout passed\n"
        "environment: BACALHAU_API_HOST, _PORT, _TLS_USETLS, and BACALHAU_API_KEY or\n"
        "  BACALHAU_API_USERNAME and _PASSWORD; HTTP_PROXY, HTTPS_PROXY, NO_PROXY",
    )
    add = parser.add_argument
    add("job_id", metavar="JOB_ID", nargs="?", help="the job's id, or how it begins")
    add("--version", action="version", version=f"bac_states {__version__}")
    add("--server", metavar="URL", help="http(s)://host[:port][/path] (the environment's)")
    add("--timeout", metavar="S", type=float, default=10.0, help="seconds for one answer (10)")
    add("--json", action="store_true", help="print a JSON document")
    add("--wait", action="store_true", help="wait until the job has ended")
    add("--wait-timeout", metavar="S", type=float, help="wait, for S seconds at the most")
    add("--demo", action="store_true", help="ask a server of its own about the documented job")
    options = parser.parse_args(argv)
    if not options.job_id and not options.demo:
        parser.error("a JOB_ID is missing")
    return options


def _run(options: Any) -> int:
    """Asks, prints, and returns the exit code."""
    job_id, limit = options.job_id or _DEMO_JOB, options.wait_timeout
    waits = options.wait or limit is not None
    demo: Any = _demo_server() if options.demo else contextlib.nullcontext()
    with demo as server:
        # Who names the server also set the environment, so its credentials may go there.
        server = server or _server(options.server, _environment()[2])
        if not waits:
            seconds = _usable_seconds("timeout", options.timeout)
            response = server.ask(_usable_request(job_id), seconds)
        seen = ""
        for response in _answers(server, job_id, options.timeout, limit) if waits else ():
            if seen and response.state.state != seen:
                _say(f"{_line(job_id)}: {response.state.state}")
            seen = response.state.state
    state = response.state
    answer = {"state": state, "server_version": response.server_version}
    text = json.dumps(answer, default=vars, indent=2) if options.json else _table(state, job_id)
    _print(sys.stdout, f"{text}\n")
    return 3 if waits and not state.succeeded else 0


def main(argv: list[str] | None = None) -> int:
    """The command, as `--help` describes it; returns its exit code."""
    try:
        return _run(_options(argv))
    except SDKError as error:
        _say(str(error))
        return 124 if isinstance(error, WaitTimeout) else 1
    except ValueError as error:
        _say(str(error))
        return 2
    except BrokenPipeError:
        return 141
    except OSError as error:
        _say(f"cannot write to standard output: {error}")
        return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        import signal

        # Dies by the signal, so that a shell's loop around it ends too.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
