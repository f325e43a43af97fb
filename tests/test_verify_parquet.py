"""`mds verify` of days that are Parquet only: as true as it was of their JSONL."""

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli.verify import verify as command
from pipeline.config import Config
from pipeline.files import parquet_folder
from pipeline.store.parquet import compact, part
from pipeline.store.parquet.files import parts
from pipeline.store.verify import Report
from tests.test_verify import DAYS, E1, E2, Recording, check, counts


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    """Two connections over two days; all is right."""
    made = Recording(tmp_path)
    made.begin(1, E1)
    made.begin(2, E1)
    made.ticks(1, E1, 1, 40)
    made.ticks(2, E1, 1, 5)
    made.begin(1, E2, (E1, 40, 1))
    made.ticks(1, E2, 1, 10)
    made.ticks(1, E2, 11, 20, day=1)
    made.ticks(2, E1, 6, 9, day=1)
    return made


def compacted(recording: Recording, *days: int) -> Report:
    """Return what is found when these days have become Parquet, and their JSONL is gone."""
    recording.save()
    config = Config().with_changes(storage={"data_dir": recording.data_dir})
    for day in days:
        outcome = compact.compact(config.resolved(), DAYS[day])
        assert outcome.ticks
        (recording.data_dir / f"market_data_{DAYS[day]}.jsonl").unlink()
    return check(recording.data_dir)


@pytest.mark.parametrize("days", [(0,), (1,), (0, 1)])
def test_it_is_as_right_as_it_was(recording: Recording, days: tuple[int, ...]) -> None:
    """Whichever days are Parquet."""
    before = recording.check()
    report = compacted(recording, *days)
    assert (report.ok, report.chain, report.problems, counts(report)) == (True, "ok", [], {})
    assert (report.ticks, report.streams, report.files) == (before.ticks, before.streams, 2)
    assert report.ticked == before.ticked


def test_a_day_that_is_both_is_checked_once(recording: Recording) -> None:
    """By its JSONL."""
    recording.save()
    compact.compact(Config().with_changes(storage={"data_dir": recording.data_dir}).resolved(), DAYS[0])
    report = check(recording.data_dir)
    assert (report.ok, report.ticks, counts(report)) == (True, 69, {})


@pytest.mark.parametrize("day", [0, 1])
def test_what_was_wrong_is_wrong_still(recording: Recording, day: int) -> None:
    """A hole, a repeat, a line out of order and a tick of another day, with the same counts."""
    lines = recording.lines[f"market_data_{DAYS[0]}.jsonl"]
    del lines[3:5]
    lines.append(lines[10])
    lines.append(lines.pop(20))
    recording.ticks(1, E2, 21, 21, day=2)
    recording.lines[f"market_data_{DAYS[1]}.jsonl"] += recording.lines.pop(f"market_data_{DAYS[2]}.jsonl")
    before = recording.check()
    assert not before.ok
    report = compacted(recording, day)
    assert counts(report) == counts(before)
    assert sorted(p.kind for p in report.problems) == sorted(p.kind for p in before.problems)


@pytest.mark.parametrize("gone", [0, 1, -1])
def test_a_missing_part_is_told(recording: Recording, monkeypatch: pytest.MonkeyPatch, gone: int) -> None:
    """Any of them: the first, one in the middle, the last."""
    monkeypatch.setattr(part, "CHUNK_BYTES", 2000)
    monkeypatch.setattr(part, "PART_BYTES", 2000)
    assert compacted(recording, 0).ok
    found = parts(parquet_folder(recording.data_dir, DAYS[0]))
    assert len(found) >= 3
    found[gone].unlink()
    report = check(recording.data_dir)
    assert not report.ok
    assert any("part" in problem.message and "not there" in problem.message for problem in report.problems)
    assert report.missing > 0


def test_a_damaged_part_is_told(recording: Recording) -> None:
    """It is named, and its ticks are missing."""
    compacted(recording, 0)
    [path] = parts(parquet_folder(recording.data_dir, DAYS[0]))
    path.write_bytes(path.read_bytes()[:-100])
    report = check(recording.data_dir)
    assert (report.ok, report.invalid) == (False, 1)
    assert str(path) in report.problems[0].message
    assert report.missing > 0


def shown(data_dir: Path, *arguments: str) -> Any:
    """Return what the command says."""
    environment = {"MDS_STORAGE__DATA_DIR": str(data_dir)}
    return CliRunner().invoke(command, arguments, env=environment)


def test_the_command_names_the_part(recording: Recording) -> None:
    """Of a Parquet part no line is known."""
    del recording.lines[f"market_data_{DAYS[0]}.jsonl"][2]
    compacted(recording, 0)
    done = shown(recording.data_dir)
    assert done.exit_code == 1
    assert "part-00000.parquet: ticks 3 to 3 of connection 1" in done.output
    assert ":0" not in done.output.split("Wrong:")[1]


def test_without_the_packages_it_is_said(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other days are checked."""
    compacted(recording, 0)
    monkeypatch.setitem(sys.modules, "pipeline.store.parquet.io", None)
    report = check(recording.data_dir)
    assert (report.ticks, report.days_not_checked, counts(report, "cut")) == (14, 1, {"cut": 2})
    done = shown(recording.data_dir)
    assert "Not checked: 1 day in Parquet" in done.output
    assert "pip install" in done.output


def test_where_nothing_can_be_read_nothing_is_called_wrong(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All days are Parquet, and the packages for it are missing: exit 1, since nothing is proved either."""
    compacted(recording, 0, 1)
    monkeypatch.setitem(sys.modules, "pipeline.store.parquet.io", None)
    done = CliRunner().invoke(command, env={"MDS_STORAGE__DATA_DIR": str(recording.data_dir)})
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (1, "Nothing was checked.")


def test_a_damaged_part_is_named_once(recording: Recording) -> None:
    """With the way out."""
    compacted(recording, 0)
    [path] = parts(parquet_folder(recording.data_dir, DAYS[0]))
    path.write_bytes(b"PAR1")
    done = shown(recording.data_dir)
    assert (done.exit_code, done.output.count(str(path))) == (1, 1)
    assert f"  invalid: {path}: cannot be read as a part of a day: " in done.output
