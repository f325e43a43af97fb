"""Tests for opening and ending epochs: what each start knows of the one before it."""

import os
import shutil
import subprocess

import pytest

from pipeline.durable import replace_durably
from pipeline.epoch import Predecessor, close_epoch, open_epoch
from pipeline.errors import SpoolFullError
from pipeline.files import tick_file_name
from pipeline.spool import Incoming
from pipeline.wire import Mark
from tests.builders import DAY, EPOCH, T0_NS, a_config, tick_line

LATER_NS = T0_NS + 60 * 10**9
STATE_SHAPES = [
    b"",
    b"{",
    b"[]",
    b"5",
    b"null",
    b"{}",
    b'{"epoch":1}',
    b'{"epoch":"1","clean":false}',
    b'{"epoch":1,"clean":true}',
    b'{"epoch":1,"clean":true,"seq":1.5,"event_seq":0,"last_recv_ns":0}',
    b'{"epoch":1e99,"clean":false}',
    b"\xff\xfe\0",
]


@pytest.fixture
def config(tmp_path):
    """Return settings in a folder of their own."""
    return a_config(tmp_path)


def start(config, now_ns=T0_NS):
    """Open an epoch and spool one frame of three ticks and an event."""
    opening = open_epoch(config, 1, now_ns)
    opening.spool.append_frames([Incoming(now_ns + 5, 3, b"abc")])
    opening.spool.append_event(now_ns + 6, b"{}\n")
    return opening


def kill(opening):
    """Leave an epoch as a killed worker does."""
    opening.spool.close()


def state_file(config):
    """Return what is remembered of connection 1."""
    return config.state_dir / "stream-1.json"


def recorded(config):
    """Make it look as if something had been recorded before."""
    (config.storage.data_dir / tick_file_name(DAY)).write_bytes(tick_line(1))


def test_the_first_epoch_has_none_before_it(config):
    """It is numbered by its start and has nothing left over."""
    opening = open_epoch(config, 1, T0_NS)
    assert (opening.epoch, opening.predecessor, opening.leftovers) == (EPOCH, Predecessor("none"), {})


def test_a_clean_end_is_remembered(config):
    """The next epoch knows the last numbers; the spool folder is empty meanwhile."""
    first = start(config)
    close_epoch(config, 1, first.epoch, first.spool)
    assert list(config.spool_dir.iterdir()) == []
    second = open_epoch(config, 1, LATER_NS)
    assert second.predecessor == Predecessor("clean", first.epoch, Mark(3, 1), T0_NS + 5)
    assert second.leftovers == {}


def test_an_epoch_whose_folders_are_gone_ends_cleanly(config):
    """Somebody has removed all of the data folder: what is durable is the writer's to keep, nothing else is needed."""
    first = start(config)
    shutil.rmtree(config.spool_dir)
    close_epoch(config, 1, first.epoch, first.spool)
    assert open_epoch(config, 1, T0_NS).predecessor.end == "clean"


def test_a_killed_epoch_is_left_over(config):
    """Its numbers are read from its spool."""
    first = start(config)
    kill(first)
    second = open_epoch(config, 1, LATER_NS)
    assert second.predecessor == Predecessor("killed", first.epoch, Mark(3, 1), T0_NS + 5)
    assert list(second.leftovers) == [first.epoch]


def test_two_epochs_are_left_over(config):
    """The newest of them is the one before; both are handed on, oldest first."""
    first = start(config)
    kill(first)
    second = start(config, LATER_NS)
    kill(second)
    third = open_epoch(config, 1, LATER_NS + 10**9)
    assert third.predecessor == Predecessor("killed", second.epoch, Mark(3, 1), LATER_NS + 5)
    assert list(third.leftovers) == [first.epoch, second.epoch]


def test_killed_before_its_first_frame_an_epoch_still_tells_since_when_nothing_came(config):
    """The time of the last frame goes on from epoch to epoch, so that the gap has its beginning."""
    kill(start(config))
    for n in range(2):
        kill(open_epoch(config, 1, LATER_NS + n * 10**9))
    assert open_epoch(config, 1, LATER_NS + 10**10).predecessor.last_recv_ns == T0_NS + 5


def test_killed_while_it_began_an_epoch_counts_for_nothing(config):
    """A folder without a record does not hide the epoch before it, and its number is not given again."""
    first = start(config)
    kill(first)
    empty = first.epoch + 10**9
    (config.spool_dir / "1" / str(empty)).mkdir()
    third = open_epoch(config, 1, LATER_NS)
    assert third.predecessor == Predecessor("killed", first.epoch, Mark(3, 1), T0_NS + 5)
    assert third.epoch > empty


def test_killed_while_its_spool_was_removed_an_epoch_has_ended_cleanly(config):
    """What was remembered holds, whatever is left of the spool."""
    first = start(config)
    close_epoch(config, 1, first.epoch, first.spool)
    folder = config.spool_dir / "1" / str(first.epoch)
    folder.mkdir(parents=True)
    assert open_epoch(config, 1, LATER_NS).predecessor == Predecessor("clean", first.epoch, Mark(3, 1), T0_NS + 5)


def test_a_spool_that_is_gone_does_not_look_like_a_first_start(config):
    """That an epoch was open is remembered apart from its spool."""
    first = start(config)
    kill(first)
    shutil.rmtree(config.spool_dir)
    second = open_epoch(config, 1, LATER_NS)
    assert second.predecessor == Predecessor("unknown", first.epoch)
    kill(second)
    assert open_epoch(config, 1, LATER_NS + 10**9).predecessor.last_recv_ns == LATER_NS


@pytest.mark.parametrize("content", [None, *STATE_SHAPES])
def test_without_a_readable_state_file_what_was_recorded_shows_that_there_was_an_epoch(config, content):
    """Deleted, corrupt or of another shape: unknown, not none, and no error."""
    first = start(config)
    close_epoch(config, 1, first.epoch, first.spool)
    recorded(config)
    if content is None:
        state_file(config).unlink()
    else:
        state_file(config).write_bytes(content)
    assert open_epoch(config, 1, LATER_NS).predecessor == Predecessor("unknown")


@pytest.mark.parametrize("content", [None, *STATE_SHAPES])
def test_without_a_readable_state_file_a_spool_still_tells(config, content):
    """The killed epoch is found by its spool."""
    first = start(config)
    kill(first)
    if content is None:
        state_file(config).unlink()
    else:
        state_file(config).write_bytes(content)
    assert open_epoch(config, 1, LATER_NS).predecessor == Predecessor("killed", first.epoch, Mark(3, 1), T0_NS + 5)


@pytest.mark.parametrize("end", ["clean", "killed", "gone"])
def test_a_clock_that_was_set_back_makes_no_lower_epoch(config, end):
    """Each epoch is above the one before it, a day earlier by the clock though it is."""
    first = start(config)
    if end == "clean":
        close_epoch(config, 1, first.epoch, first.spool)
    else:
        kill(first)
    if end == "gone":
        shutil.rmtree(config.spool_dir)
    assert open_epoch(config, 1, T0_NS - 86_400 * 10**9).epoch == first.epoch + 1


def test_a_clock_that_was_set_back_without_a_state_file(config):
    """The data files are younger than any epoch in them: the new one is above them."""
    first = start(config)
    close_epoch(config, 1, first.epoch, first.spool)
    recorded(config)
    state_file(config).unlink()
    assert open_epoch(config, 1, T0_NS - 86_400 * 10**9).epoch > first.epoch


def test_strange_names_among_the_spools_are_passed_over(config):
    """Only folders named by a number are epochs."""
    (config.spool_dir / "1").mkdir(parents=True)
    for name in ("²", "notes", "5-00000001.damaged"):
        (config.spool_dir / "1" / name).mkdir()
    (config.spool_dir / "1" / "77").touch()
    assert open_epoch(config, 1, T0_NS).leftovers == {}


def test_connections_know_nothing_of_each_other(config):
    """Each has its own chain."""
    kill(start(config))
    assert open_epoch(config, 2, T0_NS).predecessor == Predecessor("none")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    """A write that is cut short leaves the old content."""
    path = tmp_path / "state.json"
    replace_durably(path, b"old")
    monkeypatch.setattr("os.write", lambda _fd, data: len(data) // 2)
    with pytest.raises(OSError, match="No space left"):
        replace_durably(path, b"new content")
    assert path.read_bytes() == b"old"


def fill(spool):
    """Append frames until there is no room for one more."""
    while True:
        spool.append_frames([Incoming(1, 1, b"x" * 500)])


def test_a_full_disk_does_not_keep_a_new_epoch_from_beginning(tmp_path, config):
    """What is left can only be handed on by a new epoch: room for that is set aside."""
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("a file system of its own needs root and mount")
    small = tmp_path / "small"
    small.mkdir()
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=512k", "none", small], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.decode().strip()}")
    try:
        config = config.with_changes(storage={"spool_dir": small / "spool"})
        config.storage.data_dir.mkdir(exist_ok=True)
        killed = open_epoch(config, 1, 5_000_000_000).spool
        with pytest.raises(SpoolFullError):
            fill(killed)
        killed.close()
        opening = open_epoch(config, 1, 6_000_000_000)
        assert opening.predecessor.end == "killed"
        assert opening.predecessor.last == killed.last
        assert opening.spool.last_recv_ns == 1
        opening.spool.close()
    finally:
        subprocess.run(["umount", small], check=True)
