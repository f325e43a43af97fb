"""What the machine grants to the recorder: descriptors, file sizes, memory."""

from pathlib import Path
from typing import NamedTuple

from pipeline import readable
from pipeline.doctor.finding import Check, Finding

AREA = "machine"
DESCRIPTORS = Check(AREA, "open_files")
FILE_SIZE = Check(AREA, "file_size")
ADDRESS_SPACE = Check(AREA, "address_space")
MEMORY = Check(AREA, "memory")

PROC = Path("/proc")
LEAST_DESCRIPTORS = 1024
LEAST_FILE_BYTES = 64 * 2**30  # a busy day in full mode
LEAST_ADDRESS_BYTES = 2 * 2**30  # numpy and ZeroMQ map much more than they use
LOW_MEMORY_BYTES, NO_MEMORY_BYTES = 512 * 2**20, 128 * 2**20
_RAISE = "raise it with ulimit where mds run is started, in /etc/security/limits.conf, or in the systemd unit"

Limits = dict[str, int | None]  # soft ones by the name that the kernel gives them; None: unlimited


class Machine(NamedTuple):
    """What there is."""

    limits: Limits
    whose: str  # limits these are
    memory_bytes: int | None  # available


def gather(supervisor_pid: int | None) -> Machine:
    """Look at the limits of the running service, else of this process: mds run would have the same."""
    limits, whose = read_limits(PROC / "self" / "limits"), "the limit here"
    if supervisor_pid is not None:
        limits, whose = read_limits(PROC / str(supervisor_pid) / "limits"), "the limit of the running service"
    return Machine(limits, whose, read_memory(PROC / "meminfo"))


def read_limits(path: Path) -> Limits:
    """Return the soft limits of a process."""
    limits: Limits = {}
    for line in path.read_text().splitlines()[1:]:
        name, soft = line[:26].strip(), line[26:].split()[0]
        limits[name] = None if soft == "unlimited" else int(soft)
    return limits


def read_memory(path: Path) -> int | None:
    """Return the bytes of memory that can be had without swapping."""
    for line in path.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def judge(machine: Machine) -> list[Finding]:
    """Judge limits and memory."""
    return [
        judge_descriptors(machine),
        judge_file_size(machine),
        judge_address_space(machine),
        judge_memory(machine.memory_bytes),
    ]


def judge_descriptors(machine: Machine) -> Finding:
    """Judge how many files and sockets a process may have open."""
    number = machine.limits.get("Max open files")
    what = f"{'any number of' if number is None else f'{number:,}'} files and sockets may be open ({machine.whose})"
    if number is None or number >= LEAST_DESCRIPTORS:
        return DESCRIPTORS.ok(what)
    why = "with none left, sockets and files cannot be opened, and processes not started again"
    return DESCRIPTORS.failure(f"only {what}; {LEAST_DESCRIPTORS:,} are wanted", why, f"ulimit -n: {_RAISE}")


def judge_file_size(machine: Machine) -> Finding:
    """Judge how large a file may grow."""
    size = machine.limits.get("Max file size")
    if size is None:
        return FILE_SIZE.ok(f"files may grow as they like ({machine.whose})")
    what = f"a file may grow to {readable.size(size)} ({machine.whose})"
    if size >= LEAST_FILE_BYTES:
        return FILE_SIZE.ok(what)
    why = "a day's ticks are one file: at the limit the writer stops as with a full disk, and the spools fill"
    return FILE_SIZE.failure(what, why, f"ulimit -f: {_RAISE}")


def judge_address_space(machine: Machine) -> Finding:
    """Judge how much memory a process may ask for."""
    limited = {
        name: size
        for name in ("Max address space", "Max data size")
        if (size := machine.limits.get(name)) is not None and size < LEAST_ADDRESS_BYTES
    }
    if not limited:
        return ADDRESS_SPACE.ok(f"processes may ask for enough memory ({machine.whose})")
    what = ", ".join(f"{name.lower()}: {readable.size(size)}" for name, size in limited.items())
    why = "a process that is refused memory dies, and is started again only to die again"
    return ADDRESS_SPACE.failure(f"{what} ({machine.whose})", why, f"ulimit -v and -d: {_RAISE}")


def judge_memory(available: int | None) -> Finding:
    """Judge how much memory is left."""
    if available is None:
        return MEMORY.skipped("the kernel does not say how much is available")
    what = f"{readable.size(available)} available"
    why = "when it runs out the kernel kills processes, and what a connection misses until it is back is a gap"
    todo = "end what else needs memory here, or add some"
    if available < NO_MEMORY_BYTES:
        return MEMORY.failure(what, why, todo)
    if available < LOW_MEMORY_BYTES:
        return MEMORY.warning(what, why, todo)
    return MEMORY.ok(what)
