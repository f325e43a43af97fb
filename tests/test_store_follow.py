"""Following the files of a folder: rotation, late ticks, roll-backs, rubbish; every stored tick once, in order."""

import os
import threading
from collections import defaultdict
from datetime import date, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.days import Calendar
from pipeline.errors import MdsError
from pipeline.files import tick_file_name
from pipeline.instruments.listing import SymbolError
from pipeline.store import follow as module
from pipeline.store import growing
from pipeline.store.follow import AWAKE_S, SCAN_S, Follower, follow
from pipeline.store.selection import Selection
from tests.builders import DAY, ZONE
from tests.tick_lines import INFY, KOLKATA, RELIANCE, full, ltp, quote, time_of

NEXT_DAY = DAY + timedelta(days=1)


class Folder:
    """A data folder, what is appended to its files, and a clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_s = 1000.0

    def file(self, day: date = DAY) -> Path:
        return self.path / tick_file_name(day)

    def append(self, data: bytes, day: date = DAY) -> None:
        self.path.mkdir(exist_ok=True)
        with self.file(day).open("ab") as file:
            file.write(data)

    def follower(self, selection: Selection | None = None, **since):
        return Follower(self.path, selection or Selection(), Calendar(ZONE), now_s=lambda: self.now_s, **since)

    def new(self, follower, after_s: float = 0.02) -> list[bytes]:
        """Return the lines that are new after so many seconds."""
        self.now_s += after_s
        return [found.line + b"\n" for batch in follower.new() for found in batch]


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "market_data")


# As it grows.


def test_what_is_stored_from_now_on(folder):
    """What was there before is not told; the end of a line that was being written is awaited."""
    folder.append(ltp(1) + ltp(2)[:40])
    follower = folder.follower()
    assert folder.new(follower) == []
    folder.append(ltp(2)[40:])
    assert folder.new(follower) == [ltp(2)]
    folder.append(ltp(3) + full(1) + quote(4))
    assert folder.new(follower) == [ltp(3), full(1), quote(4)]
    assert folder.new(follower) == []


def test_neither_folder_nor_file_need_be_there(folder):
    """They are awaited, and read from the beginning when they come."""
    follower = folder.follower()
    assert folder.new(follower) == []
    folder.path.mkdir()
    assert folder.new(follower) == []
    folder.append(ltp(1))
    assert folder.new(follower, SCAN_S) == [ltp(1)]


def test_over_midnight(folder):
    """The next day's file is taken up at once; what comes late for the older one is told, too."""
    folder.append(ltp(1))
    follower = folder.follower()
    folder.append(ltp(2))
    assert folder.new(follower) == [ltp(2)]
    assert folder.new(follower) == []
    folder.append(ltp(3, connection_id=2), NEXT_DAY)
    os.utime(folder.path, ns=(0, 1))  # within one step of the clock a change of the folder cannot be seen
    assert folder.new(follower) == [ltp(3, connection_id=2)]
    folder.append(ltp(3) + ltp(4))
    folder.append(ltp(4, connection_id=2), NEXT_DAY)
    assert folder.new(follower) == [ltp(3), ltp(4), ltp(4, connection_id=2)]


def test_a_new_file_is_found_though_the_folder_does_not_tell(folder):
    """Times step: a second later it is found all the same."""
    folder.append(ltp(1))
    follower = folder.follower()
    changed_ns = folder.path.stat().st_mtime_ns
    for _ in range(3):
        folder.new(follower)
    folder.append(ltp(1), NEXT_DAY)
    os.utime(folder.path, ns=(changed_ns, changed_ns))
    assert folder.new(follower, SCAN_S) == [ltp(1)]


def test_ticks_that_come_days_later(folder):
    """What a spool brings home on Monday goes to Friday's file: it is told within a second, then at once."""
    days = [DAY + timedelta(days=days) for days in range(4)]
    for day in days:
        folder.append(ltp(1) + ltp(2), day)
    follower = folder.follower()
    assert folder.new(follower) == []
    folder.append(ltp(3), days[0])
    assert folder.new(follower, SCAN_S) == [ltp(3)]
    folder.append(ltp(4), days[0])
    assert folder.new(follower) == [ltp(4)]
    assert folder.new(follower, AWAKE_S + 1) == []
    folder.append(ltp(4) + ltp(5), days[0])  # it still knows what was there
    assert folder.new(follower, SCAN_S) == [ltp(5)]


def test_the_same_ticks_written_again_are_told_once(folder):
    """After a sync that failed, in another order, and longer than before."""
    folder.append(ltp(1))
    follower = folder.follower()
    folder.append(ltp(2) + ltp(1, connection_id=2) + ltp(2, connection_id=2))
    assert len(folder.new(follower)) == 3
    os.truncate(folder.file(), len(ltp(1)))
    folder.append(ltp(1, connection_id=2) + ltp(2) + ltp(3) + ltp(2, connection_id=2) + ltp(3, connection_id=2))
    assert folder.new(follower) == [ltp(3), ltp(3, connection_id=2)]


def test_a_file_cut_before_the_place_where_following_began(folder):
    """What was there then is known: it is not told though it is written again behind that place."""
    folder.append(ltp(1) + ltp(2) + ltp(3))
    follower = folder.follower()
    os.truncate(folder.file(), len(ltp(1)))
    folder.append(ltp(1, connection_id=2) + ltp(2) + ltp(3) + ltp(4))
    assert folder.new(follower) == [ltp(1, connection_id=2), ltp(4)]


def test_another_file_in_its_place(folder):
    """What it has that was not told is."""
    follower = folder.follower()
    folder.append(ltp(1) + ltp(2))
    assert len(folder.new(follower, SCAN_S)) == 2
    folder.file().unlink()
    assert folder.new(follower) == []
    folder.append(ltp(3) + ltp(1, epoch=7))
    assert folder.new(follower) == [ltp(3), ltp(1, epoch=7)]


def test_the_whole_folder_may_be_replaced(folder):
    """As whoever begins anew does it."""
    folder.append(ltp(1))
    follower = folder.follower()
    folder.path.rename(folder.path.with_name("old"))
    assert folder.new(follower) == []
    folder.append(ltp(1, epoch=7))
    assert folder.new(follower) == [ltp(1, epoch=7)]


def test_lines_that_are_no_ticks(folder, caplog):
    """The first of them are named with file and byte; all are passed over."""
    folder.append(ltp(1))
    follower = folder.follower()
    folder.append(b"rubbish\n" * 2 + ltp(2) + b"\n" * 20)
    assert folder.new(follower) == [ltp(2)]
    at = len(ltp(1))
    told = [record.message for record in caplog.records]
    assert len(told) == module.BAD_LINES_LOGGED
    for message, place in zip(told, (at, at + 8, at + 16 + len(ltp(2))), strict=False):
        assert message.startswith(f"{folder.file()} byte {place}: no tick, passed over: ")
    assert "mds verify names" in told[-1]


def test_only_what_is_asked_for(folder):
    """By token and mode."""
    follower = folder.follower(Selection([INFY], ["quote"]))
    folder.append(ltp(1) + quote(2) + quote(3, RELIANCE) + full(1, INFY) + quote(4))
    assert folder.new(follower, SCAN_S) == [quote(2), quote(4)]


def test_a_file_that_cannot_be_read(folder, monkeypatch):
    """It is one line that names file and cause."""
    folder.append(ltp(1))
    follower = folder.follower()
    folder.append(ltp(2))

    def fail(*_):
        raise PermissionError(13, "Permission denied", str(folder.file()))

    monkeypatch.setattr("pipeline.store.growing.os.open", fail)
    with pytest.raises(MdsError, match=f"{folder.file()}: cannot be read: Permission denied"):
        folder.new(follower)


# From where it begins.


def test_from_a_time_on(folder, monkeypatch):
    """All days since then; ticks of before are left out though they stand among the others."""
    monkeypatch.setattr("pipeline.store.seek.PROBE_BYTES", 1000)
    monkeypatch.setattr("pipeline.store.seek.MARGIN_BYTES", 1000)
    folder.append(ltp(1), DAY - timedelta(days=1))
    folder.append(b"".join(ltp(seq) for seq in range(1, 101)))
    folder.append(ltp(101), NEXT_DAY)
    for since in (datetime.fromisoformat(time_of(90)), datetime.fromisoformat(time_of(90)).replace(tzinfo=None)):
        follower = folder.follower(since=since)
        assert folder.new(follower) == [ltp(seq) for seq in range(90, 102)]
    folder.append(ltp(50, connection_id=2) + ltp(95, connection_id=2))
    assert folder.new(follower) == [ltp(95, connection_id=2)]


def test_from_the_beginning_of_today(folder):
    """Of earlier days only what is added from now on."""
    today = datetime.now(KOLKATA).date()
    folder.append(ltp(1), today - timedelta(days=1))
    folder.append(ltp(2) + ltp(3), today)
    follower = folder.follower(since="start")
    assert folder.new(follower) == [ltp(2), ltp(3)]
    folder.append(ltp(4), today - timedelta(days=1))
    assert folder.new(follower) == [ltp(4)]


def test_the_last_ticks(folder, monkeypatch):
    """The last that were there, over the days, chosen as the others; what follows begins right behind them."""
    monkeypatch.setattr("pipeline.store.seek.BLOCK_BYTES", 500)
    folder.append(ltp(1) + quote(2) + b"rubbish\n" + ltp(3))
    folder.append(ltp(4) + ltp(5, RELIANCE) + ltp(6)[:-1], NEXT_DAY)
    follower = folder.follower()
    folder.append(b"\n" + ltp(7), NEXT_DAY)
    assert [found.line + b"\n" for found in follower.last(3)] == [ltp(3), ltp(4), ltp(5, RELIANCE)]
    assert [found.tick["seq"] for found in follower.last(100)] == [1, 2, 3, 4, 5]
    assert follower.last(0) == []
    assert folder.new(follower) == [ltp(6), ltp(7)]
    chosen = folder.follower(Selection([INFY]))
    assert [found.tick["seq"] for found in chosen.last(2)] == [6, 7]


def test_the_last_ticks_are_not_searched_for_ever(folder, monkeypatch, caplog):
    """An instrument that does not trade does not cost reading all files."""
    monkeypatch.setattr("pipeline.store.seek.BLOCK_BYTES", 1000)
    monkeypatch.setattr(module, "BACK_BYTES", growing.BLOCK_BYTES * 3)
    folder.append(b"".join(ltp(seq, INFY if seq == 1 else RELIANCE) for seq in range(1, 1000)))
    assert folder.follower(Selection([INFY])).last(1) == []
    assert "searched for the last ticks from byte" in caplog.text


# From Python.


def test_follow_yields_what_is_stored_as_dicts(folder):
    """From the call on, whatever the writer does, until it is told to stop."""
    folder.append(ltp(1))
    stop = threading.Event()
    ticks = pipeline.follow(folder.path, [RELIANCE, str(INFY)], poll_s=0.001, stop=stop)
    folder.append(ltp(2) + full(1) + ltp(3, token=5))
    assert next(ticks) == orjson.loads(ltp(2))
    assert next(ticks) == orjson.loads(full(1))
    folder.append(ltp(4))
    stop.set()
    assert [tick["seq"] for tick in ticks] == [4]


def test_follow_is_told_where_by_the_configuration(folder, tmp_path, monkeypatch):
    """Without a folder it is that of the settings, with its time zone."""
    for name in [name for name in os.environ if name.startswith("MDS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    Path("mds.toml").write_text('[storage]\ndata_dir = "market_data"\ntimezone = "UTC"')
    stop = threading.Event()
    stop.set()
    folder.append(ltp(1) + ltp(2), datetime.now(Calendar("UTC").zone).date())
    assert [tick["seq"] for tick in follow(since="start", stop=stop)] == [1, 2]


def test_follow_refuses_what_it_cannot_do(folder):
    """When it is called, not later."""
    with pytest.raises(SymbolError, match="no list of instruments"):
        follow(folder.path, ["NSE:INFY"])
    with pytest.raises(MdsError, match="no such mode"):
        follow(folder.path, modes="depth")
    with pytest.raises(MdsError, match="it is a datetime"):
        follow(folder.path, since="2025-10-01")  # type: ignore[arg-type]


# Whatever happens.


class Writer:
    """Writes ticks of three streams as the recorder does: in pieces, with commits, and roll-backs to the last."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.stored: dict[date, list[tuple[int, int]]] = {DAY: [], NEXT_DAY: []}  # streams and numbers
        self._waiting: dict[int, list[tuple[date, int]]] = defaultdict(list)  # to be sent again
        self._numbers: dict[int, int] = defaultdict(int)
        self._days: dict[int, date] = defaultdict(lambda: DAY)
        self._committed = {DAY: 0, NEXT_DAY: 0}
        self._torn: tuple[date, bytes] | None = None

    def write(self, stream: int, piece: int) -> None:
        """Write the next tick of a stream; only so many bytes of it, if that is less, until something else happens."""
        self._complete()
        if not self._waiting[stream]:
            self._numbers[stream] += 1
            self._waiting[stream].append((self._days[stream], self._numbers[stream]))
        day, number = self._waiting[stream].pop(0)
        line = ltp(number, connection_id=stream)
        self.folder.append(line[:piece], day)
        self.stored[day].append((stream, number))
        self._torn = (day, line[piece:])

    def commit(self) -> None:
        self._complete()
        self._committed = {day: len(stored) for day, stored in self.stored.items()}

    def roll_back(self) -> None:
        self._torn = None
        for day, stored in self.stored.items():
            kept, lost = stored[: self._committed[day]], stored[self._committed[day] :]
            self.stored[day] = kept
            if lost:
                os.truncate(self.folder.file(day), sum(len(ltp(number, connection_id=c)) for c, number in kept))
            for stream, number in lost:
                self._waiting[stream].append((day, number))
        for waiting in self._waiting.values():
            waiting.sort(key=lambda item: item[1])

    def next_day(self, stream: int) -> None:
        self._days[stream] = NEXT_DAY

    def end(self) -> None:
        """Write all that was not yet, and then more: a change to the same size cannot always be seen."""
        for stream in (1, 2, 3):
            while self._waiting[stream]:
                self.write(stream, 1000)
        self.next_day(3)
        for stream in (1, 2, 3):
            for _ in range(2):
                self.write(stream, 1000)
        self._complete()

    def _complete(self) -> None:
        if self._torn is not None:
            day, rest = self._torn
            self.folder.append(rest, day)
            self._torn = None


STREAMS = st.integers(1, 3)
STEPS = st.one_of(
    st.tuples(st.just("write"), STREAMS, st.integers(1, 300)),
    st.tuples(st.just("commit")),
    st.tuples(st.just("roll_back")),
    st.tuples(st.just("next_day"), STREAMS),
    st.tuples(st.just("look"), st.sampled_from([0.02, 2.0])),
)


@settings(max_examples=200, deadline=None)
@given(before=st.lists(STEPS, max_size=10), steps=st.lists(STEPS, max_size=40), block_bytes=st.integers(100, 2000))
def test_every_stored_tick_is_told_once_and_in_order(tmp_path_factory, before, steps, block_bytes):
    """However a writer writes, and goes back, and whenever it is looked at."""
    folder = Folder(tmp_path_factory.mktemp("follow") / "data")
    writer = Writer(folder)
    told = []

    def take(steps):
        for name, *arguments in steps:
            if name == "look":
                told.extend(folder.new(follower, *arguments))
            else:
                getattr(writer, name)(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growing, "BLOCK_BYTES", block_bytes)
        take(step for step in before if step[0] != "look")
        writer.commit()
        known = {(day, *tick) for day, stored in writer.stored.items() for tick in stored}
        follower = folder.follower()
        take(steps)
        writer.end()
        told.extend(folder.new(follower, SCAN_S))

    ticks = [orjson.loads(line) for line in told]
    found = [(tick["connection_id"], tick["seq"]) for tick in ticks]
    expected = [tick for day, stored in writer.stored.items() for tick in stored if (day, *tick) not in known]
    assert sorted(found) == sorted(expected)
    for stream in (1, 2, 3):
        numbers = [seq for connection_id, seq in found if connection_id == stream]
        assert numbers == sorted(numbers)
