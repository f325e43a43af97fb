"""`mds gaps` as it is typed and read."""

import errno
import json
from functools import partial

import pytest

from pipeline.store import gaps
from tests.test_store_gaps import CLOSE, FIRST, OPENING, SECOND, gap, other

SHORT_LIST = """\
  from           to                seconds cause      instruments instrument-s
1 10-01 15:30:00 10-02 09:00:00 63,000.000 stopped              2    126,000.0
2 ?              10-02 09:00:00          ? spool lost           1            ?
"""
SUMS = """\
cause      gaps    seconds instrument-s
spool lost    1          ?            ?
stopped       1 63,000.000    126,000.0
all           2 63,000.000    126,000.0
Not in these seconds: 1 of which nobody knows when they began.
"""


pytestmark = pytest.mark.usefixtures("no_settings")


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    """Two days, gaps on the second; no settings from outside."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "market_data"
    folder.mkdir()
    (folder / f"events_{FIRST}.jsonl").write_bytes(other("service_started", CLOSE))
    lines = gap(CLOSE, OPENING, "stopped", [1, 2]) + gap(None, OPENING, "spool lost", [5], connection_id=2)
    (folder / f"events_{SECOND}.jsonl").write_bytes(lines)
    return folder


@pytest.fixture
def mds(run_mds):
    """Run `mds gaps` to its end; returns exit code, stdout, stderr."""
    return partial(run_mds, "gaps")


def trimmed(text):
    """Without the blanks at the ends of lines."""
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


@pytest.mark.parametrize("arguments", [(), ("--date", "2025-10-02")])
def test_gaps_and_sums(mds, arguments):
    """A line each, with the day it began on, and `?` for what nobody knows; below them the sums."""
    code, out, error = mds(*arguments)
    assert (code, trimmed(out), error) == (0, f"{SHORT_LIST}\n{SUMS}", "")


@pytest.mark.parametrize("columns", [40, 80, 100, 160])
def test_nothing_is_cut_off(mds, monkeypatch, columns):
    """A wide terminal has whole times, a narrow one short ones; where even these do not fit, lines are wrapped."""
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = mds()
    assert "…" not in out
    assert ("2025-10-01 15:30:00.000" in out) == (columns == 160)
    assert max(map(len, out.splitlines())) <= max(columns, 80)


def test_json_is_one_object(mds):
    """With the gaps and the sums."""
    code, out, _ = mds("--json")
    answer = json.loads(out)
    assert (code, set(answer)) == (0, {"gaps", "totals"})
    assert [(gap["cause"], gap["seconds"]) for gap in answer["gaps"]] == [("stopped", 63000.0), ("spool lost", None)]
    assert answer["totals"]["instrument_seconds"] == 126000.0


def test_no_gaps(mds, data_dir):
    """One line that says so, or an object without any."""
    assert mds("--date", "2025-10-01") == (0, "No gaps are on record on 2025-10-01.\n", "")
    assert json.loads(mds("--date", "2025-10-01", "--json")[1])["gaps"] == []
    (data_dir / f"events_{SECOND}.jsonl").unlink()
    assert mds() == (0, "No gaps are on record.\n", "")


def test_nothing_recorded(mds, data_dir):
    """Exit 1 where the day or all of it is missing; a folder that is not there is a wrong setting, 2."""
    missing = "mds: market_data: nothing was recorded on 2025-10-03, there is no events_2025-10-03.jsonl\n"
    assert mds("--date", "2025-10-03") == (1, "", missing)
    for path in data_dir.iterdir():
        path.unlink()
    missing = "mds: market_data: nothing was recorded, there is no events_YYYY-MM-DD.jsonl\n"
    assert mds() == mds("--json") == (1, "", missing)
    data_dir.rmdir()
    code, out, error = mds()
    assert (code, out) == (2, "")
    assert error == "mds: market_data: no such folder; storage.data_dir names the one with the data files\n"


def test_a_file_that_cannot_be_read(mds, monkeypatch):
    """Is named, and not passed over: it may have gaps."""

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(gaps, "read_events", refuse)
    assert mds() == (1, "", f"mds: market_data/events_{FIRST}.jsonl: Permission denied\n")


@pytest.mark.parametrize("date", ["yesterday", "2025-13-01", "2025-02-29", "01-10-2025", ""])
def test_a_date_that_is_none(mds, date):
    """Is wrong usage, and named."""
    code, out, error = mds("--date", date)
    assert (code, out) == (2, "")
    assert f"Invalid value for '--date': '{date}' does not match" in error
