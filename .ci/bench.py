"""Prints what bac_states.py costs, on the Pythons that .ci/run finds; asserts nothing.

    .ci/bench.py [MINOR ...]        as 3.7 3.13; all of them, if none is named

CPU time. Contenders take turns, and the minimum of each one's rounds counts: what is above it is
the machine's. The server is a process of its own, so that its work is charged to nobody.
"""

import functools
import gc
import http.server
import json
import os
import re
import resource
import shutil
import ssl
import subprocess
import sys
import tempfile
import time

ROUNDS = 15
JOB = "dbc01352-37d8-4982-921e-1547b6dad98f"

# As v1.0.3 and v1.9.3 write them, without these line breaks; # makes each execution another one.
STATE = '{"state":{"JobID":"%s","Executions":[%s],"State":"Completed","Version":5}}'
EXECUTION = """{"JobID":"%s","NodeId":"QmSVpNKv8dMVps5m9TUqRgwrKVTys5AGejcwwVb#",
"ComputeReference":"e-40968a8b-54bd-42ee-88bf-c055#","State":"Completed",
"AcceptedAskForBid":true,"VerificationResult":{"Complete":true,"Result":true},
"PublishedResults":{"StorageSource":"IPFS",
"Name":"ipfs://QmUvpmbckA5RBbKxoX7BsGp8zSP6VpdWGo5Rbnt#",
"CID":"QmUvpmbckA5RBbKxoX7BsGp8zSP6VpdWGo5Rbnt#"},"RunOutput":{"stdout":"started #\\n",
"stdouttruncated":false,"stderr":"","stderrtruncated":false,"exitCode":-1,"runnerError":""},
"Version":6,"CreateTime":"2026-11-23T18:45:02.9#Z","UpdateTime":"2026-11-23T18:45:03.9#Z"}"""
NEWER_STATE = """{"Job":{"ID":"%s","State":{"StateType":"Completed"},"Revision":3},
"Executions":{"NextToken":"","Items":[%s]}}"""
NEWER_EXECUTION = """{"ID":"e-54cd5a15-af69-4ebb-af31-8318#","Namespace":"default",
"EvalID":"be6982ce-7e9d-4d2e-9f0d-3d350914d9aa","Name":"",
"NodeID":"n-b2c7ed29-4d34-47da-8b9a-3ce5#","JobID":"%s","JobVersion":1,
"AllocatedResources":{"Tasks":{}},"DesiredState":{"StateType":2,"Message":"execution completed"},
"ComputeState":{"StateType":9,"Message":"Running"},"PublishedResult":{"Type":""},
"RunOutput":{"Stdout":"slept #\\n","StdoutTruncated":false,"stderr":"","StderrTruncated":false,
"ExitCode":-1,"ErrorMsg":""},"PreviousExecution":"","NextExecution":"","FollowupEvalID":"",
"Revision":4,"CreateTime":17954573254#1,"ModifyTime":17954573335#1}"""

BARE = """import json, sys, urllib.request
def ask(url, job_id):
    body = json.dumps({"client_id": "", "job_id": job_id}).encode()
    sent = {"Content-Type": "application/json"}
    request = urllib.request.Request(url + "/requester/states", body, sent)
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.loads(response.read())
if __name__ == "__main__":
    print(ask(sys.argv[1], sys.argv[2]))
"""
# The same ingredients as bac_states: these modules, nine frozen dataclasses, and argparse when run.
FLOOR = "from __future__ import annotations\nimport dataclasses\n"
for name, fields in zip("ABCDEFGHI", (2, 2, 6, 10, 6, 15, 1, 9, 3)):
    FLOOR += f"@dataclasses.dataclass(frozen=True)\nclass {name}:\n"
    FLOOR += "".join(f'    field{number}: str = ""\n' for number in range(fields))
FLOOR += BARE + "    import argparse\n"


def document(state, execution, count):
    one = execution.replace("\n", "") % JOB
    executions = ",".join(one.replace("#", f"{number:08}") for number in range(1, count + 1))
    return (state.replace("\n", "") % (JOB, executions)).encode()


class Answer(http.server.BaseHTTPRequestHandler):
    wbufsize = -1  # head and body leave together
    body = document(STATE, EXECUTION, 3)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_):
        pass


def serve():
    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


def ran(*arguments):
    """The seconds of a Python with these arguments, its start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def imported(name):
    """The seconds of an import alone, in a fresh Python."""
    code = f"import time; t = time.process_time(); import {name}; print(time.process_time() - t)"
    return float(subprocess.check_output([sys.executable, "-c", code]))


def called(call, times=1):
    """The seconds of a call here, without what freeing its result takes."""
    gc.collect()
    start = time.process_time()
    for _ in range(times):
        result = call()
    seconds = (time.process_time() - start) / times
    del result
    return seconds


def best(measure, *contenders):
    """The least that each contender took. One more round, the first, fills the caches."""
    rounds = [[measure(*contender) for contender in contenders] for _ in range(ROUNDS + 1)]
    return [min(column) for column in zip(*rounds[1:])]


def contexts(bac_states, url):
    """How often a wait asks a server that speaks no TLS by https, and the TLS contexts made."""
    asked, made = [], []
    new, sleep = ssl.SSLContext.__new__, time.sleep
    ssl.SSLContext.__new__ = lambda *args, **options: made.append(1) or new(*args, **options)
    time.sleep = asked.append
    try:
        bac_states.wait(JOB, server_url=url.replace("http:", "https:"))
    except bac_states.TransportError:
        asked.append("for the last time")
    finally:
        ssl.SSLContext.__new__, time.sleep = new, sleep
    return len(asked), len(made)


def measured(url):
    """The column of this Python, measured in a folder with copies of all that it runs."""
    import bac_states

    ours, theirs = (JOB, "--server", url), (url, JOB)
    # By -m, all run from cached bytecode. A script is compiled at each start: that is its size.
    names = ("bac_states", *ours), ("floor", *theirs), ("bare", *theirs)
    command, floor, bare = best(ran, *(("-m", *name) for name in names))
    yield "command by -m, over its floor; goal 1.10", command / floor
    yield "  over the bare script, without dataclasses and argparse", command / bare
    command, floor = best(ran, ("bac_states.py", *ours), ("floor.py", *theirs))
    yield "  as a script, over its floor as a script", command / floor
    command, floor = best(imported, ["bac_states"], ["floor"])
    yield "import, over its floor; goal 1.10", command / floor

    eras = ("v1.0.3", STATE, EXECUTION), ("v1.9.3", NEWER_STATE, NEWER_EXECUTION)
    for version, state, execution in eras:
        body = document(state, execution, 10000)
        decode = functools.partial(bac_states.decode, body, server_version=version)
        whole, loads = best(called, [decode], [functools.partial(json.loads, body)])
        what = f"{len(body) / 1e6:.1f} MB of {version}"
        yield f"decode {what}, on top of json.loads; goal 2.80 (3.7: 3.00)", whole / loads - 1

    import bare as naive

    get = functools.partial(bac_states.get, JOB, server_url=url)
    ask = functools.partial(naive.ask, url, JOB)
    whole, naive_call = best(called, (get, 20), (ask, 20))
    yield "one call, ms on top of urlopen; goal 0.30", (whole - naive_call) * 1e3
    asked, made = contexts(bac_states, url)
    yield f"TLS contexts of a wait that asks {asked} times; goal 1", made


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    listed = subprocess.check_output(["bash", os.path.join(here, "run"), "--list"]).decode()
    pythons = dict(line.split(" ", 1) for line in listed.splitlines())
    columns = {minor: {} for minor in sys.argv[1:] or pythons}
    # Without proxies, and without PYTHONDONTWRITEBYTECODE.
    plain = {k: v for k, v in os.environ.items() if not re.search("_proxy$|^python", k, re.I)}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("bench.py", "../bac_states.py"):
            shutil.copy(os.path.join(here, name), folder)
        for name, text in (("bare.py", BARE), ("floor.py", FLOOR)):
            with open(os.path.join(folder, name), "w") as file:
                file.write(text)
        with subprocess.Popen(
            [sys.executable, __file__, "serve"], stdout=subprocess.PIPE
        ) as server:
            try:
                url = server.stdout.readline().decode().strip()
                for minor, column in columns.items():
                    command = [pythons[minor], "bench.py", "measure", url]
                    column.update(
                        json.loads(subprocess.check_output(command, cwd=folder, env=plain))
                    )
            finally:
                server.terminate()
    print(f"{'':65}", *(f"{minor:>6}" for minor in columns))
    for label in next(iter(columns.values())):
        print(f"{label:65}", *(f"{column[label]:6.2f}" for column in columns.values()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve()
    elif sys.argv[1:2] == ["measure"]:
        print(json.dumps(dict(measured(sys.argv[2]))))
    else:
        main()
