"""A fresh machine for a test: Debian with Python, make and systemd, and nothing else, in a root folder of its own.

The base is made once by debootstrap and kept in /var/tmp; each machine is an overlay on it, and gone with the test. It
reaches packages as the machine around it does. Commands run in a container (systemd-nspawn), as root or as a user;
`boot` starts systemd in it, as on a real machine, with a network of its own in which there is only loopback.

    python -m tests.integration.machine         makes the base
"""

import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.integration.service import until

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "dbus", "make", "python3", "python3-venv", "systemd")
BASE = Path("/var/tmp") / f"mds-machine-{SUITE}-1"  # noqa: S108  not secret; counted up where PACKAGES change
TOOLS = ("debootstrap", "systemd-nspawn", "nsenter", "mount")
SHARED = ("/etc/ssl/certs", "/etc/resolv.conf", "/etc/pip.conf")  # how to reach packages
PIP_SETTINGS = Path("~/.config/pip/pip.conf").expanduser()
PIP_CACHE = Path("~/.cache/pip").expanduser()
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def why_not() -> str:
    """Return why there can be no such machine here, "" if there can."""
    if os.geteuid() != 0:
        return "only root can make a machine"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def base() -> Path:
    """Return the root folder of a machine that nobody has used yet; made where it is not there."""
    with BASE.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not BASE.exists():
            new = BASE.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            include = f"--include={','.join(PACKAGES)}"
            done = subprocess.run(
                ["debootstrap", "--variant=minbase", include, SUITE, str(new)], check=False, capture_output=True
            )
            assert done.returncode == 0, done.stdout.decode()[-3000:]
            new.rename(BASE)
    return BASE


class Machine:
    """One machine; `folder` is for what it writes. To be closed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.root = folder / "root"
        self._leader = 0  # the pid of its init, as this machine sees it
        self._booted: subprocess.Popen[bytes] | None = None
        parts = [folder / name for name in ("root", "upper", "work")]
        for part in parts:
            part.mkdir(parents=True)
        options = f"lowerdir={base()},upperdir={parts[1]},workdir={parts[2]}"
        subprocess.run(["mount", "-t", "overlay", "mds-machine", "-o", options, str(self.root)], check=True)
        if PIP_SETTINGS.exists():
            shutil.copy(PIP_SETTINGS, self.root / "etc/pip-user.conf")

    def close(self) -> None:
        """Switch it off, and leave nothing of it."""
        if self._booted is not None:
            for pid in (
                *self._children(),
                self._booted.pid,
            ):  # its init, with which all that runs in it ends, and nspawn
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._booted.wait()
        subprocess.run(["umount", "--lazy", str(self.root)], check=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(
        self,
        *argv: str,
        user: str = "root",
        cwd: str = "/root",
        env: dict[str, str] | None = None,
        timeout_s: float = 300,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on it, and return how it ended; a shell line is `run("sh", "-c", line)`."""
        return subprocess.run(
            self.argv(*argv, user=user, cwd=cwd, env=env),
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            **options,
        )

    def argv(
        self, *argv: str, user: str = "root", cwd: str = "/root", env: dict[str, str] | None = None
    ) -> Sequence[str]:
        """Return the command line that runs a command on this machine, for who wants to talk with it while it runs."""
        settings = [f"{name}={value}" for name, value in (self._environment() | (env or {})).items()]
        if self._leader:
            enter = ["nsenter", "--target", str(self._leader), "--all"]
            become = [] if user == "root" else ["runuser", "-u", user, "--"]
            return [*enter, "env", "-i", f"--chdir={cwd}", *settings, *become, *argv]
        return [
            *self._container(),
            "--pipe",
            "--as-pid2",
            f"--chdir={cwd}",
            f"--user={user}",
            *(f"--setenv={setting}" for setting in settings),
            *argv,
        ]

    def boot(self) -> None:
        """Start systemd, and wait until it is up. Needs `systemctl` inside to answer."""
        with (self._folder / "console.log").open("wb") as console:
            self._booted = subprocess.Popen(
                [*self._container(), "--private-network", "--boot"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        until(self._find_init, "its systemd has begun")
        until(
            lambda: self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"),
            "systemd is up",
        )

    def _find_init(self) -> bool:
        assert self._booted
        assert self._booted.poll() is None, (self._folder / "console.log").read_text(errors="replace")
        found = [pid for pid in self._children() if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd"]
        self._leader = found[0] if found else 0
        return bool(found)

    def _children(self) -> list[int]:
        """Return the children of nspawn: the container's init, once it has begun."""
        assert self._booted
        with suppress(FileNotFoundError):  # it has ended
            listed = Path(f"/proc/{self._booted.pid}/task/{self._booted.pid}/children").read_text()
            return [int(pid) for pid in listed.split()]
        return []

    def _container(self) -> list[str]:
        shared = [f"--bind-ro={path}" for path in SHARED if Path(path).exists()]
        cache = [f"--bind={PIP_CACHE}:/var/cache/pip"] if PIP_CACHE.exists() else []
        quiet = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--directory={self.root}"]
        return [*quiet, "--resolv-conf=off", *shared, *cache]

    def _environment(self) -> dict[str, str]:
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        pip["PIP_CACHE_DIR"] = "/var/cache/pip"
        if PIP_SETTINGS.exists():
            pip["PIP_CONFIG_FILE"] = "/etc/pip-user.conf"
        return {"PATH": PATH, "LANG": "C.UTF-8", **pip}


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """Give a machine for as long as it is needed."""
    made = Machine(folder)
    try:
        yield made
    finally:
        made.close()


if __name__ == "__main__":
    base()
