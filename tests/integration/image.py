"""A container image without a container engine: a Dockerfile's own steps on fresh machines, and what they made, run.

Debian's Python stands for the base image. Each stage is a machine of its own. A container runs with its root file
system read-only, without any capability, in a network of its own or of another container, as its own first process.
"""

import json
import os
import re
import shlex
import shutil
import signal
import string
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from dockerfile_parse import DockerfileParser

from tests.integration.machine import Machine, machine
from tests.integration.service import DEADLINE_S, until

ROOT = Path(__file__).parents[2]
SAYING = ("CMD", "ENTRYPOINT", "EXPOSE", "HEALTHCHECK", "LABEL", "STOPSIGNAL", "USER", "VOLUME")
CACHE = "--mount=type=cache,target=/root/.cache/pip "  # a machine has one of its own


@dataclass
class Image:
    """A stage: its files, and what its instructions say of a container made of it."""

    machine: Machine
    env: dict[str, str] = field(default_factory=dict)
    args: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    said: dict[str, str] = field(default_factory=dict)  # by instructions that change no file, the last of each

    @property
    def user(self) -> str:
        """What processes run as, UID:GID."""
        return self.said.get("USER", "root")

    @property
    def health(self) -> list[str]:
        """The command of the HEALTHCHECK."""
        return self.words("HEALTHCHECK")

    def words(self, instruction: str) -> list[str]:
        """Return the program and arguments that an instruction names, in its form without a shell."""
        said = self.said[instruction]
        found: list[str] = json.loads(said[said.index("[") :])  # behind options
        return found

    def path(self, inside: str) -> Path:
        """Return where on this machine a path of the image is; a relative one begins in its folder."""
        return self.machine.root / os.path.normpath(f"{self.folder}/{inside}" if inside[0] != "/" else inside)[1:]


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Return the instructions with what they are given, in order."""
    parsed = DockerfileParser(fileobj=BytesIO(dockerfile.read_bytes())).structure
    return [(each["instruction"].upper(), each["value"]) for each in parsed if each["instruction"] != "COMMENT"]


def context_files(root: Path, ignore_file: Path) -> list[str]:
    """Return the files that the steps get to see: of patterns that fit a path, or a folder of it, the last counts."""
    rules = [line for line in ignore_file.read_text().splitlines() if line and not line.startswith("#")]
    patterns = [(rule.startswith("!"), _pattern(rule.removeprefix("!"))) for rule in rules]
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != ".git"]  # for the time it takes
        found += [os.path.relpath(Path(folder) / name, root) for name in names]
    return sorted(path for path in found if _is_kept(path, patterns))


def _pattern(rule: str) -> re.Pattern[str]:
    pieces = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    found = re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", rule)
    return re.compile("".join(pieces.get(piece) or re.escape(piece) for piece in found) + "(?:/.*)?")


def _is_kept(path: str, patterns: Iterable[tuple[bool, re.Pattern[str]]]) -> bool:
    is_kept = True
    for is_exception, pattern in patterns:
        if pattern.fullmatch(path):
            is_kept = is_exception
    return is_kept


@contextmanager
def built(dockerfile: Path, folder: Path) -> Iterator[Image]:
    """Carry out the steps; give the last stage."""
    args: dict[str, str] = {}
    stages: list[Image] = []
    names: dict[str, Image] = {}
    with ExitStack() as machines:
        for instruction, value in instructions(dockerfile):
            if instruction == "FROM":
                base, *name = _fill(value, args).split(" AS ")
                assert base.startswith("python:"), base
                stages.append(Image(machines.enter_context(machine(folder / f"stage-{len(stages) + 1}"))))
                names[name[0] if name else ""] = stages[-1]
                _do(stages[-1], "RUN", "touch /etc/hosts")  # which every container has
                _do(stages[-1], "RUN", "python3 -m venv /usr/local")  # where the base image has its Python and pip
            elif not stages:
                assert instruction == "ARG", instruction
                args |= pairs(value)
            elif instruction == "COPY":
                _copy(stages[-1], value, names, dockerfile)
            else:
                _do(stages[-1], instruction, value)
        yield stages[-1]


def _do(stage: Image, instruction: str, value: str) -> None:
    """Carry out a step that concerns one stage alone."""
    match instruction:
        case "RUN":
            line = value.removeprefix(CACHE)
            done = stage.machine.run("sh", "-c", line, cwd=stage.folder, env=stage.args | stage.env, user=stage.user)
            assert done.returncode == 0, f"RUN {value}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        case "ARG":
            stage.args |= pairs(value)
        case "ENV":
            stage.env |= pairs(_fill(value, stage.args | stage.env))
        case "WORKDIR":
            stage.folder = os.path.normpath(f"{stage.folder}/{value}" if value[0] != "/" else value)
            stage.path(".").mkdir(parents=True, exist_ok=True)
        case _:
            assert instruction in SAYING, instruction
            stage.said[instruction] = value


def _copy(stage: Image, value: str, names: Mapping[str, Image], dockerfile: Path) -> None:
    *options, source, target = value.split()
    to = stage.path(target)
    if options:
        (name,) = options
        subprocess.run(["cp", "--archive", names[name.removeprefix("--from=")].path(source), to], check=True)
        return
    assert source == ".", source
    for path in context_files(ROOT, dockerfile.with_name(f"{dockerfile.name}.dockerignore")):
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, to / path)


def pairs(value: str) -> dict[str, str]:
    """Return what ARG or ENV sets."""
    return {name: text for name, _, text in (word.partition("=") for word in shlex.split(value))}


def _fill(value: str, variables: Mapping[str, str]) -> str:
    return string.Template(value).substitute(variables)


class Container:
    """One that runs, until it ends or is closed. A context manager.

    `binds` are folders and files of this machine, by where they are in it; "" is a tmpfs. With `network` it is reached
    at, and reaches, what listens in that container.
    """

    def __init__(
        self,
        image: Image,
        *command: str,
        env: Mapping[str, str],
        binds: Mapping[str, Path | str],
        network: "Container | None" = None,
    ) -> None:
        self.leader = 0  # its first process, as this machine sees it
        self.output = self.errors = ""  # what it has printed, when it has ended
        self._image = image
        self._env = {"PATH": "/usr/local/bin:/usr/bin:/bin", **image.env, **env}
        where = f"--network-namespace-path=/proc/{network.leader}/ns/net" if network else "--private-network"
        argv = [
            *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--directory={image.machine.root}"),
            *("--read-only", "--drop-capability=all", "--no-new-privileges=yes", "--console=pipe", where),
            *("--resolv-conf=off", "--timezone=off", "--link-journal=no"),
            *(_bind(inside, outside) for inside, outside in binds.items()),
            *(f"--user={image.user.partition(':')[0]}", f"--chdir={image.folder}"),
            *(f"--setenv={name}={value}" for name, value in self._env.items()),
            *(*image.words("ENTRYPOINT"), *(command or image.words("CMD"))),
        ]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "Container":
        try:
            until(self._find_leader, "a container has its first process")
        except BaseException:
            self._process.kill()  # while it still prepares, all of it ends with it
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.kill(self.leader, signal.SIGKILL)  # with which all that runs in it ends, and nspawn, too
        self.wait()

    def _find_leader(self) -> bool:
        if self._process.poll() is not None:
            return True  # it has ended already
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        with suppress(FileNotFoundError):  # of one that helps to prepare it, and is gone
            found = [pid for pid in children if Path(f"/proc/{pid}/exe").readlink().name != "systemd-nspawn"]
            self.leader = int(found[0]) if found else 0
        return bool(self.leader)

    def kill(self, number: int) -> int:
        """Send its first process a signal; return with which code the container ends."""
        assert self.leader, self.errors  # 0 would be all of us
        os.kill(self.leader, number)
        return self.wait()

    def wait(self) -> int:
        """Wait until it has ended; return its exit code."""
        self.output, self.errors = self._process.communicate(timeout=DEADLINE_S)
        return self._process.returncode

    def run(
        self, *argv: str, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a further process in it, as its user and with its variables, to the end."""
        user, _, group = self._image.user.partition(":")
        settings = [f"{name}={value}" for name, value in (self._env | dict(env or {})).items()]
        enter = ["nsenter", f"--target={self.leader}", "--all", f"--setuid={user}", f"--setgid={group}"]
        return subprocess.run(
            [*enter, f"--wdns={self._image.folder}", "env", "-i", *settings, *argv],
            check=False,
            capture_output=True,
            input=stdin,
            text=True,
            timeout=DEADLINE_S,
        )

    def command_lines(self) -> Sequence[str]:
        """Return the command lines of all processes in it."""
        there = Path(f"/proc/{self.leader}/root/proc")
        return [(entry / "cmdline").read_text() for entry in there.iterdir() if entry.name.isdecimal()]


def _bind(inside: str, outside: Path | str) -> str:
    if not outside:
        return f"--tmpfs={inside}:mode=1777"
    return f"--bind-ro={outside}:{inside}" if inside.startswith(("/run/", "/etc/")) else f"--bind={outside}:{inside}"
