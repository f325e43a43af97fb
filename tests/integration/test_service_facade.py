"""`MarketDataService` as scripts and notebooks use it, each against a simulator: what is promised is asserted."""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline import Client, MarketDataService
from pipeline.errors import ConfigError, MdsError, NotRunningError
from pipeline.store.manager import StorageManager
from tests.integration.service import DEADLINE_S, Service, until
from tests.test_simulator import get, program

KEY, TOKEN = "made-up-key", "made-up-token"
INSTRUMENTS = [408065, 738561, 408577, 81153, 119553, 70401, 415745, 3001089, 1346049, 175361, 969473, 1041153, 1270529]
# A trading universe as people paste it together: 92 tokens, some of them more than once, one of which never ticks.
# fmt: off
UNIVERSE = [
    408065, 738561, 341249, 1270529, 779521, 492033, 1510401, 1346049, 3050241, 579329, 2863105, 261889, 81153, 119553,
    5582849, 4774913, 6054401, 175361, 4268801, 579329, 2953217, 408065, 969473, 1850625, 3465729, 1152769, 4701441,
    4752385, 356865, 424961, 4598529, 140033, 197633, 2585345, 1041153, 3876097, 878593, 4843777, 857857, 225537,
    177665, 2800641, 900609, 303617, 70401, 418049, 2911489, 40193, 2815745, 884737, 519937, 232961, 2170625, 345089,
    54273, 108033, 558337, 738561, 633601, 415745, 134657, 1207553, 4464129, 2905857, 2977281, 3834113, 6401, 895745,
    3001089, 348929, 3924993, 758529, 5215745, 758529, 1723649, 2939649, 112129, 951809, 2513665, 108033, 806401, 3329,
    3848705, 486657, 470529, 2714625, 3677697, 738561, 3431425, 975873, 952577, 3721473,
]
# fmt: on
REPEATS = [408065, 738561, 579329, 108033, 758529]
DEAD = 3329  # the simulator has nothing for it

pytestmark = pytest.mark.usefixtures("_no_settings")


@pytest.fixture(scope="module")
def _no_settings(tmp_path_factory):
    """No settings in the environment or the working folder, as for somebody who begins."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("MDS_", "KITE_"))]:
            patch.delenv(name)
        patch.chdir(tmp_path_factory.mktemp("work"))
        yield


@pytest.fixture(scope="module")
def simulator(_no_settings) -> Iterator[str]:
    """The URL of a simulator."""
    with program("--rate", "500") as (_, url):
        yield url


@contextmanager
def recorder(folder: Path, **options: Any) -> Iterator[tuple[MarketDataService, Service]]:
    """A facade that is not started, and its folder as the other tests see one; no process of it may be left."""
    place = Service(folder)
    service = MarketDataService(KEY, TOKEN, place.data_dir, run_dir=place.run_dir, **options)
    try:
        yield service, place
        assert service.stop()
        assert place.processes() == []
    finally:
        place.kill_all()
        print(place.logs())  # noqa: T201  pytest shows it with a failure


@pytest.fixture(scope="module")
def running(simulator, tmp_path_factory) -> Iterator[MarketDataService]:
    """A service that several tests use, one after the other."""
    with recorder(tmp_path_factory.mktemp("shared"), ws_url=simulator) as (service, _):
        assert service.start()
        yield service


@pytest.fixture
def service(running) -> Iterator[MarketDataService]:
    """It, with nothing subscribed."""
    yield running
    running.unsubscribe_all()


def wait_for_flow(service: MarketDataService, *connections: int) -> dict[str, Any]:
    """Wait until these connections, and no others, are open and have ticks; return what is said of them."""

    def flows() -> bool:
        found = service.get_connections()["connections"]
        open_ones = [c for c in (1, 2, 3) if found[str(c)]["active"]]
        return open_ones == list(connections) and all(found[str(c)]["tick_rate"] > 0 for c in connections)

    until(flows, f"ticks come on {connections}")
    found: dict[str, Any] = service.get_connections()["connections"]
    return found


def wait_for_server(url: str, *connections: dict[int, str]) -> None:
    """Wait until the simulator has these connections open, each with the modes of its instruments, and no others."""

    def has_them() -> bool:
        found = [connection["tokens"] for connection in get(url, "/stats")[1]["connections"]]
        wanted = [{str(token): mode for token, mode in connection.items()} for connection in connections]
        return sorted(found, key=str) == sorted(wanted, key=str)

    until(has_them, f"the server has {connections}")


# One thing at a time.


def test_basic_connection(simulator, tmp_path):
    """It starts, opens a connection with its first instrument, and is gone when it was stopped."""
    with recorder(tmp_path, ws_url=simulator) as (service, place):
        assert not service.running
        assert service.start() is True
        assert service.running
        health = service.get_health()
        assert (health["status"], health["reasons"]) == ("healthy", [])
        assert (health["active_connections"], health["kite_connected"]) == (0, False)
        service.subscribe_instruments([408065])
        wait_for_flow(service, 1)
        health = service.get_health()
        assert (health["active_connections"], health["kite_connected"], health["data_fresh"]) == (1, True, True)
        assert service.stop() is True
        assert place.processes() == []
        assert service.stop() is True
    assert not service.running
    with pytest.raises(NotRunningError, match=r"call start\(\) first"):
        service.get_health()
    place.assert_verified()


def test_subscription_and_ticks(service, simulator):
    """Thirteen instruments in quote mode on connection 1, here and at the server, and their ticks are counted."""
    result = service.subscribe_instruments(INSTRUMENTS, mode="QUOTE", connection_id=1)
    assert result["success"] is True
    assert (result["connection_id"], result["subscribed_count"], result["mode"]) == (1, 13, "QUOTE")
    first = wait_for_flow(service, 1)["1"]
    wait_for_server(simulator, dict.fromkeys(INSTRUMENTS, "quote"))
    until(lambda: service.wait_for_ticks(duration_seconds=0.5, expected_min_ticks=10) >= 10, "ten ticks come")

    found = service.get_instruments()
    assert found["total_unique_instruments"] == 13
    assert found["by_connection"]["1"] == {"count": 13, "tokens": INSTRUMENTS, "mode": "QUOTE"}
    assert found["capacity_summary"]["1"] == {
        "count": 13,
        "capacity_used_pct": pytest.approx(13 / 30),
        "capacity_remaining": 2987,
    }
    connection = service.get_connections()["connections"]["1"]
    assert connection["tick_count"] >= first["tick_count"] + 10
    assert (connection["role"], connection["mode"], connection["subscribed_instruments"]) == ("Primary", "QUOTE", 13)
    assert connection["uptime_seconds"] > 0
    assert connection["seconds_since_last_tick"] is not None


def test_multiple_connections(service, simulator):
    """Quote on connection 1 and full on connection 2, where the ticks have depth."""
    primary, full = INSTRUMENTS[:5], INSTRUMENTS[5:8]
    assert service.subscribe_instruments(primary, mode="QUOTE", connection_id=1)["success"]
    result = service.activate_full_mode(full)
    assert result["success"] is True
    assert (result["connection_id"], result["subscribed_count"], result["mode"]) == (2, 3, "FULL")
    connections = wait_for_flow(service, 1, 2)
    assert {c: (connections[c]["mode"], connections[c]["subscribed_instruments"]) for c in "12"} == {
        "1": ("QUOTE", 5),
        "2": ("FULL", 3),
    }
    wait_for_server(simulator, dict.fromkeys(full, "full"), dict.fromkeys(primary, "quote"))

    def in_full() -> list[dict[str, Any]]:
        return [tick for tick in service.storage_mgr.read_ticks_today() if tick["mode"] == "full"]

    until(in_full, "full ticks are stored")
    assert {(tick["connection_id"], tick["instrument_token"]) for tick in in_full()} <= {(2, token) for token in full}
    assert all(len(tick["depth"]["buy"]) == 5 for tick in in_full())


def test_duplicate_validation(service, simulator):
    """What connection 1 has is refused on connection 2, with where it is, and all stays as it was."""
    tokens = INSTRUMENTS[:3]
    assert service.subscribe_instruments(tokens, connection_id=1)["success"]
    refused = service.subscribe_instruments([*tokens, INSTRUMENTS[3]], connection_id=2)
    assert refused["success"] is False
    assert "already" in refused["error"]
    assert refused["duplicates"] == [{"token": token, "existing_connection": 1, "mode": "QUOTE"} for token in tokens]
    wait_for_flow(service, 1)
    wait_for_server(simulator, dict.fromkeys(tokens, "quote"))
    assert service.get_instruments()["total_unique_instruments"] == 3


def test_unsubscribe(service, simulator):
    """Two of five, then all; what is not subscribed is passed over and named."""
    tokens = INSTRUMENTS[:5]
    service.subscribe_instruments(tokens, connection_id=1)
    wait_for_flow(service, 1)
    result = service.unsubscribe_instruments([*tokens[:2], 779521])
    assert result["success"] is True
    assert result["results"] == [{"connection_id": 1, "unsubscribed_count": 2}]
    assert result["unknown"] == [779521]
    assert service.get_instruments()["by_connection"]["1"]["tokens"] == tokens[2:]
    wait_for_server(simulator, dict.fromkeys(tokens[2:], "quote"))

    result = service.unsubscribe_all()
    assert (result["success"], result["results"]) == (True, [{"connection_id": 1, "unsubscribed_count": 3}])
    assert service.get_instruments()["total_unique_instruments"] == 0
    wait_for_server(simulator)
    assert service.unsubscribe_instruments(tokens)["success"] is False
    assert service.unsubscribe_all()["results"] == []


def test_storage(service):
    """The day's file is there, its lines are ticks as Kite's client names them, and each is counted."""
    service.subscribe_instruments(INSTRUMENTS[:5], connection_id=1)
    until(lambda: service.get_storage_status()["total_ticks_today"] >= 100, "a hundred ticks are stored")
    storage = service.get_storage_status()
    current = service.storage_mgr.get_current_filepath()
    assert (storage["storage_type"], storage["current_file"], storage["total_files"]) == ("JSONL", current.name, 1)
    assert current.parent == service.data_dir
    lines = current.read_bytes().splitlines()
    assert len(lines) >= storage["total_ticks_today"]
    tick = json.loads(lines[0])
    assert {
        "tradable",
        "mode",
        "instrument_token",
        "last_price",
        "ohlc",
        "change",
        "timestamp",
        "connection_id",
    } <= set(tick)
    assert service.storage_mgr.read_ticks_from_file(current, max_ticks=1) == [tick]


# The examples.


def test_the_complete_usage_example(simulator, tmp_path):
    """From start over subscribing, watching, full mode and reading back to an orderly end: nothing is missing."""
    with recorder(tmp_path, ws_url=simulator) as (service, place):
        assert service.start()
        result = service.subscribe_trading_universe(UNIVERSE, batch_size=100)
        assert (result["successful_batches"], result["total_batches"], result["failed_batches"]) == (1, 1, 0)
        assert result["repeats"] == REPEATS
        wait_for_flow(service, 1)

        def silent() -> list[int]:
            return [i["instrument_token"] for i in service.get_instruments()["instruments"] if not i["tick_count"]]

        until(lambda: silent() == [DEAD], "every instrument but one ticks")
        health, metrics = service.get_health(), service.get_metrics()
        assert (health["status"], health["active_connections"], health["subscribed_instruments"]) == ("healthy", 1, 86)
        assert metrics["total_ticks_received"] == sum(metrics["ticks_by_connection"].values()) > 0
        assert metrics["performance_pct"] == pytest.approx(metrics["average_tick_rate"] / 10, abs=0.01)

        result = service.activate_full_mode(UNIVERSE[:3])
        assert result["success"]
        connections = wait_for_flow(service, 1, 2)
        assert [connections[c]["subscribed_instruments"] for c in "123"] == [83, 3, 0]
        assert [connections[c]["role"] for c in "123"] == ["Primary", "Secondary", "Tertiary"]

        current = service.storage_mgr.get_current_filepath()
        until(lambda: b'"mode":"full"' in current.read_bytes(), "full ticks are stored")
        ticks = service.storage_mgr.read_ticks_from_file(current)
        assert {tick["mode"] for tick in ticks} == {"quote", "full"}
        assert {tick["instrument_token"] for tick in ticks} == set(UNIVERSE) - {DEAD}

        assert service.unsubscribe_all()["success"]
        assert service.stop()
    report = place.assert_verified()
    assert report["ticks"] == service.storage_mgr.count_ticks_today() >= len(ticks)
    assert place.events("gap") == []


def test_the_quick_start(tmp_path):
    """Without an account: three instruments of the built-in simulator, until Ctrl-C; only they are recorded."""
    with recorder(tmp_path, simulate=True) as (service, place):
        assert service.start()
        result = service.subscribe_trading_universe(INSTRUMENTS[:3], batch_size=100)
        assert f"{result['successful_batches']}/{result['total_batches']}" == "1/1"
        until(lambda: service.get_metrics()["total_ticks_received"] >= 100, "a hundred ticks come")
        assert service.get_health()["status"] == "healthy"
        assert service.stop()
        ticks = service.storage_mgr.read_ticks_today()
    assert {tick["instrument_token"] for tick in ticks} == set(INSTRUMENTS[:3])
    place.assert_verified(ticks=len(ticks))


# The universe, and moving.


def test_a_universe_with_repeats_in_batches(service):
    """92 tokens are 86 instruments in five batches; given again, each batch is refused as a whole."""
    result = service.subscribe_trading_universe(UNIVERSE, batch_size=20)
    assert result["success"] is True
    assert [r["subscribed_count"] for r in result["results"]] == [20, 20, 20, 20, 6]
    assert (result["total_batches"], result["successful_batches"], result["failed_batches"]) == (5, 5, 0)
    assert result["repeats"] == REPEATS
    found = service.get_instruments()
    assert found["by_connection"]["1"]["tokens"] == list(dict.fromkeys(UNIVERSE))

    again = service.subscribe_trading_universe([*UNIVERSE, 408577], batch_size=50)
    assert (again["success"], again["successful_batches"], again["failed_batches"]) == (False, 0, 2)
    assert sum(len(result["duplicates"]) for result in again["results"]) == 86
    assert service.get_instruments()["total_unique_instruments"] == 86


def test_full_mode_moves_what_connection_1_has(service, simulator):
    """Of five, one is on connection 1 already: it is moved; all five are in full mode on connection 2, and once."""
    service.subscribe_trading_universe(UNIVERSE[:20])
    wait_for_flow(service, 1)
    result = service.activate_full_mode(UNIVERSE[20:25])
    assert (result["success"], result["subscribed_count"], result["mode"]) == (True, 5, "FULL")
    wait_for_flow(service, 1, 2)
    primary, full = dict.fromkeys(UNIVERSE[:20], "quote"), dict.fromkeys(UNIVERSE[20:25], "full")
    del primary[408065]
    wait_for_server(simulator, primary, full)
    assert service.get_instruments()["total_unique_instruments"] == 19 + 4


def test_redundancy(service, simulator):
    """Connection 3 records what connection 1 does, until it is told otherwise."""
    assert service.subscribe_instruments(INSTRUMENTS[:5])["success"]
    assert service.activate_redundancy() is True
    wait_for_flow(service, 1, 3)
    wait_for_server(simulator, *[dict.fromkeys(INSTRUMENTS[:5], "quote")] * 2)
    found = service.get_instruments()
    assert found["total_unique_instruments"] == 5
    assert [found["by_connection"][c]["tokens"] for c in "123"] == [INSTRUMENTS[:5], [], INSTRUMENTS[:5]]
    with Client(service.run_dir) as client:
        assert client.mirror(False).success
    wait_for_flow(service, 1)


# What is refused.


@pytest.mark.parametrize(
    ("tokens", "mode", "connection_id", "word"),
    [
        ([408065], "DEPTH", 1, "LTP, QUOTE, FULL"),
        ([408065], None, 1, "LTP, QUOTE, FULL"),
        ([408065], "FULL", 4, "connection_id"),
        (["408065"], "QUOTE", 1, "'408065' is no instrument token"),
        ([408065, -1], "QUOTE", 1, "-1 is no instrument token"),
        ([408065, 2**70], "QUOTE", 1, "is no instrument token"),
        ([], "QUOTE", 1, "tokens"),
        (list(range(0x101, 0x101 + 3001 * 0x100, 0x100)), "QUOTE", 1, "3001"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(service, tokens, mode, connection_id, word):
    """An answer, no exception, and nothing is changed."""
    refused = service.subscribe_instruments(tokens, mode, connection_id)
    assert refused["success"] is False
    assert word in refused["error"]
    assert service.get_instruments()["total_unique_instruments"] == 0


@pytest.mark.parametrize("mode", ["LTP", "ltp", "Quote", "FULL"])
def test_modes_in_any_case(service, mode):
    """An answer has them in capitals, whatever the connection is for."""
    result = service.subscribe_instruments([408065], mode, connection_id=1)
    assert (result["success"], result["connection_id"], result["mode"]) == (True, 1, mode.upper())
    assert service.get_instruments()["instruments"][0]["mode"] == mode.upper()


def test_before_the_start_there_is_nothing_to_ask(tmp_path):
    """Questions raise, changes are answered with a reason, and stopping is no fault; nothing is made."""
    service = MarketDataService(KEY, TOKEN, tmp_path / "data", run_dir=tmp_path / "run")
    assert isinstance(service.storage_mgr, StorageManager)
    for change in (service.subscribe_instruments, service.activate_full_mode, service.unsubscribe_instruments):
        result = change([408065])
        assert (result["success"], "start()" in result["error"]) == (False, True)
    assert service.unsubscribe_all()["success"] is False
    assert service.subscribe_trading_universe([408065])["failed_batches"] == 1
    assert service.activate_redundancy() is False
    asking = (
        *(service.get_health, service.get_connections, service.get_instruments, service.get_storage_status),
        *(service.get_metrics, service.get_status_summary, service.wait_for_ticks, service.monitor),
    )
    for ask in asking:
        with pytest.raises(NotRunningError, match=r"start\(\)"):
            ask()
    assert service.stop() is True
    assert list(tmp_path.iterdir()) == []


def test_importing_the_package_costs_nothing():
    """What the names at its top need is imported when they are named; every process imports the package."""
    code = "import sys, pipeline; sys.exit(len({'zmq', 'pydantic', 'orjson'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=DEADLINE_S).returncode == 0
    assert pipeline.Client.__module__ == "pipeline.client"
    with pytest.raises(AttributeError, match="'pipeline' has no attribute 'Server'"):
        _ = pipeline.Server


def test_settings_that_are_wrong_start_nothing(tmp_path, caplog):
    """A file that is wrong is told at once, what only the service can judge when it starts; both name the key."""
    (tmp_path / "wrong.toml").write_text("[storage]\ncommit_interval = 5\n")
    with pytest.raises(ConfigError, match=r"storage.commit_interval: unknown key"):
        MarketDataService(KEY, TOKEN, config_file=tmp_path / "wrong.toml")
    with recorder(tmp_path / "service", ws_url="http://kite") as (service, _):
        assert service.start() is False
        assert "exit code 2" in caplog.text
        assert "kite.ws_url: must be a ws or wss URL" in caplog.text
        with pytest.raises(MdsError, match=r"kite\.ws_url"), service:
            pytest.fail("it has started")
        assert not service.running


# The process.


def test_it_is_a_context_manager(simulator, tmp_path, caplog):
    """Running within, gone behind it, whatever happens there; one more on the same folder is refused."""
    caplog.set_level(logging.INFO)
    with recorder(tmp_path, ws_url=simulator) as (service, place):
        with suppress(ZeroDivisionError), service as entered:
            assert entered is service
            assert service.running
            secrets_shown = [
                pid for pid in place.processes() if KEY.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]
            assert secrets_shown == []
            other = MarketDataService(KEY, TOKEN, place.data_dir, run_dir=place.run_dir)
            before = sorted(place.processes())
            assert other.start() is False
            assert "a service runs already, as process" in caplog.text
            assert other.stop() is True
            assert sorted(place.processes()) == before
            raise ZeroDivisionError
        assert not service.running
        assert place.processes() == []
    assert KEY not in place.logs()
    assert "received 0 ticks, stored 0, still spooled 0" in caplog.text


SCRIPT = """
import os, sys
from pipeline import MarketDataService
data_dir, run_dir, ws_url = sys.argv[1:]
service = MarketDataService("made-up-key", "made-up-token", data_dir, run_dir=run_dir, ws_url=ws_url)
assert service.start(activate_tertiary=True)
assert service.subscribe_instruments([408065, 738561])["success"]
os.kill(os.getpid(), 9)
"""


def test_recording_outlives_the_program_that_started_it(simulator, tmp_path):
    """The program is killed: its connections, redundancy included, go on; `mds stop` ends it in order."""
    place = Service(tmp_path)
    try:
        program = [sys.executable, "-c", SCRIPT, str(place.data_dir), str(place.run_dir), simulator]
        assert subprocess.run(program, check=False, timeout=DEADLINE_S).returncode == -signal.SIGKILL
        place.wait_until_live(1, 3)
        stored = place.stored()
        until(lambda: place.stored() > stored + 100, "it goes on recording")
        assert place.mds("stop").returncode == 0
        assert place.processes() == []
        place.assert_verified()
        assert {tick["connection_id"] for tick in place.ticks()} == {1, 3}
    finally:
        place.kill_all()
        print(place.logs())  # noqa: T201  pytest shows it with a failure


def test_stop_ends_what_a_killed_supervisor_has_left(simulator, tmp_path):
    """The supervisor is killed: questions say so, recording goes on, and stop still ends all of it in order."""
    with recorder(tmp_path, ws_url=simulator) as (service, place):
        assert service.start()
        assert service.subscribe_instruments(INSTRUMENTS)["success"]
        wait_for_flow(service, 1)
        place.send("supervisor", signal.SIGKILL)
        until(lambda: not service.running, "the supervisor is gone")
        with pytest.raises(NotRunningError, match="by signal 9"):
            service.get_health()
        stored = place.stored()
        until(lambda: place.stored() > stored + 100, "it goes on recording")
        assert service.stop() is True
        assert place.processes() == []
        place.assert_verified()


def test_threads_may_share_it(service):
    """Each gets the answer to its own question."""
    service.subscribe_instruments(INSTRUMENTS)

    def ask(number: int) -> bool:
        if number % 2:
            return bool(service.get_health()["subscribed_instruments"] == 13)
        return set(service.get_connections()["connections"]) == {"1", "2", "3"}

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(200)))


def test_monitoring_prints_a_line_an_interval(service, capsys):
    """One at once, one at the end, one at each interval between; a service that is gone is told as down."""
    service.subscribe_instruments(INSTRUMENTS[:2])
    wait_for_flow(service, 1)
    service.monitor(duration_seconds=0.3, interval_seconds=0.1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(" healthy: 1/3 connections active, 2 instruments, " in line for line in lines)
    with pytest.raises(ValueError, match="must be above 0"):
        service.monitor(1, 0)


def test_monitoring_tells_of_the_end(simulator, tmp_path, capsys):
    """A service that dies meanwhile is told as down, and the lines go on."""
    with recorder(tmp_path, ws_url=simulator) as (service, place):
        assert service.start()
        with ThreadPoolExecutor(1) as thread:
            monitoring = thread.submit(service.monitor, 1, 0.1)
            until(lambda: capsys.readouterr().out, "there is a line")
            place.send("supervisor", signal.SIGKILL)
            monitoring.result(DEADLINE_S)
        assert " down: the service has ended by signal 9" in capsys.readouterr().out.splitlines()[-1]


def test_the_summary_has_all_of_it(service):
    """Its parts are what the single questions answer, and all of it is JSON."""
    service.subscribe_instruments(INSTRUMENTS[:2])
    summary = service.get_status_summary()
    parts = {
        "health": service.get_health(),
        "connections": service.get_connections(),
        "instruments": service.get_instruments(),
        "storage": service.get_storage_status(),
        "metrics": service.get_metrics(),
    }
    assert {name: set(summary[name]) for name in parts} == {name: set(part) for name, part in parts.items()}
    assert set(summary) - set(parts) == {"processes"}
    assert summary["instruments"]["by_connection"] == parts["instruments"]["by_connection"]
    assert json.loads(json.dumps(summary)) == summary
