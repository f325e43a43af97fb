"""`mds report` as it is typed and read; what its page looks like is for a browser to say."""

import json
import re
import subprocess
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import plotly.graph_objects as go
import pytest

from pipeline.files import parquet_folder
from pipeline.store.report import export
from pipeline.ticks import Depth, DepthLevel, FullTick, Ohlc, QuoteTick, encode_lines
from tests.builders import DAY
from tests.histories import event, gap, stamp, started, stopped, subscribed

MARKUP = '<img src=x onerror=alert(1)>&"'
OHLC = Ohlc(1.0, 2.0, 0.5, 1.5)
SIDE = (DepthLevel(1, 10.0, 1),) * 5


def charts_of(page):
    """Return the charts of a page by name."""
    found = re.search(r'id="charts">(.*?)</script>', page)
    assert found
    return json.loads(found[1])


def quote(seq, second, token):
    """Return a tick of connection 1."""
    head = (True, token, 10.0 + seq % 7, 1, 10.0, seq, 1, 1, OHLC, 0.0)
    return QuoteTick(*head, stamp(second), 1, 7, seq)


def full(seq, second, token):
    """Return a tick of connection 2 with the exchange's time and depth."""
    sent = stamp(second)[:19] + stamp(second)[26:]
    depth = Depth(SIDE, (DepthLevel(1, 10.5, 1), *SIDE[1:]))
    head = (True, token, 10.0, 1, 10.0, seq, 1, 1, OHLC, 0.0, None, 1, 1, 1, sent, depth)
    return FullTick(*head, stamp(second), 2, 7, seq)


pytestmark = pytest.mark.usefixtures("no_settings")


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    """A minute of three instruments, one of them with a name, one of them silent; a gap; no settings from outside."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "market_data"
    folder.mkdir()
    ticks = [quote(i + 1, 1 + i / 4, 1 + i % 2) for i in range(200)] + [full(i + 1, 1 + i / 2, 3) for i in range(100)]
    (folder / f"market_data_{DAY}.jsonl").write_bytes(encode_lines(ticks))
    log = [
        started(),
        subscribed(1, 1, [1, 2, 4]),
        subscribed(1, 2, [3]),
        gap(20, 22, 1, [1, 2], MARKUP),
        event("idle", 55, 2),
        stopped(60),
    ]
    (folder / f"events_{DAY}.jsonl").write_bytes(b"\n".join(log) + b"\n")
    (folder / f"instruments_{DAY}.csv").write_text(f'instrument_token,tradingsymbol,exchange\n1,"{MARKUP[:-1]}",NSE\n')
    return folder


@pytest.fixture
def mds(run_mds):
    """Run `mds report` to its end; returns exit code, stdout, stderr."""
    return partial(run_mds, "report")


def test_a_few_lines(mds):
    """How much, what was missed and why, who was busy; symbols where they are known."""
    code, out, error = mds()
    assert (code, error) == (0, "")
    assert re.search(r"^ticks +300 \(200 quote, 100 full\)$", out, re.MULTILINE)
    assert "recorded 09:10:00 to 09:11:00: received whole: 2 instruments; 2 missed something, up to 2.000 s." in out
    assert "subscribed, and never ticked: 1 instrument (4)" in out
    assert f"NSE:{MARKUP[:-1]}" in out


def test_the_export(mds, data_dir):
    """One object, with null and the reason where no service runs."""
    code, out, error = mds("--json")
    answer = json.loads(out)
    assert (code, error) == (0, "")
    assert set(answer) == {
        "generated_at",
        "data_analysis",
        "service_metrics",
        "health_status",
        "connection_status",
        "service_error",
        "file_analyzed",
        "total_rows",
        "completeness",
    }
    assert answer["total_rows"] == answer["data_analysis"]["total_ticks"] == 300
    assert answer["data_analysis"]["unique_instruments"] == 3
    assert answer["file_analyzed"] == str(data_dir.relative_to(data_dir.parent) / f"market_data_{DAY}.jsonl")
    assert (answer["service_metrics"], answer["completeness"]["total"]["missed"]) == (None, 2)
    assert "no service is running" in answer["service_error"]
    assert answer["completeness"]["days"][0]["never_ticked"] == [4]
    some = json.loads(mds("--json", "-i", "3")[1])
    assert (some["total_rows"], some["completeness"]["days"][0]["never_ticked"]) == (100, None)


def test_the_page(mds, tmp_path):
    """It holds all that it shows, and what others have written is text in it; each chart is one that plotly knows."""
    code, out, error = mds("--html", "page.html")
    assert (code, out) == (0, "")
    assert re.fullmatch(r"page\.html: \d\.\d MB\n", error)
    text = (tmp_path / "page.html").read_text()
    charts = charts_of(text)
    assert set(charts) == {"rates", "latency", "latencies", "busiest", "silent", "price-1", "price-2", "price-3"}
    for chart in charts.values():
        uncoloured = json.loads(re.sub('"--[a-z]+"', '"#123456"', json.dumps(chart)))
        assert all(len(trace["x"]) > 0 for trace in go.Figure(uncoloured).to_dict()["data"])
    assert MARKUP not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}' 'sha256-[A-Za-z0-9+/=]{44}'\"", text)
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", text.partition('<script type="')[0])
    assert "None" not in text.partition("<script>")[0]


def test_prices_of_the_named_and_ticks_of_a_time(mds, tmp_path):
    """-i says what prices are drawn; --from and --to what ticks are counted, and the page says so."""
    assert mds("--html", "page.html", "-i", "3", "--from", "09:10:10", "--to", "09:10:20")[0] == 0
    text = (tmp_path / "page.html").read_text()
    assert [name for name in charts_of(text) if "price" in name] == ["price-3"]
    assert "Of the ticks only: from 09:10:10, before 09:10:20." in text
    assert "<dd>60<small>40 quote, 20 full" in text


@pytest.mark.parametrize("missing", ["events", "ticks", "both"])
def test_without_events_or_ticks(mds, tmp_path, data_dir, missing):
    """Nobody knows what was missed, or there is nothing to draw; both make a page."""
    if missing in ("events", "both"):
        (data_dir / f"events_{DAY}.jsonl").unlink()
    if missing in ("ticks", "both"):
        (data_dir / f"market_data_{DAY}.jsonl").write_bytes(b"")
    assert mds("--html", "page.html")[0] == mds()[0] == mds("--json")[0] == 0
    text = (tmp_path / "page.html").read_text()
    assert ("There are no ticks to draw" in text) == (missing != "events")
    assert ("nobody knows what was missed" in text.lower()) == (missing != "ticks")


def test_torn_and_foreign_lines(mds, data_dir):
    """Are passed over, and named on stderr."""
    with (data_dir / f"market_data_{DAY}.jsonl").open("ab") as file:
        file.write(b'nonsense\n{"mode":"quote"')
    code, out, _ = mds()
    assert code == 0
    assert "ticks                    300 (" in out


def test_files_of_other_names_and_places(mds, tmp_path, data_dir):
    """A file is of the days of its ticks; its event log is looked for beside it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (data_dir / f"market_data_{DAY}.jsonl").rename(elsewhere / "some.jsonl")
    code, out, _ = mds("elsewhere/some.jsonl")
    assert (code, f"{DAY}: the event log does not tell" in out) == (0, True)
    (data_dir / f"events_{DAY}.jsonl").rename(elsewhere / f"events_{DAY}.jsonl")
    assert "2 missed something" in mds("elsewhere/some.jsonl")[1]


def test_what_is_not_there(mds, data_dir):
    """One line that says so."""
    code, out, error = mds("2025-10-03")
    assert (code, out) == (1, "")
    assert error.startswith("mds: market_data: nothing was recorded on 2025-10-03")
    assert mds("nowhere.jsonl")[0] == mds("--html", "nowhere/page.html")[0] == mds("--html", ".")[0] == 2
    assert "there is no folder" in mds("--html", "nowhere/page.html")[2]
    for path in data_dir.iterdir():
        path.unlink()
    assert mds()[0] == 1


def test_the_page_is_written_whole_or_not_at_all(mds, tmp_path):
    """A full disk leaves the page that was there, and nothing else; a link is followed, a pipe is written to."""
    (tmp_path / "page.html").write_text("old")
    (tmp_path / "page.new").write_text("somebody's")
    limited = """trap '' XFSZ; ulimit -f 1000; exec "$@" """  # blocks of 1,024 bytes
    command = ["bash", "-c", limited, "-", sys.executable, "-m", "pipeline", "report", "--html", "page.html"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"mds: page\.html: .*; the page was not written\n", done.stderr)
    assert (tmp_path / "page.html").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["market_data", "page.html", "page.new"]
    (tmp_path / "link.html").symlink_to("page.html")
    assert mds("--html", "link.html")[0] == 0
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "page.html").stat().st_size > 1e6
    export.write(tmp_path / "page.new", b"mine")
    assert mds("--html", "/dev/null")[0] == 0
    assert not Path("/dev/null").is_file()


def test_several_days(mds, tmp_path, data_dir):
    """One page over all of them."""
    text = (data_dir / f"market_data_{DAY}.jsonl").read_text()
    following = DAY + timedelta(1)
    (data_dir / f"market_data_{following}.jsonl").write_text(text.replace(str(DAY), str(following)))
    assert mds(str(DAY), str(following), "--html", "page.html")[0] == 0
    page = (tmp_path / "page.html").read_text()
    assert "Recording of 2025-10-01 to 2025-10-02" in page
    assert "On 2 of 2 days something was missed, or nobody knows." in page
    assert "<dt>received whole</dt><dd>2<small>2 missed something, of 1 day nobody knows</small></dd>" in page
    assert len(charts_of(page)["rates"]["data"][0]["x"]) <= 1000


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--html", "page.html"]])
def test_damaged_parquet(mds, tmp_path, data_dir, arguments):
    """One line that names it."""
    folder = parquet_folder(data_dir, DAY)
    folder.mkdir(parents=True)
    (folder / "part-00000.parquet").write_bytes(b"PAR1 and no more")
    (data_dir / f"market_data_{DAY}.jsonl").unlink()
    code, out, error = mds(*arguments)
    assert (code, out, error.count("\n")) == (1, "", 1)
    assert f"{folder.relative_to(tmp_path)}: cannot be read" in error
