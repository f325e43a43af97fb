"""`mds compact`: what it prints, and its exit codes."""

import importlib.util
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline import extras
from pipeline.cli.compact import compact as command
from pipeline.cli.run import run
from pipeline.errors import MdsError
from pipeline.extras import MissingExtraError
from pipeline.files import parquet_folder, tick_file_name
from pipeline.ticks import encode_lines
from tests.stored import KINDS

DAY = "2025-10-01"
LINES = encode_lines(list(KINDS.values())) * 20


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data folder with a day that is over."""
    folder = tmp_path / "market_data"
    folder.mkdir()
    (folder / tick_file_name(date(2025, 10, 1))).write_bytes(LINES)
    return folder


def mds(data_dir: Path, *arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(command, arguments, env={"MDS_STORAGE__DATA_DIR": str(data_dir)}, prog_name="mds compact")


def answer(data_dir: Path, *arguments: str) -> list[dict[str, Any]]:
    """Return what it says of each day."""
    days: list[dict[str, Any]] = json.loads(mds(data_dir, "--json", *arguments).stdout)["days"]
    return days


def test_all_closed_days(data_dir: Path) -> None:
    """Without a date; a line a day on stdout, progress on stderr; again it is there already."""
    done = mds(data_dir)
    assert (done.exit_code, done.stderr) == (0, f"compacting {DAY}\n")
    assert done.stdout.startswith(f"{DAY}: 100 ticks in ")
    assert "each read back and compared" in done.stdout
    assert mds(data_dir).stdout.startswith(f"{DAY}: is there already: 100 ticks")
    done = mds(data_dir, "--delete-source")
    assert (done.exit_code, "the JSONL is removed" in done.stdout) == (0, True)
    assert mds(data_dir).stdout == "Nothing to compact: no day with ticks is closed.\n"
    done = mds(data_dir, DAY)
    assert (done.exit_code, "nothing to do, it is Parquet only" in done.stdout) == (0, True)


def test_as_json(data_dir: Path) -> None:
    """What programs want to know of each day."""
    [day] = answer(data_dir, DAY)
    size = sum(path.stat().st_size for path in parquet_folder(data_dir, date(2025, 10, 1)).iterdir())
    assert day.pop("seconds") > 0
    assert day == {
        "date": DAY,
        "result": "compacted",
        "ticks": 100,
        "jsonl_bytes": len(LINES),
        "parquet_bytes": size,
        "parts": 1,
        "new_ticks": 100,
        "bad_lines": 0,
        "torn_bytes": 0,
        "strays": 0,
        "source_deleted": False,
        "source_kept": "",
        "bad": [],
    }
    assert [day["result"] for day in answer(data_dir, DAY)] == ["nothing new"]


def test_a_source_that_has_to_stay(data_dir: Path) -> None:
    """Exit 1, and why, with the lines that are no ticks."""
    path = data_dir / tick_file_name(date(2025, 10, 1))
    path.write_bytes(LINES + b"hello\n" * 25 + LINES[:50])
    done = mds(data_dir, "--delete-source")
    assert done.exit_code == 1
    assert f"{path} line 101, byte {len(LINES)}: no tick: " in done.stdout
    assert "25 lines in all are no ticks" in done.stdout
    assert "its last 50 bytes are left out" in done.stdout
    assert "the JSONL stays: 25 lines of it are no ticks" in done.stdout
    assert mds(data_dir).exit_code == 0


def test_days_that_cannot_be_compacted(data_dir: Path) -> None:
    """The others are; exit 1, and why."""
    done = mds(data_dir, "2999-01-01", "2025-09-30", DAY)
    assert done.exit_code == 1
    assert f"{DAY}: 100 ticks" in done.stdout
    assert "2025-09-30: nothing was recorded" in done.stdout
    assert "2999-01-01: is not closed" in done.stdout
    [day] = answer(data_dir, "2999-01-01")
    assert (day["date"], day["result"], "not closed" in day["reason"]) == ("2999-01-01", "failed", True)


@pytest.mark.parametrize("words", [("yesterday",), ("2025-13-01",), ("--delete",)])
def test_wrong_usage(data_dir: Path, words: tuple[str, ...]) -> None:
    """Exit 2, nothing is done."""
    assert mds(data_dir, *words).exit_code == 2
    assert not (data_dir / "parquet").exists()


def test_no_such_folder(tmp_path: Path) -> None:
    """Named with the setting."""
    found = mds(tmp_path / "nowhere").exception
    assert isinstance(found, MdsError)
    assert "storage.data_dir" in str(found)
    assert found.exit_code == 2


def test_mds_run_needs_the_extra_where_it_is_to_compact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It refuses at the start, and not at midnight; without `compact` it does not ask."""
    monkeypatch.setattr(extras, "find_spec", lambda name: importlib.util.find_spec(name) if name != "pyarrow" else None)
    environment = {"MDS_STORAGE__COMPACT": "true", "MDS_RUNTIME__RUN_DIR": str(tmp_path / "run")}
    found = CliRunner().invoke(run, ["--simulate"], env=environment).exception
    assert isinstance(found, MissingExtraError)
    assert str(found).startswith("storage.compact needs pyarrow, which is not installed: pip install")
    assert found.exit_code == 2
    assert not (tmp_path / "run").exists()
