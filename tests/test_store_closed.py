"""Tests for closed days: a day is open as long as anything of it may still come out of a spool."""

import shutil
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from pipeline.checkpoint import Checkpoint
from pipeline.days import NS_PER_S, Calendar
from pipeline.files import CHECKPOINT
from pipeline.spool import Incoming, Spool
from pipeline.store.keeping import closed
from pipeline.wire import Mark, StreamId
from tests.builders import DAY, EPOCH, T0_NS, ZONE, a_config

DAY_NS = 86_400 * NS_PER_S
NEXT = DAY + timedelta(days=1)
EDGES = ("Pacific/Kiritimati", "Pacific/Niue")  # 25 hours apart: it is never the same day in both


@pytest.fixture
def config(tmp_path):
    """Return settings with a state folder."""
    config = a_config(tmp_path)
    config.state_dir.mkdir(parents=True)
    return config


def today(zone=ZONE):
    return datetime.now(ZoneInfo(zone)).date()


def a_spool(config, connection_id=1, epoch=EPOCH):
    return Spool.create(config.spool_dir / str(connection_id) / str(epoch), 10**6)


def why_open(config, day):
    """Return the reason; there must be one."""
    why = closed.why_open(config, day)
    assert why
    return why


def durable(config, marks, retired=None):
    """Write a checkpoint that says so."""
    streams = {StreamId(*stream): Mark(*mark) for stream, mark in marks.items()}
    (config.state_dir / CHECKPOINT).write_bytes(Checkpoint({}, streams, retired or {}).encode())


def test_a_day_is_closed_when_it_is_over(config):
    """Without spools all days before today are; today and what lies ahead are open, in words."""
    assert closed.is_closed(config, today() - timedelta(days=2))
    assert closed.why_open(config, today() - timedelta(days=2)) is None
    for ahead in (0, 1, 9):
        assert not closed.is_closed(config, today() + timedelta(days=ahead))
        assert "is not over" in why_open(config, today() + timedelta(days=ahead))


def test_today_is_the_day_of_the_time_zone(tmp_path):
    """At the two ends of the earth, it is the day that a calendar there shows, or has shown a moment ago."""
    days = []
    for zone in EDGES:
        before, found = datetime.now(ZoneInfo(zone)), closed.first_open(a_config(tmp_path, timezone=zone)).day
        assert (before - closed.AFTER_MIDNIGHT).date() <= found <= today(zone)
        days.append(found)
    assert days[0] > days[1]


@pytest.mark.parametrize("connection_id", [0, 1, 3])
def test_what_is_spooled_and_not_durable_holds_its_day_open(config, connection_id):
    """Its day and all later ones, frames and events alike; days before are closed."""
    spool = a_spool(config, connection_id)
    spool.append_frames([Incoming(T0_NS, 2, b"x")])
    spool.append_event(T0_NS + DAY_NS, b"{}")
    assert [closed.is_closed(config, DAY + timedelta(days=n)) for n in (-1, 0, 1, 2)] == [True, False, False, False]
    assert str(DAY) in why_open(config, NEXT)

    durable(config, {(connection_id, EPOCH): (2, 0)})
    assert [closed.is_closed(config, DAY + timedelta(days=n)) for n in (-1, 0, 1, 2)] == [True, True, False, False]
    durable(config, {(connection_id, EPOCH): (2, 1)})
    assert closed.first_open(config).day >= today() - timedelta(days=1)


def test_a_frame_of_which_a_part_is_durable_holds_its_day_open(config):
    """Until its last tick is."""
    a_spool(config).append_frames([Incoming(T0_NS, 5, b"x")])
    durable(config, {(1, EPOCH): (4, 0)})
    assert not closed.is_closed(config, DAY)
    durable(config, {(1, EPOCH): (5, 0)})
    assert closed.is_closed(config, DAY)


def test_a_worker_that_stands_by_for_days_holds_no_day_open(config):
    """The last segment stays while the worker runs, and has records of long ago: they are durable."""
    spool = a_spool(config, 3)
    spool.append_event(T0_NS, b"{}")
    spool.append_wanted(T0_NS, wanted=True)
    durable(config, {(3, EPOCH): (0, 1)})
    assert list(spool.folder.glob("*.spool"))
    assert closed.is_closed(config, DAY)


def test_the_oldest_of_all_spools_counts(config):
    """Whatever the order of connections and epochs."""
    for connection_id, epoch, days in ((1, EPOCH, 3), (2, EPOCH, 1), (2, EPOCH + 1, 2)):
        a_spool(config, connection_id, epoch).append_frames([Incoming(T0_NS + days * DAY_NS, 1, b"x")])
    assert closed.first_open(config).day == NEXT


def test_a_retired_epoch_holds_nothing(config):
    """The worker has said that all of it is durable, and is about to remove its spool."""
    a_spool(config).append_frames([Incoming(T0_NS, 1, b"x")])
    durable(config, {}, {1: EPOCH + 1})
    assert closed.is_closed(config, DAY)


def test_only_segments_that_may_hold_something_are_read(config, monkeypatch):
    """What lies before a segment that begins durable is passed over, whatever is in it."""
    monkeypatch.setattr("pipeline.spool.SEGMENT_BYTES", 200)
    spool = a_spool(config)
    for n in range(20):
        spool.append_frames([Incoming(T0_NS + n * DAY_NS, 1, b"x" * 50)])
    segments = sorted(spool.folder.glob("*.spool"))
    assert len(segments) > 5
    segments[0].write_bytes(b"rubbish")
    durable(config, {(1, EPOCH): (12, 0)})
    assert closed.first_open(config).day == DAY + timedelta(days=12)
    durable(config, {})
    assert closed.first_open(config).day < DAY


def test_records_longer_than_a_part_are_read(config, monkeypatch):
    """A part that holds no whole record is read on."""
    monkeypatch.setattr(closed, "READ_BYTES", 7)
    spool = a_spool(config)
    for n in range(3):
        spool.append_frames([Incoming(T0_NS + n * DAY_NS, 1, b"x" * 1000)])
    durable(config, {(1, EPOCH): (2, 0)})
    assert closed.first_open(config).day == DAY + timedelta(days=2)


def test_damage_holds_all_days_open_unless_it_is_a_torn_end(config):
    """What is lost in the middle may be of any day; a record that was not written whole never counted."""
    spool = a_spool(config)
    spool.append_frames([Incoming(T0_NS, 1, b"x" * 50)])
    spool.append_frames([Incoming(T0_NS + DAY_NS, 1, b"y" * 50)])
    durable(config, {(1, EPOCH): (1, 0)})
    path = spool.folder / "00000001.spool"
    whole = path.read_bytes()
    for cut in range(whole.index(b"x" * 50) + 50, len(whole)):
        path.write_bytes(whole[:cut])
        assert closed.first_open(config).day >= today() - timedelta(days=1)
    path.write_bytes(whole.replace(b"x" * 50, b"z" * 50))
    first = closed.first_open(config)
    assert first.day < DAY
    assert str(path) in first.why


def test_damage_at_the_end_of_an_older_segment_counts(config, monkeypatch):
    """Only the last one can have been torn by a death."""
    monkeypatch.setattr("pipeline.spool.SEGMENT_BYTES", 200)
    spool = a_spool(config)
    for n in range(6):
        spool.append_frames([Incoming(T0_NS + n * DAY_NS, 1, b"x" * 50)])
    first = spool.folder / "00000001.spool"
    first.write_bytes(first.read_bytes()[:-1])
    durable(config, {(1, EPOCH): (1, 0)})
    assert closed.first_open(config).day < DAY


def test_a_spool_that_cannot_be_read_holds_all_days_open(config):
    """A folder in place of a segment, say."""
    folder = config.spool_dir / "1" / str(EPOCH)
    (folder / "00000001.spool").mkdir(parents=True)
    first = closed.first_open(config)
    assert first.day < DAY
    assert "00000001.spool" in first.why


def test_what_is_no_spool_is_passed_over(config):
    """Other files and folders, kept damaged segments, empty spools."""
    config.spool_dir.mkdir()
    (config.spool_dir / "readme").write_text("hello")
    (config.spool_dir / "old" / "1").mkdir(parents=True)
    (config.spool_dir / "1" / str(EPOCH)).mkdir(parents=True)
    (config.spool_dir / "1" / f"{EPOCH}-00000001.damaged").write_bytes(b"MDR1")
    (config.spool_dir / "1" / str(EPOCH) / "ballast").write_bytes(b"\0" * 99)
    assert closed.is_closed(config, DAY)


@pytest.mark.parametrize("name", ["00000001.spool", "00000002.spool", None])
def test_what_vanishes_while_looking_was_durable(config, monkeypatch, name):
    """A segment or the whole spool is removed after it was listed: what is left counts."""
    monkeypatch.setattr("pipeline.spool.SEGMENT_BYTES", 200)
    spool = a_spool(config)
    for n in range(6):
        spool.append_frames([Incoming(T0_NS + n * DAY_NS, 1, b"x" * 50)])
    assert len(list(spool.folder.glob("*.spool"))) == 4
    real = closed._begins_durable

    def vanish(path, mark):
        found = real(path, mark)
        if name is None:
            shutil.rmtree(spool.folder, ignore_errors=True)
        else:
            (spool.folder / name).unlink(missing_ok=True)
        return found

    monkeypatch.setattr(closed, "_begins_durable", vanish)
    day = closed.first_open(config).day
    assert day == {"00000001.spool": DAY + timedelta(days=2), "00000002.spool": DAY}.get(name, day)
    assert name or day > DAY + timedelta(days=5)


def test_nothing_is_changed(config):
    """Looking leaves spools, checkpoint and folders as they are, damaged ones included."""
    a_spool(config).append_frames([Incoming(T0_NS, 1, b"x")])
    (config.state_dir / CHECKPOINT).write_bytes(b"rubbish")
    before = {path: path.stat().st_mtime_ns for path in config.storage.data_dir.rglob("*")}
    assert not closed.is_closed(config, DAY)
    assert {path: path.stat().st_mtime_ns for path in config.storage.data_dir.rglob("*")} == before


def test_the_day_is_that_of_the_receive_time(config):
    """A tick belongs to the day on which it was received, in the storage time zone."""
    midnight_ns = int(datetime(2025, 10, 2, tzinfo=ZoneInfo(ZONE)).timestamp()) * NS_PER_S
    for epoch, recv_ns, day in ((EPOCH + 1, midnight_ns, NEXT), (EPOCH, midnight_ns - 1, DAY)):
        a_spool(config, 1, epoch).append_frames([Incoming(recv_ns, 1, b"x")])
        assert closed.first_open(config).day == day == Calendar(ZONE).day_of(recv_ns)
