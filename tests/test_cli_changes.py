"""The commands that change what is recorded, against a service that the test plays."""

import io
import json
import os
import sys
import threading

import orjson
import pytest
import zmq
from pydantic import BaseModel

from pipeline.cli import main
from pipeline.requests import (
    MAX_PAGE,
    Change,
    FailbackParams,
    FailoverParams,
    FindParams,
    HistoryEntry,
    HistoryParams,
    MirrorParams,
    Pending,
    Restarted,
    RestartParams,
    SetModeParams,
    SubscribeParams,
    UnsubscribeAllParams,
    UnsubscribeParams,
)
from pipeline.role import Lock, endpoint
from pipeline.status import InstrumentPage, InstrumentSubscription
from pipeline.wire import CONTROL_SOCKET

PARAMS: dict[str, type[BaseModel]] = {
    "subscribe": SubscribeParams,
    "unsubscribe": UnsubscribeParams,
    "unsubscribe_all": UnsubscribeAllParams,
    "set_mode": SetModeParams,
    "mirror": MirrorParams,
    "failover": FailoverParams,
    "failback": FailbackParams,
    "restart": RestartParams,
    "history": HistoryParams,
    "find_instruments": FindParams,
}
REFUSED = -32000
WRONG_WORD = "is neither an instrument token, a whole number from 1 to 4294967295, nor a symbol like NSE:INFY\n"


class FakeService:
    """Answers every request with `answer`, and keeps the requests."""

    def __init__(self, context, run_dir):
        self.requests = []
        self.answer = {}
        self._router = context.socket(zmq.ROUTER)
        self._router.bind(endpoint(run_dir, CONTROL_SOCKET))

    def returns(self, result):
        self.answer = {"result": result}

    def refuses(self, message, **details):
        self.answer = {"error": {"code": REFUSED, "message": message, "data": {"kind": "refused"} | details}}

    def serve(self):
        try:
            while True:
                client, request = self._router.recv_multipart()
                asked = orjson.loads(request)
                self.requests.append((asked["method"], PARAMS[asked["method"]].model_validate(asked["params"])))
                response = {"jsonrpc": "2.0", "id": asked["id"], **self.answer}
                self._router.send_multipart([client, orjson.dumps(response)])
        except zmq.ContextTerminated:
            self._router.close(linger=0)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder, and no settings from outside."""
    for name in [name for name in os.environ if name.startswith(("MDS_", "KITE_", "_MDS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def service(folder):
    run_dir = folder / "run"
    run_dir.mkdir()
    lock = Lock(run_dir / "supervisor.lock")
    lock.acquire("hash")
    context = zmq.Context()
    fake = FakeService(context, run_dir)
    thread = threading.Thread(target=fake.serve)
    thread.start()
    yield fake
    context.term()
    thread.join()
    lock.release()


@pytest.fixture
def mds(monkeypatch, capsys):
    """Run a command to its end; returns exit code, stdout, stderr."""

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "argv", ["mds", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)) if isinstance(stdin, bytes) else stdin)
        try:
            main()
        except SystemExit as end:
            return end.code or 0, *capsys.readouterr()
        raise AssertionError("click ends every command with an exit code")

    return run


def a_change(action, *instruments, **fields):
    change = Change(
        action=action, instruments=instruments, **{"requested": len(instruments), "confirmed": True, **fields}
    )
    return change.model_dump()


# Tokens.


@pytest.mark.parametrize(
    "text",
    [
        "408065 738561 5633",
        "408065,738561, 5633,\n",
        "# NSE\n\n408065  # INFY, 1\r\n738561\t5633",
        "[408065, 738561, 5633]",
        "\n [\n408065,\n  738561, 5633\n]\n",
        "\ufeff408065\n738561\n5633",
        "\r408065\r738561\r5633",
    ],
)
def test_tokens_from_a_file_and_from_the_standard_input(folder, service, mds, text):
    """A file and the standard input are read alike, text or a list; a file's name wins over the standard input."""
    service.returns(a_change("subscribe", 408065, 738561, 5633, mode="quote", connections={"1": 3}))
    (folder / "list.txt").write_bytes(text.encode())
    for arguments, stdin in (
        (["subscribe", "--file", "list.txt"], b"1"),
        (["subscribe", "--file", "-"], text.encode()),
        (["subscribe"], text.encode()),
    ):
        assert mds(*arguments, stdin=stdin)[0] == 0
    assert [request.tokens for _, request in service.requests] == [[408065, 738561, 5633]] * 3


def test_arguments_and_file_are_taken_together(folder, service, mds):
    """Arguments come first; repeats are left for the service to count."""
    service.returns(a_change("unsubscribe", 2, 1, 3, connections={"1": 3}))
    (folder / "list.txt").write_text("1 3")
    assert mds("unsubscribe", "2,1", "4", "--file", "list.txt", stdin=b"5")[0] == 0
    assert service.requests[0][1].tokens == [2, 1, 4, 1, 3]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"1\n2 :x3, 4\n", "line 2: ':x3' "),
        (b"a:b:c", "line 1: 'a:b:c' "),
        (b"symbol\nA\n" + b"x" * 65, f"line 3: '{'x' * 40}...' "),
        (b"token\n1\n\nx\n2.0", "line 5: '2.0' "),
        (b"[1, 2.0]", "line 1: '2.0' "),
        (b"[1, 2", "line 1: '[1' "),
        (b"[[1]]", "line 1: '[1]' "),
        (b"1\n0", "line 2: '0' "),
        (b"-1", "line 1: '-1' "),
        (b"1_0", "line 1: '1_0' "),
        (b"4294967296", "line 1: '4294967296' "),
        ("\n\n٤".encode(), "line 3: '٤' "),
        (b"9" * 5000, f"line 1: '{'9' * 40}...' "),
        (b"a\x1b[31m", "line 1: 'a\\x1b[31m' "),
    ],
)
def test_a_wrong_word_is_named(folder, service, mds, content, place):
    """What is no token is one line with file, line and word, exit code 2, and nothing is sent."""
    (folder / "list.txt").write_bytes(content)
    assert mds("subscribe", "7", "--file", "list.txt") == (2, "", f"mds: list.txt, {place}{WRONG_WORD}")
    assert mds("mode", "full", stdin=content) == (2, "", f"mds: standard input, {place}{WRONG_WORD}")
    assert service.requests == []


@pytest.mark.parametrize("word", ["a:", "0", "4294967296", "1.0"])
def test_a_wrong_argument_is_named(service, mds, word):
    assert mds("subscribe", "7", word) == (2, "", f"mds: {word!r} {WRONG_WORD}")
    assert service.requests == []


def test_files_that_cannot_be_read(folder, service, mds):
    """Each is one line that names the file, exit code 2."""
    (folder / "binary").write_bytes(b"\x7fELF\xff\x00")
    (folder / "folder").mkdir()
    for name, words in {
        "none": "No such file or directory",
        "folder": "Is a directory",
        "binary": "not a text file (UTF-8)",
        "/dev/zero": "more than 16 MB, this is no list of instruments",
    }.items():
        assert mds("subscribe", "--file", name) == (2, "", f"mds: {name}: {words}\n")
    assert mds("subscribe", stdin=b"\xff")[2] == "mds: standard input: not a text file (UTF-8)\n"
    assert service.requests == []


def test_no_tokens(folder, service, mds):
    """Without any word it is wrong usage; the three ways are told. A terminal is not read from."""
    ways = "; give tokens or symbols as arguments, with --file FILE, or on the standard input\n"
    (folder / "list.txt").write_text("# nothing\n")
    terminal, line = os.openpty()
    at_terminal = os.fdopen(line)
    for arguments, stdin, where in (
        (["subscribe"], b" \n", " in standard input"),
        (["unsubscribe", "--file", "list.txt"], b"1", " in list.txt"),
        (["mode", "full", ""], b"1", ""),
        (["subscribe"], None, ""),
        (["subscribe"], at_terminal, ""),
    ):
        code, out, error = mds(*arguments, stdin=stdin)
        assert (code, out) == (2, "")
        assert error.startswith(f"Usage: mds {arguments[0]} ")
        assert error.endswith(f"\nError: no instruments{where}{ways}")
    at_terminal.close()
    os.close(terminal)
    assert service.requests == []


# What is asked for.


@pytest.mark.parametrize(
    ("command", "method", "params"),
    [
        ("subscribe 1 2", "subscribe", {"tokens": [1, 2], "mode": "quote", "connection_id": None}),
        ("subscribe 1 --mode FULL --connection 1", "subscribe", {"tokens": [1], "mode": "full", "connection_id": 1}),
        ("unsubscribe 1", "unsubscribe", {"tokens": [1], "ignore_unknown": False}),
        ("unsubscribe 1 --ignore-unknown", "unsubscribe", {"tokens": [1], "ignore_unknown": True}),
        ("unsubscribe --all", "unsubscribe_all", {}),
        ("mode ltp 1", "set_mode", {"tokens": [1], "mode": "ltp", "subscribe_unknown": False}),
        ("mirror on", "mirror", {"on": True}),
        ("mirror off", "mirror", {"on": False}),
        ("failover 2", "failover", {"connection_id": 2}),
        ("failback", "failback", {"connection_id": None}),
        ("failback 1", "failback", {"connection_id": 1}),
    ],
)
def test_each_command_asks_as_the_command_line(service, mds, command, method, params):
    """A command is one request, made by the command line, and with --json its answer is printed as it is."""
    answer = a_change("subscribe", 1, connections={"1": 1})
    service.returns(answer)
    code, out, error = mds(*command.split(), "--json", stdin=b"99")
    assert (code, json.loads(out), error) == (0, answer, "")
    [(asked, request)] = service.requests
    assert (asked, request.model_dump()) == (method, {"by": "cli", **params})


@pytest.mark.parametrize(
    "command",
    [
        "subscribe 1 --mode depth",
        "subscribe 1 --connection 4",
        "subscribe 1 --connection one",
        "subscribe -5",
        "unsubscribe --all 1",
        "unsubscribe --all --file list.txt",
        "mode 1 full",
        "mode",
        "mirror",
        "mirror maybe",
        "failover",
        "failover 3",
        "failback 3",
        "restart",
        "history --limit 0",
        "instruments --mode none",
    ],
)
def test_wrong_usage(service, mds, command):
    """Wrong usage is explained with exit code 2, and nothing is sent."""
    code, out, error = mds(*command.split())
    assert (code, out) == (2, "")
    assert error.startswith(f"Usage: mds {command.split()[0]} ")
    assert service.requests == []


# What is answered.


@pytest.mark.parametrize(
    ("command", "change", "words"),
    [
        (
            "subscribe 1 2",
            a_change("subscribe", 1, 2, connections={"1": 2}),
            "Subscribed 2 instruments in quote mode on connection 1; sent to Kite.",
        ),
        (
            "subscribe 1 --mode full",
            a_change(
                "subscribe", 1, connections={"2": 1}, confirmed=False, pending=[Pending(connection_id=2, reason="down")]
            ),
            (
                "Subscribed 1 instrument in full mode on connection 2.\n"
                "Not yet sent to Kite on connection 2 (down); that follows as soon as it can."
            ),
        ),
        (
            "subscribe 1",
            a_change("subscribe", *range(1, 3002), connections={"2": 1, "1": 3000}, repeats=list(range(1, 8))),
            (
                "Subscribed 3,001 instruments in quote mode on connections 1 (3,000) and 2 (1); sent to Kite.\n"
                "Given more than once, and counted once: 1, 2, 3, 4, 5 and 2 more."
            ),
        ),
        (
            "unsubscribe 1 2 3",
            a_change("unsubscribe", 1, 2, connections={"1": 1, "2": 1}, unknown=[3]),
            (
                "Unsubscribed 2 instruments from connections 1 (1) and 2 (1); sent to Kite.\n"
                "Not subscribed, and passed over: 3."
            ),
        ),
        ("unsubscribe --all", a_change("unsubscribe"), "Nothing was subscribed."),
        (
            "mode full 1 2",
            a_change("set_mode", 1, connections={"2": 1}, mode="full", unchanged=[2]),
            "Changed 1 instrument to full mode on connection 2; sent to Kite.\nWere so already: 2.",
        ),
        ("mode full 1", a_change("set_mode", unchanged=[1]), "Nothing has changed.\nWere so already: 1."),
        (
            "mirror on",
            a_change("mirror", 1, 2, connections={"3": 2}),
            "Connection 3 now records 2 instruments of connection 1 as well; sent to Kite.",
        ),
        (
            "mirror off",
            a_change("mirror", 1, connections={"3": 1}),
            "Connection 3 no longer records 1 instrument of connection 1 as well; sent to Kite.",
        ),
        ("mirror on", a_change("mirror"), "Mirroring is on; no instrument had to change."),
        (
            "failover 1",
            a_change("failover", 1, 2, connections={"3": 2}),
            "Moved 2 instruments of connection 1 to connection 3; sent to Kite.",
        ),
        ("failover 1", a_change("failover"), "Connection 1 is failed over; no instrument had to move."),
        (
            "failback",
            a_change("failback", 1, 2, connections={"1": 1, "2": 1}),
            "Moved 2 instruments back to connections 1 (1) and 2 (1); sent to Kite.",
        ),
        ("failback", a_change("failback"), "No instrument had to move."),
        ("restart worker-1", Restarted(role="worker-1", pid=71).model_dump(), "worker-1 runs anew, as process 71."),
        ("restart writer", Restarted(role="writer", pid=None).model_dump(), "writer is being started again."),
    ],
)
def test_what_was_done_is_told(service, mds, command, change, words):
    """A change is told in a sentence or two, with what is pending and what was passed over."""
    service.returns(change)
    assert mds(*command.split()) == (0, f"{words}\n", "")


@pytest.mark.parametrize(
    "command",
    [
        "subscribe 1",
        "unsubscribe 1",
        "unsubscribe --all",
        "mode full 1",
        "mirror on",
        "failover 1",
        "failback",
        "restart x",
    ],
)
def test_a_refusal(service, mds, command):
    """A refusal is one line on stderr, or with --json one object on stdout with what a program wants; exit code 1."""
    service.refuses("connection 1 has no room", kind="capacity", connection_id=1, requested=2, available=0)
    assert mds(*command.split()) == (1, "", "mds: connection 1 has no room\n")
    code, out, error = mds(*command.split(), "--json")
    assert (code, error) == (1, "")
    assert json.loads(out) == {
        "success": False,
        "error": "connection 1 has no room",
        "kind": "capacity",
        "connection_id": 1,
        "requested": 2,
        "available": 0,
    }


@pytest.mark.parametrize("command", ["subscribe 1", "unsubscribe --all", "mirror on", "restart writer", "history"])
def test_no_service(folder, mds, command):
    """Without a service it is one line on stderr and exit code 1, with --json too."""
    expected = (1, "", f"mds: no service is running in {folder}/run; start one with: mds run\n")
    assert mds(*command.split()) == mds(*command.split(), "--json") == expected


# Looking.


def test_history(service, mds):
    """A line for each change; a refused one has its reason below, uncut."""
    reason = "already subscribed: " + ", ".join(f"{n} (connection 1, quote)" for n in range(1, 9))
    at = "2025-10-01T09:15:23.123456+05:30"
    entries = [
        HistoryEntry(
            timestamp=at, action="unsubscribe", by="universe", instruments=range(3000), mode="quote",
            connections={"1": 1000, "2": 1000, "3": 1000}, result="done"
        ),
        HistoryEntry(timestamp=at, action="set_mode", by="failover", instruments=[1], result="refused", reason=reason),
    ]  # fmt: skip
    service.returns([entry.model_dump() for entry in entries])
    code, out, _ = mds("history", "--limit", "7")
    assert code == 0
    header, done, refused, why = out.splitlines()
    assert header.split() == ["time", "who", "action", "instruments", "mode", "connections", "result"]
    assert done.split() == [
        "2025-10-01",
        "09:15:23",
        "universe",
        "unsubscribe",
        "3,000",
        "quote",
        "1,",
        "2,",
        "3",
        "done",
    ]
    assert refused.split() == ["2025-10-01", "09:15:23", "failover", "set_mode", "1", "-", "-", "refused"]
    assert max(map(len, (header, done, refused))) <= 80
    assert why == f"  {reason}"
    assert json.loads(mds("history", "--json")[1]) == [entry.model_dump() for entry in entries]
    assert [request.limit for _, request in service.requests] == [7, 100]


def test_instruments_can_be_narrowed(service, mds):
    """The service is asked for those that are wanted; `--never` leaves out what has ticked."""
    instruments = [
        InstrumentSubscription(
            instrument_token=token,
            connection_id=1,
            mode="quote",
            mirrored=token == 2,
            subscribed_at="",
            tick_count=count,
            last_price=None,
            last_tick_time=None,
            tick_age_s=None,
        )
        for token, count in ((1, 0), (2, 7))
    ]
    page = InstrumentPage(total=2, offset=0, limit=MAX_PAGE, instruments=instruments)
    service.returns(page.model_dump())
    for arguments, wanted, tokens in (
        ("", {}, [1, 2]),
        ("--mode FULL", {"mode": "full"}, [1, 2]),
        ("--connection 3 --mode ltp", {"mode": "ltp", "connection_id": 3}, [1, 2]),
        ("--stale", {"stale": True}, [1, 2]),
        ("--stale-s 5", {"stale": True, "stale_s": 5.0}, [1, 2]),
        ("--never", {}, [1]),
    ):
        shown = json.loads(mds("instruments", *arguments.split(), "--json")[1])
        assert [instrument["instrument_token"] for instrument in shown] == tokens
        assert service.requests[-1] == ("find_instruments", FindParams(limit=MAX_PAGE, **wanted))
        lines = mds("instruments", *arguments.split())[1].splitlines()
        assert [line.split()[0] for line in lines[1:]] == [str(token) for token in tokens]
    assert "1, 3" in mds("instruments")[1]


# Completion.


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("mds un", ["unsubscribe"]),
        ("mds f", ["failover", "failback", "files"]),
        ("mds subscribe --mode ", ["ltp", "quote", "full"]),
        ("mds subscribe --connection ", ["1", "2", "3"]),
        ("mds instruments --mode Q", ["quote"]),
        ("mds mode f", ["full"]),
        ("mds mirror o", ["on", "off"]),
        ("mds failover ", ["1", "2"]),
        ("mds restart w", ["writer", "worker-1", "worker-2", "worker-3"]),
        ("mds unsubscribe --a", ["--all"]),
    ],
)
def test_completion(mds, monkeypatch, words, offered):
    """The shell is offered commands, options and what they take."""
    monkeypatch.setenv("_MDS_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    code, out, _ = mds()
    assert code == 0
    assert [line.partition(",")[2] for line in out.splitlines()] == offered


def test_completing_a_command_imports_none(mds, monkeypatch):
    """Commands are imported when they are called, not when their names are listed."""
    for name in [name for name in sys.modules if name.startswith("pipeline.cli.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("_MDS_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "mds ")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert len(mds()[1].splitlines()) > 10
    assert not any(name.startswith("pipeline.cli.") for name in sys.modules)
