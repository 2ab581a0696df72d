# SPDX-License-Identifier: MIT-0
# One file for Python 3.7 or later, with no dependencies: copy it, no notice is needed.
"""The state of a Bacalhau job, from a server of any release from v0.2.0 to v1.9.3.

    import bac_states

    response = bac_states.get("9304c616-291f-41ad-b862-54e133c0149e")
    print(response.state.state, response.state.succeeded)    # Completed True
    for execution in response.state.executions:
        print(execution.node_id, execution.state, execution.run_output)

`get` asks once, `wait` asks until the job has ended, `decode` reads an answer that you have
already. Bad arguments and BACALHAU_ variables raise ValueError or TypeError; all else that goes
wrong is one of these, with .message, .status_code, .body, .url and .retry_after:

    SDKError(Exception)                    any other status
     +- BadRequest                         400
     +- InternalServerError                500
     |   +- JobNotFound                    the server does not know the job
     +- TransportError(OSError)            no complete answer: DNS, TLS, proxy, reset, cut short
     |   +- TransportTimeout(TimeoutError) no complete answer within `timeout`
     +- WaitTimeout(TimeoutError)          the job did not end within `limit`; .response
     +- DecodeError(ValueError)            a complete answer, but not a job's state; .path

From a shell: `python -m bac_states JOB_ID`, and `--help` for the rest. Without `server_url` or
`--server` the server is the one that Bacalhau's own tools would ask: BACALHAU_API_HOST, _PORT,
_TLS_USETLS and _TLS_CAFILE name it, BACALHAU_API_KEY or _USERNAME and _PASSWORD are sent to it;
else it is http://127.0.0.1:1234. The command sends the credentials to a `--server`, too; `get` and
`wait` never send them to a `server_url`.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import errno
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
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.request import getproxies, proxy_bypass  # the latter is not documented

# From top to bottom: errors, models, decoding, transport, arguments and environment, secrets,
# asking, `get` and `wait`, the command. A `get` checks its arguments (`_checked_call`), goes from
# route to route (`_ask`), sends the question on each (`_send`) and decodes the answer (`_decode`).

_Address = urllib.parse.SplitResult

__all__ = [
    "BadRequest", "DecodeError", "ExecutionState", "InternalServerError", "JobNotFound", "JobState",
    "NodeState", "RunCommandResult", "S3StorageSpec", "SDKError", "StateRequest", "StateResponse",
    "StorageSpec", "TransportError", "TransportTimeout", "VerificationResult", "WaitTimeout",
    "decode", "get", "main", "wait",
]  # fmt: skip
__version__ = "1.1.0"

_MAX_ANSWER = 16 * 1024 * 1024  # bytes; a real answer about 10,000 executions has 6 MB
_MAX_ELEMENTS = 50_000  # of an array or object; 16 MiB have room for some 25,000 real executions
_MAX_BODY = 8 * 1024  # characters of SDKError.body
_MAX_HEAD = 32 * 1024  # bytes of headers, and of the body's start that came with them
_MAX_REFUSAL = 64 * 1024  # bytes read of a refusal: `body` keeps the start, once it is masked
_MAX_MESSAGE = 400  # characters of SDKError.message
_MAX_PART = 200  # characters of a cell of the table, or of one part of a message
_MAX_REASON = 2000  # characters of the reason why a job failed

_ENDED_JOB = {"Completed", "CompletedPartially", "Cancelled", "Error", "PartialError"}
_REJECTED = {"AskForBidRejected", "BidRejected", "ResultRejected"}
_ENDED_EXECUTION = {"Completed", "Failed", "Cancelled", "Error", *_REJECTED}


def _escape(text: str) -> str:
    """Escape controls, line ends, bidi marks and surrogates: nothing can act on a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _shorten(text: str, limit: int = _MAX_PART) -> str:
    """Escape a text, and cut it to `limit` characters."""
    escaped = _escape(text[: limit + 1])  # no more is needed: escapes only make it longer
    return escaped if len(escaped) <= limit else escaped[: limit - 3] + "..."


def _one_line(text: str, limit: int = _MAX_PART) -> str:
    """Put a text of the server on one line: line ends and tabs become blanks."""
    return _shorten(re.sub(r"[\r\n\t]+", " ", text).rstrip(), limit)


# ---------------------------------------------------------------------------------------- errors


class SDKError(Exception):
    """The base of all errors, and the error for a status that has no class of its own.

    `message` is one printable line of at most 400 characters. `status_code` is None if no answer
    came. `body` is the start of the answer's body, at most 8 KiB of text. `url` is where it was
    asked. `retry_after` is in seconds, or None if the server names no whole number of them.
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
        self.message = _shorten(message, _MAX_MESSAGE)
        super().__init__(self.message)
        self.status_code = status_code
        self.body = body
        self.url = url
        self.retry_after = retry_after


class BadRequest(SDKError):
    """400: the server could not read the request."""


class InternalServerError(SDKError):
    """500: the server failed, or several jobs have ids that begin with the one asked for."""


class JobNotFound(InternalServerError):
    """The server does not know the job: a 500 up to v1.4.0, hence the base; since then a 404."""


class TransportError(SDKError, OSError):
    """No complete answer: DNS, refused, reset, TLS, proxy, not HTTP, cut short, too large."""

    _is_untrusted = False  # True if the server's certificate is not trusted: waiting is no help


class TransportTimeout(TransportError, TimeoutError):
    """No complete answer within `timeout`."""


class WaitTimeout(SDKError, TimeoutError):
    """The job did not end within `limit`; `response` is the last answer, None if none came."""

    def __init__(
        self, message: str, *, response: StateResponse | None = None, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.response = response


class DecodeError(SDKError, ValueError):
    """A complete answer, but not a job's state; `path` says where: `state.Executions[3].State`."""

    def __init__(self, message: str, *, path: str = "", **details: Any) -> None:
        super().__init__(message, **details)
        self.path = _shorten(path)


# ---------------------------------------------------------------------------------------- models
# They use the operation's own terms. What a server leaves out is "" for text, 0 for a number,
# False for a flag and () for a list. A record that it leaves out is None; an empty record is not.
# Times are RFC 3339 text with up to nine fractional digits.


@dataclasses.dataclass(frozen=True)
class StateRequest:
    """What to ask about. `client_id` is sent along, but no release checks it."""

    job_id: str
    client_id: str = ""


@dataclasses.dataclass(frozen=True)
class VerificationResult:
    """Whether the results were verified, and whether they passed (up to v1.0.3)."""

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
    # Not hashed: a dict has no hash.
    metadata: Mapping[str, str] | None = dataclasses.field(default=None, hash=False)


@dataclasses.dataclass(frozen=True)
class RunCommandResult:
    """What the job's program wrote and returned."""

    stdout: str = ""
    stdout_truncated: bool = False
    stderr: str = ""
    stderr_truncated: bool = False
    exit_code: int = 0
    runner_error: str = ""


@dataclasses.dataclass(frozen=True)
class ExecutionState:
    """One attempt at the job on one node, or at one shard or partition of it.

    `state` is an open word: Bidding, Waiting, Running, Verifying, Error, Cancelled, Completed up
    to v0.3.19; since then New, AskForBid, BidAccepted, Completed, Failed and others. A number for
    which no word is known stays as its digits, and is neither terminal nor a success.
    `verification_proposal` is base64. `shard_index` is the partition's index from v1.6.1 on.
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
    create_time: str = ""
    update_time: str = ""

    @property
    def is_terminal(self) -> bool:
        """Whether this attempt has ended, in whatever way."""
        return self.state in _ENDED_EXECUTION

    @property
    def succeeded(self) -> bool:
        """Whether this attempt completed, and its program did not fail."""
        return self.state == "Completed" and not self._program_failed

    @property
    def _may_be_completed(self) -> bool:
        """Whether this attempt completed, or has a number that may mean so.

        If the release is unknown, states stay numbers: 7 is Completed up to v1.5.1, 9 since v1.5.2.
        """
        return self.state in ("Completed", "7", "9")

    @property
    def _program_failed(self) -> bool:
        """Whether the exit code is above 0. A WASM program without an exit code has -1."""
        return self.run_output is not None and self.run_output.exit_code > 0


@dataclasses.dataclass(frozen=True)
class NodeState:
    """What one node did: the last listed execution of each shard, by the shard's index."""

    shards: Mapping[int, ExecutionState] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True)
class JobState:
    """The job's state: New, Queued, InProgress, Completed, Error, Cancelled, or a newer word.

    `status` is the server's sentence about it, `job_type` is batch, ops, service or daemon; only
    the newer API (v1.0.4 and later) sends these two. Up to v1.2.1 that API does not list the
    `executions`, which are then empty if no other route lists them.
    """

    job_id: str = ""
    state: str = ""
    status: str = ""
    executions: tuple[ExecutionState, ...] = ()
    version: int = 0
    create_time: str = ""
    update_time: str = ""
    timeout_at: str = ""
    job_type: str = ""

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended, in whatever way."""
        return self.state in _ENDED_JOB

    @property
    def succeeded(self) -> bool:
        """Whether the job is Completed, and no program in a completed execution failed.

        CompletedPartially and PartialError are no success. An attempt that Failed before another
        completed does not matter; one whose number may mean Completed does. If the server lists no
        executions, the job's word alone counts.
        """
        if self.state != "Completed":
            return False
        return not any(each._may_be_completed and each._program_failed for each in self.executions)

    @property
    def nodes(self) -> dict[str, NodeState]:
        """The documented Nodes/Shards view of `executions`, by node id; made anew each time."""
        shards: dict[str, dict[int, ExecutionState]] = {}
        for execution in self.executions:
            shards.setdefault(execution.node_id, {})[execution.shard_index] = execution
        return {node_id: NodeState(by_index) for node_id, by_index in shards.items()}


@dataclasses.dataclass(frozen=True)
class StateResponse:
    """An answer. `server_version` is what the server calls itself (v1.2.1 and later), or "".

    `raw` is the document as it came, parsed if it was text or bytes.
    """

    state: JobState = JobState()
    server_version: str = ""
    raw: Any = dataclasses.field(default=None, compare=False, repr=False)


# -------------------------------------------------------------------------------------- decoding
# 1. Readers of JSON objects, arrays and maps. 2. The operation's own document, of each release.
# 3. The newer API. 4. `decode`.

_DECODING_ERRORS = (ValueError, RecursionError)


class _Mismatch(ValueError):
    """A value that does not fit. On its way out, each object or array puts its key in front."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.keys: list[str | int] = []

    @property
    def path(self) -> str:
        """Where the value is: `Executions[3].State` for the keys "Executions", 3 and "State"."""
        steps = [f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.keys]
        return "".join(steps).lstrip(".")

    def __str__(self) -> str:
        problem = super().__str__()
        return f"{problem} at {self.path}" if self.keys else problem


def _wrong_type(expected: str, value: object) -> _Mismatch:
    return _Mismatch(f"expected {expected}, got {type(value).__name__}")


# A reader is a function that turns a JSON value into ours, or raises _Mismatch.


def _read_at(key: str | int, read: Callable[[Any], object], item: Any) -> Any:
    """Return `read(item)`. If that fails, put the key in front of the error's path."""
    try:
        return read(item)
    except _Mismatch as error:
        error.keys.insert(0, key)
        raise


def _typed(kind: type) -> Callable[[Any], Any]:
    """Make the reader of a plain value, which only checks its type."""

    def read(value: Any) -> Any:
        if type(value) is not kind:  # isinstance would take true for an integer
            raise _wrong_type(kind.__name__, value)
        return value

    return read


_read_text = _typed(str)
_read_integer = _typed(int)
_read_flag = _typed(bool)
_PLAIN_READERS = {str: _read_text, int: _read_integer, bool: _read_flag}

_SYNONYMS = {  # other names of a field, both folded
    "executionid": "computereference",  # v0.3.17 to v0.3.19
    "errormsg": "runnererror",  # the newer API, v1.1.1+
    "checksumsha256": "checksum",  # the newer API
}


def _folded(name: str) -> str:
    """Fold a member's name: Go ignores case, v0.2.x wrote underscores, and some have synonyms."""
    folded = name.replace("_", "").lower()
    return _SYNONYMS.get(folded, folded)


def _check_size(items: Collection[Any]) -> None:
    """Refuse more elements than any real answer has: reading them would take too long."""
    if len(items) > _MAX_ELEMENTS:
        raise _Mismatch(f"more than {_MAX_ELEMENTS} elements")


class _ObjectReader:
    """Reads an object into a model or, without one, into a dict of fields.

    `readers` has a reader for each field. A member that is unknown or null is left out. Of a
    field's spellings the last counts, as in Go.
    """

    def __init__(
        self,
        readers: Mapping[str, Callable[[Any], object]],
        model: Callable[..., Any] | None = None,
    ) -> None:
        self.by_folded = {_folded(field): (field, read) for field, read in readers.items()}
        self.model = model
        self.known_before: dict[tuple[str, ...], list[Any]] = {}

    def read(self, value: Any) -> Any:
        if value is None:
            value = {}  # as in Go, for an element of an array or map
        if type(value) is not dict:
            raise _wrong_type("dict", value)
        found: dict[str, Any] = {}
        # The last spelling comes first, and the others are not even read: a server may send a long
        # array in each.
        for name, field, read in reversed(self.known_members(tuple(value))):
            item = value[name]
            if item is None or field in found:
                continue
            try:  # what `_read_at` does: its call for each member would take some 3 % longer
                found[field] = read(item)
            except _Mismatch as error:
                error.keys.insert(0, name)
                raise
        return self.model(**found) if self.model else found

    def known_members(self, names: tuple[str, ...]) -> list[Any]:
        """Find the known members of an object with these names, and remember them.

        Most objects of a kind have the same names. To find the members anew in each takes up to
        twice as long.
        """
        known = self.known_before.get(names)
        if known is None:
            known = self.find(names)
            # A server may invent names, and they are not to fill the memory.
            if len(self.known_before) < 100 and len("".join(names)) < 2000:
                self.known_before[names] = known
        return known

    def find(self, names: tuple[str, ...]) -> list[Any]:
        """Return the name, the field and the reader of each known member."""
        _check_size(names)
        known = [name for name in names if _folded(name) in self.by_folded]
        return [(name, *self.by_folded[_folded(name)]) for name in known]


def _has_any(names: Iterable[str], fields: Iterable[str]) -> bool:
    """Tell whether any name is that of a field. A null one counts: Go writes an empty list so."""
    wanted = set(map(_folded, fields))
    return any(_folded(name) in wanted for name in names)


def _plain(model: Any) -> dict[str, Callable[[Any], object]]:
    """Return the readers of a model's plain fields: {"stdout": _read_text, ...}.

    The defaults, "", 0 or False, tell their types. A record's is None: it has a reader of its own.
    """
    plain = [field for field in dataclasses.fields(model) if field.default is not None]
    return {field.name: _PLAIN_READERS[type(field.default)] for field in plain}


def _check_items(kind: type[Collection[Any]], items: Any) -> None:
    """Refuse what is not an array or map of a usable size."""
    if type(items) is not kind:
        raise _wrong_type(kind.__name__, items)
    _check_size(items)


def _read_array(read: Callable[[Any], object], items: Any) -> tuple[Any, ...]:
    """Read an array, each element with `read`."""
    _check_items(list, items)
    return tuple(_read_at(index, read, item) for index, item in enumerate(items))


def _read_map(read: Callable[[Any], object], items: Any) -> dict[str, Any]:
    """Read an object whose keys are data, each value with `read`."""
    _check_items(dict, items)
    return {key: _read_at(key, read, item) for key, item in items.items()}


def _read_map_of_text(items: Any) -> dict[str, str]:
    """Read a map of text, where null is "", as in Go."""
    return _read_map(lambda text: "" if text is None else _read_text(text), items)


def _read_text_or_number(value: Any) -> str | int:
    if type(value) is not str and type(value) is not int:
        raise _wrong_type("int or str", value)
    return value


def _read_time(value: Any) -> str:
    text: str = _read_text(value)
    return "" if text == "0001-01-01T00:00:00Z" else text  # Go's zero time


_EPOCH = datetime.datetime(1970, 1, 1)


def _read_nanoseconds(value: Any) -> str:
    """Read a time in nanoseconds since 1970 as RFC 3339 text, without final zeros, as Go does."""
    nanoseconds: int = _read_integer(value)
    if nanoseconds <= 0:  # Go's zero time is far below 0
        return ""
    seconds, fraction = divmod(nanoseconds, 10**9)
    try:
        moment = _EPOCH + datetime.timedelta(seconds=seconds)
    except OverflowError:
        raise _Mismatch("a time after the year 9999") from None
    text = moment.isoformat()
    if fraction:
        text += f".{fraction:09}".rstrip("0")
    return text + "Z"


def _read_status(value: Any) -> str:
    """Drop the ". " that v1.0.4 to v1.4.0 write between two messages even if one is empty."""
    text: str = _read_text(value)
    if text.startswith(". "):
        return text[2:]
    if text.endswith(". "):
        return text[:-2]
    return text


def _numbered(words: str) -> dict[int, str]:
    return dict(enumerate(words.split("|")))


def _to_word(state: int | str, words: Mapping[int, str]) -> str:
    """Return the word for a state. A number without a word stays as its digits."""
    return state if isinstance(state, str) else words.get(state, str(state))


_DESIRED_WORDS = _numbered("Pending|Running|Stopped")


def _read_desired_state(state: Any) -> str:
    return _to_word(_read_text_or_number(state), _DESIRED_WORDS)


# The operation's own document. It uses our models' names in several spellings. Samples:
#
# v0.2.0   {"state": {"nodes": {"Qm1": {"shards": {"0": {"state": 7, "shard_index": 0, ...}}}}}}
# v0.3.16  {"state": {"Nodes": {"Qm1": {"Shards": {"0": {"NodeId": "Qm1", "State": "Completed",
#              "PublishedResults": {"CID": "Qm2", ...}, "RunOutput": {"exitCode": 0, ...}, ...}}}}}}
# v0.3.20  {"state": {"JobID": "93", "Shards": {"0": {"Executions": [{...}]}}, "State": "New", ...}}
# v0.3.24  {"state": {"JobID": "93", "Executions": [{"NodeId": "Qm1", ...}], "State": "New", ...}}

_read_verification = _ObjectReader(_plain(VerificationResult), VerificationResult).read
_read_s3 = _ObjectReader(_plain(S3StorageSpec), S3StorageSpec).read
_read_storage = _ObjectReader(
    {**_plain(StorageSpec), "s3": _read_s3, "metadata": _read_map_of_text}, StorageSpec
).read
_read_output = _ObjectReader(_plain(RunCommandResult), RunCommandResult).read
_EXECUTION_READERS = {
    **_plain(ExecutionState),
    "status": _read_status,
    "desired_state": _read_desired_state,
    "verification_result": _read_verification,
    "published_results": _read_storage,
    "run_output": _read_output,
    "create_time": _read_time,
    "update_time": _read_time,
}
_read_execution = _ObjectReader(_EXECUTION_READERS, ExecutionState).read
_read_executions = functools.partial(_read_array, _read_execution)
_read_shard = _ObjectReader({"executions": _read_executions}).read


def _read_executions_by_shard(shards: Any) -> tuple[ExecutionState, ...]:
    """Read the executions of every shard (v0.3.20 to v0.3.23)."""
    _check_items(dict, shards)
    executions: list[ExecutionState] = []
    for key, shard in shards.items():
        of_shard = _read_at(key, _read_shard, shard)
        executions += of_shard.get("executions", ())
        _check_size(executions)
    return tuple(executions)


# A shard stays a dict at first, for what the number of its state means depends on the other shards.
_read_node_shard = _ObjectReader({**_EXECUTION_READERS, "state": _read_text_or_number}).read


def _read_node_shards(shards: Any) -> dict[int, dict[str, Any]]:
    """Read the shards of a node by their index."""
    by_key = _read_map(_read_node_shard, shards)
    for key in by_key:
        if not re.fullmatch("0|[1-9][0-9]{0,8}", key):
            raise _Mismatch(f"expected the index of a shard as the key, got '{key}'")
    return {int(key): shard for key, shard in by_key.items()}


_read_node = _ObjectReader({"shards": _read_node_shards}).read

# Up to v0.2.7 the state of a shard is a number. v0.2.6 changed what the numbers mean, but for 0,
# which means that there is none yet: its word is "".
_SHARD_WORDS_TO_V0_2_5 = _numbered("|Bidding|Cancelled|Waiting|Running|Error|Verifying|Completed")
_SHARD_WORDS = _numbered("|Bidding|Waiting|Running|Verifying|Cancelled|Error|Completed")


def _shard_words(shards: Iterable[dict[str, Any]]) -> Mapping[int, str]:
    """Return the words for the numbers in an answer's shards.

    Servers up to v0.2.5 write an index of 0, v0.2.6 began to leave it out. Nearly every job has a
    shard 0, so whether this index is there tells the release.
    """
    writes_index_0 = any(shard.get("shard_index") == 0 for shard in shards)
    return _SHARD_WORDS_TO_V0_2_5 if writes_index_0 else _SHARD_WORDS


def _from_shard(
    node_id: str, index: int, shard: dict[str, Any], words: Mapping[int, str]
) -> ExecutionState:
    """Make an execution. The keys of its node and shard stand in for what the shard leaves out."""
    filled = {
        **shard,
        "node_id": shard.get("node_id") or node_id,  # some servers send an empty one
        "shard_index": shard.get("shard_index", index),  # 0 is an index, too
        "state": _to_word(shard.get("state", ""), words),
    }
    return ExecutionState(**filled)


def _read_nodes(nodes: Any) -> tuple[ExecutionState, ...]:
    """Read the execution of each shard of every node (up to v0.3.19)."""
    _check_items(dict, nodes)
    shards: list[tuple[str, int, dict[str, Any]]] = []
    for node_id, node in nodes.items():
        by_index = _read_at(node_id, _read_node, node).get("shards", {})
        shards += [(node_id, index, shard) for index, shard in by_index.items()]
        _check_size(shards)
    words = _shard_words(shard for _, _, shard in shards)
    return tuple(_from_shard(node_id, index, shard, words) for node_id, index, shard in shards)


def _derive_job_state(shards: tuple[ExecutionState, ...]) -> str:
    """Derive a job's state from its shards: servers that list nodes do not send it.

    In this order: any at work, any Error, any Completed, any Bidding. Cancelled is the end of a
    node's bid, not of the job, and a node whose bid lost may stay Bidding for ever.
    """
    states = {shard.state for shard in shards}
    at_work = states - {"", "Bidding", "Cancelled", "Error", "Completed"}
    if at_work:  # Waiting, Running, Verifying, or unknown
        return "InProgress"
    if "Error" in states:
        return "Error"
    if "Completed" in states:
        return "Completed"
    if "Bidding" in states:
        return "InProgress"
    return "New"  # no shard, or only Cancelled ones


_JOB_READERS: dict[str, Callable[[Any], object]] = {
    "job_id": _read_text,
    "state": _read_text,
    "status": _read_text,
    "version": _read_integer,
    "create_time": _read_time,
    "update_time": _read_time,
    "timeout_at": _read_time,
}
_LIST_READERS: dict[str, Callable[[Any], object]] = {
    "nodes": _read_nodes,  # up to v0.3.19
    "shards": _read_executions_by_shard,  # v0.3.20 to v0.3.23
    "executions": _read_executions,
}
_read_job = _ObjectReader(_JOB_READERS).read
_read_lists = _ObjectReader(_LIST_READERS).read


def _read_state(value: Any) -> JobState:
    """Read the state of a job as the operation's own document has it, in every release."""
    job = _read_job(value)
    lists = _read_lists(value)
    if value and not _has_any(value, [*_JOB_READERS, *_LIST_READERS]):  # {"Foo": 1}
        raise _Mismatch("nothing in it belongs to a job's state")
    if not job and not lists:  # {} or {"Nodes": null}, up to v0.3.19: no node has the job yet
        return JobState(state="New")
    executions = lists.get("executions") or lists.get("shards") or lists.get("nodes", ())
    if "nodes" in lists:  # such servers send no state
        job.setdefault("state", _derive_job_state(executions))
    return JobState(**job, executions=executions)


# The newer API, v1.0.4 to v1.9.3. A sample, shortened:
#
# {"Job": {"ID": "j-5", "Type": "batch", "State": {"StateType": "Completed"}, ...},
#  "Executions": {"Items": [{"ID": "e-1", "NodeID": "n-1", "JobID": "j-5", "PartitionIndex": 1,
#      "ComputeState": {"StateType": 9, "Message": "..."}, "DesiredState": {"StateType": 2},
#      "PublishedResult": {"Type": "s3", "Params": {"Bucket": "b", "Key": "k"}},
#      "RunOutput": {"Stdout": "hi\n", "ExitCode": 0, ...}, "CreateTime": 1795457478522190878}]}}


# How Params are read depends on the Type: until that is known they are left as they are.
_read_result_members = _ObjectReader({"type": _read_text, "params": lambda params: params}).read


def _read_result(value: Any) -> StorageSpec:
    """Read where the results are. Their Type says how to read the Params."""
    result = _read_result_members(value)
    source = result.get("type", "")
    params = result.get("params")
    if not source:  # nothing was published
        return StorageSpec()
    if source.lower() == "s3":
        return StorageSpec(source, s3=_read_at("Params", _read_s3, params))
    storage: StorageSpec = _read_at("Params", _read_storage, params)
    return dataclasses.replace(storage, storage_source=source)


_read_named_state = _ObjectReader({"state_type": _read_text, "message": _read_text}).read
_read_numbered_state = _ObjectReader(
    {"state_type": _read_text_or_number, "message": _read_text}
).read
_NEWER_JOB_READERS = {
    "id": _read_text,
    "name": _read_text,
    "type": _read_text,
    "state": _read_named_state,
    "revision": _read_integer,
    "create_time": _read_nanoseconds,
    "modify_time": _read_nanoseconds,
}
_NEWER_EXECUTION_READERS = {
    "id": _read_text,
    "node_id": _read_text,
    "job_id": _read_text,
    "partition_index": _read_integer,
    "compute_state": _read_numbered_state,
    "desired_state": _read_numbered_state,
    "published_result": _read_result,
    "run_output": _read_output,
    "revision": _read_integer,
    "create_time": _read_nanoseconds,
    "modify_time": _read_nanoseconds,
}
_read_newer_job = _ObjectReader(_NEWER_JOB_READERS).read
_read_newer_execution = _ObjectReader(_NEWER_EXECUTION_READERS).read
_read_newer_executions = functools.partial(_read_array, _read_newer_execution)
_LISTING_READERS = {
    "items": _read_newer_executions,  # v1.4.0+
    "executions": _read_newer_executions,  # v1.2.2 to v1.3.2
}
_read_listing_members = _ObjectReader(_LISTING_READERS).read


def _read_listing(value: Any) -> tuple[dict[str, Any], ...] | None:
    """Return the executions out of the object around their list.

    {} has no list (up to v1.2.1), so it is None. {"Items": null} has an empty one.
    """
    listing: dict[str, Any] = _read_listing_members(value)
    if not _has_any(value, _LISTING_READERS):
        return None
    return listing.get("items") or listing.get("executions") or ()


# Its states become the operation's own words, as Bacalhau's converter did it while there were both
# APIs (pkg/models/migration/legacy/to.go, v1.0.4 to v1.4.0). v1.5.2 changed the numbers from 6 on.

_JOB_WORDS = {"Pending": "New", "Running": "InProgress", "Failed": "Error", "Stopped": "Cancelled"}
_EARLY_WORDS = "Undefined|New|AskForBid|AskForBidAccepted|AskForBidRejected|BidAccepted"
_WORDS_TO_V1_5_1 = _numbered(f"{_EARLY_WORDS}|BidRejected|Completed|Failed|Cancelled")
_WORDS = _numbered(f"{_EARLY_WORDS}|Running|Publishing|BidRejected|Completed|Failed|Cancelled")
# If the release is unknown, only numbers with one meaning get a word: 10 and 11 came with v1.5.2.
_UNAMBIGUOUS_WORDS = {**_numbered(_EARLY_WORDS), 10: "Failed", 11: "Cancelled"}


def _execution_words(server_version: str) -> Mapping[int, str]:
    """Return the words for a release's numbers; if it is unknown, for the unambiguous ones."""
    version = re.fullmatch(r"v?([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})([-+].+)?", server_version)
    if version is None:
        return _UNAMBIGUOUS_WORDS
    major, minor, patch, suffix = version.groups()
    release = (int(major), int(minor), int(patch))
    if release == (0, 0, 0):  # a development build: v0.0.0-xxxxxxx
        return _UNAMBIGUOUS_WORDS
    if release == (1, 5, 1) and suffix:  # v1.5.1-36-g0a1b2c3 is on the way to v1.5.2
        return _UNAMBIGUOUS_WORDS
    return _WORDS if release >= (1, 5, 2) else _WORDS_TO_V1_5_1


def _from_newer_job(
    job: dict[str, Any], executions: Iterable[dict[str, Any]], words: Mapping[int, str]
) -> JobState:
    """Make the models from the newer API's job and its executions."""
    state = job.get("state", {})
    word: str = state.get("state_type", "")
    return JobState(
        job_id=job["id"],
        state=_JOB_WORDS.get(word, word),
        status=state.get("message", ""),
        executions=tuple(_from_newer_execution(execution, words) for execution in executions),
        version=job.get("revision", 0),
        create_time=job.get("create_time", ""),
        update_time=job.get("modify_time", ""),
        job_type=job.get("type", ""),
    )


def _from_newer_execution(execution: dict[str, Any], words: Mapping[int, str]) -> ExecutionState:
    """Make an execution. Its status has the messages of both its states."""
    compute = execution.get("compute_state", {})
    desired = execution.get("desired_state", {})
    return ExecutionState(
        node_id=execution.get("node_id", ""),
        job_id=execution.get("job_id", ""),
        shard_index=execution.get("partition_index", 0),  # v1.6.1+
        compute_reference=execution.get("id", ""),
        state=_to_word(compute.get("state_type", ""), words),
        status=_join(compute.get("message", ""), desired.get("message", "")),
        desired_state=_to_word(desired.get("state_type", ""), _DESIRED_WORDS),
        published_results=execution.get("published_result"),
        run_output=execution.get("run_output"),
        version=execution.get("revision", 0),
        create_time=execution.get("create_time", ""),
        update_time=execution.get("modify_time", ""),
    )


def _join(first: str, second: str) -> str:
    """Join two messages. An empty one is left out, and two equal ones are said once."""
    if first and second and first != second:
        return f"{first}. {second}"
    return first or second


_read_answer = _ObjectReader(
    {"state": _read_state, "job": _read_newer_job, "executions": _read_listing}
).read


class _Decoded(NamedTuple):
    response: StateResponse
    lists_executions: bool  # as all do but the newer API up to v1.2.1


def _decode(document: object, server_version: str, asked: str = "") -> _Decoded:
    """Decode an answer. If a job was `asked` for, it has to be about that one."""
    parsed = _parse(document)
    answer = _read_answer(parsed)
    job = answer.get("job", {})
    if "state" in answer:
        state: JobState = answer["state"]
        lists_executions = True
    elif job.get("id"):
        executions = answer.get("executions")  # None up to v1.2.1
        state = _from_newer_job(job, executions or (), _execution_words(server_version))
        lists_executions = executions is not None
    else:
        raise _Mismatch("it has no state, and no Job with an ID")
    _check_is_asked(asked, state.job_id, job.get("name", ""))
    raw = parsed if isinstance(document, (bytes, bytearray, str)) else document
    return _Decoded(StateResponse(state, server_version, raw), lists_executions)


def _check_is_asked(asked: str, answered_id: str, answered_name: str) -> None:
    """Refuse an answer about another job than the one asked for by id, start of the id or name."""
    if not asked:  # `decode` asks for none
        return
    if not answered_id:  # v0.3.19 answers without an id
        return
    is_asked = answered_id.startswith(asked) or answered_name == asked
    if not is_asked:
        raise _Mismatch(f"it is about the job {answered_id}")


def _parse(document: object) -> Any:
    """Parse a document: a byte order mark is accepted, NaN and Infinity are not.

    An object is turned into JSON first, so that the same rules hold for it.
    """
    if isinstance(document, (bytes, bytearray)):
        text = document.decode("utf-8")
    elif isinstance(document, str):
        text = document
    else:
        text = json.dumps(document, skipkeys=True, default=_refuse_object)
    return json.loads(text.lstrip("\ufeff"), parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _refuse_object(value: object) -> None:
    raise ValueError(f"{type(value).__name__} is not JSON")


def decode(document: object, *, server_version: str = "") -> StateResponse:
    """Decode an answer of any release: bytes or text of JSON, or the object parsed from it.

    `server_version`, such as "v1.5.2", tells what the newer API's numbers mean. Raises DecodeError.
    """
    if not isinstance(server_version, str):
        raise TypeError("server_version has to be text")
    try:
        return _decode(document, server_version.strip()).response
    except _DECODING_ERRORS as error:
        path = getattr(error, "path", "")
        raise DecodeError(f"not a job's state: {error}", path=path) from error


# ------------------------------------------------------------------------------------- transport
# `_Server.exchange` sends a request over a `_Connection`, and http.client parses the answer. Every
# step ends by a deadline, a time on the clock of `time.monotonic`; the look-up of a name does not,
# nor a handshake that the peer floods.

_TOO_LARGE = "the answer is over 16 MiB"
# ValueError and OverflowError come from odd sizes of chunks.
_NETWORK_ERRORS = (OSError, http.client.HTTPException, ValueError, OverflowError)
_TIMEOUTS = (TimeoutError, socket.timeout)  # one class since Python 3.10


def _seconds_left(deadline: float) -> float:
    """Return the seconds until a deadline. Raise TimeoutError if it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return min(left, 2e6)  # the timeout of a socket overflows at 2.1e6


class _Stream(io.RawIOBase):
    """What a connection receives, as a file.

    Until `go_on_with_body` it limits the size of the headers. The connection must not end before
    the answer does: http.client would take headers or a trailer that were cut off for complete.
    """

    def __init__(self, receive_into: Callable[[Any], int]) -> None:
        self._receive_into = receive_into
        self._is_in_head = True
        self._head_size = 0
        self._may_end = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self._receive_into(buffer)
        if size == 0 and not self._may_end:
            raise OSError("the answer was cut short")
        if self._is_in_head:
            self._count_head(bytes(buffer[:size]))
        return size

    def _count_head(self, received: bytes) -> None:
        """Refuse over 32 KiB of headers: before Python 3.14, some take quadratic time to parse.

        A blank line ends them. After a 100 Continue there are others, which are counted anew. If a
        blank line comes in two pieces the count goes on: then it allows less, not more.
        """
        self._head_size += len(received)
        if self._head_size > _MAX_HEAD:
            raise OSError("its headers are too long")
        if b"\r\n\r\n" in received:
            self._head_size = 0

    def go_on_with_body(self, may_end: bool) -> None:
        """Take note that the headers are read, and whether the body ends with the connection."""
        self._is_in_head = False
        self._may_end = may_end


class _Socket(NamedTuple):
    """All that HTTPResponse asks of a socket."""

    file: io.BufferedIOBase

    def makefile(self, mode: str) -> io.BufferedIOBase:
        return self.file


def _response(file: io.BufferedIOBase) -> http.client.HTTPResponse:
    """Make a response that comes from a file."""
    stand_in: Any = _Socket(file)
    return http.client.HTTPResponse(stand_in)


def _try_http_client() -> None:
    """Read a sample. That this works is not documented: if it changes, the import fails."""
    sample = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    with _response(io.BytesIO(sample)) as response:
        response.begin()
        if response.status != 200 or response.read1(9) != b"{}":
            raise ImportError("http.client reads responses in another way")


_try_http_client()


def _is_framed(headers: http.client.HTTPMessage) -> bool:
    """Tell whether a body has a length or comes in chunks. If not, it ends with the connection."""
    # http.client takes an empty Transfer-Encoding for none.
    return "Content-Length" in headers or bool(headers.get("Transfer-Encoding"))


def _dial(peer: _Address, deadline: float) -> socket.socket:
    """Connect to the first address of a host that answers."""
    port = peer.port or (443 if peer.scheme == "https" else 80)
    found = socket.getaddrinfo(peer.hostname, port, type=socket.SOCK_STREAM)
    failure = OSError("the host has no address")
    for tried, (family, kind, protocol, _, address) in enumerate(found):
        untried = len(found) - tried
        seconds = _seconds_left(deadline) / untried  # what is left is shared among them
        try:
            return _connected(socket.socket(family, kind, protocol), address, seconds)
        except OSError as error:  # try the next: this machine may lack IPv6, for example
            failure = error
    raise failure


def _connected(sock: socket.socket, address: Any, seconds: float) -> socket.socket:
    """Connect a socket, or close it."""
    try:
        sock.settimeout(seconds)
        sock.connect(address)
    except BaseException:  # Ctrl-C, too
        sock.close()
        raise
    return sock


class _Connection:
    """A connection whose every step ends by its deadline."""

    def __init__(self, peer: _Address, deadline: float) -> None:
        self.deadline = deadline
        self._sock = _dial(peer, deadline)
        self._responses: list[http.client.HTTPResponse] = []

    def close(self) -> None:
        self._sock.close()
        for response in self._responses:  # Python 3.14 complains of one that is left open
            response.close()

    def send(self, data: bytes) -> None:
        self._sock.settimeout(_seconds_left(self.deadline))
        self._sock.sendall(data)

    def receive_into(self, buffer: bytearray | memoryview) -> int:
        """Fill a buffer with what has come, and return its size, 0 at the end."""
        self._sock.settimeout(_seconds_left(self.deadline))
        return self._sock.recv_into(buffer)

    def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """Go on by TLS with the server of this name."""
        # Python ends the handshake as a whole after this time, unless the peer floods it with
        # messages that OpenSSL skips.
        self._sock.settimeout(_seconds_left(self.deadline))
        self._sock = context.wrap_socket(self._sock, server_hostname=name)

    def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> http.client.HTTPResponse:
        """Send a request, and return the response once its status and headers are read."""
        # No part has a line end: URLs and headers are checked, and the job's id is quoted.
        lines = [f"{method} {target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        self.send(head + body)
        return self._read_head()

    def _read_head(self) -> http.client.HTTPResponse:
        """Read the status and the headers of a response, whose body is still to come."""
        stream = _Stream(self.receive_into)
        # With its default size since 3.14, 128 KiB, much of a body would count as headers.
        response = _response(io.BufferedReader(stream, 8192))
        self._responses.append(response)
        try:
            response.begin()
        except (TypeError, ValueError) as error:  # the email package's, for odd Content-Types
            raise OSError(f"its headers cannot be parsed ({error})") from error
        stream.go_on_with_body(may_end=not _is_framed(response.headers))
        return response


def _check_codings(headers: http.client.HTTPMessage) -> None:
    transfer_coding = ", ".join(headers.get_all("Transfer-Encoding", [])).lower()
    content_coding = ", ".join(headers.get_all("Content-Encoding", [])).strip().lower()
    # http.client knows chunks only by this very word, without a blank.
    if transfer_coding not in ("", "chunked") or content_coding not in ("", "identity"):
        raise OSError("the answer has a coding that was not asked for")


def _check_length(headers: http.client.HTTPMessage) -> None:
    lengths = {value.strip() for value in headers.get_all("Content-Length", [])}
    if len(lengths) > 1 or not all(re.fullmatch("[0-9]{1,18}", length) for length in lengths):
        raise OSError("the answer has a bad Content-Length")
    if headers.get("Transfer-Encoding"):  # chunks: a length does not count (RFC 9112, 6.3)
        return
    if any(int(length) > _MAX_ANSWER for length in lengths):
        raise OSError(_TOO_LARGE)


def _pieces(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the pieces of a body, as they arrive."""
    while True:
        piece = response.read1(65536)
        if not piece:
            return
        yield piece


def _read_whole(response: http.client.HTTPResponse) -> bytearray:
    """Read the body of a 200. Raise OSError if it is too large or cut short."""
    _check_codings(response.headers)
    _check_length(response.headers)
    body = bytearray()
    for piece in _pieces(response):
        body += piece
        if len(body) > _MAX_ANSWER:
            raise OSError(_TOO_LARGE)
    # Without a length, an empty body and a server that died before its body look the same.
    if not body and not _is_framed(response.headers):
        raise OSError("the answer is empty")
    return body


def _read_excerpt(response: http.client.HTTPResponse) -> bytearray:
    """Read the body of a refusal, as far as it comes."""
    body = bytearray()
    with contextlib.suppress(*_NETWORK_ERRORS):
        for piece in _pieces(response):
            body += piece
            if len(body) > _MAX_REFUSAL:
                break
    return body


class _Answer(NamedTuple):
    """What a server answered. Unless the status is 200, the body may be incomplete."""

    url: str
    status: int
    reason: str
    headers: http.client.HTTPMessage
    body: bytearray

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


class _Proxy(NamedTuple):
    """A proxy, and the headers that tell it who its user is."""

    address: _Address
    headers: Mapping[str, str]

    def open_tunnel(self, connection: _Connection, server: _Address) -> None:
        """Let the proxy connect us to a server (RFC 9110, 9.3.6)."""
        target = server.netloc if server.port else f"{server.netloc}:443"
        response = connection.request("CONNECT", target, {"Host": target, **self.headers})
        if not 200 <= response.status < 300:
            raise OSError(f"the proxy refuses a tunnel: {response.status} {response.reason}")


class _Server:
    """A server, and the proxy to ask it through, if any."""

    def __init__(
        self, address: _Address, proxy: _Proxy | None, context: ssl.SSLContext | None
    ) -> None:
        self.address = address
        self.proxy = proxy
        self.context = context  # if it is None, it is made when it is first needed

    def exchange(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, deadline: float
    ) -> _Answer:
        """Send a request and return the answer."""
        url = self.address.geturl() + path
        target = self.address.path + path
        is_https = self.address.scheme == "https"
        if self.proxy and not is_https:
            target = url  # the proxy has to know the server, too (RFC 9112, 3.2.2)
            headers = {**headers, **self.proxy.headers}
        peer = self.proxy.address if self.proxy else self.address
        with contextlib.closing(_Connection(peer, deadline)) as connection:
            if self.proxy and is_https:
                self.proxy.open_tunnel(connection, self.address)
            if is_https:
                self._start_tls(connection)
            response = connection.request(method, target, headers, body)
            if response.status == 200:
                content = _read_whole(response)
            else:
                left = deadline - time.monotonic()
                connection.deadline -= left / 2  # the other half is for the other routes
                content = _read_excerpt(response)
        return _Answer(url, response.status, response.reason, response.headers, content)

    def _start_tls(self, connection: _Connection) -> None:
        self.context = self.context or ssl.create_default_context()  # 16 ms, so do it once
        connection.start_tls(self.context, (self.address.hostname or "").rstrip("."))


# ------------------------------------------------------------------------ arguments, environment

_OUR_HEADERS = {
    "Connection": "close",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "User-Agent": f"bac_states/{__version__}",
}
_FRAMING = {"Content-Length", "Expect", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}
_HEADER_VALUE = r"[\t -~\xa0-\xff]*"  # one line of Latin-1


def _usable_request(name: str, request: str | StateRequest) -> StateRequest:
    """Check a request, and drop the blanks that files leave around a job id."""
    if not isinstance(request, StateRequest):
        request = StateRequest(request)
    if not isinstance(request.job_id, str) or not isinstance(request.client_id, str):
        raise TypeError(f"{name} and client_id have to be text")
    job_id = request.job_id.strip()
    if not 1 <= len(job_id) <= 1000 or not job_id.isprintable() or job_id in (".", ".."):
        raise ValueError(f"{name} has to be 1 to 1000 printable characters, and not . or ..")
    if len(request.client_id) > 1000:
        raise ValueError("client_id has to be 1000 characters at the most")
    return StateRequest(job_id, request.client_id)


def _usable_seconds(name: str, seconds: float) -> float:
    """Check a time. Over 1e9 seconds, clocks and sleeps would overflow."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} has to be a number of seconds")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{name} has to be a finite number of seconds above 0")
    return float(min(seconds, 1e9))


def _usable_context(context: ssl.SSLContext | None) -> ssl.SSLContext | None:
    if context is not None and not isinstance(context, ssl.SSLContext):
        raise TypeError("ssl_context has to be an ssl.SSLContext")
    return context


def _usable_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Check a caller's headers, and spell their names as ours are, so that both can be merged.

    Those that frame the message are left out: they are ours.
    """
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise TypeError("headers has to be a mapping of text to text")
    usable = {}
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("headers has to be a mapping of text to text")
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):  # RFC 9110, 5.6.2
            raise ValueError("headers has a name that no header can have")
        if not re.fullmatch(_HEADER_VALUE, value):
            raise ValueError(f"headers has a value for {name} that is not one line of Latin-1")
        if name.title() not in _FRAMING:
            usable[name.title()] = value
    return usable


_HOST = r"[\w-]{1,63}(\.[\w-]{1,63})*\.?"  # a name or an IPv4 address
_IPV6 = r"\[(?P<ipv6>[^]]+)\]"
_PORT = r":(?P<port>\d{1,5})"
_PATH = r"/[^ ?#\\]*"
_URL = f"(?i)https?://({_HOST}|{_IPV6})({_PORT})?({_PATH})?"


def _parse_url(url: str) -> _Address | None:
    """Parse the URL of a server or proxy. Return None if it is not one."""
    if not url.isascii() or not url.isprintable():
        return None
    parts = re.fullmatch(_URL, url)
    if parts is None:
        return None
    if parts["port"] and not 1 <= int(parts["port"]) <= 65535:
        return None
    try:
        if parts["ipv6"]:
            socket.inet_pton(socket.AF_INET6, parts["ipv6"])
        return urllib.parse.urlsplit(url.rstrip("/"))
    except (OSError, ValueError):  # it is no IPv6 address
        return None


def _usable_url(name: str, url: str) -> _Address:
    """Check a server's URL. The error does not repeat it, because it may hold a password."""
    if not isinstance(url, str):
        raise TypeError(f"{name} has to be text")
    address = _parse_url(url)
    if address is None:
        raise ValueError(f"{name} has to be http(s)://host[:port][/path], in printable ASCII")
    return address


def _basic(user: str, password: str) -> str:
    """Return a Basic authorization (RFC 7617)."""
    pair = f"{user}:{password}".encode("utf-8", "surrogateescape")
    return "Basic " + base64.b64encode(pair).decode()


def _parse_proxy(url: str) -> _Proxy | None:
    """Parse http://user:password@host:port, of which only the host is a must.

    Return None if it is something else. A password may hold an @.
    """
    if "://" not in url:
        url = f"http://{url}"
    scheme, _, rest = url.partition("://")
    user_info, _, host_and_port = rest.rpartition("@")
    address = _parse_url(f"{scheme}://{host_and_port}")
    if address is None or address.scheme != "http":  # TLS with the proxy itself is not supported
        return None
    user, _, password = user_info.partition(":")
    headers = {}
    if user and password:  # like urllib, send nothing if one is missing
        authorization = _basic(urllib.parse.unquote(user), urllib.parse.unquote(password))
        headers["Proxy-Authorization"] = authorization
    return _Proxy(address, headers)


# 127.1 and 0:0:0:0:0:0:0:1 are loopback, too.
_LOOPBACK = r"localhost\.?|(::ffff:)?127(\.\d+){1,3}\.?|[0:]+:0*1"


def _find_proxy(server: _Address, authorization: str | None) -> _Proxy | None:
    """Find the proxy for a server in the environment, if there is one, as urllib does.

    If the caller gave an `authorization` for it, that replaces the one of its URL.
    """
    if re.fullmatch(_LOOPBACK, server.hostname or ""):  # Bacalhau's tools ask it directly, too
        return None
    proxy_url = getproxies().get(server.scheme)
    if not proxy_url or proxy_bypass(server.netloc):
        return None
    proxy = _parse_proxy(proxy_url.strip())
    if proxy is None:
        url = server.geturl()
        problem = "the environment names a proxy for it that is not http://host:port"
        raise TransportError(f"no answer from {_shorten(url)}: {problem}", url=url)
    if authorization:
        return _Proxy(proxy.address, {"Proxy-Authorization": authorization})
    return proxy


def _variable(name: str) -> str:
    """Read a variable of the environment, without the blanks that files leave around it."""
    return os.environ.get(name, "").strip()


def _environment_scheme() -> str:
    """Return https if the environment's flag is true, as Go's strconv.ParseBool reads it."""
    flag = _variable("BACALHAU_API_TLS_USETLS")
    if flag in ("1", "t", "T", "TRUE", "true", "True"):
        return "https"
    if flag in ("", "0", "f", "F", "FALSE", "false", "False"):
        return "http"
    raise ValueError("BACALHAU_API_TLS_USETLS has to be true or false")


def _environment_port() -> str:
    port = _variable("BACALHAU_API_PORT") or "1234"
    if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError("BACALHAU_API_PORT has to be a number from 1 to 65535")
    return port


def _environment_server() -> _Address:
    """Return the address of the server that Bacalhau's own tools would ask."""
    scheme, port = _environment_scheme(), _environment_port()
    host = _variable("BACALHAU_API_HOST") or "127.0.0.1"
    is_bare_ipv6 = host.count(":") > 1 and "/" not in host and "[" not in host
    if is_bare_ipv6:
        host = f"[{host}]"
    url = host if "://" in host else f"{scheme}://{host}"
    server = _usable_url("BACALHAU_API_HOST", url)
    if server.port is None:
        server = server._replace(netloc=f"{server.netloc}:{port}")
    return server


def _environment_credentials() -> dict[str, str]:
    """Return the header that authenticates the environment's user, if there is one."""
    key = _variable("BACALHAU_API_KEY")
    user = _variable("BACALHAU_API_USERNAME")
    password = _variable("BACALHAU_API_PASSWORD")
    if key and (user or password):
        raise ValueError("BACALHAU_API_KEY excludes BACALHAU_API_USERNAME and _PASSWORD")
    if bool(user) != bool(password):
        raise ValueError("BACALHAU_API_PASSWORD and BACALHAU_API_USERNAME need each other")
    if not re.fullmatch(_HEADER_VALUE, key):
        raise ValueError("BACALHAU_API_KEY has to be one line of Latin-1")
    if key:
        return {"Authorization": f"Bearer {key}"}
    if user:
        return {"Authorization": _basic(user, password)}
    return {}


def _environment_context() -> ssl.SSLContext | None:
    """Return a context that trusts the environment's certificates, if it names any."""
    path = _variable("BACALHAU_API_TLS_CAFILE")
    if not path:
        return None
    problem = "BACALHAU_API_TLS_CAFILE has to name a file of certificates"
    try:
        context = ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:
        raise ValueError(problem) from error
    if context.cert_store_stats()["x509"] == 0:
        raise ValueError(problem)
    return context


# --------------------------------------------------------------------------------------- secrets


def _spellings(secret: str) -> set[str]:
    """Return a header's value as it is, and as servers and gateways quote it (samples: a"é/&)."""
    as_json = json.dumps(secret, ensure_ascii=False)[1:-1]
    as_ascii = json.dumps(secret)[1:-1]
    return {
        secret,
        as_json,  # a\"é/& in JavaScript
        as_json.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"),  # in Go
        as_ascii,  # a\"\u00e9/& in Python
        as_ascii.replace("/", r"\/"),  # a\"\u00e9\/& in PHP
        secret.encode("latin-1").decode("utf-8", "replace"),  # a"\ufffd/&: Latin-1 read as UTF-8
        secret.encode("utf-8").decode("latin-1"),  # a"Ã©/&: UTF-8 read as Latin-1
    }


class _Secrets:
    """The credentials that are sent. A server may quote them, and errors mask them then.

    Not masked are the password within a Basic authorization, the value of a single cookie, a secret
    that was cut or has under 8 characters, and other escapes, as in URLs or HTML.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        spellings: set[str] = set()
        for name, value in headers.items():
            if not re.search("(?i)auth|cookie|credential|key|pass|secret|session|token", name):
                continue
            whole = value.strip()  # "Bearer abc"
            token = re.split(r"[ \t]", whole)[-1]  # "abc"
            for secret in (whole, token):
                if len(secret) >= 8:  # masking shorter ones would garble innocent text
                    spellings |= _spellings(secret)
        self._longest_first = sorted(spellings, key=len, reverse=True)  # one may contain another

    def occur_in(self, text: str) -> bool:
        return any(secret in text for secret in self._longest_first)

    def hide(self, text: str) -> str:
        for secret in self._longest_first:
            text = text.replace(secret, "***")
        return text

    def safe_cause(self, error: Exception, document: str = "") -> Exception | None:
        """Return an error as the cause of ours, or None if it would tell a secret.

        A traceback tells its message, and those of its own causes. An error of json or of a codec
        keeps the document.
        """
        import traceback  # only errors need it

        told = "".join(traceback.format_exception(type(error), error, None))
        is_safe = not self.occur_in(told) and not self.occur_in(document)
        return error if is_safe else None


# ---------------------------------------------------------------------------------------- asking
# `_ask` puts the question of a `_Call` to one route after the other. An `_Answer` with status 200
# holds the job's state; any other is a refusal, or says that the server does not have the route.


class _Route(NamedTuple):
    """Where servers of some releases are asked for a job's state."""

    method: str
    template: str

    def path(self, job_id: str) -> str:
        """Return the path for a job, with its id as Go writes it."""
        # An id that a server sent may hold half a surrogate pair, which has no UTF-8.
        return self.template.format(urllib.parse.quote(job_id, "$&+,:;=@", errors="replace"))


_REQUESTER = _Route("POST", "/requester/states")  # v0.3.17 to v1.3.2
_NEWER_API = _Route("GET", "/api/v1/orchestrator/jobs/{}?include=executions")  # v1.0.4+
_OLDEST = _Route("POST", "/states")  # v0.2.0 to v0.3.16


def _routes(job_id: str) -> list[_Route]:
    """Return the routes in the order in which to ask them."""
    if job_id.startswith("j-"):  # the newer API gave it out
        return [_NEWER_API, _REQUESTER, _OLDEST]
    return [_REQUESTER, _NEWER_API, _OLDEST]


class _Call:
    """What is asked, of whom and how, all of it checked."""

    def __init__(
        self,
        request: StateRequest,
        timeout: float,
        address: _Address,
        headers: Mapping[str, str],
        context: ssl.SSLContext | None,
    ) -> None:
        self.request = request
        self.timeout = timeout
        to_server = dict(headers)
        to_proxy = to_server.pop("Proxy-Authorization", None)
        # The caller may replace Host, but none of ours.
        self.headers = {"Host": address.netloc, **to_server, **_OUR_HEADERS}
        proxy = _find_proxy(address, to_proxy)
        self.server = _Server(address, proxy, context)
        proxy_headers = proxy.headers if proxy else {}
        self.secrets = _Secrets({**self.headers, **proxy_headers})
        self.routes = _routes(request.job_id)

    def prefer(self, route: _Route) -> None:
        """Ask on this route first from now on."""
        self.routes.remove(route)
        self.routes.insert(0, route)


class _MissingRoute(SDKError):
    """A refusal because the server does not have the route."""


_TEMPORARY = {408, 425, 429, *range(502, 600)}  # a 500 is about the job


def _is_temporary(error: SDKError) -> bool:
    """Tell whether the same question may succeed later."""
    if isinstance(error, TransportError):
        return not error._is_untrusted
    return error.status_code in _TEMPORARY


def _ask(call: _Call, seconds: float) -> StateResponse:
    """Ask on one route after the other until the server has one, all within `seconds`."""
    deadline = time.monotonic() + seconds
    routes = list(call.routes)
    missing: list[tuple[_Route, SDKError]] = []
    for asked, route in enumerate(routes, 1):
        try:
            decoded = _ask_on(call, route, call.request.job_id, deadline)
        except _MissingRoute as refusal:
            missing.append((route, refusal))
            continue
        if decoded.lists_executions:
            call.prefer(route)
            return decoded.response
        return _ask_for_executions(call, decoded.response, routes[asked:], deadline)
    raise _no_route(call, missing) from missing[-1][1]


def _ask_for_executions(
    call: _Call, incomplete: StateResponse, others: list[_Route], deadline: float
) -> StateResponse:
    """Ask the other routes for the executions, which the newer API does not list up to v1.2.1.

    Without them a Completed job counts as a success, even if its program failed. So the incomplete
    answer is returned only if each of them is missing, does not find the job or refuses to tell.
    """
    for route in others:
        try:
            # By its whole id, since older routes know no names, and some no short ids.
            response = _ask_on(call, route, incomplete.state.job_id, deadline).response
        except SDKError as error:
            knows_nothing = isinstance(error, (_MissingRoute, JobNotFound))
            refuses_to_tell = error.status_code in (400, 401, 403)
            if knows_nothing or refuses_to_tell:
                continue
            raise
        return _with_newer_details(response, incomplete.state)
    return incomplete


def _with_newer_details(older: StateResponse, newer: JobState) -> StateResponse:
    """Add what only the newer API tells: why a job failed, and its type, which can end a wait."""
    status = older.state.status or newer.status
    state = dataclasses.replace(older.state, status=status, job_type=newer.job_type)
    return dataclasses.replace(older, state=state)


def _ask_on(call: _Call, route: _Route, job_id: str, deadline: float) -> _Decoded:
    """Ask on one route. A refusal is raised, as a `_MissingRoute` if the route is missing."""
    answer = _send(call, route, job_id, deadline)
    if answer.status == 200:
        return _decode_answer(call, answer, job_id)
    kind = _refusal_kind(route, answer)
    raise _bad_answer(call, kind, answer, _refusal_text(answer))


def _send(call: _Call, route: _Route, job_id: str, deadline: float) -> _Answer:
    """Send the question, and return the answer, whatever it says."""
    path = route.path(job_id)
    asked = {"client_id": call.request.client_id, "job_id": job_id}
    data = json.dumps(asked).encode() if route.method == "POST" else b""
    # Our error is raised outside the handler: within it, even `from None` would keep the caught one
    # as its context, secrets and all.
    try:
        return call.server.exchange(route.method, path, call.headers, data, deadline)
    except _NETWORK_ERRORS as caught:
        error = caught
    raise _no_answer(call, path, error) from call.secrets.safe_cause(error)


def _no_answer(call: _Call, path: str, failure: Exception) -> TransportError:
    """Make the error for a failure of the network."""
    hide = call.secrets.hide
    url = hide(call.server.address.geturl() + path)
    way = " through the proxy" if call.server.proxy else ""
    why = hide(_network_text(failure, call.timeout))
    kind = TransportTimeout if isinstance(failure, _TIMEOUTS) else TransportError
    error = kind(f"no complete answer{way} from {_shorten(url)}: {why}", url=url)
    error._is_untrusted = isinstance(failure, ssl.SSLCertVerificationError)
    return error


def _network_text(error: Exception, timeout: float) -> str:
    """Say in words what went wrong on the network. The special cases come first."""
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = "pass an ssl_context or, for the command, set BACALHAU_API_TLS_CAFILE"
        why = getattr(error, "verify_message", error)
        return f"its certificate is not trusted (to trust it, {remedy}): {why}"
    if isinstance(error, http.client.IncompleteRead):  # not for a cut: `_Stream` tells of that
        return "the answer has a bad chunk size"
    if isinstance(error, _TIMEOUTS) and error.errno is None:  # the system's own has a number
        return f"timed out after {timeout:g} s"
    if not isinstance(error, OSError):
        return f"it is not valid HTTP ({type(error).__name__}: {error})"
    text = error.strerror or str(error) or type(error).__name__
    if isinstance(error, ssl.SSLError):  # "[SSL: ALERT] what happened (_ssl.c:1006)"
        return "TLS failed: " + re.sub(r"^\[.*?\] | \(\S+\)$", "", text)
    return text


def _decode_answer(call: _Call, answer: _Answer, job_id: str) -> _Decoded:
    version = answer.headers.get("X-Bacalhau-Git-Version", "").strip()
    try:
        return _decode(answer.body, version, job_id)
    except _DECODING_ERRORS as caught:
        error = caught  # ours is raised below, as in `_send`
    why = f"not a job's state: {error}"
    path = call.secrets.hide(getattr(error, "path", ""))
    cause = call.secrets.safe_cause(error, answer.text)
    raise _bad_answer(call, DecodeError, answer, why, path=path) from cause


def _bad_answer(
    call: _Call, kind: type[SDKError], answer: _Answer, why: str, **details: Any
) -> SDKError:
    """Make the error for a refusal, or for a 200 that is not a job's state."""
    hide = call.secrets.hide
    url = hide(answer.url)
    seconds = answer.headers.get("Retry-After", "").strip()
    return kind(
        f"HTTP {answer.status} from {_shorten(url)}: {hide(why)}",
        status_code=answer.status,
        body=hide(answer.text)[:_MAX_BODY],
        url=url,
        retry_after=int(seconds) if re.fullmatch("[0-9]{1,99}", seconds) else None,
        **details,
    )


# Refusals, as of v1.0.4 and v1.8.0:
#
# {"error": "code=500, message=Job not found. ID: x", "message": "Job not found. ID: x"}
# {"Message": "Request Forbidden", "Component": "Authorizer", "Details":
#      {"reason": "user 'x' does not have the required capability 'write:node'"}, ...}


def _is_of_job_store(answer: _Answer) -> bool:
    """Tell whether the part of the server that keeps the jobs refuses (v1.5.0 and later)."""
    return re.search(r'"Component"\s*:\s*"JobStore"', answer.text) is not None


def _lacks_job(answer: _Answer) -> bool:
    if answer.status == 500:  # up to v1.4.0
        return re.search("(?i)job not found|no job found", answer.text) is not None
    return answer.status == 404 and _is_of_job_store(answer)


def _lacks_capability(answer: _Answer) -> bool:
    """Tell whether the user may not do this (v1.7.0 and later)."""
    return answer.status in (403, 500) and "capability" in answer.text


def _lacks_route(route: _Route, answer: _Answer) -> bool:
    if answer.status == 410:
        return True
    if answer.status in (404, 405):
        return not _is_of_job_store(answer)
    # Servers with users check the user first, even on a route that they no longer have.
    return route == _REQUESTER and _lacks_capability(answer)


def _refusal_kind(route: _Route, answer: _Answer) -> type[SDKError]:
    """Tell what a status other than 200 means."""
    if _lacks_job(answer):
        return JobNotFound
    if _lacks_route(route, answer):
        return _MissingRoute
    return {400: BadRequest, 500: InternalServerError}.get(answer.status, SDKError)


_read_details = _ObjectReader({"reason": _read_text}).read
_read_refusal = _ObjectReader(
    {"message": _read_text, "error": _read_text, "details": _read_details}
).read


def _refusal_text(answer: _Answer) -> str:
    """Return what the server says, or at least what its status means."""
    location = answer.headers.get("Location")
    if 300 <= answer.status < 400 and location:
        return f"a redirect to {location}, which is not followed"
    try:
        said = _read_refusal(json.loads(answer.text))
    except _DECODING_ERRORS:  # up to v1.0.3 it is plain text
        said = {}
    message = said.get("message", "")
    error = said.get("error", "")
    reason = said.get("details", {}).get("reason", "")
    if message and message in error:  # v1.0.4 says it twice
        error = ""
    words = ": ".join(filter(None, (message, error, reason)))
    return words or answer.text.strip() or answer.reason or "no reason given"


def _no_route(call: _Call, missing: list[tuple[_Route, SDKError]]) -> SDKError:
    """Make the error that names every route and its status, with the details of the last."""
    hide = call.secrets.hide
    server = _shorten(hide(call.server.address.geturl()), 60)
    told = []
    for route, refusal in missing:
        path = _shorten(hide(route.path(call.request.job_id)), 90)
        told.append(f"{refusal.status_code} from {server}{path}")
    _, last = missing[-1]
    return SDKError(
        f"the server has no route for a job's state: HTTP {', '.join(told)}",
        status_code=last.status_code,
        body=last.body,
        url=last.url,
        retry_after=last.retry_after,
    )


# ----------------------------------------------------------------------------------- get and wait

_FIRST_PAUSE = 0.5  # seconds
_PAUSE_GROWTH = 1.5
_LONGEST_PAUSE = 5.0
_LONGEST_RETRY_AFTER = 300.0
_NO_LIMIT = float("inf")
_MOST_FAILURES = 10  # in a row that a wait without a limit survives


def _checked_call(
    request: str | StateRequest,
    server_url: str | None,
    timeout: float,
    headers: Mapping[str, str] | None,
    ssl_context: ssl.SSLContext | None,
) -> _Call:
    """Check the arguments of `get` and `wait`. What they leave out comes from the environment."""
    checked = _usable_request("job_id", request)
    seconds = _usable_seconds("timeout", timeout)
    own_headers = _usable_headers(headers)
    context = _usable_context(ssl_context)
    if server_url is not None:
        address = _usable_url("server_url", server_url)
        return _Call(checked, seconds, address, own_headers, context)
    address = _environment_server()
    all_headers = {**_environment_credentials(), **own_headers}
    return _Call(checked, seconds, address, all_headers, context or _environment_context())


def get(
    request: str | StateRequest,
    *,
    server_url: str | None = None,
    timeout: float = 10.0,
    headers: Mapping[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> StateResponse:
    """Ask once for the state of a job, given by its id or in a StateRequest.

    `server_url` is http(s)://host[:port][/path]. Without it, the environment's server is asked,
    with the environment's credentials. `timeout` is in seconds, for the whole call; only resolving
    names, parsing and a TLS handshake that the peer floods cannot be cut short. `headers` are added
    to ours; Connection, Content-Type, User-Agent, Accept-Encoding and those that frame the message
    stay ours. Proxy-Authorization goes to a proxy alone. Raises SDKError; for a bad argument or
    BACALHAU_ variable ValueError or TypeError, before anything is sent.
    """
    call = _checked_call(request, server_url, timeout, headers, ssl_context)
    return _ask(call, call.timeout)


def wait(
    request: str | StateRequest,
    *,
    limit: float | None = None,
    server_url: str | None = None,
    timeout: float = 10.0,
    headers: Mapping[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> StateResponse:
    """Ask, as `get` does, until the job has ended or, if it is a service or daemon, runs.

    A job without a state, or with one that is unknown here, has not ended. The pauses grow from 0.5
    to 5 seconds. Retry-After makes them longer, up to 5 minutes.

    It goes on after 408, 425, 429, a 5xx other than 500 and 501, and if no complete answer comes,
    unless a certificate is not trusted. Without a `limit`, the eleventh failure in a row ends it.

    Raises what `get` raises, and WaitTimeout once `limit` seconds have passed; what `timeout`
    cannot cut short, `limit` cannot either.
    """
    seconds = _NO_LIMIT if limit is None else _usable_seconds("limit", limit)
    call = _checked_call(request, server_url, timeout, headers, ssl_context)
    return _wait(call, seconds, say=lambda news: None)


def _wait(call: _Call, limit: float, say: Callable[[str], None]) -> StateResponse:
    """Ask until the job has ended. Whatever is new is told to `say`, a line at a time."""
    end = time.monotonic() + limit
    progress = _Progress(call, say)
    while time.monotonic() < end:
        try:
            response = _ask(call, min(call.timeout, end - time.monotonic()))
        except SDKError as error:
            if isinstance(error, TransportTimeout) and time.monotonic() >= end:
                break  # the limit cut it short: the server is not to blame
            if not _is_temporary(error):
                raise
            progress.failed(error)
            if limit == _NO_LIMIT and progress.failures > _MOST_FAILURES:
                raise
        else:
            progress.answered(response)
            if _has_ended(response.state):
                return response
        time.sleep(max(0, min(progress.take_pause(), end - time.monotonic())))
    raise progress.timeout(limit) from progress.error


class _Progress:
    """How far a job is, as far as that is known. Whatever is new is told to `say`."""

    def __init__(self, call: _Call, say: Callable[[str], None]) -> None:
        self.hide = call.secrets.hide
        self.say = say
        self.url = self.hide(call.server.address.geturl())
        self.job_id = _shorten(self.hide(call.request.job_id), 99)
        self.response: StateResponse | None = None  # the last one
        self.error: SDKError | None = None  # of the last question, if it has no answer
        self.failures = 0  # in a row
        self.pause = _FIRST_PAUSE

    def failed(self, error: SDKError) -> None:
        """Take note of a question without an answer."""
        if self.error is None:
            self.say(f"no answer for now: {error}")
        self.error = error
        self.failures += 1

    def answered(self, response: StateResponse) -> None:
        """Take note of an answer. The first state is worth a line, and so is every change."""
        if self.error:
            self.say("the server answers again")
        state = response.state
        before = self.response.state.state if self.response else None
        ended_at_once = self.response is None and _has_ended(state)  # there was nothing to wait for
        if state.state != before and not ended_at_once:
            self.say(self.hide(f"{self.job_id}: {_state_word(state)}"))
        self.response = response
        self.error = None
        self.failures = 0

    def take_pause(self) -> float:
        """Return the seconds to the next question, and make the next pause longer."""
        pause = self.pause
        self.pause = min(pause * _PAUSE_GROWTH, _LONGEST_PAUSE)
        retry_after = self.error.retry_after if self.error else None
        return max(pause, min(retry_after or 0, _LONGEST_RETRY_AFTER))

    def timeout(self, limit: float) -> WaitTimeout:
        """Make the error for a limit that has passed."""
        if self.error:
            why = self.error.message
        elif self.response:
            state = self.response.state
            why = ": ".join(filter(None, (f"it is {_state_word(state)}", state.status)))
        else:
            why = f"no answer came from {self.url}"
        words = f"the job {self.job_id} has not ended within {limit:g} s: {why}"
        message = _one_line(self.hide(words), _MAX_MESSAGE)
        return WaitTimeout(message, response=self.response, url=self.url)


def _state_word(state: JobState) -> str:
    return state.state or "in no state yet"


def _runs_on(state: JobState) -> bool:
    """Tell whether it is a running service or daemon, which has no end of its own."""
    return state.job_type in ("service", "daemon") and state.state == "InProgress"


def _has_ended(state: JobState) -> bool:
    return state.is_terminal or _runs_on(state)


# ----------------------------------------------------------------------------------- the command
# `main` reads the options, asks (`_fetch`) and prints the answer in the form that was chosen
# (`_format`). Only the answer goes to standard output; all else is a line on standard error.


def _write(text: str, stream: Any) -> None:
    """Write to a stream. What its encoding lacks or a terminal would act on is escaped."""
    if stream is None:  # it was closed when Python started
        raise OSError("it is closed")
    if hasattr(stream, "isatty") and stream.isatty():  # of all controls it gets line ends alone
        text = "\n".join(map(_escape, text.split("\n")))
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _say(message: str) -> None:
    """Write a line to standard error. If even that fails, there is nobody to tell."""
    with contextlib.suppress(OSError, ValueError):
        _write(f"bac_states: {_one_line(message, _MAX_MESSAGE)}\n", sys.stderr)


def _print(text: str) -> int:
    """Write to standard output. Return the exit code: 0 if that went well."""
    try:
        _write(text, sys.stdout)
        return 0
    except OSError as error:
        is_windows_pipe = sys.platform == "win32" and error.errno == errno.EINVAL
        if is_windows_pipe or isinstance(error, ConnectionError):
            return 141  # the reader went away
        problem = error.strerror or str(error)
    except ValueError as error:  # it was closed after Python started
        problem = str(error)
    _say(f"cannot write to standard output: {problem}")
    return 1


_DEMO_JOB = "9304c616-291f-41ad-b862-54e133c0149e"
_DEMO_ANSWER = """{"state": {"Nodes": {
    "QmSyJ8VUd4YSPwZFJSJsHmmmmg7sd4BAc2yHY73nisJo86": {"Shards": {"0": {
        "State": "Cancelled", "VerificationResult": {}, "PublishedResults": {}}}},
    "QmYgxZiySj3MRkwLSL4X2MF5F9f2PMhAE3LV49XkfNL1o3": {"Shards": {"0": {
        "State": "Cancelled", "VerificationResult": {}, "PublishedResults": {}}}},
    "QmdZQ7ZbhnvWY1J12XYKGHApJ6aufKyLNSvf8jZBrBaAVL": {"Shards": {"0": {
        "State": "Completed", "Status": "Got results proposal of length: 0",
        "VerificationResult": {"Complete": true, "Result": true},
        "PublishedResults": {"StorageSource": "IPFS",
            "Name": "job-9304c616-291f-41ad-b862-54e133c0149e-shard-0-host-\
QmdZQ7ZbhnvWY1J12XYKGHApJ6aufKyLNSvf8jZBrBaAVL",
            "CID": "QmTVmC7JBD2ES2qGPqBNVWnX1KeEPNrPGb7rJ8cpFgtefe"},
        "RunOutput": {"stdout": "Thu Nov 17 13:32:55 UTC 2022\\n"}}}}}}}"""


def _demo_handler() -> Any:
    """Make the class that answers a request as v0.3.17 would."""
    import http.server

    class Demo(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            job_id = json.loads(self.rfile.read(size))["job_id"]
            if job_id == _DEMO_JOB:
                self.answer(200, _DEMO_ANSWER)
            else:
                self.answer(500, f"Job not found. ID: {job_id}")

        def do_GET(self) -> None:
            self.answer(404, "v0.3.17 had no such route")

        def answer(self, status: int, text: str) -> None:
            self.send_response_only(status)  # unlike send_response, it logs nothing
            self.end_headers()
            self.wfile.write(text.encode())

    return Demo


@contextlib.contextmanager
def _demo_server() -> Iterator[str]:
    """Run the demo's server on a free loopback port, and yield its URL."""
    import socketserver
    import threading

    try:
        # http.server.HTTPServer would look up the host's name, which can take seconds.
        server = socketserver.TCPServer(("127.0.0.1", 0), _demo_handler())
    except OSError as error:
        raise TransportError(f"the demo gets no port to listen on: {error}") from error
    with server:
        # It looks every 0.01 s, not every 0.5 s, whether it is to shut down.
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


_HELP = """\
example:
  bac_states j-1f0e9f9a --server http://127.0.0.1:1234 --wait-timeout 600

exit codes:
  0    printed; with --wait, the job succeeded, or is a service that runs
  1    no answer, or standard output cannot be written
  2    wrong usage, or a bad argument or variable
  3    with --wait, the job ended without success
  4    the server does not know the job
  124  --wait-timeout passed before the job ended; the last answer was printed
  141  the reader of standard output went away
  Ctrl-C ends the process by its signal (on Windows: 130)

environment, for the default server:
  BACALHAU_API_HOST         a host or a URL (127.0.0.1)
  BACALHAU_API_PORT         its port, if the host names none (1234)
  BACALHAU_API_TLS_USETLS   true for https, unless the host is a URL

environment, for any server:
  BACALHAU_API_TLS_CAFILE   a file of certificates to trust
  BACALHAU_API_KEY          sent as a Bearer token
  BACALHAU_API_USERNAME, BACALHAU_API_PASSWORD   sent as Basic authorization
  HTTP_PROXY, HTTPS_PROXY, NO_PROXY   proxies; loopback is asked directly
"""


def _options(argv: list[str] | None) -> Any:
    import argparse

    parser: Any = argparse.ArgumentParser(
        prog="bac_states",
        description="Prints the state of a Bacalhau job.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_HELP,
    )
    parser.color = False  # since 3.14 it would be coloured
    add = parser.add_argument
    add("job_id", metavar="JOB_ID", nargs="?", help="the job's id, how it begins, or its name")
    add("--version", action="version", version=f"bac_states {__version__}")
    add("--server", metavar="URL", help="http(s)://host[:port][/path] (the environment's)")
    add("--timeout", metavar="S", type=float, default=10.0, help="seconds for each answer (10)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON document")
    form.add_argument("--output", action="store_true", help="print what the job's program printed")
    add("--wait", action="store_true", help="wait until the job has ended")
    add("--wait-timeout", metavar="S", type=float, help="wait for S seconds at the most")
    add("--demo", action="store_true", help="ask a server of its own about an example")
    options = parser.parse_args(argv)
    options.wait |= options.wait_timeout is not None
    if options.demo and options.server is not None:
        parser.error("--demo has a server of its own, so it takes no --server")
    if options.job_id is None and options.demo:
        options.job_id = _DEMO_JOB
    if options.job_id is None:
        parser.error("a JOB_ID is missing")
    return options


def _fetch(options: Any) -> StateResponse:
    """Ask the server that is named, or the demo's."""
    request = _usable_request("JOB_ID", options.job_id)
    timeout = _usable_seconds("--timeout", options.timeout)
    if options.demo:
        with _demo_server() as url:
            call = _Call(request, timeout, _usable_url("--demo", url), {}, None)
            return _ask_or_wait(call, options)
    if options.server is None:
        address = _environment_server()
    else:
        address = _usable_url("--server", options.server)
    # Unlike a server that is named in code, one that is named here gets the environment's
    # credentials: both come from the same person.
    credentials = _environment_credentials()
    call = _Call(request, timeout, address, credentials, _environment_context())
    return _ask_or_wait(call, options)


def _ask_or_wait(call: _Call, options: Any) -> StateResponse:
    """Ask once or, with --wait, until the job has ended."""
    if not options.wait:
        return _ask(call, call.timeout)
    limit = _NO_LIMIT
    if options.wait_timeout is not None:
        limit = _usable_seconds("--wait-timeout", options.wait_timeout)
    return _wait(call, limit, say=_say)


def _format(response: StateResponse, options: Any) -> str:
    """Return what to print: a JSON document, what the program printed, or the table."""
    if options.json:
        answer = {"state": response.state, "server_version": response.server_version}
        return json.dumps(answer, default=vars, indent=2) + "\n"  # a model becomes a dict
    if options.output:
        return _program_output(response.state)
    return _table(response.state, options.job_id.strip())


def _program_output(state: JobState) -> str:
    """Return what the completed programs printed. Say so if that is not all."""
    completed = [each for each in state.executions if each._may_be_completed]
    outputs = [each.run_output for each in completed if each.run_output]
    if not state.executions:
        _say("the server lists no executions, so no output is printed")
    elif not completed:
        _say("no execution has completed, so no output is printed")
    elif not outputs:
        _say("the server kept no output")
    elif len(outputs) < len(completed) or any(output.stdout_truncated for output in outputs):
        _say("the server kept only a part of this output")
    return "".join(output.stdout for output in outputs)


def _table(state: JobState, asked: str) -> str:
    """Return a line for the job, a row for each execution, and what failed programs said last."""
    job = [state.job_id or asked, state.state, state.status]
    lines = ["  ".join(_one_line(text, _MAX_REASON) for text in job if text)]
    if state.executions:
        lines += _rows(state.executions)
    for execution in state.executions:
        lines += _stderr_tail(execution)
    return "\n".join(lines) + "\n"


def _rows(executions: tuple[ExecutionState, ...]) -> list[str]:
    """Return headings and a row for each execution, in columns that fit their content."""
    table = [["NODE", "SHARD", "STATE", "EXIT", "RESULT", "STATUS"]]
    table += [_cells(execution) for execution in executions]
    if not any(execution.shard_index for execution in executions):
        for row in table:
            del row[1]  # SHARD
    widths = [max(map(len, column)) for column in zip(*table)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]


def _cells(execution: ExecutionState) -> list[str]:
    """Return the cells of an execution's row, in the order of the headings."""
    output = execution.run_output or RunCommandResult()
    cells = [
        execution.node_id,
        str(execution.shard_index),
        execution.state,
        _exit_cell(execution),
        _location(execution.published_results or StorageSpec()),
        execution.status or output.runner_error,
    ]
    return [_one_line(cell) for cell in cells]


def _exit_cell(execution: ExecutionState) -> str:
    """Return the program's exit code, or "" if it has none yet: while it runs, servers say 0."""
    output = execution.run_output
    if output and (output.exit_code != 0 or execution.state == "Completed"):
        return str(output.exit_code)
    return ""


def _location(results: StorageSpec) -> str:
    """Say where the results are, or at least of what kind they are."""
    if results.cid:
        return f"ipfs://{results.cid}"
    if results.s3 and results.s3.bucket:
        return f"s3://{results.s3.bucket}/{results.s3.key}"
    return results.url or results.storage_source


def _stderr_tail(execution: ExecutionState) -> list[str]:
    """Return the end of a failed program's standard error: people look for the reason there."""
    has_failed = execution._program_failed or execution.state in ("Failed", "Error")
    output = execution.run_output or RunCommandResult()
    text = output.stderr.rstrip()
    if not has_failed or not text:
        return []
    heading = f"{_one_line(execution.node_id)}, standard error:"
    tail = [f"  {_one_line(line)}" for line in text.split("\n")[-5:]]
    return [heading, *tail]


def main(argv: list[str] | None = None) -> int:
    """Run the command, as `--help` describes it, and return its exit code.

    Only wrong usage, --help and --version raise SystemExit, as argparse does. The process and its
    streams are left as they are.
    """
    try:
        options = _options(argv)
    except ValueError as error:  # since 3.14 argparse asks standard output if it is a terminal
        _say(f"cannot write to standard output: {error}")
        return 1
    try:
        response = _fetch(options)
    except WaitTimeout as error:
        _say(error.message)
        if error.response is None:
            return 1
        return _print(_format(error.response, options)) or 124
    except SDKError as error:
        _say(error.message)
        return 4 if isinstance(error, JobNotFound) else 1
    except ValueError as error:
        _say(str(error))
        return 2
    went_well = response.state.succeeded or _runs_on(response.state)
    code = 3 if options.wait and not went_well else 0
    # That the answer cannot be printed outweighs what the job did.
    return _print(_format(response, options)) or code


# What concerns the process, and so is not done by `main`, which a host may call.


def _buffer_output() -> None:
    """Give standard output the buffer that Python's -u takes from it.

    Without one, Python drops what a full disk has no room for, and raises nothing.
    """
    raw: Any = getattr(sys.stdout, "buffer", None)
    is_unbuffered = isinstance(raw, io.RawIOBase)  # otherwise it is a BufferedWriter
    if is_unbuffered and not raw.closed:
        buffered: Any = io.BufferedWriter(raw)
        sys.stdout = io.TextIOWrapper(buffered, sys.stdout.encoding, sys.stdout.errors)


def _flush(stream: Any) -> None:
    """Flush a stream. If that fails, let what is left go to the null device.

    Python flushes once more when it ends, and would complain and exit with 120. This is what the
    "Note on SIGPIPE" in the signal module's documentation does.
    """
    if stream is None or stream.closed:
        return
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run_as_program() -> int:
    """Run the command as its own process. An installed console script calls this, too."""
    import signal  # nothing else needs it

    is_ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # in a job in the background
    if sys.platform != "win32" and not is_ignored:
        # Ctrl-C ends the process by its signal, so that a shell's loop around it ends, too.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _buffer_output()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(newline="\n")  # Windows would change what a job's program printed
    try:
        return main()
    except KeyboardInterrupt:  # on Windows, where the signal would end it with another exit code
        return 130
    finally:
        _flush(sys.stdout)
        _flush(sys.stderr)


if __name__ == "__main__":
    sys.exit(_run_as_program())
