"""The doctor at work: real folders, sockets, certificates, locks and processes, and the command in all its uses."""

import contextlib
import json
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline import role
from pipeline.config import Config, Kite, Storage
from pipeline.doctor import clock, connection, credentials, examination, folders, machine, market, network, processes
from pipeline.doctor.credentials import VARIABLE
from pipeline.doctor.finding import Check
from pipeline.doctor.network import Target
from pipeline.doctor.task import Deadline, Task
from pipeline.errors import ConfigError, MdsError
from pipeline.role import Lock
from pipeline.store.files import read_blocks
from tests.builders import a_config
from tests.test_feed import make_certificates

KEY, TOKEN = "canary-k3y", "canary-t0ken"
DEADLINE_S = 20
MDS = str(Path(sys.executable).with_name("mds"))
STATUSES = {"ok", "warning", "failure", "skipped"}


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """Wait longer than usual for what does come: nothing here is to depend on how busy the machine is."""
    for module, name in (
        (network, "LOOK_UP_S"),
        (network, "CONNECT_S"),
        (network, "HANDSHAKE_S"),
        (clock, "ASK_S"),
        (credentials, "ASK_S"),
        (market, "ASK_S"),
        (examination, "TIME_S"),
        (examination, "LOCKS_S"),
    ):
        monkeypatch.setattr(module, name, float(DEADLINE_S))


class Api(ThreadingHTTPServer):
    """Kite's REST API, as far as the doctor asks it. Its clock is `off_s` ahead, and `token` is good."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.off_s = 0.0
        self.token = TOKEN


class _Handler(BaseHTTPRequestHandler):
    server: Api

    def do_HEAD(self):
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        is_good = self.headers["Authorization"] == f"token {KEY}:{self.server.token}"
        good = {"status": "success", "data": {"user_id": "AB1234", "user_name": "Somebody"}}
        bad = {"status": "error", "message": "no", "data": None, "error_type": "TokenException"}
        self.send_response(200 if is_good else 403)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(good if is_good else bad).encode())

    def date_time_string(self, timestamp=None):  # noqa: ARG002  the signature is the base's
        return formatdate(time.time() + self.server.off_s, usegmt=True)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def api(monkeypatch):
    """A server in Kite's place."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with serving() as server:
        yield server


@contextlib.contextmanager
def serving():
    """Serve `Api` meanwhile."""
    server = Api()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def listener():
    """A port of this machine at which somebody answers the phone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def target(port, *, is_secure=False, host="127.0.0.1"):
    return Target("ws_url", host, port, is_secure)


# The way to Kite.


def test_a_port_that_answers(listener):
    """It is reached."""
    reach = network.gather(target(listener.getsockname()[1]))
    assert (reach.failed, reach.look_up_ms) == ("", None)
    assert reach.tcp_ms is not None


def test_a_closed_port():
    """The cause is told."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    reach = network.gather(target(port))
    assert (reach.failed, reach.fault) == ("tcp", "127.0.0.1: Connection refused")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 64 + ".invalid"])
def test_a_name_that_does_not_resolve(host):
    """That is told of the name, and not of what comes after it."""
    reach = network.gather(target(443, host=host, is_secure=True))
    assert reach.failed == "name"
    assert reach.fault


@pytest.fixture
def tls_server(tmp_path, listener):
    """What serves TLS with one of the certificates of `make_certificates` and returns its port, and the authority."""
    certificates = make_certificates(tmp_path)
    threads = []

    def serve(name):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates[name])

        def shake_hands():
            with contextlib.suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as client:
                client.recv(1)

        threads.append(threading.Thread(target=shake_hands))
        threads[-1].start()
        return listener.getsockname()[1]

    yield serve, certificates["ca"]
    for thread in threads:
        thread.join(DEADLINE_S)


@pytest.mark.parametrize(
    ("name", "failed", "word"),
    [
        ("good", "", ""),
        ("impostor", "tls", "self-signed"),
        ("wrong_host", "tls", "IP address mismatch"),
        ("expired", "tls", "expired"),
    ],
)
def test_certificates(tls_server, monkeypatch, name, failed, word):
    """One that is good has its days counted, any other is told with the reason."""
    serve, authority = tls_server
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    reach = network.gather(target(serve(name), is_secure=True))
    assert (reach.failed, word in reach.fault) == (failed, True), reach
    if not failed:
        assert reach.days_left == pytest.approx(1, abs=0.1)


def test_a_server_without_tls(listener):
    """Speaking no TLS, or nothing at all, is told of TLS."""

    def hang_up():
        listener.accept()[0].close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    reach = network.gather(target(listener.getsockname()[1], is_secure=True))
    thread.join()
    assert reach.failed == "tls"


def test_what_is_to_be_reached(monkeypatch):
    """Hosts and ports are the settings', and only REST goes through a proxy."""
    config = Config(kite=Kite(ws_url="ws://[::1]:81/x", api_url="https://api.invalid"))
    feed, api = network.targets(config)
    assert feed == ("ws_url", "::1", 81, False)
    assert api == ("api_url", "api.invalid", 443, True)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    assert (network.proxy_of(feed), network.proxy_of(api)) == (None, "HTTPS_PROXY")


# The clock.


@pytest.mark.parametrize(("ahead_s", "status"), [(0, "ok"), (-10, "warning"), (3600, "failure")])
def test_the_clock_of_the_server(api, ahead_s, status):
    """Any answer has the time, also one that says no."""
    api.off_s = ahead_s
    offset = clock.gather_offset(f"http://127.0.0.1:{api.server_port}")
    assert offset.seconds == pytest.approx(-ahead_s, abs=1.5 + offset.uncertain_s)
    assert clock.judge_offset(offset).status == status


def test_nobody_who_knows_the_time(listener):
    """It is not known then, and nothing is raised."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert clock.gather_offset(f"http://127.0.0.1:{port}").fault == "Connection refused"

    def talk():
        with listener.accept()[0] as client:
            client.recv(4096)
            client.sendall(b"SSH-2.0-x\r\n\r\n")

    thread = threading.Thread(target=talk)
    thread.start()
    assert clock.gather_offset(f"http://127.0.0.1:{listener.getsockname()[1]}").seconds is None
    thread.join()


def test_the_kernels_word():
    """It says yes, no, or nothing."""
    assert clock.gather_synchronised() in (True, False, None)


# Credentials.


def test_tokens_are_asked_about(api, tmp_path, no_settings):  # noqa: ARG001  no settings
    """Each token that there is, once; a good one is somebody's, another is refused."""
    file = tmp_path / "token.json"
    stored = {"access_token": TOKEN, "stored_at": "2025-10-01T08:00:00+05:30"}
    file.write_text(json.dumps(stored))
    file.chmod(0o600)
    kite = Kite(api_url=f"http://127.0.0.1:{api.server_port}", access_token_file=file)
    config = Config(kite=kite, KITE_API_KEY=KEY, KITE_ACCESS_TOKEN="canary-old")
    answers = credentials.ask(config, credentials.gather(config))
    assert [(answer.source, answer.verdict) for answer in answers] == [(VARIABLE, False), (credentials.STORED, True)]
    assert "AB1234" in answers[1].said
    config = Config(kite=kite, KITE_API_KEY=KEY, KITE_ACCESS_TOKEN=TOKEN)
    found = credentials.gather(config)
    assert [answer.verdict for answer in credentials.ask(config, found)] == [True]
    assert "canary" not in repr(found)
    api.server_close()
    assert [answer.verdict for answer in credentials.ask(config, found)] in ([None], [True])  # a socket may be kept


@pytest.mark.parametrize(
    ("content", "mode", "word"),
    [
        ('{"access_token": "canary-t0ken", "stored_at": "2025-10-01T08:00:00+05:30"}', 0o644, "open to other users"),
        ('{"access_token": "canary-t0ken"', 0o600, "damaged"),
    ],
)
def test_a_token_file_that_cannot_be_used(tmp_path, content, mode, word, no_settings):  # noqa: ARG001  no settings
    """Open to others or damaged, it is told, and not its content."""
    file = tmp_path / "token.json"
    file.write_text(content)
    file.chmod(mode)
    told = credentials.judge_token(credentials.gather(Config(kite=Kite(access_token_file=file))))
    assert told.status == "failure"
    assert word in told.what
    assert "canary" not in str(told)


def test_a_token_file_that_cannot_be_written(tmp_path, no_settings):  # noqa: ARG001  no settings
    """No login could store there, so another way out is told; nothing is made to find out."""
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "token.json", tmp_path, Path("/proc/none/token.json")):
        told = credentials.judge_token(credentials.gather(Config(kite=Kite(access_token_file=place))))
        assert told.status == "failure"
        assert f"{place}: cannot be written" in told.what
        assert "kite.access_token_file" in told.todo
    told = credentials.judge_token(credentials.gather(Config(kite=Kite(access_token_file=tmp_path / "a" / "b"))))
    assert "is not set" in told.what
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# Folders and limits.


def test_a_folder_that_is_written_to(tmp_path):
    """The probe takes some time and leaves nothing."""
    place = folders.look(tmp_path, probe=True)
    assert (place.is_there, place.fault) == (True, "")
    assert place.sync_ms is not None
    assert place.free_bytes > 0
    assert place.file_system
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    """It is not made, and what is above it is looked at."""
    place = folders.look(tmp_path / "a" / "b", probe=True)
    assert (place.is_there, place.fault, place.sync_ms) == (False, "", None)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way(tmp_path):
    """No folder can be made there."""
    (tmp_path / "a").touch()
    assert "no folder" in folders.look(tmp_path / "a").fault
    assert "no folder" in folders.look(tmp_path / "a" / "b").fault


def test_a_folder_that_takes_no_files():
    """Not even this user's; the cause is the system's own."""
    assert folders.look(Path("/proc"), probe=True).fault


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else, and others are not kept out as root")
def test_a_read_only_folder(tmp_path):
    """It is told of before anything is written."""
    (tmp_path / "data").mkdir(mode=0o555)
    tmp_path.chmod(0o755)
    code = (
        "import os; from pathlib import Path; from pipeline.doctor import folders; os.setuid(65534);"
        "print(folders.look(Path('data'), probe=True).fault)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "data is not writable by this user\n"


def test_what_is_left_in_spools(tmp_path):
    """Folders of epochs are counted with what is in them; with a service running the newest one is in use."""
    config = a_config(tmp_path)
    for epoch in (1000, 2000):
        folder = config.spool_dir / "1" / str(epoch)
        folder.mkdir(parents=True)
        (folder / "00000001.spool").write_bytes(bytes(100))
    (config.spool_dir / "2").mkdir()
    (config.spool_dir / "2" / "7-00000001.damaged").touch()
    assert folders.gather_left(config, running=False) == [(1, 2, 200, 0), (2, 0, 0, 1)]
    assert folders.gather_left(config, running=True) == [(1, 1, 100, 0), (2, 0, 0, 1)]
    assert folders.gather_left(a_config(tmp_path / "empty"), running=False) == []


def test_limits_of_a_process():
    """They are read from the kernel, of this process or of the service's."""
    code = "import sys; sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.read()"

    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=limit,  # noqa: PLW1509  nothing else runs in this test
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        found = machine.gather(process.pid)
        process.communicate()
    assert (found.limits["Max open files"], found.limits["Max file size"]) == (100, 2**20)
    assert [finding.status for finding in machine.judge(found)][:2] == ["failure", "failure"]
    here = machine.gather(None)
    assert here.limits["Max open files"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert (here.memory_bytes or 0) > 0


# Locks and processes.

HOLD = """
import sys
from pathlib import Path
from pipeline.role import Lock
for path in sys.argv[1:]:
    Lock(Path(path)).acquire("hash")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hold():
    """Starts a process that holds these locks; returns it."""
    with contextlib.ExitStack() as started:

        def start(*paths):
            process = subprocess.Popen(
                [sys.executable, "-c", HOLD, *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            started.callback(process.communicate)
            started.callback(process.kill)
            assert process.stdout
            assert process.stdout.readline() == b"held\n"
            return process

        yield start


def test_locks(tmp_path, hold):
    """Who holds one is found, and whether it is stopped; a lock that is left over is nobody's."""
    config = a_config(tmp_path)
    config.runtime.run_dir.mkdir()
    config.state_dir.mkdir(parents=True)
    assert processes.gather(config) == ({}, None, None)
    left = Lock(role.lock_path(config, "writer"))
    left.acquire("hash")
    left.release()
    process = hold(role.lock_path(config, "worker-1"), config.state_dir / "writer.lock")
    found = processes.gather(config)
    assert set(found.roles) == {"worker-1"}
    assert (found.roles["worker-1"].holder.pid, found.writer_pid) == (process.pid, process.pid)
    assert "the supervisor is gone" in processes.judge_service(found).what
    assert processes.judge_data_locks(found, tmp_path).status == "failure"
    process.send_signal(signal.SIGSTOP)
    give_up_s = time.monotonic() + DEADLINE_S
    while processes.state_of(process.pid) != "T":
        assert time.monotonic() < give_up_s
    assert f"kill -CONT {process.pid}" in str(processes.judge(config, processes.gather(config)))
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert processes.state_of(process.pid) == "Z"
    process.wait()
    assert processes.state_of(process.pid) == ""


def test_a_supervisor_that_is_stopped(tmp_path, hold, monkeypatch):
    """It holds its lock and does not answer: nobody waits for it for long."""
    monkeypatch.setattr(processes, "ANSWER_S", 0.1)
    config = a_config(tmp_path)
    config.runtime.run_dir.mkdir()
    hold(role.lock_path(config, "supervisor"))
    with pytest.raises(MdsError, match="does not answer"):
        processes.ask(config)


# One connection.


def test_what_happened_to_a_connection(tmp_path):
    """The latest are told, of this connection only; what is no event is passed over."""
    file = tmp_path / "events_2025-10-01.jsonl"
    stamp = "2025-10-01T09:15:00.000000+05:30"

    def line(event, source="worker-1", **fields):
        return json.dumps({"event": event, "timestamp": stamp, **fields, "source": source}, separators=(",", ":"))

    lines = [line("connected", n=n) for n in range(connection.LATEST)]
    lines += [line("order_update", data={}), line("connected", "worker-2"), "{", '{"source":"worker-1"}', "[1]"]
    lines.append(line("disconnected", cause="closed", reason="bye"))
    lines.append(line("gap", cause="closed", instruments=[1, 2], **{"from": None, "to": None}))
    file.write_text("\n".join(lines) + "\n")
    latest, _ = connection.recent(read_blocks(file, file.stat().st_size), 1)
    assert len(latest) == connection.LATEST
    assert [happening.event for happening in latest[-3:]] == ["connected", "disconnected", "gap"]
    assert latest[-1].text == "2 instruments were not recorded for an unknown time (closed)"


def test_since_when_a_connection_has_no_socket(tmp_path):
    """From when it lost it on, however many tries came after; the gap record of the time before tells nothing of it."""
    file = tmp_path / "events_2025-10-01.jsonl"
    written: list[str] = []

    def since(*events):
        for event in events:
            stamp = f"2025-10-01T09:15:{len(written):02}.000000+05:30"
            fields = {"cause": "closed", "reason": "bye", "instruments": [1], "from": None, "to": None}
            found = {"event": event, "timestamp": stamp, **fields, "source": "worker-1"}
            written.append(json.dumps(found, separators=(",", ":")))
        file.write_text("\n".join(written) + "\n")
        told = connection.recent(read_blocks(file, file.stat().st_size), 1).unconnected_since
        return told and told[17:19]

    assert since("connected", "gap") is None
    assert since("disconnected") == "02"
    assert since(*["not_connected"] * 2 * connection.LATEST) == "02"
    assert since("connected") is None
    assert since("gap", "idle") == str(len(written) - 1)


# All of it.


def test_what_hangs_is_told_and_not_waited_for():
    """Each check ends for itself; one that hangs or fails leaves the others as they are."""
    never, slow, broken, good = (Check("a", name) for name in ("never", "slow", "broken", "good"))
    release = threading.Event()

    def hang():
        release.wait(DEADLINE_S)
        return []

    def fail():
        raise ZeroDivisionError("oh")

    def refuse():
        raise ConfigError("not readable")

    jobs = [((slow,), refuse), ((broken,), fail), ((good,), lambda: [good.ok("yes")]), ((never,), hang)]
    found = {finding.check: finding for finding in examination.run(jobs, Patience(3))}
    release.set()
    assert [found[name].status for name in found] == ["failure", "failure", "ok", "failure"]
    assert "no end" in found["never"].what
    assert "not readable" in found["slow"].what
    assert "ZeroDivisionError: oh" in found["broken"].what


class Patience(Deadline):
    """A deadline that is past when it has been asked for so often."""

    def __init__(self, times):
        super().__init__(DEADLINE_S)
        self._times = times

    @property
    def left_s(self):
        self._times -= 1
        return super().left_s if self._times >= 0 else 0.0


def test_a_result_for_several():
    """A task's result can be asked for again."""
    task = Task(lambda: 7)
    assert [task.result(DEADLINE_S), task.result(0)] == [7, 7]


@pytest.fixture
def here(tmp_path, monkeypatch, no_settings):  # noqa: ARG001  no settings
    """An empty working folder; the calendar is not asked, for it takes long."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MDS_MARKET__CALENDAR", "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nothing_is_there_yet(here, run_mds):
    """Without settings, credentials and service: what is missing is told with the way to it, and nothing is made."""
    code, out, error = run_mds("doctor", "--offline")
    assert (code, error) == (1, "")
    for words in ("KITE_API_KEY is not set", "mds login", "mds init", "no service is running", "2 failures"):
        assert words in out
    assert list(here.iterdir()) == []


def test_json(here, run_mds, monkeypatch):
    """One object; each finding has the same fields, and no secret."""
    monkeypatch.setenv("KITE_API_KEY", KEY)
    monkeypatch.setenv("KITE_ACCESS_TOKEN", TOKEN)
    code, out, error = run_mds("doctor", "--offline", "--json")
    answer = json.loads(out)
    assert (code, error, answer["ok"]) == (0, "", True)
    for finding in answer["findings"]:
        assert set(finding) == {"area", "check", "status", "what", "why", "todo"}
        assert finding["status"] in STATUSES
        assert finding["what"]
        assert bool(finding["todo"]) == (finding["status"] in ("warning", "failure"))
    checks = [finding["check"] for finding in answer["findings"]]
    assert len(set(checks)) == len(checks)
    assert "canary" not in out
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "word"),
    [("[storage", "not valid TOML"), ("[storage]\nreserve = 1\nno = 2", "storage.no"), ("[x]", "unknown section")],
)
def test_wrong_settings(here, run_mds, content, word):
    """They are findings, a line each, and the machine is looked at all the same."""
    (here / "mds.toml").write_text(content)
    code, out, _ = run_mds("doctor")
    assert code == 1
    assert word in out
    assert "memory" in out
    assert "unused" not in out


def test_settings_that_are_named_and_not_there(here, run_mds):  # noqa: ARG001  the folder
    """That is a finding, too."""
    code, out, _ = run_mds("doctor", "--config", "none.toml")
    assert code == 1
    assert "none.toml: no such file" in out


@pytest.mark.parametrize("arguments", [["--nothing"], ["connection"], ["connection", "4"], ["elsewhere"]])
def test_wrong_usage(here, run_mds, arguments):  # noqa: ARG001  the folder
    """It is told as by all commands."""
    assert run_mds("doctor", *arguments)[0] == 2


def test_a_connection_without_a_service(here, run_mds):
    """What the files have is told, and that there is no service."""
    code, out, _ = run_mds("doctor", "connection", "2")
    assert code == 1
    assert "no service is running" in out
    assert "nothing happened" in out
    assert "nothing is recorded on it" in out
    code, out, _ = run_mds("doctor", "--json", "connection", "2")
    answer = json.loads(out)
    assert (code, answer["ok"], answer["connection"]["status"]) == (1, False, None)
    assert list(here.iterdir()) == []


def test_a_connection_of_which_nobody_tells(tmp_path, hold, no_settings):  # noqa: ARG001  no settings
    """A supervisor that does not answer says nothing of the worker: it may well be recording."""
    config = a_config(tmp_path)
    config.runtime.run_dir.mkdir()
    process = hold(role.lock_path(config, "worker-1"))
    told, worker = connection.judge(config, 1, None, "it does not answer")
    assert "may be recording" in told.why
    assert f"process {process.pid}" in worker.what
    process.kill()
    process.wait()
    lock = role.lock_path(config, "worker-1")
    lock.unlink()
    lock.symlink_to(lock)  # cannot be opened, by root neither
    assert "may be recording" in connection.judge(config, 1, None, "it does not answer")[0].why


def test_spools_of_a_service_in_another_run_folder(tmp_path, hold):
    """They are in use, and not what an earlier run has left."""
    config = a_config(tmp_path)
    (config.spool_dir / "1" / "1000").mkdir(parents=True)
    (config.spool_dir / "1" / "1000" / "00000001.spool").write_bytes(bytes(100))
    config.state_dir.mkdir(parents=True)
    assert examination.Examination(config, offline=True)._left()[0].status == "warning"
    lock = config.state_dir / "writer.lock"
    lock.symlink_to(lock)  # cannot be opened, by root neither
    with pytest.raises(MdsError):  # by which it is told that nobody knows
        examination.Examination(config, offline=True)._left()
    lock.unlink()
    hold(lock)
    assert examination.Examination(config, offline=True)._left()[0].status == "ok"


def test_folders_that_cannot_be_read(here, run_mds):
    """A file where each of the folders should be: every check says so, and none ends the others."""
    for name in ("market_data", "run"):
        (here / name).touch()
    code, out, _ = run_mds("doctor", "--offline", "--json")
    failed = {f["check"] for f in json.loads(out)["findings"] if f["status"] == "failure"}
    assert code == 1
    assert {"data_folder", "spool_folder", "run_folder"} <= failed
    assert "Traceback" not in out
    code, out, _ = run_mds("doctor", "connection", "1")
    assert code == 1
    assert "no service is running" in out


def test_nobody_who_reads(here):  # noqa: ARG001  the folder
    """A pipe that is closed early is no trouble."""
    done = subprocess.run(f"{MDS} doctor --offline | head -1", shell=True, capture_output=True, check=True)  # noqa: S602  a pipe
    assert b"Traceback" not in done.stderr


def test_the_calendar_itself(no_settings):  # noqa: ARG001  no settings
    """The process that knows it answers, and says so where there is no such calendar."""
    pytest.importorskip("pipeline.almanac")
    found = market.gather(Config())
    assert found.sessions
    wrong = Config().with_changes(market={"calendar": "NOWHERE"})
    with pytest.raises(ValueError, match="NOWHERE"):
        market.gather(wrong)


def test_a_full_check_against_a_kite(here, api, run_mds, monkeypatch):
    """Asked over HTTP, with a token that Kite takes and then with one that it does not."""
    url = f"127.0.0.1:{api.server_port}"
    (here / "mds.toml").write_text(f'[kite]\nws_url = "ws://{url}"\napi_url = "http://{url}"\n')
    monkeypatch.setenv("KITE_API_KEY", KEY)
    monkeypatch.setenv("KITE_ACCESS_TOKEN", TOKEN)
    code, out, error = run_mds("doctor", "--json")
    findings = {finding["check"]: finding for finding in json.loads(out)["findings"]}
    assert code == 0, out
    assert "AB1234" in findings["token_accepted"]["what"]
    assert {findings[c]["status"] for c in ("feed_tcp", "api_tcp", "api_tls", "clock_offset", "settings")} == {"ok"}
    assert "canary" not in out + error
    monkeypatch.delenv("KITE_ACCESS_TOKEN")
    file = here / "config" / "mds" / "access_token.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"access_token": TOKEN, "stored_at": "2025-10-01T08:00:00+05:30"}))
    file.chmod(0o600)
    code, out, error = run_mds("doctor")
    assert code == 0, out
    assert "Kite still takes it" in out
    assert "canary" not in out + error
    monkeypatch.setenv("KITE_ACCESS_TOKEN", "canary-old")
    file.unlink()
    code, out, error = run_mds("doctor")
    assert code == 1
    assert "refused: KITE_ACCESS_TOKEN" in out
    assert "canary" not in out + error


def test_a_spool_on_another_file_system(tmp_path, in_memory):
    """It is looked at as well."""
    config = Config(storage=Storage(data_dir=tmp_path, spool_dir=in_memory())).resolved()
    found = examination.Examination(config, offline=True)._spool_folder()
    is_other = tmp_path.stat().st_dev != config.spool_dir.stat().st_dev
    assert [f.check for f in found] == ["spool_folder", "spool_file_system"][: 1 + is_other]


def test_a_disk_that_hangs(here, monkeypatch):  # noqa: ARG001  the folder
    """While nobody knows who holds the locks, what does not need them says what it has to say."""
    release = threading.Event()
    monkeypatch.setattr(processes, "gather", lambda _: release.wait(DEADLINE_S))
    monkeypatch.setattr(examination, "LOCKS_S", 0.05)
    jobs = examination.Examination(Config().resolved(), offline=True).jobs()
    others = [job for job in jobs if job[0] != (processes.SERVICE,)]
    found = {finding.check: finding for finding in examination.run(others, Deadline(DEADLINE_S))}
    release.set()
    assert found["data_folder"].status == "ok"
    assert found["api_key"].status == "failure"
    assert found["feed_name"].status == "skipped"
