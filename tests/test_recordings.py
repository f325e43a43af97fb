"""What older versions have recorded, read by today's code: each tick, once, and what was said of it."""

import json
import shutil
from datetime import date
from pathlib import Path

import pytest

from pipeline import iter_ticks, read_ticks
from pipeline.checkpoint import Checkpoint
from pipeline.config import Config
from pipeline.store import gaps, snapshot
from pipeline.store.parquet.compact import compact
from pipeline.store.verify import verify
from pipeline.supervisor import saved
from tests.integration.kite import id_of

RECORDINGS = Path(__file__).parent / "recordings"
VERSIONS = sorted(path.name for path in RECORDINGS.iterdir() if (path / "expected.json").exists())
FIRST, SECOND = "2025-10-01", "2025-10-03"


@pytest.fixture(params=VERSIONS)
def recording(request, tmp_path):
    """A copy of a recording, to be written to."""
    return Path(shutil.copytree(RECORDINGS / request.param, tmp_path / "recording"))


@pytest.fixture
def expected(recording):
    """The ids that were sent on each day and are stored, and those that are spooled: no code of ours has counted."""
    sent = json.loads((recording / "expected.json").read_text())
    spooled = sent.pop("spooled")
    return {**sent, SECOND: sorted(set(sent[SECOND]) - set(spooled)), "spooled": spooled}


def _config(recording):
    return Config().with_changes(storage={"data_dir": recording / "market_data"}).resolved()


def _ids(ticks):
    return sorted(id_of(tick) for tick in ticks)


def test_it_is_proved_complete(recording, expected):
    """As Parquet and as JSONL; what is spooled is told as no loss."""
    report = verify(snapshot.take(_config(recording)))
    assert report.problems == []
    assert (report.ok, report.chain) == (True, "ok")
    assert report.ticks == len(expected[FIRST]) + len(expected[SECOND])


def test_each_tick_is_read(recording, expected):
    """One by one and as a frame: what was sent, each once."""
    data_dir = recording / "market_data"
    for day in (FIRST, SECOND):
        assert _ids(iter_ticks(day, data_dir=data_dir)) == expected[day]
    frame = read_ticks(data_dir=data_dir).collect()
    assert frame.height == len(expected[FIRST]) + len(expected[SECOND])
    assert set(frame["mode"]) == {"ltp", "quote", "full"}
    symbols = read_ticks(data_dir=data_dir, symbols=True).collect()["symbol"]
    assert {"NSE:INFY", "NSE:NIFTY 50", "NSE:M&M"} <= set(symbols)


def test_what_was_missed_is_read(recording):
    """With its causes."""
    assert {gap.cause for gap in gaps.read(recording / "market_data")} == {"stopped", "killed"}


def test_it_becomes_parquet(recording, expected):
    """When nothing of the day is spooled any more; then it is read from there."""
    config = _config(recording)
    shutil.rmtree(config.spool_dir)
    outcome = compact(config, date.fromisoformat(SECOND), delete_source=True)
    assert (outcome.ticks, outcome.bad_lines) == (len(expected[SECOND]), 0)
    assert _ids(iter_ticks(SECOND, data_dir=config.storage.data_dir)) == expected[SECOND]


def test_what_the_recorder_remembers_is_understood(recording):
    """The checkpoint, and what was subscribed: else they would be set aside as damaged."""
    assert Checkpoint.decode((recording / "market_data" / ".mds" / "checkpoint.json").read_bytes()).marks
    kept = saved.read(recording / "run" / saved.FILE_NAME)
    assert kept is not None
    assert {group.mode for group in kept.subscribed} == {"quote", "full"}
