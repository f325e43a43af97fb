"""The image, made by the Dockerfile's own steps on fresh machines, and run as `deploy/compose.yaml` runs it.

There is no container engine in it: the steps are carried out, and what they have made runs with its root file system
read-only, in the demo's environment, beside the simulator of the same image.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import compose
from tests.integration import image
from tests.integration.image import Container, Image
from tests.integration.machine import why_not
from tests.integration.service import CLEAN, until

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "-"),
    pytest.mark.timeout(600),
]

USER = 10001
ASK = """
import sys
from http.client import HTTPConnection
url, host, token = sys.argv[1:]
to = HTTPConnection(url.partition("/")[0], timeout=30)
to.request("GET", "/" + url.partition("/")[2], headers={"Host": host, **({"Authorization": token} if token else {})})
answer = to.getresponse()
print(answer.status, answer.headers.get("Location", ""))
print(answer.read().decode())
"""


@pytest.fixture(scope="module")
def made(room_for_a_machine: Callable[[], Path]) -> Iterator[Image]:
    """The image."""
    with image.built(compose.DEPLOY / "Dockerfile", room_for_a_machine() / "image") as found:
        yield found


class Demo:
    """What `docker compose --env-file deploy/demo.env --profile demo up` runs of ours."""

    def __init__(self, made: Image, folder: Path) -> None:
        self._made = made
        self._variables = compose.demo()
        self._loaded = compose.load(self._variables)
        self._folder = folder
        self.volume = folder / "data"  # as a new volume is: like the folder of the image
        self.volume.mkdir(mode=0o700)
        os.chown(self.volume, USER, USER)
        self._hosts = folder / "hosts"
        self._hosts.write_text("127.0.0.1 localhost mds simulator\n")
        self._secrets = folder / "secrets"
        self._secrets.mkdir()
        for name, path in compose.secrets(self._loaded, self.service("mds")).items():
            (self._secrets / name).write_bytes(path.read_bytes())
            self.token = path.read_text().strip()

    def service(self, name: str) -> dict[str, Any]:
        """Return a service of the file."""
        found: dict[str, Any] = self._loaded["services"][name]
        return found

    def simulator(self) -> Container:
        """Return the simulator, in a network of its own."""
        service = self.service("simulator")
        env = compose.environment(service, self._variables)
        return Container(self._made, *service["command"], env=env, binds={"/data": "", **self._hostnames})

    def mds(self, network: Container, *command: str, **changes: str | None) -> Container:
        """Return the recorder; `changes` are variables that are other than in the demo, None: are not set."""
        env = compose.environment(self.service("mds"), self._variables) | changes
        binds = {"/data": self.volume, "/run/secrets": self._secrets, **self._hostnames}
        given = {name: value for name, value in env.items() if value is not None}
        return Container(self._made, *command, env=given, binds=binds, network=network)

    @property
    def _hostnames(self) -> dict[str, Path]:
        return {"/etc/hosts": self._hosts}

    def verify(self, network: Container) -> dict[str, Any]:
        """Check that `mds verify`, in a container of its own, finds nothing wrong; return its report."""
        with self.mds(network, "verify", "--json") as verifying:
            code = verifying.wait()
        report: dict[str, Any] = json.loads(verifying.output)
        expected = CLEAN | {"chain": "ok", "pending": 0}
        assert ({key: report[key] for key in expected}, code) == (expected, 0), report
        return report


def ask(container: Container, url: str, *, host: str = "mds:8080", token: str = "") -> tuple[list[str], str]:
    """Ask something of that network; return status and redirect, and the body."""
    done = container.run("python", "-c", ASK, url, host, token)
    assert done.returncode == 0, done.stderr
    head, _, body = done.stdout.partition("\n")
    return head.split(), body


def until_healthy(container: Container, made: Image) -> None:
    """Wait until the image's own question is answered, and until all is recorded."""
    until(lambda: container.run(*made.health).returncode == 0, "the HEALTHCHECK succeeds")
    until(lambda: container.run("mds", "health").returncode == 0, "it is recording")

    def all_tick() -> bool:
        counts = [each["tick_count"] for each in json.loads(container.run("mds", "instruments", "--json").stdout)]
        return len(counts) == 7 and all(counts)

    until(all_tick, "all of the demo's instruments tick")


@pytest.fixture
def demo(made: Image, tmp_path: Path) -> Demo:
    """The demo, on a new volume."""
    return Demo(made, tmp_path)


def written(root: Path) -> dict[str, int]:
    """Return what is in the writable layer of a root file system, with when it was changed."""
    upper = root.with_name("upper")
    return {str(path): path.lstat().st_mtime_ns for path in upper.rglob("*")}


def test_a_run(made: Image, demo: Demo) -> None:
    """It records without a right to anything but its volume, answers who has the token, and ends in order."""
    before = written(made.machine.root)
    with demo.simulator() as simulator, demo.mds(simulator) as mds:
        until_healthy(mds, made)
        assert mds.run("touch", "/opt/mds/x", "/etc/x").stderr.count("Read-only file system") == 2
        status = mds.run("cat", "/proc/1/status").stdout
        assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}\n" in status
        assert all(f"{kind}:\t{0:016x}\n" in status for kind in ("CapPrm", "CapEff", "CapBnd", "CapAmb"))
        # Who may ask what.
        assert ask(mds, "mds:8080/live", host="10.0.0.7:8080") == (["200"], '{"status":"live"}\n')
        assert ask(mds, "mds:8080/metrics")[0] == ["401"]
        answered, metrics = ask(mds, "mds:8080/metrics", token=f"Bearer {demo.token}")
        assert answered == ["200"]
        assert "\nmds_up 1.0\n" in metrics
        assert not [line for line in mds.command_lines() if demo.token in line or "made-up" in line]
        # The token of the next day, as a person brings it.
        (_, redirect), _ = ask(mds, "simulator:9000/connect/login?api_key=made-up-key&v=3", host="127.0.0.1:9000")
        login = mds.run("mds", "login", stdin=redirect + "\n", env={"KITE_API_SECRET": "made-up-secret"})
        assert login.returncode == 0, login.stderr
        token = demo.volume / "access_token.json"
        assert (token.stat().st_uid, token.stat().st_mode & 0o777) == (USER, 0o600)
        # Its end.
        assert mds.kill(signal.SIGTERM) == 0, mds.errors
        assert "still spooled 0" in mds.output
        assert demo.token not in mds.errors
        # And the next run: the login is in the volume, and enough.
        with demo.mds(simulator, KITE_API_KEY=None, KITE_ACCESS_TOKEN=None) as again:
            until_healthy(again, made)
            assert again.kill(signal.SIGTERM) == 0, again.errors
        assert demo.verify(simulator)["ticks"] > 0
    assert written(made.machine.root) == before
    assert {path.name for path in demo.volume.iterdir()} == {"access_token.json", "market_data", "run"}


@pytest.mark.parametrize("who", ["first process", "supervisor"])
def test_killed(made: Image, demo: Demo, who: str) -> None:
    """With either all of it is gone at once; the next run stores what was left, adopts nothing, and tells the gap."""
    with demo.simulator() as simulator:
        with demo.mds(simulator) as mds:
            until_healthy(mds, made)
            if who == "supervisor":
                pid = json.loads((demo.volume / "run" / "supervisor.lock").read_bytes())["pid"]
                mds.run("sh", "-c", f"kill -KILL {pid}")  # which may end with it, before it can say that it has
                assert mds.wait() == 128 + signal.SIGKILL  # for whoever decides whether it is started again
            else:
                mds.kill(signal.SIGKILL)
        with demo.mds(simulator) as mds:
            until_healthy(mds, made)
            assert mds.kill(signal.SIGTERM) == 0, mds.errors
        assert "adopted" not in mds.errors
        assert demo.verify(simulator)["streams"] > 2
        with demo.mds(simulator, "gaps", "--json") as listing:
            assert listing.wait() == 0
        assert json.loads(listing.output)["totals"]["gaps"] >= 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"CREDENTIALS_DIRECTORY": "/nowhere"}, "http.token"),
        ({"KITE_API_KEY": None, "KITE_ACCESS_TOKEN": None}, "mds login"),
        ({"MDS_STORAGE__DATA_DIR": "/opt/data"}, "storage.data_dir: /opt/data: Read-only file system"),
    ],
    ids=["no http token", "no login", "not in the volume"],
)
def test_refusals(demo: Demo, changes: dict[str, str | None], said: str) -> None:
    """What is missing is said in one line, and nothing is started."""
    with demo.simulator() as simulator, demo.mds(simulator, **changes) as mds:
        assert mds.wait() == 2
        lines = [line for line in mds.errors.splitlines() if "nspawn" not in line]
        assert [line for line in lines if said in line] == lines[:1] == lines
    assert [path.name for path in demo.volume.iterdir()] in ([], ["run"])
