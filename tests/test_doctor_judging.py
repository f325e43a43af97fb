"""What the doctor makes of facts: each trouble has its finding, its reason and its way out; what is well has none."""

from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import SecretStr

from pipeline import __version__
from pipeline.config import Config
from pipeline.credentials import StoredToken
from pipeline.doctor import clock, connections, credentials, folders, machine, market, network, processes, recording
from pipeline.doctor.connection import carried_by
from pipeline.doctor.credentials import STORED, VARIABLE, Answer, Credentials
from pipeline.doctor.finding import STATUSES, Check, Finding, cleaned, is_well, sort_by_area
from pipeline.doctor.folders import Left, Place
from pipeline.doctor.machine import Machine
from pipeline.doctor.market import Almanac
from pipeline.doctor.network import Reach, Target
from pipeline.doctor.processes import Holding, Locks
from pipeline.errors import ControlError, NotRunningError
from pipeline.role import Holder
from pipeline.status import Process
from pipeline.store.files import GapEvent
from tests.overviews import a_connection, an_overview

INDIA = ZoneInfo("Asia/Kolkata")
NOW = datetime(2025, 10, 1, 10, 0, tzinfo=INDIA)
GIB = 2**30


def assert_told(finding: Finding, status: str, *words: str) -> None:
    """Check a finding; one that is not well says why and what to do, and nothing in it is taken for a secret."""
    assert finding.status == status, finding
    for word in words:
        assert word in " ".join(finding[3:]), finding
    assert bool(finding.why) == bool(finding.todo) == (status in ("warning", "failure")), finding
    assert cleaned(finding, []) == finding


# Credentials.


def found(**fields: Any) -> Credentials:
    """Return credentials that are good but for these fields."""
    stored_at = fields.pop("stored_at", NOW - timedelta(hours=1))
    stored = StoredToken(access_token=SecretStr("canary-t0ken"), stored_at=stored_at) if stored_at else None
    usual: dict[str, Any] = {
        "api_key": SecretStr("canary-k3y"),
        "stored_key": None,
        "variable": SecretStr(""),
        "path": "/token.json",
        "stored": stored,
        "fault": "",
        "unwritable": "",
    }
    return Credentials(**usual | fields)


VARIABLE_SET = {"variable": SecretStr("canary-other")}
TOKENS = {
    "stored": ({}, "ok", "/token.json"),
    "variable": ({"stored_at": None, **VARIABLE_SET}, "ok", VARIABLE),
    "both": (VARIABLE_SET, "ok", "another one is stored"),
    "none": ({"stored_at": None}, "failure", "mds login"),
    "open to others": ({"stored_at": None, "fault": "/token.json: is open to other users"}, "failure", "open to other"),
    "damaged, but a variable": ({"stored_at": None, "fault": "damaged", **VARIABLE_SET}, "warning", "damaged"),
    "a variable of a file": ({"variable": SecretStr("canary-other\r")}, "failure", "KITE_ACCESS_TOKEN cannot be used"),
    "for another key": ({"stored_key": SecretStr("canary-old")}, "failure", "another API key"),
    "the last for now": ({"unwritable": "/token.json: cannot be written"}, "warning", "next one cannot be stored"),
    "nowhere to": ({"stored_at": None, "unwritable": "x"}, "failure", "let kite.access_token_file name another file"),
    "nowhere, but a variable": ({"unwritable": "/token.json: cannot be written", **VARIABLE_SET}, "ok", VARIABLE),
}


@pytest.mark.parametrize(("fields", "status", "word"), TOKENS.values(), ids=TOKENS.keys())
def test_the_token(fields, status, word):
    """It is there, whole and closed to others, or one is told how to come by one."""
    assert_told(credentials.judge_token(found(**fields)), status, word)


def test_the_api_key():
    """Without one the way to one is told."""
    assert_told(credentials.judge_key(found()), "ok")
    without = credentials.judge_key(found(api_key=SecretStr("")))
    assert_told(without, "failure", "KITE_API_KEY", "--simulate", "mds login")
    assert_told(credentials.judge_key(found(api_key=SecretStr("a b"))), "failure", "KITE_API_KEY", "white space")


AGES = {
    "of today": ({}, "ok", "good until 2025-10-02 06:00"),
    "of before six": ({"stored_at": NOW.replace(hour=5, minute=59)}, "failure", "died at 2025-10-01 06:00"),
    "of yesterday": ({"stored_at": NOW - timedelta(days=1)}, "failure", "mds login"),
    "of yesterday, but a variable": ({"stored_at": NOW - timedelta(days=1), **VARIABLE_SET}, "warning", "died"),
    "of tomorrow": ({"stored_at": NOW + timedelta(days=1)}, "warning", "clock"),
    "none": ({"stored_at": None}, "skipped", "no stored token"),
    "a variable": ({"stored_at": None, **VARIABLE_SET}, "skipped", VARIABLE),
}


@pytest.mark.parametrize(("fields", "status", "word"), AGES.values(), ids=AGES.keys())
def test_the_age_of_the_token(fields, status, word):
    """A token that was stored before the last six o'clock in India is dead."""
    assert_told(credentials.judge_age(found(**fields), NOW), status, word)


def test_a_token_that_outlives_its_morning():
    """Kite's word goes before the clock: a token that it takes is not dead, whenever it was stored."""
    old = found(stored_at=NOW.replace(hour=5, minute=59))

    def age(*answers):
        return credentials.judge(old, NOW, answers)[-1]

    assert_told(age(Answer(STORED, True, "x")), "warning", "Kite still takes it", "mds login")
    assert_told(age(Answer(STORED, None, "x")), "failure", "died")
    assert_told(age(Answer(VARIABLE, True, "x"), Answer(STORED, False, "x")), "failure", "died")


ANSWERS = {
    "nobody asked": ([], "skipped", "no token"),
    "accepted": ([Answer(STORED, True, "it is AB1234's")], "ok", "AB1234"),
    "refused": ([Answer(STORED, False, "no")], "failure", "mds login"),
    "no answer": ([Answer(STORED, None, "no host")], "warning", "no host"),
    "an old variable": ([Answer(VARIABLE, False, "no"), Answer(STORED, True, "x")], "warning", f"unset {VARIABLE}"),
    "both old": ([Answer(VARIABLE, False, "no"), Answer(STORED, False, "no")], "failure", VARIABLE),
}


@pytest.mark.parametrize(("answers", "status", "word"), ANSWERS.values(), ids=ANSWERS.keys())
def test_what_kite_says_of_the_token(answers, status, word):
    """A refusal is a failure, silence is none."""
    assert_told(credentials.judge_answers(answers), status, word)


# The way to Kite, and the clock.

KITE = Target("ws_url", "ws.kite.trade", 443, is_secure=True)
PLAIN = Target("api_url", "api.kite.trade", 80, is_secure=False)
LOOPBACK = Target("api_url", "127.0.0.1", 80, is_secure=False)
REACHED = Reach(look_up_ms=3.0, tcp_ms=20.0, tls_ms=40.0, days_left=60.0)
WAYS = {
    "all is well": (KITE, REACHED, ["ok", "ok", "ok"], "60 d"),
    "no name": (KITE, Reach("name", "not known"), ["failure", "skipped", "skipped"], "not known"),
    "an address": (LOOPBACK, Reach(tcp_ms=1.0), ["ok", "ok", "ok"], "none is needed"),
    "no way": (KITE, Reach("tcp", "refused", 1.0), ["ok", "failure", "skipped"], "firewall"),
    "far away": (KITE, REACHED._replace(tcp_ms=1500.0), ["ok", "warning", "ok"], "1500 ms"),
    "an impostor": (KITE, Reach("tls", "self-signed", 1.0, 1.0), ["ok", "ok", "failure"], "impostor"),
    "a certificate that ends": (KITE, REACHED._replace(days_left=1.0), ["ok", "ok", "warning"], "ends in 1.0 d"),
    "no TLS": (PLAIN, Reach(look_up_ms=1.0, tcp_ms=1.0), ["ok", "ok", "warning"], "https://"),
}


@pytest.mark.parametrize(("target", "reach", "statuses", "word"), WAYS.values(), ids=WAYS.keys())
def test_the_way_to_kite(target, reach, statuses, word):
    """The step that fails is the one that is told."""
    told = network.judge(target, reach)
    assert [finding.status for finding in told] == statuses
    worst = max(told, key=lambda finding: STATUSES.index(finding.status))
    assert word in " ".join(part for finding in told for part in finding[3:]), worst


@pytest.mark.parametrize(
    ("offset", "status"),
    [
        (clock.Offset(0.3, 0.5), "ok"),
        (clock.Offset(-2.4, 0.5), "ok"),
        (clock.Offset(-2.6, 0.5), "warning"),
        (clock.Offset(29.0, 0.5), "warning"),
        (clock.Offset(-31.0, 0.5), "failure"),
        (clock.Offset(None, fault="no host"), "skipped"),
    ],
)
def test_the_clock_against_kites(offset, status):
    """Two seconds and what nobody can tell are allowed; half a minute is a failure."""
    assert_told(clock.judge_offset(offset), status)


@pytest.mark.parametrize(("synchronised", "status"), [(True, "ok"), (False, "warning"), (None, "skipped")])
def test_what_the_kernel_says_of_the_clock(synchronised, status):
    """That nothing keeps it right is told before it is wrong."""
    assert_told(clock.judge_synchronised(synchronised), status)


# Disk, limits, run folder.


def place(**fields: Any) -> Place:
    """Return a folder that is well but for these fields."""
    usual: dict[str, Any] = {
        "path": Path("/data"),
        "is_there": True,
        "fault": "",
        "sync_ms": 2.0,
        "file_system": "ext4",
        "device": 1,
        "free_bytes": 100 * GIB,
        "inodes_free": 10**6,
        "mode": 0o700,
        "owner": 1000,
    }
    return Place(**usual | fields)


def judge_folder(where):
    return folders.judge_folder(folders.DATA_FOLDER, "storage.data_dir", where)


def judge_file_system(where):
    return folders.judge_file_system(folders.DATA_DISK, "storage.data_dir", where)


def judge_room(where):
    return folders.judge_free(where, GIB, ["full"] * 1000)


def judge_run(where):
    return folders.judge_run_folder(where, 1000)


PLACES = {
    "writable": (judge_folder, {}, "ok", "2 ms"),
    "not there": (judge_folder, {"is_there": False, "sync_ms": None}, "ok", "not there yet"),
    "not writable": (judge_folder, {"fault": "/data: Read-only file system"}, "failure", "Read-only"),
    "slow": (judge_folder, {"sync_ms": 800.0}, "warning", "800 ms"),
    "on a disk": (judge_file_system, {}, "ok", "ext4"),
    "in memory": (judge_file_system, {"file_system": "tmpfs"}, "warning", "restart of the machine"),
    "on a network": (judge_file_system, {"file_system": "nfs4"}, "warning", "local disk"),
    "by a user's program": (judge_file_system, {"file_system": "fuse.sshfs"}, "warning", "fuse.sshfs"),
    "room": (judge_room, {}, "ok", "1,000 instruments"),
    "no room for the day": (judge_room, {"free_bytes": 5 * GIB}, "warning", "full within the day"),
    "the reserve only": (judge_room, {"free_bytes": GIB}, "failure", "reserve_mb"),
    "files": (folders.judge_inodes, {}, "ok", "enough"),
    "files without limit": (folders.judge_inodes, {"inodes_free": None}, "ok", "enough"),
    "few files": (folders.judge_inodes, {"inodes_free": 900}, "warning", "900"),
    "no files": (folders.judge_inodes, {"inodes_free": 9}, "failure", "9"),
    "a run folder": (judge_run, {}, "ok", "owner only"),
    "no run folder yet": (judge_run, {"is_there": False, "owner": 0}, "ok", "not there yet"),
    "no run folder ever": (judge_run, {"is_there": False, "fault": "a file"}, "failure", "runtime.run_dir"),
    "another's run folder": (judge_run, {"owner": 0}, "failure", "user 0"),
    "an unusable run folder": (judge_run, {"fault": "not writable"}, "failure", "not writable"),
    "an open run folder": (judge_run, {"mode": 0o755}, "warning", "chmod 700 /data"),
    "a run folder on a network": (judge_run, {"file_system": "nfs"}, "failure", "sockets"),
}


@pytest.mark.parametrize(("judge", "fields", "status", "word"), PLACES.values(), ids=PLACES.keys())
def test_folders(judge, fields, status, word):
    """Each trouble of a folder has a finding that names the setting or the way out."""
    assert_told(judge(place(**fields)), status, word)


def test_room_for_nothing_in_particular():
    """With nothing to record only the reserve counts."""
    assert_told(folders.judge_free(place(), GIB, []), "ok", "not known")


LEFT = {
    "nothing": ([], False, "ok", "nothing"),
    "of a run that was killed": ([Left(1, 2, 5 * 2**20, 0)], False, "warning", "next mds run"),
    "being handed on": ([Left(0, 1, 4096, 0)], True, "warning", "wait"),
    "damaged": ([Left(2, 0, 0, 1)], True, "warning", "1 damaged segment"),
}


@pytest.mark.parametrize(("left", "running", "status", "word"), LEFT.values(), ids=LEFT.keys())
def test_what_is_left_in_the_spools(left, running, status, word):
    """Frames of dead runs, and damaged segments, are told of."""
    assert_told(folders.judge_left(left, running=running), status, word)


def test_the_file_system_of_a_folder(tmp_path):
    """It is that of the innermost mount, the last one on a point; blanks in its name are written as octal numbers."""
    mount = tmp_path / "a b"
    mount.mkdir()
    escaped = str(mount).replace(" ", r"\040")
    lines = f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / {escaped} rw shared:1 - ext4 x rw\n"
    lines += f"3 2 0:6 / {escaped} rw - nfs4 host:/x rw"
    assert folders.file_system_of(mount, lines) == "nfs4"
    assert folders.file_system_of(tmp_path, lines) == "ext4"
    assert folders.file_system_of(tmp_path, "") == ""


LIMITS = {
    "none": ({}, ["ok", "ok", "ok"]),
    "enough": ({"Max open files": 1024, "Max file size": 10**12, "Max address space": 10**11}, ["ok", "ok", "ok"]),
    "few descriptors": ({"Max open files": 256}, ["failure", "ok", "ok"]),
    "small files": ({"Max file size": GIB}, ["ok", "failure", "ok"]),
    "little address space": ({"Max address space": GIB}, ["ok", "ok", "failure"]),
    "little data": ({"Max data size": GIB}, ["ok", "ok", "failure"]),
}


@pytest.mark.parametrize(("limits", "statuses"), LIMITS.values(), ids=LIMITS.keys())
def test_limits(limits, statuses):
    """What is too low is a failure that names the limit."""
    told = machine.judge(Machine(limits, "the limit here", 4 * GIB))
    assert [finding.status for finding in told] == [*statuses, "ok"]
    for finding, status in zip(told, statuses, strict=False):
        assert_told(finding, status)


@pytest.mark.parametrize(
    ("available", "status"), [(4 * GIB, "ok"), (300 * 2**20, "warning"), (2**20, "failure"), (None, "skipped")]
)
def test_memory(available, status):
    """Little is told of before there is none."""
    assert_told(machine.judge_memory(available), status)


# Processes.

HELD = Holding(Holder(12, __version__, "hash"), "S")


def locks(*roles: str, **fields: Any) -> Locks:
    """Return locks that these roles hold."""
    return Locks(dict.fromkeys(roles, HELD), **{"service_pid": None, "writer_pid": None} | fields)


def test_whether_a_service_runs():
    """None at all is no failure; one without its supervisor is."""
    assert_told(processes.judge_service(locks()), "skipped", "mds run")
    assert_told(processes.judge_service(locks("supervisor", "writer")), "ok", "12")
    assert_told(processes.judge_service(locks("supervisor", "simulator")), "ok", "simulator")
    assert_told(processes.judge_service(locks("worker-1", "writer")), "failure", "worker-1, writer", "adopts")


def test_a_data_folder_that_another_service_uses():
    """It is known by the locks in the data folder."""
    mine = locks("supervisor", "writer", service_pid=12, writer_pid=12)
    assert_told(processes.judge_data_locks(mine, Path("/data")), "ok")
    assert_told(processes.judge_data_locks(locks(writer_pid=99), Path("/data")), "failure", "99", "/data")
    assert_told(processes.judge_data_locks(locks("supervisor", service_pid=98), Path("/data")), "failure", "98")


PROCESSES = {
    "well": ({}, {}, "ok", "worker-1.log"),
    "stopped": ({}, {"state": "T"}, "failure", "kill -CONT 12"),
    "a zombie": ({}, {"state": "Z"}, "failure", "dead"),
    "another version": ({"version": "0.0.1"}, {}, "warning", "0.0.1"),
    "other settings": ({"config_hash": "other"}, {}, "warning", "other settings"),
}


@pytest.mark.parametrize(("holder", "held", "status", "word"), PROCESSES.values(), ids=PROCESSES.keys())
def test_processes(holder, held, status, word):
    """What the kernel and the lock file say of one."""
    known = {"pid": 12, "version": __version__, "config_hash": "hash"} | holder
    holding = Holding(Holder(**known), held.get("state", "S"))
    assert_told(processes.judge_process("worker-1", holding, "hash", Path("/run")), status, word)


def test_settings_are_not_compared_where_they_cannot_be():
    """The simulator's are made at start, the status page's have a token of their own."""
    simulated = locks("supervisor", "simulator")
    config = Config(KITE_API_KEY=SecretStr("canary-k3y"))
    assert is_well(processes.judge(config, simulated))
    assert "other settings" not in str(processes.judge(config, simulated))
    assert "other settings" in str(processes.judge(config, locks("supervisor")))
    assert "other settings" not in str(processes.judge(config, locks("supervisor", "http"))[-1])


@pytest.mark.parametrize(
    ("process", "status", "word"),
    [
        (Process(pid=1, state="running", restarts=0), None, ""),
        (Process(pid=None, state="off", restarts=0), None, ""),
        (Process(pid=1, state="running", restarts=2), "warning", "2 times"),
        (Process(pid=None, state="restarting", restarts=1), "warning", "started again"),
        (Process(pid=None, state="failed", restarts=6), "failure", "mds restart worker-1"),
        (Process(pid=1, state="waiting", restarts=0), "warning", "http.listen"),
    ],
)
def test_what_the_supervisor_says_of_a_process(process, status, word):
    """Deaths are told of, and a process that is given up is a failure."""
    told = processes.judge_told("worker-1", process)
    if status is None:
        assert told is None
    else:
        assert told is not None
        assert_told(told, status, word)


@pytest.mark.parametrize(("name", "cost"), [("writer", "spools"), ("http", "status pages"), ("worker-2", "is a gap")])
def test_what_a_death_has_cost(name, cost):
    """Only what a worker's connection missed is missing."""
    told = processes.judge_told(name, Process(pid=1, state="running", restarts=1))
    assert told is not None
    assert cost in told.why


def test_a_supervisor_that_does_not_answer():
    """That is a failure, unless there is none."""
    gone = NotRunningError("no service is running")
    assert_told(processes.judge_answer(locks(), gone)[0], "skipped")
    assert_told(processes.judge_answer(locks("supervisor"), gone)[0], "failure", "12")
    assert_told(processes.judge_answer(locks("supervisor"), ControlError("otherwise"))[0], "failure", "otherwise")
    assert_told(processes.judge_answer(locks("supervisor"), an_overview())[0], "ok")


# Connections and what is recorded.

DOWN = {"active": False, "confirmed_instruments": 0}
STATES = {
    "live": (1, {}, "ok", "live"),
    "idle": (1, {"state": "idle", "subscribed_instruments": 0, **DOWN}, "ok", "no instruments"),
    "resting": (1, {"state": "idle", **DOWN}, "ok", "market.connect"),
    "standby": (3, {}, "ok", "spare"),
    "off": (3, {"state": "off"}, "ok", "max_connections"),
    "starting": (1, {"state": "starting", **DOWN}, "warning", "wait"),
    "connecting": (2, {"state": "connecting", **DOWN}, "warning", "wait"),
    "unsent": (1, {"confirmed_instruments": 0}, "warning", "1 instruments are not sent"),
    "a gap": (1, {"gap_open": True}, "failure", "mds restart worker-1"),
    "unauthorised": (1, {"state": "unauthorised", "reason": "HTTP 403", **DOWN}, "failure", "mds login"),
    "rate_limited": (1, {"state": "rate_limited", **DOWN}, "failure", "kite.max_connections"),
    "silent": (1, {"state": "silent", **DOWN}, "failure", "network"),
    "down": (1, {"state": "down", "reason": "no route", **DOWN}, "failure", "no route"),
    "failed": (2, {"state": "failed", **DOWN}, "failure", "mds restart worker-2"),
    "unknown": (1, {"state": "dancing", **DOWN}, "failure", "dancing"),
    "no spare": (3, {"state": "unauthorised", **DOWN}, "warning", "no spare"),
    "the spare fails with what it carries": (3, {"state": "down", "subscribed_instruments": 5}, "failure", "network"),
}


@pytest.mark.parametrize(("number", "fields", "status", "word"), STATES.values(), ids=STATES.keys())
def test_states_of_a_connection(number, fields, status, word):
    """Each that is not wished for has its cause and its cure."""
    (told,) = connections.judge(a_connection(number).model_copy(update=fields))
    assert_told(told, status, word)


def test_a_connection_that_is_nearly_full():
    """It is told before further instruments are refused."""
    full = a_connection(1).model_copy(update={"subscribed_instruments": 2950, "confirmed_instruments": 2950})
    full = full.model_copy(update={"capacity_remaining": 50})
    assert_told(connections.judge(full)[1], "warning", "2,950", "spill")


def said(storage=None, metrics=None, **health):
    """Return what a service says that is well but for these fields."""
    usual = an_overview(**health)
    return usual.model_copy(
        update={
            "storage": usual.storage.model_copy(update=storage or {}),
            "metrics": usual.metrics.model_copy(update=metrics or {}),
        }
    )


def with_market(overview, market):
    """Return the same with what later services say of the market."""
    health = overview.health.model_copy(update={"market": market})
    return overview.model_copy(update={"health": health})


NEVER = {"never_ticked": 7, "never_ticked_instruments": list(range(1, 8)), "uptime_seconds": 600.0}
STALE = {"tick_age_s": 90.0, "uptime_seconds": 600.0}
REASON = "connection 1 has failed over, others record its instruments"
UNKNOWN = "universe: 'NSE:NOPE' is not in the list"
SAID = {
    "healthy": (recording.judge_health, said(), "ok", "healthy"),
    "down": (recording.judge_health, said(status="down", reasons=["it is"]), "failure", "it is"),
    "degraded": (recording.judge_health, said(status="degraded", reasons=["a", REASON]), "warning", "a"),
    "only failed over": (recording.judge_health, said(status="degraded", reasons=[REASON]), "ok", "degraded"),
    "only unknown": (recording.judge_health, said(status="degraded", reasons=[UNKNOWN]), "ok", "degraded"),
    "unknown": (recording.judge_universe, said(reasons=[REASON, UNKNOWN]), "failure", "'NSE:NOPE' is not in the list"),
    "known": (recording.judge_universe, said(reasons=[REASON]), "ok", ""),
    "failed over": (recording.judge_failover, said(reasons=[REASON]), "warning", "mds failback 1"),
    "not failed over": (recording.judge_failover, said(), "ok", ""),
    "subscribed": (recording.judge_subscriptions, said(), "ok", "2 instruments"),
    "not subscribed": (recording.judge_subscriptions, said(total_subscribed_instruments=0), "warning", "mds subscribe"),
    "ticked": (recording.judge_never_ticked, said(), "ok", "each"),
    "never ticked": (recording.judge_never_ticked, said(**NEVER), "warning", "1, 2, 3, 4, 5, ..."),
    "not yet ticked": (recording.judge_never_ticked, said(**NEVER | {"uptime_seconds": 5.0}), "ok", "only just"),
    "closed, never ticked": (recording.judge_never_ticked, with_market(said(**NEVER), "closed"), "ok", "closed"),
    "recording": (recording.judge_writer, said(), "ok", "records"),
    "starting": (recording.judge_writer, said({"state": "starting"}), "warning", "spools"),
    "paused": (recording.judge_writer, said({"state": "paused", "reason": "full"}), "failure", "make room"),
    "stopped": (recording.judge_writer, said({"state": "stopped"}), "failure", "mds restart writer"),
    "syncs failed": (recording.judge_writer, said({"syncs_failed": 2}), "warning", "2 syncs failed"),
    "slow": (recording.judge_writer, said({"commit_ms_max": 900.0}), "warning", "900 ms"),
    "kept all": (recording.judge_lost, said(), "ok", ""),
    "lost some": (recording.judge_lost, said(metrics={"ticks_refused": 9}), "warning", "9 ticks lost"),
}


@pytest.mark.parametrize(("judge", "overview", "status", "word"), SAID.values(), ids=SAID.keys())
def test_what_the_service_says(judge, overview, status, word):
    """What it says of recording is judged piece by piece."""
    assert_told(judge(overview), status, word)


FLOWS = {
    "flowing": (said(), "unknown", "ok"),
    "stale, open": (said(**STALE), "open", "failure"),
    "stale, who knows": (said(**STALE), "unknown", "warning"),
    "stale, closed": (said(**STALE), "closed", "ok"),
    "never a tick": (said(tick_age_s=None, uptime_seconds=600.0), "open", "failure"),
    "no tick yet": (said(tick_age_s=None), "open", "ok"),
    "nothing to tick": (said(total_subscribed_instruments=0, tick_age_s=None), "open", "skipped"),
}


@pytest.mark.parametrize(("overview", "market", "status"), FLOWS.values(), ids=FLOWS.keys())
def test_the_flow_of_ticks(overview, market, status):
    """Without ticks something is wrong if the market is open, and nothing at night."""
    assert_told(recording.judge_flow(with_market(overview, market), 60.0), status)
    assert_told(recording.judge_flow(with_market(said(**STALE), market), 0.0), "ok")


def a_gap(minutes: int) -> GapEvent:
    """Return a gap of two instruments."""
    return GapEvent(
        event="gap",
        timestamp=NOW,
        source="worker-1",
        epoch=1,
        event_seq=1,
        connection_id=1,
        cause="closed",
        since=NOW - timedelta(minutes=minutes),
        until=NOW,
        instruments=[1, 2],
    )


def test_the_gaps_of_the_day():
    """Any is a warning that tells what it has cost."""
    today = NOW.date()
    assert_told(recording.judge_gaps(None, today), "skipped")
    assert_told(recording.judge_gaps([], today), "ok")
    assert_told(recording.judge_gaps([a_gap(1)], today), "warning", "1 gap", "120 instrument-seconds", "1 closed")
    assert_told(recording.judge_gaps([a_gap(1)] * 30, today), "warning", "30 gaps", "lasting cause")


# Market.


def almanac(until: date) -> Almanac:
    """Return a calendar that knows today and tomorrow."""
    opens = NOW.replace(hour=9, minute=15)
    day = timedelta(days=1)
    return Almanac([(opens + n * day, opens + n * day + timedelta(hours=6.25)) for n in range(2)], until)


def test_market_hours():
    """Open or closed, until when, and how far the calendar goes."""
    later = NOW.date() + timedelta(days=90)
    assert_told(market.judge_hours("XBOM", almanac(later), NOW), "ok", "open until 15:30", str(later))
    evening = NOW.replace(hour=20)
    assert_told(market.judge_hours("XBOM", almanac(later), evening), "ok", "closed until Thu 02 Oct 09:15")
    assert_told(market.judge_hours("XBOM", almanac(NOW.date()), evening), "warning", "upgrade exchange_calendars")
    assert_told(market.judge_hours("", None, NOW), "ok", "every hour")
    assert_told(market.judge_fault("XBOM", ValueError("no such")), "warning", "no such")


def test_what_the_calendar_process_prints():
    """Its one object is read."""
    session = b'["2025-10-01","2025-10-01T09:15:00+05:30","2025-10-01T15:30:00+05:30"]'
    read = market.parse(b'{"sessions":[' + session + b'],"known_until":"2026-12-31"}\n')
    assert read.known_until == date(2026, 12, 31)
    assert read.sessions == [(NOW.replace(hour=9, minute=15), NOW.replace(hour=15, minute=30))]


@pytest.mark.parametrize(
    ("day", "needed", "status"),
    [
        (None, True, "failure"),
        (None, False, "warning"),
        (NOW.date(), True, "ok"),
        (NOW.date() - timedelta(days=1), True, "warning"),
    ],
)
def test_the_list_of_instruments(day, needed, status):
    """Without one symbols mean nothing; one of yesterday is old once today's can be had."""
    assert_told(market.judge_list(day, NOW, time(8, 30), is_needed=needed), status, "")
    early = NOW.replace(hour=7)
    if day:
        assert_told(market.judge_list(day, early, time(8, 30), is_needed=needed), "ok")


def test_the_newest_list():
    """It is found by its name, whatever it is packed with."""
    names = ["instruments_2025-09-30.csv", "instruments_2025-10-01.csv.zst", "instruments_2025-10-02.txt", "events"]
    assert market.list_day(names) == NOW.date()
    assert market.list_day(["x"]) is None


# Findings.


def test_findings_of_an_area_stand_together():
    """Areas keep the order in which they come first, checks within them theirs."""
    names = [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("b", "2")]
    found = [Check(*name).ok("") for name in names]
    assert [f[:2] for f in sort_by_area(found)] == [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2"), ("c", "1")]


def test_a_finding_shows_no_secret():
    """Neither one that is known nor what looks like one, nor what a terminal would obey."""
    dirty = Check("a", "b").failure("got canary-k3y\x1b[2J", "api_key=unknown1", "token canary-k3y")
    told = str(cleaned(dirty, ["canary-k3y"]))
    assert "canary" not in told
    assert "unknown1" not in told
    assert "\\x1b" not in told


def test_who_carries_for_whom():
    """It is told from what the supervisor has saved, and nothing is told from what is damaged."""
    saved = {
        "subscribed": [{"connection_id": 1, "tokens": [1, 2, 3]}, {"connection_id": 2, "tokens": [4]}],
        "carried": [{"connection_id": 3, "tokens": [1, 2, 4, 9]}, {"connection_id": 1, "tokens": [3]}],
    }
    assert carried_by(saved) == [(1, 3, 2), (2, 3, 1)]
    assert carried_by({"subscribed": 1}) == carried_by({}) == []
