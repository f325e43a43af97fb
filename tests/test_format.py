"""What a newer version has recorded: nobody reads it wrongly, and nobody takes it for damage."""

import subprocess
import sys
from threading import Event
from unittest.mock import Mock

import pytest

from pipeline import files, follow, iter_ticks, read_ticks
from pipeline.epoch import claim_spool
from pipeline.errors import FormatError
from pipeline.events import encode_event
from pipeline.files import claim_format, event_file_name, tick_file_name, written_format
from pipeline.spool import Incoming, Spool
from pipeline.store import gaps, snapshot
from pipeline.store.parquet.compact import compact
from pipeline.store.verify import verify
from pipeline.supervisor.supervisor import Supervisor
from pipeline.wire import Mark
from tests.builders import DAY, EPOCH, T0_NS, a_config
from tests.test_verify import Recording

NEWER = 7
ENDED = Event()
ENDED.set()


def epoch_line(**fields):
    """Return the first event of worker 1, with these fields before the rest."""
    fields = {
        "connection_id": 1,
        **fields,
        "previous_epoch": None,
        "previous_last_seq": None,
        "previous_last_event_seq": None,
        "previous_end": "none",
    }
    time = f"{DAY}T09:15:23.123456+05:30"
    return encode_event("epoch", time, fields, source="worker-1", epoch=EPOCH, event_seq=1)


def started_line(**fields):
    """Return the first event of a supervisor."""
    time = f"{DAY}T09:15:23.123456+05:30"
    return encode_event("service_started", time, fields, source="supervisor", epoch=EPOCH, event_seq=1)


@pytest.fixture
def config(tmp_path):
    """Return the settings of a recording of one day, closed long ago."""
    config = a_config(tmp_path)
    recording = Recording(config.storage.data_dir)
    config.state_dir.mkdir(parents=True)
    recording.ticks(1, EPOCH, 1, 3)
    recording.save()
    (config.storage.data_dir / event_file_name(DAY)).write_bytes(epoch_line())
    return config


READERS = {
    "verify": lambda config: verify(snapshot.take(config)),
    "verify of a file": lambda config: snapshot.take(config, [config.storage.data_dir / tick_file_name(DAY)]),
    "read_ticks": lambda config: read_ticks(DAY, data_dir=config.storage.data_dir).collect(),
    "read_ticks of a file": lambda config: read_ticks(config.storage.data_dir / tick_file_name(DAY)).collect(),
    "iter_ticks": lambda config: list(iter_ticks(data_dir=config.storage.data_dir)),
    "gaps": lambda config: gaps.read(config.storage.data_dir),
    "compact": lambda config: compact(config, DAY),
    "follow": lambda config: list(follow(config.storage.data_dir, stop=ENDED)),
}


class TestReading:
    """Readers are told in one line which file, which format, and what to do."""

    @pytest.mark.parametrize("read", READERS.values(), ids=READERS)
    @pytest.mark.parametrize("line", [epoch_line, started_line])
    def test_streams_of_a_newer_format(self, config, read, line):
        path = config.storage.data_dir / event_file_name(DAY)
        path.write_bytes(epoch_line(format=files.FORMAT) + line(format=NEWER))
        with pytest.raises(FormatError) as refused:
            read(config)
        assert str(refused.value) == (
            f"{path}: recorded in format {NEWER} by a newer version; this one knows formats up to "
            f"{files.FORMAT}, and has left it as it is: use the version that recorded it, or a newer one"
        )

    @pytest.mark.parametrize("read", READERS.values(), ids=READERS)
    def test_a_folder_to_which_a_newer_version_has_written(self, config, read):
        """Its streams may have begun on any day before."""
        (config.state_dir / files.WRITTEN_FORMAT).write_text(f"{NEWER}\n")
        with pytest.raises(FormatError, match=f"format {NEWER}"):
            read(config)

    @pytest.mark.parametrize("read", READERS.values(), ids=READERS)
    @pytest.mark.parametrize("fields", [{}, {"format": 1}, {"format": files.FORMAT}])
    def test_no_format_is_the_first(self, config, read, fields):
        (config.storage.data_dir / event_file_name(DAY)).write_bytes(epoch_line(**fields))
        read(config)

    def test_another_event_may_say_what_it_likes(self, config):
        """Only the events that open a stream tell of its format."""
        quoted = encode_event("order_update", f"{DAY}T09:15:24+05:30", {"connection_id": 1, "data": {"format": NEWER}},
                              source="worker-1", epoch=EPOCH, event_seq=2)  # fmt: skip
        (config.storage.data_dir / event_file_name(DAY)).write_bytes(epoch_line(format=1) + quoted)
        assert verify(snapshot.take(config)).ok

    @pytest.mark.usefixtures("no_settings")
    def test_the_command_ends_with_2(self, config, run_mds, monkeypatch):
        monkeypatch.setenv("MDS_STORAGE__DATA_DIR", str(config.storage.data_dir))
        (config.storage.data_dir / event_file_name(DAY)).write_bytes(epoch_line(format=NEWER))
        code, printed, told = run_mds("verify", "--json")
        assert (code, printed, told.count("\n")) == (2, "", 1)
        assert told.startswith(f"mds: {config.storage.data_dir / event_file_name(DAY)}: recorded in format {NEWER}")


class TestWriting:
    """Who would write leaves alone what a newer version has left, to the last byte."""

    @pytest.fixture
    def newer(self, config):
        """A folder of a newer version, with a spool; returns the settings and all that is in it."""
        spool = Spool.create(config.spool_dir / "1" / str(EPOCH), 2**20)
        spool.append_frames([Incoming(T0_NS, 3, b"abc")])
        spool.close()
        (config.state_dir / "checkpoint.json").write_text('{"version":7}')
        (config.state_dir / files.WRITTEN_FORMAT).write_text(f"{NEWER}\n")
        config.runtime.run_dir.mkdir()
        return config, _content(config)

    def test_the_service_does_not_begin(self, newer):
        config, before = newer
        with pytest.raises(FormatError, match=f"{config.storage.data_dir}: recorded in format {NEWER}"):
            Supervisor(config, simulate=False).lock()
        assert _content(config) == before

    def test_the_service_does_not_go_on_with_a_copy_of_it(self, newer):
        """As of `deploy/backup`: there only the event log tells."""
        config, _ = newer
        (config.state_dir / files.WRITTEN_FORMAT).unlink()
        (config.storage.data_dir / event_file_name(DAY)).write_bytes(epoch_line(format=NEWER))
        before = _content(config)
        with pytest.raises(FormatError, match=f"{event_file_name(DAY)}: recorded in format {NEWER}"):
            Supervisor(config, simulate=False).lock()
        assert _content(config) == before

    def test_an_event_log_that_cannot_be_read_tells_no_format(self, config, monkeypatch):
        """Why it cannot is said by who has to go on with it."""
        config.runtime.run_dir.mkdir()
        monkeypatch.setattr("pipeline.store.format.read_chunks", Mock(side_effect=PermissionError(13, "denied")))
        Supervisor(config, simulate=False).lock()

    def test_a_worker_does_not_touch_its_spool(self, newer):
        """As where an older version was installed while a newer supervisor starts them."""
        config, before = newer
        with pytest.raises(FormatError):
            claim_spool(config, 1)
        assert _content(config) == before

    @pytest.mark.parametrize("module", [["pipeline.writer"], ["pipeline.worker", "1"]])
    def test_a_process_says_why_and_ends(self, newer, module):
        config, before = newer
        done = subprocess.run(
            [sys.executable, "-m", *module],
            check=False, capture_output=True, text=True, timeout=60, env=config.to_child(),
        )  # fmt: skip
        assert done.returncode == FormatError.exit_code
        assert f"recorded in format {NEWER}" in done.stderr
        assert _content(config) == before

    def test_the_first_format_leaves_no_mark(self, config):
        """Nor does going on with it."""
        claim_format(config.state_dir)
        assert list(config.state_dir.iterdir()) == []

    def test_a_new_format_is_noted_before_anything_is_written(self, config, monkeypatch):
        """So that a version that does not know it finds out, whatever was written until then."""
        monkeypatch.setattr(files, "FORMAT", 2)
        claim_format(config.state_dir)
        assert written_format(config.state_dir) == 2
        claim_format(config.state_dir)
        monkeypatch.setattr(files, "FORMAT", 1)
        with pytest.raises(FormatError, match="format 2"):
            claim_format(config.state_dir)


def test_a_spool_that_is_not_ours_is_kept(tmp_path):
    """Nothing in it can be stored, and nothing of it is thrown away."""
    folder = tmp_path / "1" / "5"
    folder.mkdir(parents=True)
    (folder / "00000001.spool").write_bytes(b"MDR2" + bytes(200))
    spool = Spool.open(folder)
    assert spool.read(spool.seek(Mark()), 2**20).records == []
    spool.remove()
    assert (tmp_path / "1" / "5-00000001.damaged").read_bytes() == b"MDR2" + bytes(200)


def _content(config):
    folders = (config.storage.data_dir, config.spool_dir)
    return {
        path: path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }
