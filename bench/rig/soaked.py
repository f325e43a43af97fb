"""What a soak has seen, what is made of it, and how it is shown. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.rig.compare import Comparison
from bench.rig.growth import Growth, Point, growth
from bench.rig.recorder import ROLES
from bench.rig.spread import Spread

GROWTH_MB, GROWTH_SHARE = 1.0, 0.03  # of memory over the run, which is still flat; whichever is more
GROWTH_FILES = 1.0  # likewise of open files
TARGET_MB = 400.0
ALL = "all together"
WORKERS = tuple(role for role in ROLES if role.startswith("worker"))


@dataclass(frozen=True)
class Use:
    """What one process uses."""

    pid: int
    resident_mb: float
    proportional_mb: float
    files: int


@dataclass(frozen=True)
class Sample:
    """How it stands at one moment."""

    seconds: float  # since the first tick was asked for
    sent: int
    stored: int
    wrong: int  # lines and numbers
    behind_s: float  # the most since the sample before
    kills: int
    free_gb: float
    uses: Mapping[str, Use]  # by role

    @property
    def proportional_mb(self) -> float:
        """The memory of all together, shared pages counted once."""
        return sum(use.proportional_mb for use in self.uses.values())

    @property
    def files(self) -> int:
        """The open files of all together."""
        return sum(use.files for use in self.uses.values())


@dataclass
class Soak:
    """What was seen."""

    samples: list[Sample] = field(default_factory=list)
    behind_s: list[float] = field(default_factory=list)  # at each look that was answered
    unanswered: int = 0  # looks; a supervisor that is dead answers nobody
    kills: Counter[str] = field(default_factory=Counter)
    lasted_s: float = 0.0  # with load
    ended_early: str = ""  # why
    sent: int = 0
    stored: int = 0
    is_complete: bool = False  # all could be stored that was sent
    missing: int = 0  # numbers
    wrong: Counter[str] = field(default_factory=Counter)  # lines
    gaps: int = 0  # on record
    gap_instrument_s: float = 0.0
    verified: bool | None = None  # None: not all could be read
    problems: list[str] = field(default_factory=list)

    @property
    def is_cut(self) -> bool:
        """Whether ticks on their way may have been lost, because the worker they went to was killed."""
        return any(self.kills[role] for role in WORKERS)

    def judge(self) -> None:
        """Add to the problems what the counts tell."""
        if self.stored > self.sent:
            self.problems.append(f"{self.stored - self.sent:,} ticks are stored that were never sent")
        elif self.stored < self.sent and not self.is_cut:
            self.problems.append(f"{self.sent - self.stored:,} of {self.sent:,} ticks are lost")
        elif self.stored < self.sent and not self.gaps:
            self.problems.append(
                f"{self.sent - self.stored:,} ticks were lost with killed workers, without a gap record"
            )
        if self.missing:
            self.problems.append(f"{self.missing:,} numbers of ticks are missing in the files")
        self.problems += [f"{count:,} lines are {what}" for what, count in self.wrong.items()]


def differences(found: Comparison, *, is_cut: bool) -> list[str]:
    """Return what is stored otherwise than it was sent; where sockets were cut, their ends may be missing."""
    lost = found.lost - (found.cut_off if is_cut else 0)
    counts = {"lost": lost, "repeated": found.repeated, "out of order": found.out_of_order, "foreign": found.foreign}
    return [f"{count:,} ticks are {how}" for how, count in counts.items() if count]


def memory(soak: Soak) -> dict[str, Growth]:
    """Return the growth of each process in MB, resident; of all together with shared pages counted once."""
    lines = {role: [(since, use.resident_mb) for since, use in life(soak.samples, role)] for role in ROLES}
    lines[ALL] = [(sample.seconds, sample.proportional_mb) for sample in soak.samples]
    return _growths(lines, GROWTH_MB, GROWTH_SHARE)


def files(soak: Soak) -> dict[str, Growth]:
    """Return the growth of each process, and of all together, in open files."""
    lines: dict[str, list[Point]] = {role: [(s, use.files) for s, use in life(soak.samples, role)] for role in ROLES}
    lines[ALL] = [(sample.seconds, sample.files) for sample in soak.samples]
    return _growths(lines, GROWTH_FILES, 0.0)


def life(samples: Sequence[Sample], role: str) -> list[tuple[float, Use]]:
    """Return what the process used that had this role in most samples, the first of them if there are several."""
    uses = [(sample.seconds, use) for sample in samples if (use := sample.uses.get(role))]
    pids = Counter(use.pid for _, use in uses)
    longest = pids.most_common(1)[0][0] if pids else 0
    return [(seconds, use) for seconds, use in uses if use.pid == longest]


def _growths(lines: Mapping[str, Sequence[Point]], allowed: float, share: float) -> dict[str, Growth]:
    found = {name: growth(points, allowed=allowed, allowed_share=share) for name, points in lines.items()}
    return {name: some for name, some in found.items() if some}


def figures(soak: Soak) -> dict[str, Any]:
    """Return what is printed as JSON."""
    behind = Spread.of(soak.behind_s) if soak.behind_s else None
    return {
        "seconds": round(soak.lasted_s, 1),
        "ended_early": soak.ended_early or None,
        "samples": len(soak.samples),
        "sent": soak.sent,
        "stored": soak.stored,
        "complete": soak.is_complete,
        "not_stored": soak.sent - soak.stored,
        "missing_numbers": soak.missing,
        "wrong_lines": dict(soak.wrong),
        "verified": soak.verified,
        "kills": dict(soak.kills),
        "gaps": soak.gaps,
        "gap_instrument_seconds": round(soak.gap_instrument_s, 3),
        "behind_s": asdict(behind) if behind else None,
        "unanswered": soak.unanswered,
        "memory_mb": {name: asdict(some) for name, some in memory(soak).items()},
        "open_files": {name: asdict(some) for name, some in files(soak).items()},
        "is_flat": is_flat(soak),
        "problems": soak.problems,
    }


def is_flat(soak: Soak) -> bool | None:
    """Tell whether nothing grows, None where the run was too short to tell."""
    verdicts = [some.is_flat for some in (*memory(soak).values(), *files(soak).values())]
    return False if False in verdicts else None if None in verdicts or not verdicts else True


def tables(soak: Soak) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Return what is printed as text, for `show`."""
    grown = [
        (f"{what}|>after warm-up|>last|>most|>per hour|>flat", [_row(name, some) for name, some in found.items()])
        for what, found in (("memory, MB", memory(soak)), ("open files", files(soak)))
    ]
    return [("|>|>to reach", list(_summary(soak))), *grown]


def _summary(soak: Soak) -> Iterator[tuple[str, str, str]]:
    early = f", {soak.ended_early}" if soak.ended_early else ""
    yield "lasted", f"{clock(soak.lasted_s)}{early}", ""
    yield "ticks sent", f"{soak.sent:,}", ""
    yield "stored", f"{soak.stored:,}", ""
    if not soak.is_complete:
        yield "not stored when it failed", f"{soak.sent - soak.stored:,}", ""
    elif soak.is_cut:
        yield "lost on their way to workers that were killed", f"{soak.sent - soak.stored:,}", ""
    else:
        yield "lost", f"{soak.sent - soak.stored:,}", "0"
    yield "wrong lines and numbers", f"{soak.missing + soak.wrong.total():,}", "0"
    yield "mds verify", {True: "all is right", False: "not all is right", None: "not done"}[soak.verified], ""
    for role, number in sorted(soak.kills.items()):
        yield f"kills of {role}", f"{number:,}", ""
    yield "gaps on record", f"{soak.gaps:,}", "" if soak.kills else "0"
    if soak.gaps:
        yield "their instrument-seconds", f"{soak.gap_instrument_s:,.1f}", ""
    if soak.behind_s:
        behind = Spread.of(soak.behind_s)
        for name, value in (("p50", behind.p50), ("p99", behind.p99), ("most", behind.max)):
            yield f"received and not durable for, {name}", f"{value * 1000:,.0f} ms", ""
    if soak.unanswered:
        yield "looks without an answer", f"{soak.unanswered:,}", ""
    if soak.samples:
        most = max(sample.proportional_mb for sample in soak.samples)
        yield "memory of all together, most", f"{most:,.0f} MB", f"under {TARGET_MB:.0f} MB"


def _row(name: str, some: Growth) -> tuple[str, ...]:
    numbers = (f"{value:,.1f}" for value in (some.first, some.last, some.largest))
    flat = {True: "yes", False: "NO", None: "too short to tell"}[some.is_flat]
    return name, *numbers, f"{some.per_hour:+,.2f}", flat


def progress(sample: Sample) -> str:
    """Return how it stands, in a line."""
    kills = f", {sample.kills} kills" if sample.kills else ""
    return (
        f"{clock(sample.seconds)}  {sample.sent:,} sent, {sample.stored:,} stored, {sample.wrong} wrong,"
        f" {sample.behind_s * 1000:,.0f} ms behind, {sample.proportional_mb:.0f} MB, {sample.files} open files{kills}"
    )


def clock(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}"
