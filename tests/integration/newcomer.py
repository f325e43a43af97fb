"""A newcomer who types what a text says: on a machine of its own, with the simulator in Kite's place.

A terminal has the simulator, one the recorder, and in a third commands are typed. Each of the verbs takes a command as
the text has it, does what a user does with such a command, and fails where it does not do what is expected of it.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import duckdb
import pexpect
import pytest

from pipeline.store.files import date_of
from tests.integration.documented import Command, is_shown, words
from tests.integration.machine import PATH, Machine
from tests.integration.service import until
from tests.integration.terminal import Terminal

HOME = "/home/you"  # as in the README's examples
PROJECT = f"{HOME}/market-data-service"
KEY, SECRET = "newcomers-key", "newcomers-secret"
# The browser that everybody has, and the curl that many have: both ask, and follow where they are sent.
STAND_INS = ("browser", "curl")
STAND_IN = """#!/usr/bin/python3
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1]).read().decode())
"""
SHOW = "print(tick)"  # what a reader might do in a loop
# Where a login page sends the browser on to, as its address bar has it.
ADDRESS = """
import sys, urllib.parse, http.client
url = urllib.parse.urlsplit(sys.argv[1])
page = http.client.HTTPConnection(url.netloc)
page.request("GET", f"{url.path}?{url.query}")
print(page.getresponse().headers["Location"])
"""


class Newcomer:
    """Somebody with the project's folder on a machine with Python; `settings` are of the environment."""

    def __init__(self, machine: Machine, settings: Mapping[str, str]) -> None:
        self.machine = machine
        path = f"{PROJECT}/.venv/bin:{PATH}"
        env = {"HOME": HOME, "USER": "you", "PATH": path, "BROWSER": "browser %s &", **settings}
        self.in_project = Terminal(machine, PROJECT, "you", env)
        self.rehearsal = self.in_project.beside(f"{HOME}/rehearsal")
        self.simulator: pexpect.spawn[str] | None = None
        self.recorder: pexpect.spawn[str] | None = None
        self._is_up = False
        self._settings = ""  # of the rehearsal
        self._is_fresh = False  # whether the next recorder begins with the settings alone

    def arrives(self, project: Path) -> None:
        """Make the user, and put the project's files into the home folder as a checkout has them."""
        made = self.machine.run("useradd", "--create-home", "you")
        assert made.returncode == 0, made.stderr
        shutil.copytree(project, self.in_project.path, ignore=_what_git_ignores(project))
        self.rehearsal.path.mkdir()
        for name in STAND_INS:
            stand_in = self.machine.root / "usr/local/bin" / name
            stand_in.write_text(STAND_IN)
            stand_in.chmod(0o755)
        self.machine.run("chown", "-R", "you:you", HOME)

    def leaves_the_network(self) -> None:
        """Have the machine booted, with a network of its own: the ports that the text names are free on it."""
        if not self._is_up:
            self.machine.boot()
            self._is_up = True

    # In the project's folder.

    def installs(self, command: Command) -> None:
        """Type what takes packages from the network."""
        self.tries(command)

    def tries(self, command: Command) -> None:
        """Type what ends by itself, where it was installed."""
        printed = self.in_project.done(command.line)
        assert is_shown(command.shown, printed), f"$ {command.line}\n{printed}"

    def looks_at(self, command: Command) -> None:
        """See what `make` would do, and that it knows how."""
        self.in_project.done(f"{command.line} --dry-run")

    def finds_files(self, command: Command) -> None:
        """See that the files that a command of an operator names are there; it needs more than Python to be run."""
        named = [word for word in words(command) if word.startswith("deploy/")]
        assert [name for name in named if not (self.in_project.path / name).exists()] == []

    # In the folder of the rehearsal.

    def types(self, command: Command) -> None:
        """Type a command that ends by itself, and well, while it records."""
        self.has_recorder()
        printed = self.rehearsal.done(command.line)
        assert is_shown(command.shown, printed), f"$ {command.line}\n{printed}"

    def watches(self, command: Command) -> None:
        """Start what goes on until Ctrl-C, see that something comes, end it."""
        self.has_recorder()
        child = self.rehearsal.start(command.line)
        child.expect(r"\d\d:\d\d:\d\d")
        child.sendintr()
        child.expect(pexpect.EOF)

    def watches_a_window(self, command: Command) -> None:
        """See in a window of its own how it is, and close it."""
        self.has_recorder()
        child = self.rehearsal.start(command.line)
        child.expect("healthy")
        child.send("q")
        _ends(child)

    def records(self, command: Command) -> None:
        """Record from now on, in a terminal of its own."""
        self.has_no_recorder()
        self._record(command.line)

    def stops(self, command: Command) -> None:
        """End the recorder from elsewhere."""
        self.has_recorder()
        assert self.recorder
        self.rehearsal.done(command.line)
        self.recorder.expect(r"received [\d,]+ ticks")
        _ends(self.recorder)

    def simulates(self, command: Command) -> None:
        """Start the simulator, which goes on in a terminal of its own to the end."""
        if self.simulator is None:
            self.simulator = self.rehearsal.start(command.line)
            self.simulator.expect("REST API at")

    def answers_questions(self, command: Command) -> None:
        """Have settings made in a folder where there are none."""
        other = self.rehearsal.beside(f"{HOME}/first-settings")
        other.path.mkdir()
        self.machine.run("chown", "you:you", other.folder)
        child = other.start(command.line)
        for question, answer in (("Folder", ""), ("Instruments", "NSE:INFY"), ("In full mode", ""), ("y/N", "n")):
            child.expect(question)
            child.sendline(answer)
        child.expect("mds login")
        _ends(child)
        assert 'primary = ["NSE:INFY"]' in (other.path / "mds.toml").read_text()

    def logs_in(self, command: Command) -> None:
        """Log in as the command asks for: the browser answers it, or the address at which it ends is pasted."""
        child = self.rehearsal.start(command.line)
        while asked := child.expect(["Logged in as", "API key.*: ", "API secret.*: ", "URL after logging in.*: "]):
            child.sendline((KEY, SECRET, "")[asked - 1] or self._address_after(child.before or ""))
        _ends(child)

    def _address_after(self, told: str) -> str:
        """Return what a browser's address bar has in the end where it is opened at the address that was told."""
        (url,) = re.findall(r"http://\S+", told)
        return self.rehearsal.done(f"python -c '{ADDRESS}' '{url}'").strip()

    def hands_over(self, command: Command) -> None:
        """Give a token that was got elsewhere: the same that is good now."""
        self.rehearsal.done(command.line, given=f"{self._token()}\n")

    def completes(self, command: Command) -> None:
        """See that a shell takes what completes commands; of one that is not here, that there is something to take."""
        (shell,) = re.findall(r"_MDS_COMPLETE=([a-z]+)_source", command.line)
        if shell == "bash":
            assert " mds" in self.rehearsal.done(f"{command.line}\ncomplete -p mds")
            return
        script = self.rehearsal.done(f"_MDS_COMPLETE={shell}_source mds")
        assert "_MDS_COMPLETE" in script
        if shutil.which(shell):
            subprocess.run([shell, "-n"], input=script, check=True, text=True)

    # Blocks that are no commands.

    def sets(self, text: str) -> None:
        """Write the settings of the rehearsal; later ones are taken beside them for one recording, from afresh."""
        file = self.rehearsal.path / "mds.toml"
        if not self._settings:
            self._settings = text
            file.write_text(text)
            return
        self.has_no_recorder()
        file.write_text(f"{self._settings}\n{text}")
        try:
            self._record("mds run --fresh")
            self.has_no_recorder()
        finally:
            file.write_text(self._settings)
            self._is_fresh = True

    def runs(self, text: str) -> None:
        """Run a program of the user's own; one that follows what comes, and so has no end, is ended by Ctrl-C."""
        has_no_end = "in follow(" in text
        if has_no_end:
            self.has_recorder()
        else:
            self.has_no_recorder()
        for placeholder, value in (('"api key"', f'"{KEY}"'), ('"access token"', f'"{self._token()}"'), ("...", SHOW)):
            text = text.replace(placeholder, value)
        (self.rehearsal.path / "program.py").write_text(text)
        child = self.rehearsal.start("python program.py")
        if has_no_end:
            newest = max((self.rehearsal.path / "market_data").glob("market_data_*.jsonl"))
            child.expect(f"'timestamp': '{date_of(newest)}T")
            child.sendintr()
            child.expect("KeyboardInterrupt")
        else:
            _ends(child)

    def queries(self, text: str) -> None:
        """Ask DuckDB, where it reads the files."""
        with duckdb.connect() as database:
            database.execute(f"SET file_search_path = '{self.rehearsal.path}'")
            assert database.execute(text).fetchall()

    def compares(self, text: str) -> None:
        """Look at a tick as it is stored: it has the fields that are shown, in their order; numbers aside."""
        self.has_recorder()
        self.rehearsal.done("mds subscribe NSE:INFY")
        first = "head -qn 1 market_data/market_data_*.jsonl"
        until(lambda: "}\n" in self.rehearsal.run(first).stdout, "a tick is stored")
        assert [*json.loads(self.rehearsal.done(first))] == [*json.loads(text)]

    def scrapes(self, text: str) -> None:
        """See that Prometheus takes the settings."""
        if shutil.which("promtool") is None:
            pytest.skip("not installed: promtool, of the Debian package prometheus")
        file = self.rehearsal.path / "prometheus.yml"
        file.write_text(text)
        subprocess.run(["promtool", "check", "config", str(file)], check=True, capture_output=True)

    # What it stands on.

    def _token(self) -> str:
        stored = json.loads((self.rehearsal.path / "access_token.json").read_text())
        return str(stored["access_token"])

    def has_recorder(self) -> None:
        """Have a recorder in its terminal, with all that it needs."""
        if self.recorder is None or not self.recorder.isalive():
            self._record("mds run --fresh" if self._is_fresh else "mds run")
            self._is_fresh = False

    def has_no_recorder(self) -> None:
        """Have it ended by Ctrl-C."""
        if self.recorder is not None and self.recorder.isalive():
            self.recorder.sendintr()
            self.recorder.expect(r"received [\d,]+ ticks")
            _ends(self.recorder)
        self.recorder = None

    def _record(self, line: str) -> None:
        self.recorder = self.rehearsal.start(line)
        until(self._is_recording, "it records")

    def _is_recording(self) -> bool:
        assert self.recorder
        assert self.recorder.isalive(), self.recorder.read()
        return self.rehearsal.run("mds health").returncode == 0


def _what_git_ignores(project: Path) -> Callable[[str, list[str]], set[str]]:
    """Return what copies no file that .gitignore names: at the top where a name begins with a slash, else anywhere."""
    names = (project / ".gitignore").read_text().split()
    anywhere = shutil.ignore_patterns(".git", *(name.rstrip("/") for name in names if not name.startswith("/")))
    at_top = shutil.ignore_patterns(*(name.strip("/") for name in names if name.startswith("/")))

    def ignored(folder: str, found: list[str]) -> set[str]:
        return anywhere(folder, found) | (at_top(folder, found) if Path(folder) == project else set())

    return ignored


def _ends(child: "pexpect.spawn[str]") -> None:
    """Wait for the end of what was started; it is to be a good one."""
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, child.before
