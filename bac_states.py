# SPDX-License-Identifier: MIT-0
# One file, standard library only: copy it into your project, no notice needed.
"""The state of a Bacalhau job, from every server release from v0.2.0 to v1.9.3.

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

TYPE_CHECKING = False  # mypy takes it for true; importing `typing` costs 5 % of a short run
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    _Plan = dict[str, tuple[str, Any, Any]]

__all__ = [
    "BadRequest",
    "DecodeError",
    "ExecutionState",
    "InternalServerError",
    "JobNotFound",
    "JobState",
    "NodeState",
    "RunCommandResult",
    "S3StorageSpec",
    "SDKError",
    "StateRequest",
    "StateResponse",
    "StorageSpec",
    "TransportError",
    "TransportTimeout",
    "VerificationResult",
    "WaitTimeout",
    "decode",
    "get",
    "main",
    "wait",
]
__version__ = "1.0.0"

_MAX_ANSWER = 16 * 1024 * 1024  # bytes; a real answer of 10,000 executions has 6 MB
_MAX_EXCERPT = 8 * 1024  # bytes of an error answer that are read and kept
_MAX_MESSAGE = 400  # characters of str(error)
_MAX_PART = 200  # characters of a cell, or of one part of a message

_ENDED_JOB = {"Completed", "CompletedPartially", "Cancelled", "Error", "PartialError"}
_ENDED_EXECUTION = {"Completed", "Failed", "Cancelled", "Error"}
_ENDED_EXECUTION |= {"AskForBidRejected", "BidRejected", "ResultRejected"}


def _line(text: str, limit: int = _MAX_PART) -> str:
    """One line that is safe on a terminal: what does not print is escaped, a long tail is cut."""
    text = text[: limit + 1]
    if not text.isprintable():  # controls, bidi, separators, surrogates
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


# ---------------------------------------------------------------------------------------- errors


class SDKError(Exception):
    """The base of all errors, and itself an answer with a status that has no class of its own.

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
        self.message = _line(re.sub(r"//[^/\s]*@", "//", message), _MAX_MESSAGE)
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
    """Where the results are. `storage_source` is IPFS, S3, ..., in lower case from v1.0.4."""

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
    """What the job's program left. A job can be Completed with any exit code, -1 included."""

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
    create_time: str = ""
    update_time: str = ""

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
    create_time: str = ""
    update_time: str = ""
    timeout_at: str = ""

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
    """An answer. `server_version` is "" up to v1.2.0; `raw` is the document as received."""

    state: JobState = JobState()
    server_version: str = ""
    raw: Any = dataclasses.field(default=None, compare=False, repr=False)
