"""All checks, side by side, and done in time whatever hangs. A check that itself fails is a finding."""

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.config import CONNECTIONS, Config, Mode
from pipeline.days import Calendar
from pipeline.doctor import clock, connections, credentials, folders, machine, market, network, processes, recording
from pipeline.doctor import settings as settings_check
from pipeline.doctor.finding import Check, Finding, cleaned, sort_by_area
from pipeline.doctor.processes import Locks
from pipeline.doctor.task import Deadline, Task
from pipeline.errors import MdsError
from pipeline.status import Overview

TIME_S = 8.5  # for all together
LOCKS_S = 1.0  # for what others ask of the locks, which takes no time but where the disk hangs
SIMULATED = "not needed: what runs records the simulator"

Job = tuple[Sequence[Check], Callable[[], list[Finding]]]  # the checks, for the case that they fail themselves


def examine(file: Path | None, *, offline: bool = False) -> list[Finding]:
    """Return what there is to say, area by area. Takes ten seconds at most, and raises nothing."""
    deadline = Deadline(TIME_S)
    settings, findings = settings_check.read(file)
    findings = [settings_check.version(), *findings]
    if settings is None:
        needs = Check("settings", "all_others").skipped("without settings only the machine is looked at")
        without: list[Job] = [
            ((clock.SYNCHRONISED,), lambda: [clock.judge_synchronised(clock.gather_synchronised())]),
            ((machine.MEMORY,), lambda: machine.judge(machine.gather(None))),
        ]
        return [*findings, needs, *run(without, deadline)]
    examination = Examination(settings, offline=offline)
    found = run(examination.jobs(), deadline)
    secrets = (*settings.secrets, *examination.secrets)
    return sort_by_area([*findings, *(cleaned(finding, secrets) for finding in found)])


def run(jobs: Sequence[Job], deadline: Deadline) -> list[Finding]:
    """Return the findings of all jobs, in their order."""
    tasks = [(checks, Task(work)) for checks, work in jobs]
    findings: list[Finding] = []
    for checks, task in tasks:
        try:
            findings += task.result(deadline.left_s)
        except Exception as error:  # noqa: BLE001  whatever it is, the user is to hear of it, and of the others
            findings += [_failed(check, error) for check in checks]
    return findings


def _failed(check: Check, error: Exception) -> Finding:
    if isinstance(error, TimeoutError):
        what = f"it came to no end within {TIME_S:.0f} s"
        why = "what hangs here may hold up the recorder, too"
        return check.failure(what, why, "look for a disk, a name server or a process that hangs")
    told = str(error) if isinstance(error, MdsError | OSError) else f"{type(error).__name__}: {error}"
    why = "so nobody knows whether this is as it should be"
    return check.failure(f"it could not be looked at: {told}", why, "mend that, then: mds doctor")


class Examination:
    """The checks of a setup whose settings can be read."""

    def __init__(self, config: Config, *, offline: bool) -> None:
        self.secrets: tuple[str, ...] = ()  # those beside the settings' own
        self._config = config
        self._offline = offline
        self._now = Calendar(config.storage.timezone).now()
        self._locks = Task(lambda: processes.gather(config))
        self._answer = Task(lambda: processes.ask(config))

    def jobs(self) -> list[Job]:
        """Return what is to be done."""
        to_kite = network.targets(self._config)
        return [
            (credentials.ALL, self._credentials),
            *((target.checks, lambda target=target: self._network(target)) for target in to_kite),
            ((clock.OFFSET,), self._offset),
            ((clock.SYNCHRONISED,), lambda: [clock.judge_synchronised(clock.gather_synchronised())]),
            ((folders.DATA_FOLDER,), self._data_folder),
            ((folders.SPOOL_FOLDER,), self._spool_folder),
            ((folders.SPOOL_LEFT,), self._left),
            ((machine.DESCRIPTORS,), lambda: machine.judge(machine.gather(self._held.supervisor_pid))),
            ((folders.RUN_FOLDER,), self._run_folder),
            ((processes.SERVICE,), self._processes),
            ((Check(connections.AREA, "connections"),), self._connections),
            ((Check(recording.AREA, "recording"),), self._recording),
            ((recording.GAPS,), self._gaps),
            ((market.LIST,), self._list),
            ((market.HOURS,), self._hours),
        ]

    @property
    def _held(self) -> Locks:
        """Who holds what; nobody where that cannot be read, of which the check of the processes tells."""
        try:
            return self._locks.result(LOCKS_S)
        except (MdsError, TimeoutError):
            return Locks({}, None, None)

    def _said(self) -> Overview | MdsError:
        try:
            return self._answer.result(TIME_S)
        except MdsError as error:
            return error

    def _credentials(self) -> list[Finding]:
        if self._held.is_simulated:
            return [check.skipped(SIMULATED) for check in credentials.ALL]
        found = credentials.gather(self._config)
        self.secrets = found.secrets
        if self._offline:
            return [*credentials.judge(found, self._now), credentials.ACCEPTED.skipped(self._no_network)]
        if not found.api_key.get_secret_value():
            unasked = credentials.ACCEPTED.skipped("without an API key Kite cannot be asked")
            return [*credentials.judge(found, self._now), unasked]
        answers = credentials.ask(self._config, found)
        return [*credentials.judge(found, self._now, answers), credentials.judge_answers(answers)]

    @property
    def _no_network(self) -> str:
        return "nobody is asked, with --offline" if self._offline else SIMULATED

    def _network(self, target: network.Target) -> list[Finding]:
        if self._offline or self._held.is_simulated:
            return [check.skipped(self._no_network) for check in target.checks]
        if proxy := network.proxy_of(target):
            return [check.skipped(f"requests go through the proxy that {proxy} names") for check in target.checks]
        return network.judge(target, network.gather(target))

    def _offset(self) -> list[Finding]:
        if self._offline or self._held.is_simulated:
            return [clock.OFFSET.skipped(self._no_network)]
        return [clock.judge_offset(clock.gather_offset(self._config.kite.api_url))]

    def _data_folder(self) -> list[Finding]:
        storage = self._config.storage
        place = folders.look(storage.data_dir, probe=True)
        return [
            folders.judge_folder(folders.DATA_FOLDER, "storage.data_dir", place),
            folders.judge_file_system(folders.DATA_DISK, "storage.data_dir", place),
            folders.judge_free(place, storage.reserve_mb * 2**20, self._modes()),
            folders.judge_inodes(place),
        ]

    def _spool_folder(self) -> list[Finding]:
        place, data = folders.look(self._config.spool_dir), folders.look(self._config.storage.data_dir)
        findings = [folders.judge_folder(folders.SPOOL_FOLDER, "storage.spool_dir", place)]
        if place.device != data.device:
            findings.append(folders.judge_file_system(folders.SPOOL_DISK, "storage.spool_dir", place))
        return findings

    def _left(self) -> list[Finding]:
        held = self._locks.result(LOCKS_S)  # or it is not known whose they are
        running = bool(held.roles or held.service_pid or held.writer_pid)  # in whichever run folder
        return [folders.judge_left(folders.gather_left(self._config, running=running), running=running)]

    def _modes(self) -> list[Mode]:
        """Return the modes of the instruments that are recorded, or would be."""
        said = self._said()
        if isinstance(said, Overview):
            return [c.mode for c in said.connections.values() for _ in range(c.subscribed_instruments)]
        universe = self._config.universe
        lists: tuple[tuple[Mode, int], ...] = (("quote", len(universe.primary)), ("full", len(universe.secondary)))
        return [mode for mode, number in lists for _ in range(number)]

    def _run_folder(self) -> list[Finding]:
        return [folders.judge_run_folder(folders.look(self._config.runtime.run_dir), os.getuid())]

    def _processes(self) -> list[Finding]:
        locks = self._locks.result(TIME_S)
        found = credentials.gather(self._config)
        started_with = self._config.model_copy(update={"api_key": found.api_key})
        return [*processes.judge(started_with, locks), *processes.judge_answer(locks, self._said())]

    def _connections(self) -> list[Finding]:
        said = self._said()
        if not isinstance(said, Overview):
            return [Check(connections.AREA, f"connection_{c}").skipped("no service tells") for c in CONNECTIONS]
        return [finding for connection in said.connections.values() for finding in connections.judge(connection)]

    def _recording(self) -> list[Finding]:
        said = self._said()
        if not isinstance(said, Overview):
            return [recording.HEALTH.skipped("no service tells")]
        return recording.judge(said, self._config)

    def _gaps(self) -> list[Finding]:
        today = self._now.date()
        return [recording.judge_gaps(recording.gather_gaps(self._config, today), today)]

    def _list(self) -> list[Finding]:
        if self._held.is_simulated:
            return [market.LIST.skipped(SIMULATED)]
        day = market.gather_list(self._config.storage.data_dir)
        sync_at, is_needed = self._config.instruments.sync_at, market.needs_list(self._config)
        return [market.judge_list(day, self._now, sync_at, is_needed=is_needed)]

    def _hours(self) -> list[Finding]:
        calendar = self._config.market.calendar
        if self._held.is_simulated:
            return [market.HOURS.skipped("the simulator's market is always open")]
        try:
            almanac = market.gather(self._config) if calendar else None
        except (OSError, subprocess.TimeoutExpired, ValueError, LookupError, TypeError) as error:
            return [market.judge_fault(calendar, error)]
        return [market.judge_hours(calendar, almanac, self._now)]
