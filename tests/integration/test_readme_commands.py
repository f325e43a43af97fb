"""README.md as a newcomer uses it: on a fresh machine with only Python, what it says can be typed is typed.

It is one story, in the README's order, but that Kite is played by the simulator, as "Rehearse it without an account"
has it: so this comes before the first morning. COMMANDS and BLOCKS say what is done with each; the first pattern that
fits counts. What fits none fails, and so does what does not do what is expected of it, or prints something else than is
shown.
"""

import csv
import io
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import click
import pytest
import zstandard

from pipeline.cli import cli
from tests.integration import machine
from tests.integration.documented import Command, blocks, filled, quoted, typed
from tests.integration.newcomer import Newcomer
from tests.recorded import market_ticks, record

pytestmark = [
    pytest.mark.skipif(bool(machine.why_not()), reason=machine.why_not()),
    pytest.mark.timeout(600),  # of the first, which makes the machine and installs
]

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PLAYED_FIRST = ("Try it", "Rehearse it without an account")  # headings
DAYS = ("2025-10-01", "2025-10-02")  # those of the examples
TIMEZONE = ZoneInfo("Asia/Kolkata")
LIST = ("nifty500.csv", 500)  # a file of the user's own, and how many shares it names
TAKEN = {"INFY", "RELIANCE", "TCS"}  # which are not among these

EXPIRY = "mds instruments find nifty --type FUT | grep -oEm 1 '[0-9]{4}-[0-9]{2}-[0-9]{2}'"

# What stands for something else, and commands that are named without what they need.
VALUES = {
    "TEXT": "nifty",
    "TOKEN": "408065",
    "N": "1",
    "ROLE": "worker-1",
    "DATE": DAYS[0],
    "YYYY-MM-DD": datetime.now(TIMEZONE).date().isoformat(),
    "FILE": "market_data/market_data_*.jsonl",
}
EXAMPLES = {
    "mds subscribe": "mds subscribe NSE:TCS",
    "mds mode": "mds mode ltp NSE:INFY",
    "mds unsubscribe": "mds unsubscribe NSE:TCS",
    "mds mirror": "mds mirror on",
    "mds failover": "mds failover 1",
    "mds restart": "mds restart writer",
    "mds instruments find nifty --exchange": "mds instruments find nifty --exchange NFO",
    "mds instruments find nifty --type": "mds instruments find nifty --type CE",
    "mds instruments find nifty --expiry": f"mds instruments find nifty --expiry $({EXPIRY})",
    "mds report --html market_data/market_data_*.jsonl": "mds report --html report.html",
    "mds files info market_data/market_data_*.jsonl": f"mds files info market_data_{DAYS[0]}.jsonl",
}

COMMANDS: list[tuple[str, Callable[[Newcomer, Command], None]]] = [
    ("make demo|.*pip install .*|python3 -m venv .*", Newcomer.installs),
    (r"\.venv/bin/mds .*|\. \.venv/bin/activate", Newcomer.tries),
    ("make test", Newcomer.looks_at),  # it would run this test
    ("make drills", Newcomer.looks_at),  # twenty minutes
    ("(sudo|docker|systemctl|journalctl|deploy/.*) .*", Newcomer.finds_files),  # those of deploy/ have other tests
    (r".*\b_MDS_COMPLETE=.*", Newcomer.completes),
    ("mds init", Newcomer.answers_questions),
    ("mds login.*", Newcomer.logs_in),
    ("mds token set", Newcomer.hands_over),
    ("mds simulate", Newcomer.simulates),
    ("mds run( --fresh)?", Newcomer.records),
    ("mds stop", Newcomer.stops),
    ("mds top", Newcomer.watches_a_window),
    ("mds (top --for|tail|events --follow).*", Newcomer.watches),
    ("(mds|curl) .*", Newcomer.types),
]
BLOCKS: dict[str, Callable[[Newcomer, str], None]] = {
    "toml": Newcomer.sets,
    "python": Newcomer.runs,
    "sql": Newcomer.queries,
    "json": Newcomer.compares,
    "yaml": Newcomer.scrapes,
}


def recorded_long_ago(newcomer: Newcomer) -> None:
    """Have the days of the examples among those that are recorded, with a list of instruments."""
    folder = newcomer.rehearsal.path / "market_data"
    (listed, *_) = sorted(folder.glob("instruments_*.zst"), reverse=True)
    for day in DAYS:
        if not [*folder.glob(f"market_data_{day}.*"), *folder.glob(f"parquet/*{day}/*")]:
            start = datetime.fromisoformat(f"{day}T09:15:00+05:30")
            record(folder, market_ticks(start, instruments=30, rounds=20, every=timedelta(seconds=30)))
            (folder / f"instruments_{day}.csv").unlink()
            shutil.copy(listed, folder / f"instruments_{day}.csv.zst")


def has_a_list(newcomer: Newcomer) -> None:
    """Have a list of shares, as the exchange offers it."""
    name, wanted = LIST
    (packed, *_) = sorted((newcomer.rehearsal.path / "market_data").glob("instruments_*.zst"), reverse=True)
    rows = csv.DictReader(io.StringIO(zstandard.ZstdDecompressor().stream_reader(packed.open("rb")).read().decode()))
    shares = [row for row in rows if (row["segment"], row["instrument_type"]) == ("NSE", "EQ")]
    names = [row["tradingsymbol"] for row in shares if row["tradingsymbol"] not in TAKEN][:wanted]
    lines = ["Company Name,Industry,Symbol,Series,ISIN Code", *(f"{name},,{name},EQ," for name in names)]
    (newcomer.rehearsal.path / name).write_text("\n".join(lines))


PREPARED = {"Changing what is recorded": has_a_list, "Reading it back": recorded_long_ago}  # by heading


class Step(NamedTuple):
    """What is done next."""

    number: int  # of the line
    heading: str
    what: str
    do: Callable[[Newcomer, Any], None]
    subject: Command | str

    @property
    def place(self) -> tuple[bool, int, int]:
        """Where it comes in the story: what needs the network first."""
        early = PLAYED_FIRST.index(self.heading) if self.heading in PLAYED_FIRST else len(PLAYED_FIRST)
        return self.do is not Newcomer.installs, early, self.number


def story() -> list[Step]:
    """Return all that the README has, in the order in which it is done; of what it repeats the first."""
    steps = []
    commands = [command for block in blocks(README) if block.language in ("console", "sh") for command in typed(block)]
    said = quoted(README, cli.list_commands(click.Context(cli)))
    shown = {filled_in(command.line) for command in commands}
    for command in commands + [c for c in said if filled_in(c.line) not in shown]:
        line = filled_in(command.line)
        do = next((do for pattern, do in COMMANDS if re.fullmatch(pattern, line)), unknown)
        steps.append(Step(command.number, command.heading, line, do, command._replace(line=line)))
    for block in blocks(README):
        if block.language not in ("", "console", "sh"):
            do = BLOCKS.get(block.language, unknown)
            steps.append(Step(block.line, block.heading, block.language, do, block.text))
    once: dict[tuple[str, str], Step] = {}
    for step in sorted(steps, key=lambda step: step.place):
        once.setdefault((step.what, step.subject.shown if isinstance(step.subject, Command) else step.subject), step)
    return list(once.values())


def filled_in(line: str) -> str:
    """Return a command that can be typed."""
    line = filled(re.sub(r"\s+# .*$", "", line), VALUES)
    return EXAMPLES.get(line, line)


def unknown(_: Newcomer, subject: Any) -> None:
    """Fail: nobody has said how it is done."""
    pytest.fail(f"README.md has what no test does: add it to COMMANDS or BLOCKS: {subject}")


@pytest.fixture(scope="module")
def newcomer(room_for_a_machine: Callable[[], Path]) -> Iterator[Newcomer]:
    """Somebody on a fresh machine, who lives through all of it."""
    with machine.machine(room_for_a_machine() / "machine") as fresh:
        somebody = Newcomer(fresh, {"SECONDS_OF_DEMO": "5"})
        somebody.arrives(ROOT)
        yield somebody


@pytest.mark.parametrize("step", story(), ids=lambda step: f"{step.number}: {step.what}")
def test_it_does_as_the_readme_says(newcomer: Newcomer, step: Step) -> None:
    """What is typed does what it is expected to do, and prints what is shown."""
    if step.do is not Newcomer.installs:
        newcomer.leaves_the_network()
        PREPARED.get(step.heading, lambda _: None)(newcomer)
    step.do(newcomer, step.subject)
