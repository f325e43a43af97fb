"""The first morning, and the evening when the token dies: what a user types, against the simulator's REST and feed."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pexpect
import pytest

from pipeline import Client, iter_ticks
from pipeline.errors import MdsError
from tests.integration.service import CLEAN, DEADLINE_S, MDS, until

API_KEY, API_SECRET = "first-morning-key", "first-morning-secret"
SYMBOLS = {"NSE:INFY": 408065, "NSE:RELIANCE": 738561, "NSE:NIFTY 50": 256265}


class Shell:
    """A user's terminal, in a folder of its own, with the simulator in Kite's place."""

    def __init__(self, folder: Path, urls: dict[str, str]) -> None:
        self.folder = folder
        self.running: list[pexpect.spawn] = []
        self.typed = (folder.parent / "typed.log").open("w")
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith(("MDS_", "KITE_"))} | {
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "MDS_HTTP__LISTEN": "",
            "MDS_MARKET__CALENDAR": "",
            "COLUMNS": "200",
            **urls,
        }

    def type(self, *command: str) -> "pexpect.spawn[str]":
        """Start `mds ...` on a terminal."""
        child = pexpect.spawn(
            str(MDS), list(command), cwd=self.folder, env=self._environment, timeout=DEADLINE_S, encoding="utf-8"
        )
        child.logfile_read = self.typed
        self.running.append(child)
        return child

    def say(self, *command: str, code: int = 0) -> str:
        """Return what `mds ...` prints on a terminal."""
        child = self.type(*command)
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == code, child.before
        return str(child.before)

    def client(self) -> Client:
        return Client(self.folder / "run", timeout_s=2)

    def states(self) -> list[str]:
        """Return the state of each connection that has instruments; none where nobody answers."""
        try:
            with self.client() as client:
                return [c.state for c in client.connections().values() if c.subscribed_instruments]
        except MdsError:
            return []

    def is_live(self) -> bool:
        """Tell whether all that has instruments is connected."""
        return set(self.states()) == {"live"}

    def wait_for_ticks(self, *tokens: int) -> None:
        """Wait until each of these has ticked once more."""
        with self.client() as client:
            before = {token: client.instrument(token).tick_count for token in tokens}
            until(lambda: all(client.instrument(t).tick_count > n for t, n in before.items()), "ticks of all of them")


@pytest.fixture
def urls() -> Iterator[dict[str, str]]:
    """Where the simulator is."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MDS_", "KITE_"))}
    command = [str(MDS), "simulate", "--port", "0", "--rate", "200"]
    with subprocess.Popen(
        command, env=environment | {"KITE_API_SECRET": API_SECRET}, stdout=subprocess.PIPE, text=True
    ) as simulator:
        assert simulator.stdout
        feed, rest = (simulator.stdout.readline().split()[-1] for _ in range(2))
        yield {"MDS_KITE__WS_URL": feed, "MDS_KITE__API_URL": rest, "MDS_KITE__LOGIN_URL": f"{rest}/connect/login"}
        simulator.send_signal(signal.SIGTERM)


@pytest.fixture
def shell(tmp_path: Path, urls: dict[str, str]) -> Iterator[Shell]:
    """A terminal; what it has started is ended."""
    folder = tmp_path / "home"
    folder.mkdir()
    terminal = Shell(folder, urls)
    yield terminal
    terminal.say("stop", code=0 if terminal.is_live() else 1)
    for child in terminal.running:
        child.close(force=True)
    terminal.typed.close()


def ask(url: str) -> HTTPResponse:
    """Ask the simulator as a browser does, and return what it answers."""
    parts = urlsplit(url)
    assert parts.hostname
    with closing(HTTPConnection(parts.hostname, parts.port, timeout=DEADLINE_S)) as connection:
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        answer.read()
        return answer


def log_in(shell: Shell, *, first: bool) -> list[str]:
    """Type what a login asks for; return what nobody may see afterwards."""
    login = shell.type("login")
    if first:
        login.expect("API key")
        login.sendline(API_KEY)
    login.expect("(?i)api secret")
    login.sendline(API_SECRET)
    login.expect(r"(http://\S+/connect/login\S+)")
    assert login.match
    page = ask(login.match[1])
    address = page.headers["Location"]
    assert (page.status, bool(address)) == (302, True)
    login.sendline(address)
    login.expect("AB1234")
    login.expect(pexpect.EOF)
    login.close()
    assert login.exitstatus == 0
    stored = (shell.folder / "config" / "mds" / "access_token.json").read_text()
    (access_token,) = re.findall(r'"access_token":\s*"([^"]+)"', stored)
    return [API_SECRET, access_token, *parse_qs(urlsplit(address).query)["request_token"]]


def test_from_nothing_to_recording_with_symbols_and_over_an_evening(shell: Shell, urls: dict[str, str]) -> None:
    """Settings, login, recording by symbol; the token dies, which is said with its cure; a login, and it goes on."""
    init = shell.type("init")
    init.expect("Folder")
    init.sendline("")
    init.expect("Instruments")
    init.sendline("NSE:INFY, NSE:NIFTY 50")
    init.expect("In full mode")
    init.sendline("")
    init.expect("y/N")
    init.sendline("n")
    init.expect("mds login")
    init.expect(pexpect.EOF)
    secrets = log_in(shell, first=True)

    run = shell.type("run")
    until(shell.is_live, "recording")
    assert "NSE:RELIANCE" in shell.say("instruments", "find", "reliance", "--exchange", "NSE", "--type", "EQ")
    assert "Subscribed 1 instrument in full mode" in shell.say("subscribe", "NSE:RELIANCE", "--mode", "full")
    refusal = shell.say("subscribe", "NSE:INFI", code=1)
    assert "NSE:INFY" in refusal
    shell.wait_for_ticks(*SYMBOLS.values())
    table = shell.say("instruments")
    assert all(symbol in table for symbol in SYMBOLS)
    assert "healthy" in shell.say("health")

    assert ask(f"{urls['MDS_KITE__API_URL']}/expire").status == 200
    assert ask(f"{urls['MDS_KITE__API_URL']}/fault?do=abort").status == 200
    until(lambda: set(shell.states()) == {"unauthorised"}, "the token is refused")
    assert "mds login" in shell.say("health", code=1)
    secrets += log_in(shell, first=False)
    until(shell.is_live, "recording again")
    shell.wait_for_ticks(*SYMBOLS.values())
    shell.say("stop")
    run.expect(pexpect.EOF)

    printed = shell.say("verify", "--json")
    found = json.loads(printed[printed.index("{") :])  # behind the progress that a terminal is shown
    assert {name: found[name] for name in CLEAN if name != "gaps"} == {n: 0 for n in CLEAN if n != "gaps"}
    (day,) = sorted((shell.folder / "market_data").glob("market_data_*.jsonl"))
    assert {tick["symbol"] for tick in iter_ticks(day, symbols=True)} == set(SYMBOLS)
    assert list((shell.folder / "market_data").glob("instruments_*.csv.zst"))
    shell.typed.flush()
    token_file = shell.folder / "config" / "mds" / "access_token.json"
    told = {path: path.read_bytes() for path in shell.folder.parent.rglob("*") if path.is_file() and path != token_file}
    assert len(told) > 10
    assert [(path, secret) for path, text in told.items() for secret in secrets if secret.encode() in text] == []
    assert [path for path, text in told.items() if API_KEY.encode() in text] == [shell.folder.parent / "typed.log"]
