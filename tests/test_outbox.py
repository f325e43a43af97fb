"""Tests for handing spools on, one situation at a time; `test_promise` deals all of them at random."""

import logging
from datetime import date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from pipeline import spool as spool_module
from pipeline.days import NS_PER_S, Calendar
from pipeline.epoch import open_epoch
from pipeline.files import tick_file_name
from pipeline.journal import Journal, Verdict
from pipeline.outbox import STALLED_S, Loss, Outbox
from pipeline.records import parse
from pipeline.spool import Incoming
from pipeline.wire import Commit, Mark, decode_header
from tests.builders import T0_NS, ZONE, a_config, encode_frames, event_line, tick_line


class Road:
    """An outbox, what it has sent, and a journal to take it."""

    def __init__(self, folder: Path, now_ns: int = T0_NS, zone: str = ZONE) -> None:
        self.config = a_config(folder, timezone=zone)
        self.sent: list[list[bytes]] = []
        self.room = 10**6
        self.losses: list[Loss] = []
        self.on_loss = self.losses.append
        calendar = Calendar(zone)
        self.opening = open_epoch(self.config, 1, now_ns)
        self.outbox = Outbox(
            1,
            self.opening,
            calendar=calendar,
            encode=lambda epoch, frames: encode_frames(1, epoch, frames),
            send=self._send,
            on_loss=lambda loss: self.on_loss(loss),  # noqa: PLW0108  a test sets another one later
        )
        self.live = self.outbox.live
        self.outbox.pump()  # past the segment's first record
        self.journal = Journal(self.config.storage.data_dir, self.config.state_dir, calendar, 7)
        self.journal.recover()

    def _send(self, batch):
        if len(self.sent) >= self.room:
            return False
        self.sent.append(batch)
        return True

    def frame(self, ticks=1, recv_ns=T0_NS):
        self.live.append_frames([Incoming(recv_ns, ticks, b"raw")])

    def event(self, recv_ns=T0_NS):
        line = event_line(self.live.spool.last.event_seq + 1, epoch=self.live.stream.epoch)
        self.live.append_event(recv_ns, line)

    def store(self):
        """Let the journal take what was sent; return what it said."""
        sent, self.sent = self.sent, []
        return [self.journal.accept(decode_header(head), ticks, events) for head, ticks, events in sent]

    def commit(self, now_s=0.0, boot="b"):
        """Sync, and tell the outbox."""
        commit = self.journal.begin_commit(checkpoint=False)
        commit.sync()
        self.journal.committed(commit)
        self.outbox.committed(Commit(boot, True, self.journal.durable, self.journal.high, self.journal.retired), now_s)

    def drain(self):
        """Hand on all that can be read, and store it."""
        for _ in range(50):
            self.outbox.pump()
            self.store()
            self.commit()


def test_what_keeps_up_leaves_at_once_and_is_done_when_durable(tmp_path):
    """Nothing waits, and the spool is read by nobody."""
    road = Road(tmp_path)
    road.frame(3)
    road.event()
    assert not road.outbox.behind
    assert road.store() == [Verdict.STORED] * 2
    assert not road.outbox.done
    road.commit()
    assert road.outbox.done


def test_when_the_road_is_full_the_spool_is_the_queue(tmp_path):
    """One batch waits, later frames stay in the spool, and all goes in order when there is room."""
    road = Road(tmp_path)
    road.room = 1
    for _ in range(5):
        road.frame(2)
    assert len(road.sent) == 1
    assert not road.outbox.pump()
    road.room = 10
    while road.outbox.behind:
        assert road.outbox.pump()
    assert [decode_header(head).first.seq for head, _, _ in road.sent] == [1, 3, 5]
    assert decode_header(road.sent[-1][0]).last == Mark(10, 0)


def test_the_first_commit_is_no_stall(tmp_path, caplog):
    """Whatever the clock says, what was just sent is not sent again."""
    road = Road(tmp_path)
    road.frame()
    with caplog.at_level(logging.WARNING):
        road.commit(now_s=1e6)
    assert not road.outbox.behind
    assert caplog.records == []


def test_without_headway_all_is_sent_again(tmp_path):
    """After a while, not before, and not while the writer says that it takes nothing."""
    road = Road(tmp_path)
    road.commit(now_s=0)
    road.frame(2)
    road.sent.clear()
    road.commit(now_s=STALLED_S / 2)
    assert not road.outbox.behind
    paused = Commit("b", taking=False)
    road.outbox.committed(paused, STALLED_S * 3)
    assert not road.outbox.behind
    road.commit(now_s=STALLED_S * 5)
    road.outbox.pump()
    assert road.store() == [Verdict.STORED]


def test_a_new_writer_gets_what_the_old_one_lost(tmp_path):
    """With a new boot id everything behind what it has is sent again, at once."""
    road = Road(tmp_path)
    road.commit(boot="one")
    road.frame(2)
    road.sent.clear()
    road.commit(boot="two")
    road.outbox.pump()
    assert road.store() == [Verdict.STORED]


def test_leftovers_wait_for_the_writers_first_word(tmp_path):
    """Until then nobody knows what of them is stored; then they are handed on under their own numbers, and removed."""
    first = Road(tmp_path)
    first.frame(3)
    first.outbox.close()
    second = Road(tmp_path, T0_NS + NS_PER_S)
    second.outbox.pump()
    assert second.sent == []
    assert not second.outbox.behind
    second.commit()
    second.outbox.pump()
    assert decode_header(second.sent[0][0]).stream == first.live.stream
    second.drain()
    assert second.outbox.done
    assert not first.live.spool.folder.exists()


@pytest.mark.parametrize("which", ["middle", "last"])
def test_a_damaged_spool_is_a_loss_and_not_a_stall(tmp_path, monkeypatch, which):
    """Ticks that cannot be read are named, all others are stored, and the spool is done with."""
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 150)
    first = Road(tmp_path)
    for n in range(9):
        first.frame(2, T0_NS + n)
    first.outbox.close()
    paths = sorted(first.live.spool.folder.glob("*.spool"))
    last_but_one = paths[-2]  # behind it the last segment only says how far the stream had come
    path = paths[0] if which == "middle" else last_but_one
    content = path.read_bytes()
    ends = [end for _, end in parse(content)]
    path.write_bytes(content[: ends[-2]] + b"\xff" * (len(content) - ends[-2]))
    while which == "last" and paths[-1].stat().st_size > ends[0]:
        paths[-1].write_bytes(paths[-1].read_bytes()[: ends[0]])
    second = Road(tmp_path, T0_NS + NS_PER_S)
    second.drain()
    assert second.outbox.done
    assert {loss.epoch for loss in second.losses} == {first.live.stream.epoch}
    lost = {seq for loss in second.losses for seq in range(loss.first_seq, loss.last_seq + 1)}
    stored = (second.config.storage.data_dir / tick_file_name(Calendar(ZONE).day_of(T0_NS))).read_bytes()
    known = second.opening.leftovers[first.live.stream.epoch].last.seq
    assert len(lost) == 2
    assert stored.splitlines(keepends=True) == [
        tick_line(seq, epoch=first.live.stream.epoch) for seq in range(1, known + 1) if seq not in lost
    ]


def test_an_event_about_a_loss_does_not_overtake_the_events_behind_it(tmp_path, monkeypatch):
    """Who is told of a loss logs it in the stream that is being handed on; every event is still stored."""
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 1000)
    road = Road(tmp_path)
    road.room = 0
    road.commit()
    for _ in range(3):
        road.frame(2)
        road.event()
    path = next(iter(sorted(road.live.spool.folder.glob("*.spool"))))
    content = bytearray(path.read_bytes())
    second = [start for (_, start) in parse(bytes(content))][2]
    content[second + 37] ^= 0xFF
    path.write_bytes(bytes(content))
    told = []

    def log_once(loss):
        if loss not in told:
            told.append(loss)
            road.event()

    road.on_loss = log_once
    road.room = 100
    road.commit(boot="new")
    road.drain()
    assert [(loss.first_seq, loss.last_seq) for loss in told] == [(3, 4)]
    assert road.journal.high[road.live.stream] == Mark(6, 4)
    events = b"".join(path.read_bytes() for path in road.config.storage.data_dir.glob("events_*.jsonl"))
    assert [n for n in range(1, 5) if b'"event_seq":%d}' % n in events] == [1, 2, 3, 4]
    assert road.outbox.done


@pytest.mark.parametrize(
    ("zone", "midnight"),
    [
        ("Asia/Kolkata", date(2025, 10, 2)),
        ("America/New_York", date(2025, 3, 9)),  # this day has 23 hours
        ("America/New_York", date(2025, 3, 10)),
        ("America/New_York", date(2025, 11, 2)),  # and this one 25
        ("America/New_York", date(2025, 11, 3)),
    ],
)
def test_midnight_divides_an_epoch(tmp_path, zone, midnight):
    """Frames that arrive together across midnight go to two files; set back, a new epoch goes on in the first one."""
    at = datetime.combine(midnight, time(), ZoneInfo(zone))
    midnight_ns = int(at.timestamp()) * NS_PER_S
    before = tick_file_name((at - timedelta(hours=12)).date())
    after = tick_file_name(at.date())
    first = Road(tmp_path, midnight_ns - NS_PER_S, zone)
    first.live.append_frames([Incoming(midnight_ns + ns, 2, b"raw") for ns in (-2, -1, 0, 1)])
    assert first.store() == [Verdict.STORED] * 2
    first.outbox.close()
    first.journal.close()
    second = Road(tmp_path, midnight_ns - NS_PER_S, zone)
    second.frame(3, midnight_ns - 5)
    second.frame(1, midnight_ns)
    second.drain()
    epochs = first.live.stream.epoch, second.live.stream.epoch
    assert epochs[1] > epochs[0]

    def lines(*numbers):
        return b"".join(tick_line(seq, epoch=epoch) for epoch, seq in numbers)

    folder = first.config.storage.data_dir
    old, new = epochs
    assert (folder / before).read_bytes() == lines(*[(old, n) for n in (1, 2, 3, 4)], *[(new, n) for n in (1, 2, 3)])
    assert (folder / after).read_bytes() == lines(*[(old, n) for n in (5, 6, 7, 8)], (new, 4))
    assert second.outbox.done
