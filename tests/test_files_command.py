"""`mds files` as it is typed and read."""

import errno
import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from pipeline.files import event_file_name, parquet_folder, tick_file_name
from pipeline.store.keeping import counting, removal
from tests.builders import ZONE, event_line

LIST = """\
date       ticks   size first    last     stored as events
2025-10-01     3 0.0 MB 09:15:01 09:15:03 jsonl          2
2025-10-02     0 0.0 MB -        -        none           1
2025-10-03     ? 0.0 MB -        -        parquet        -
all            3 0.0 MB
Not in these ticks: 1 day in Parquet that cannot be counted: damaged, or pyarrow is not installed.
"""


pytestmark = pytest.mark.usefixtures("no_settings")


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    """A day with ticks, one with events alone, one in Parquet that cannot be counted; no settings from outside."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "market_data"
    parquet = folder / "parquet" / "date=2025-10-03"
    parquet.mkdir(parents=True)
    (parquet / "part-00000.parquet").write_bytes(b"PAR1")
    lines = [f'{{"timestamp":"2025-10-01T09:15:0{n}.123456+05:30","seq":{n}}}\n' for n in (1, 2, 3)]
    (folder / "market_data_2025-10-01.jsonl").write_text("".join(lines))
    (folder / "events_2025-10-01.jsonl").write_bytes(event_line(1) + event_line(2))
    (folder / "events_2025-10-02.jsonl").write_bytes(event_line(3))
    return folder


@pytest.fixture
def mds(run_mds):
    """Run `mds files` to its end; returns exit code, stdout, stderr."""
    return partial(run_mds, "files")


def trimmed(text):
    """Without the blanks at the ends of lines."""
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def test_the_days_as_a_table(mds):
    """A line for each day, and their sums."""
    code, out, err = mds()
    assert (code, trimmed(out), err) == (0, LIST, "")


def test_the_days_as_json(mds, data_dir):
    """The same for programs, with times as they are stored."""
    code, out, _ = mds("--json")
    found = json.loads(out)
    size = (data_dir / "market_data_2025-10-01.jsonl").stat().st_size
    assert (code, found["total"]) == (0, {"days": 3, "ticks": 3, "bytes": size + 4, "unknown": 1})
    assert [(day["date"], day["ticks"], day["stored_as"]) for day in found["days"]] == [
        ("2025-10-01", 3, "jsonl"),
        ("2025-10-02", 0, "none"),
        ("2025-10-03", None, "parquet"),
    ]
    assert found["days"][0]["first"] == "2025-10-01T09:15:01.123456+05:30"


def test_a_folder_without_days(mds, tmp_path):
    """It is no error that nothing is stored yet; that there is no folder is one."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "mds.toml").write_text('[storage]\ndata_dir = "empty"\n')
    assert mds() == (0, "Nothing is stored in empty yet.\n", "")
    assert json.loads(mds("--json")[1])["days"] == []
    assert mds("clean")[:2] == (0, "0 files removed, 0.0 MB.\n")
    (tmp_path / "mds.toml").write_text('[storage]\ndata_dir = "none"\n')
    for arguments in ((), ("info", "2025-10-01"), ("clean",)):
        code, out, err = mds(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "none: no such folder" in err


def test_what_is_counted_once_is_remembered(mds, data_dir, monkeypatch):
    """The next time nothing is read; a state folder that cannot be written is no error."""
    monkeypatch.setattr(counting, "SOON_READ_BYTES", 0)
    real = counting.count_on
    read: list[int] = []
    monkeypatch.setattr(counting, "count_on", lambda file, start, _: real(file, start, read.append))
    first = mds()
    assert sum(read) == sum(path.stat().st_size for path in data_dir.glob("*.jsonl"))
    read.clear()
    assert (mds(), read) == (first, [])
    (data_dir / ".mds" / "counted.json").unlink()
    (data_dir / ".mds").rmdir()
    (data_dir / ".mds").write_bytes(b"")
    assert mds() == first


@pytest.mark.parametrize(
    "name", ["2025-10-01", "market_data_2025-10-01.jsonl", "market_data/market_data_2025-10-01.jsonl"]
)
def test_one_file(mds, data_dir, name):
    """By day, by name, by path: the facts that StorageManager tells, and more."""
    path = data_dir / "market_data_2025-10-01.jsonl"
    code, out, _ = mds("info", name, "--json")
    found = json.loads(out)
    expected = {
        "exists": True,
        "filename": path.name,
        "size_bytes": path.stat().st_size,
        "created": "2025-10-01T09:15:01.123456+05:30",
        "tick_count": 3,
        "date": "2025-10-01",
        "last": "2025-10-01T09:15:03.123456+05:30",
        "stored_as": "jsonl",
        "also_stored_as": None,
        "closed": True,
        "open_because": None,
    }
    assert code == 0
    assert {key: found[key] for key in expected} == expected
    assert mds("--json", "info", name)[1] == out
    assert "tick count     3" in mds("info", name)[1]


def test_one_day_in_other_forms(mds, data_dir):
    """Events where there is nothing else; a folder of Parquet files, counted or not."""
    found = json.loads(mds("info", "2025-10-02", "--json")[1])
    assert (found["filename"], found["event_count"], "tick_count" in found) == ("events_2025-10-02.jsonl", 1, False)
    for name in ("2025-10-03", str(data_dir / "parquet" / "date=2025-10-03")):
        found = json.loads(mds("info", name, "--json")[1])
        assert (found["stored_as"], found["tick_count"], found["size_bytes"]) == ("parquet", None, 4)
    assert "tick count     ?" in mds("info", "2025-10-03")[1]


def test_a_file_of_any_name(mds, tmp_path):
    """Its lines are counted; of what day it is, nobody knows."""
    (tmp_path / "mine.jsonl").write_bytes(b'{"timestamp":"x"}\n[]\n')
    found = json.loads(mds("info", "mine.jsonl", "--json")[1])
    assert (found["tick_count"], found["date"], found["closed"], found["first"]) == (2, None, None, "x")


@pytest.mark.parametrize("name", ["2025-10-09", "nothing.jsonl", "market_data", "2025-13-01", "\0"])
def test_a_file_that_is_not_there(mds, name):
    """One line, and the answer is no."""
    code, out, err = mds("info", name)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "no such file" in err


def test_a_file_that_cannot_be_read(mds, data_dir, monkeypatch):
    """One line that names it."""
    real = counting.count_on

    def fail(file, *rest):
        if "market_data_2025" in file.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), file.name)
        return real(file, *rest)

    monkeypatch.setattr(counting, "count_on", fail)
    for arguments in ((), ("info", "2025-10-01")):
        code, out, err = mds(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert f"{data_dir.name}/market_data_2025-10-01.jsonl: Input/output error" in err


def test_cleaning(mds, data_dir):
    """A dry run tells, and the other one does: each file, and the sum; Parquet stays until it is asked for."""
    told = mds("clean", "--dry-run")
    assert told[0] == 0
    assert "would remove market_data/market_data_2025-10-01.jsonl (0.0 MB, 3 ticks)" in told[1]
    assert told[1].endswith("3 files would be removed, 0.0 MB. Nothing was.\n")
    assert (data_dir / "market_data_2025-10-01.jsonl").exists()

    code, out, err = mds("clean")
    assert (code, out, err) == (
        0,
        told[1].replace("would remove", "removed").replace("would be removed", "removed").replace(" Nothing was.", ""),
        "",
    )
    assert sorted(path.name for path in data_dir.iterdir()) == [".mds", "parquet"]
    assert mds("clean")[1] == "0 files removed, 0.0 MB.\n"
    assert mds("clean", "--parquet")[1].startswith("removed market_data/parquet/date=2025-10-03")
    assert list((data_dir / "parquet").iterdir()) == []


def test_cleaning_as_json(mds, data_dir, monkeypatch):
    """What was removed, kept and failed; exit 1 where something failed."""
    young = datetime.now(ZoneInfo(ZONE)).date() - timedelta(days=10)
    (data_dir / tick_file_name(young)).write_bytes(b"{}\n")
    (data_dir / "market_data_2025-10-02.jsonl").symlink_to("elsewhere")
    real = removal._remove

    def fail(folder, record, do):
        if record.file == "market_data_2025-10-01.jsonl":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        real(folder, record, do)

    monkeypatch.setattr(removal, "_remove", fail)
    code, out, _ = mds("clean", "--keep-days", "9", "--json")
    found = json.loads(out)
    assert (code, found["dry_run"], found["keep_days"], found["bytes"]) == (1, False, 9, 3)
    assert [entry["file"] for entry in found["removed"]] == [f"market_data/{tick_file_name(young)}"]
    assert [entry["why"].partition(": ")[2] for entry in found["kept"]] == [
        "no regular file; see what it is, and remove it by hand"
    ]
    assert "Permission denied" in found["failed"][0]["why"]
    code, out, _ = mds("clean", "--keep-days", "9")
    assert code == 1
    assert "failed: market_data/market_data_2025-10-01.jsonl: cannot be removed: Permission denied" in out


@pytest.mark.parametrize("days", ["-1", "x", "1.5", "99999999999999"])
def test_days_that_make_no_sense(mds, days, data_dir):
    """Nothing is removed."""
    before = sorted(data_dir.rglob("*"))
    assert mds("clean", "--keep-days", days)[0] == 2
    assert sorted(data_dir.rglob("*")) == before


def test_today_stays(mds, data_dir):
    """Whatever is asked for."""
    today = datetime.now(ZoneInfo(ZONE)).date()
    paths = [
        data_dir / name(day) for day in (today, today + timedelta(days=1)) for name in (tick_file_name, event_file_name)
    ]
    for path in paths:
        path.write_bytes(b"{}\n")
    parquet_folder(data_dir, today).mkdir()
    (parquet_folder(data_dir, today) / "part-00000.parquet").write_bytes(b"PAR1")
    mds("clean", "--keep-days", "0", "--parquet")
    assert all(path.exists() for path in paths)
    assert parquet_folder(data_dir, today).exists()


@pytest.mark.parametrize("arguments", [[], ["info", "2025-10-01"], ["clean", "--dry-run"]])
def test_an_output_that_cannot_be_written(tmp_path, arguments):
    """It is told in a line, and not as if the data folder were full."""
    argv = [sys.executable, "-m", "pipeline", "files", *arguments]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(argv, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (1, b"mds: cannot write: No space left on device\n")
