"""The processes of the service: who holds which lock, what the kernel says of them, and what the supervisor does."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from pipeline import __version__, readable, role
from pipeline.client import Client
from pipeline.config import CONNECTIONS, Config
from pipeline.doctor.finding import Check, Finding
from pipeline.errors import ControlError, MdsError, NotRunningError
from pipeline.files import SERVICE_LOCK, WRITER_LOCK
from pipeline.role import HTTP, SIMULATOR, SUPERVISOR, WRITER, Holder
from pipeline.status import Overview, Process

AREA = "processes"
SERVICE = Check(AREA, "service")
ANSWERS = Check(AREA, "control_socket")
DATA_LOCKS = Check(AREA, "data_locks")

ANSWER_S = 2.0
ROLES = (SUPERVISOR, WRITER, *map(role.worker_role, CONNECTIONS), HTTP, SIMULATOR)
STOPPED, DEAD = ("T", "t"), ("Z", "X")  # by /proc/PID/stat


class Holding(NamedTuple):
    """Who holds the lock of a role, and the state that the kernel gives the process; empty: it does not say."""

    holder: Holder
    state: str


class Locks(NamedTuple):
    """Who holds what."""

    roles: Mapping[str, Holding]  # those that are held
    service_pid: int | None  # of the data folder
    writer_pid: int | None  # likewise

    @property
    def supervisor_pid(self) -> int | None:
        """The supervisor of this run folder."""
        found = self.roles.get(SUPERVISOR)
        return found.holder.pid if found else None

    @property
    def is_simulated(self) -> bool:
        """Whether what runs records the simulator."""
        return SIMULATOR in self.roles


def gather(config: Config) -> Locks:
    """Look at all locks. Raises ConfigError where one cannot be read."""
    held = {name: role.read_holder(role.lock_path(config, name)) for name in ROLES}
    service, writer = (role.read_holder(config.state_dir / name) for name in (SERVICE_LOCK, WRITER_LOCK))
    return Locks(
        {name: Holding(holder, state_of(holder.pid)) for name, holder in held.items() if holder},
        service.pid if service else None,
        writer.pid if writer else None,
    )


def state_of(pid: int) -> str:
    """Return the letter that the kernel gives a process, empty where it gives none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def ask(config: Config) -> Overview:
    """Ask the service how it is. Raises MdsError where it does not say."""
    with Client(config.runtime.run_dir, ANSWER_S) as client:
        try:
            return client.overview()
        except ValidationError:
            raise ControlError("it answers otherwise than this version of mds expects") from None


def judge(config: Config, locks: Locks) -> list[Finding]:
    """Judge locks and processes; `config` is what the processes should have been started with."""
    findings = [judge_service(locks), judge_data_locks(locks, config.storage.data_dir)]
    for name, held in locks.roles.items():
        expected = "" if locks.is_simulated or name == HTTP or not config.api_key.get_secret_value() else config.hash
        findings.append(judge_process(name, held, expected, config.runtime.run_dir))
    return findings


def judge_service(locks: Locks) -> Finding:
    """Judge whether there is a service, and who leads it."""
    if locks.supervisor_pid is not None:
        simulated = ", recording the simulator" if locks.is_simulated else ""
        return SERVICE.ok(f"it runs, as process {locks.supervisor_pid}{simulated}")
    if not locks.roles:
        return SERVICE.skipped("no service is running; mds run starts one")
    names = ", ".join(locks.roles)
    why = "recording goes on, but nothing that dies is started again, and no connection takes over for another"
    todo = "mds run adopts them; mds stop ends them"
    return SERVICE.failure(f"the supervisor is gone, without it run: {names}", why, todo)


def judge_data_locks(locks: Locks, data_dir: Path) -> Finding:
    """Judge whether the data folder belongs to what runs in this run folder."""
    writer = locks.roles.get(WRITER)
    ours = (locks.supervisor_pid, writer.holder.pid if writer else None)
    strangers = {pid for pid in (locks.service_pid, locks.writer_pid) if pid is not None and pid not in ours}
    if not strangers:
        return DATA_LOCKS.ok("no other service uses the data folder")
    pids = ", ".join(map(str, sorted(strangers)))
    what = f"{data_dir} is used by process {pids}, which belongs to another run folder"
    why = "a data folder has one service: in this run folder mds run cannot begin"
    todo = "call mds with the settings of that service (--config, runtime.run_dir), or end it"
    return DATA_LOCKS.failure(what, why, todo)


def judge_process(name: str, held: Holding, expected_hash: str, run_dir: Path) -> Finding:
    """Judge a process by its lock file and by the kernel; without `expected_hash` its settings are not looked at."""
    check, pid = Check(AREA, name), held.holder.pid
    what = f"process {pid}"
    if held.state in STOPPED:
        why = "it does nothing, and cannot be asked to end" if name == SUPERVISOR else "it does nothing"
        return check.failure(f"{what} is stopped by a signal", why, f"let it go on: kill -CONT {pid}")
    if held.state in DEAD:
        why = "whoever started it does not see that it has ended"
        return check.failure(f"{what} is dead, and nobody has noticed", why, "mds stop, then: mds run")
    again = "restart it: mds stop, then: mds run"
    if held.holder.version != __version__:
        told = f"{what} is of version {held.holder.version}, installed is {__version__}"
        return check.warning(told, "commands and processes of two versions may not understand each other", again)
    if expected_hash and held.holder.config_hash != expected_hash:
        why = "what the file and the environment say here and now does not hold there"
        todo = f"where the service has an environment of its own, call mds with that; else {again}"
        return check.warning(f"{what} was started with other settings", why, todo)
    log = "" if name == SUPERVISOR else f"; its log is {run_dir / f'{name}.log'}"
    return check.ok(f"{what} runs{log}")


def judge_answer(locks: Locks, answer: Overview | MdsError) -> list[Finding]:
    """Judge whether the supervisor answers, and what it says of the other processes."""
    if isinstance(answer, Overview):
        told = (judge_told(name, process) for name, process in answer.processes.items())
        return [ANSWERS.ok("the supervisor answers"), *(finding for finding in told if finding)]
    if isinstance(answer, NotRunningError) and locks.supervisor_pid is None:
        return [ANSWERS.skipped("there is no supervisor to ask")]
    why = "nobody can see or change what is recorded, and no connection may take over for another"
    todo = f"see whether process {locks.supervisor_pid} is stopped or busy; mds run after its end adopts what runs"
    return [ANSWERS.failure(str(answer), why, todo)]


def judge_told(name: str, process: Process) -> Finding | None:
    """Judge what the supervisor says of a process; None where there is nothing to say."""
    check = Check(AREA, f"{name}_restarts")
    if process.state == "failed":
        what = f"{name} has died {process.restarts} times, and is given up"
        why = "nobody starts it again by itself" + ("" if name == HTTP else ", and what it records is not recorded")
        return check.failure(what, why, f"see its log in the run folder, then: mds restart {name}")
    if process.state == "restarting":
        what = f"{name} has died and is about to be started again"
        return check.warning(what, "until then it does nothing", "see its log in the run folder, and mds events")
    if process.state == "waiting":
        what = f"{name} waits: another program has its port"
        return check.warning(what, "the status pages cannot be seen", "end that program, or set http.listen")
    if process.restarts:
        what = f"{name} has died {readable.counted(process.restarts, 'time')}, and runs again"
        return check.warning(what, _missed(name), "see its log in the run folder, and mds events")
    return None


def _missed(name: str) -> str:
    """Return what the death of a process has cost."""
    if name == WRITER:
        return "ticks waited in the spools meanwhile, and are stored by now"
    if name == HTTP:
        return "the status pages could not be seen meanwhile"
    return "what its connection missed meanwhile is a gap"
