"""`MarketDataService`: the recorder as an object. It starts `mds run` as a process of its own, and asks it by `Client`.

Recording does not depend on the Python program: where that dies, it goes on, until `mds stop`. What is recorded is what
was subscribed through the object; the universe of the settings and what an earlier run had subscribed are left out.
"""

import itertools
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from operator import index
from pathlib import Path
from typing import Any, TypeVar, get_args

import orjson
from pydantic import TypeAdapter, ValidationError

from pipeline import answers, config, orphans, readable, role
from pipeline.client import Client
from pipeline.config import CONNECTIONS, Mode, Word
from pipeline.days import Calendar
from pipeline.errors import AlreadyRunningError, ControlError, MdsError, NotRunningError
from pipeline.extras import explain
from pipeline.requests import Change
from pipeline.status import Storage
from pipeline.store.manager import StorageManager

log = logging.getLogger(__name__)

START_S = 30.0  # for the new service to be ready
END_S = 20.0  # for it to end: workers and writer hand on what they have
POLL_S = 0.02
PROBE_S = 0.5  # for one answer while it starts: it may just be ending instead
ROUNDING = 1e-6  # of an interval: three times 0.1 s is not more than 0.3 s
WRITER_STATES = ("recording", "paused")  # of a service that is ready; paused is the disk's fault, health tells of it
PRIMARY, SECONDARY, TERTIARY = CONNECTIONS

_WORD: TypeAdapter[int | str] = TypeAdapter(Word)
_MODES: dict[str, Mode] = {mode.upper(): mode for mode in get_args(Mode)}

_Answer = TypeVar("_Answer")


class MarketDataService:
    """A recorder, from `start` to `stop`. A context manager; may be shared between threads.

    What changes something returns a dict with `success`, and with `error` where that is False. What asks something
    raises NotRunningError before `start` and after `stop`.
    """

    def __init__(
        self,
        api_key: str,
        access_token: str,
        data_dir: Path | str = "./market_data",
        *,
        run_dir: Path | str | None = None,
        ws_url: str | None = None,
        simulate: bool = False,
        config_file: Path | str | None = None,
    ) -> None:
        """Take the settings as `mds run` does, with what is given here laid over them. Raises ConfigError.

        `simulate` records the built-in simulator, for which any credentials do.
        """
        file = Path(config_file).absolute() if config_file else None
        settings = config.load(file)
        self._settings = settings.with_changes(
            storage={"data_dir": Path(data_dir)}, runtime={"run_dir": Path(run_dir or settings.runtime.run_dir)}
        ).resolved()
        self._simulate = simulate
        self._environment = os.environ | {
            "KITE_API_KEY": api_key,
            "KITE_ACCESS_TOKEN": access_token,
            "MDS_STORAGE__DATA_DIR": str(self.data_dir),
            "MDS_RUNTIME__RUN_DIR": str(self.run_dir),
            "MDS_UNIVERSE__PRIMARY": "[]",
            "MDS_UNIVERSE__SECONDARY": "[]",
            **({"MDS_KITE__WS_URL": ws_url} if ws_url else {}),
            **({"MDS_CONFIG": str(file)} if file else {}),
        }
        self.storage_mgr = StorageManager(self.data_dir, self._settings.storage.timezone, self._settings.spool_dir)
        self._calendar = Calendar(self._settings.storage.timezone)
        self._asking = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None

    def __enter__(self) -> "MarketDataService":
        """Start. Raises one of MdsError where it cannot."""
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def data_dir(self) -> Path:
        """The folder of the data files."""
        return self._settings.storage.data_dir

    @property
    def run_dir(self) -> Path:
        """The folder of the running service; its log is `supervisor.log` there."""
        return self._settings.runtime.run_dir

    @property
    def running(self) -> bool:
        """Whether the service that this object has started runs."""
        return self._process is not None and self._process.poll() is None

    # From start to stop.

    def start(self, activate_tertiary: bool = False) -> bool:
        """Start the service and wait until it can record; False, with the reason in the log, where it cannot start.

        `activate_tertiary` begins with `activate_redundancy`.
        """
        try:
            self._start()
        except MdsError as error:
            log.error("the service has not started: %s", error)
            return False
        if activate_tertiary:
            self.activate_redundancy()
        return True

    def stop(self) -> bool:
        """End the service in order: everything received is stored. False, with the reason in the log, if it goes on.

        Where it does not run there is nothing to do. A service that this object has not started is left alone.
        """
        with self._asking:
            if self._process is None or self._client is None:
                return True
            try:
                self._end(self._process, self._client)
            except MdsError as error:
                log.error("the service has not ended: %s", error)
                return False
            level = logging.WARNING if self._process.returncode else logging.INFO
            log.log(level, "the service has ended %s: %s", _how(self._process), self._last_words())
            self._client.close()
            self._process = self._client = None
        return True

    # Changes.

    def subscribe_trading_universe(self, tokens: Iterable[int | str], batch_size: int = 500) -> dict[str, Any]:
        """Subscribe instruments in quote mode on connection 1, `batch_size` in a request; each batch is all or nothing.

        Returns total_batches, successful_batches, failed_batches, `results` as `subscribe_instruments` has them, and
        `repeats`, which count once.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, it must be at least 1")
        given = list(tokens)
        once = list(dict.fromkeys(given))
        batches = [once[begin : begin + batch_size] for begin in range(0, len(once), batch_size)]
        results = [self.subscribe_instruments(batch) for batch in batches]
        successful = sum(result["success"] for result in results)
        return {
            "success": successful == len(results),
            "total_batches": len(results),
            "successful_batches": successful,
            "failed_batches": len(results) - successful,
            "results": results,
            "repeats": [token for token, count in Counter(given).items() if count > 1],
        }

    def activate_full_mode(self, tokens: Iterable[int | str]) -> dict[str, Any]:
        """Record instruments in full mode on connection 2; those that connection 1 has are moved, none is uncovered.

        Returns what `subscribe_instruments` does.
        """
        return self._change(
            lambda client: client.set_mode(_words(tokens), "full", subscribe_unknown=True),
            lambda change: answers.subscribed(change, SECONDARY),
        )

    def subscribe_instruments(
        self, tokens: Iterable[int | str], mode: str = "QUOTE", connection_id: int = PRIMARY
    ) -> dict[str, Any]:
        """Subscribe instruments that are not subscribed yet, in mode LTP, QUOTE or FULL; all or none.

        Returns success, connection_id, subscribed_count, mode, and the fields of `requests.Change`; of a refusal
        success, error, and where they are the reason `duplicates`, with token, existing_connection and mode of each.
        """
        return self._change(
            lambda client: client.subscribe(_words(tokens), _mode(mode), connection_id),
            lambda change: answers.subscribed(change, connection_id),
        )

    def unsubscribe_instruments(self, tokens: Iterable[int | str]) -> dict[str, Any]:
        """Unsubscribe instruments wherever they are; those that are not subscribed are passed over.

        Returns `results`, connection_id and unsubscribed_count of each connection that had some, and `unknown`. It is
        no success where none of them was subscribed.
        """
        answer = self._change(
            lambda client: client.unsubscribe(_words(tokens), ignore_unknown=True), answers.unsubscribed
        )
        if answer["success"] and not answer["results"]:
            return answer | {"success": False, "error": "none of these instruments is subscribed"}
        return answer

    def unsubscribe_all(self) -> dict[str, Any]:
        """Unsubscribe everything. Returns what `unsubscribe_instruments` does."""
        return self._change(Client.unsubscribe_all, answers.unsubscribed)

    def activate_redundancy(self) -> bool:
        """Let connection 3 record what connection 1 does, as well; False, with the reason in the log, if it cannot."""
        return bool(self._change(Client.mirror, Change.model_dump)["success"])

    # Questions.

    def get_health(self) -> dict[str, Any]:
        """Tell whether everything that is subscribed is being recorded, and if not, why."""
        return answers.health(self._ask(Client.health))

    def get_connections(self) -> dict[str, Any]:
        """Return the three connections in `connections`, keys "1", "2" and "3"."""
        return answers.connections(self._ask(Client.connections), self._calendar.now())

    def get_instruments(self) -> dict[str, Any]:
        """Return what is subscribed, by connection in `by_connection` and one by one in `instruments`."""
        return answers.instruments(self._ask(Client.status), self._calendar.now())

    def get_storage_status(self) -> dict[str, Any]:
        """Return what is being written, and how many ticks today's file has."""
        return self._storage(self._ask(Client.storage))

    def get_metrics(self) -> dict[str, Any]:
        """Return counts and rates."""
        return answers.metrics(self._ask(Client.metrics))

    def get_status_summary(self) -> dict[str, Any]:
        """Return all of these, as of one moment, in health, connections, instruments, storage and metrics."""
        status = self._ask(Client.status)
        now = self._calendar.now()
        return {
            "health": answers.health(status.health),
            "connections": answers.connections(status.connections, now),
            "instruments": answers.instruments(status, now),
            "storage": self._storage(status.storage),
            "metrics": answers.metrics(status.metrics),
            "processes": {name: process.model_dump() for name, process in status.processes.items()},
        }

    def export_data_analysis(self, output_file: Path | str = "analysis_report.json") -> dict[str, Any]:
        """Write what was recorded today, what of it was missed, and how the service does, as a JSON file; return it.

        The keys are those of `mds report --json`. Raises MdsError where nothing was recorded today, and OSError where
        the file cannot be written.
        """
        try:
            from pipeline.store.report import export  # noqa: PLC0415  recording does not need its packages
        except ImportError as error:
            raise explain(error, "export_data_analysis") from error
        service = {
            "service_metrics": self.get_metrics(),
            "health_status": self.get_health(),
            "connection_status": self.get_connections(),
            "service_error": None,
        }
        found = export.of_day(self._calendar.now().date(), self._settings.storage, service)
        export.write(Path(output_file), orjson.dumps(found, option=orjson.OPT_INDENT_2))
        return found

    def wait_for_ticks(self, duration_seconds: float = 10, expected_min_ticks: int = 10) -> int:
        """Wait for so long and return how many ticks were received; fewer than expected are worth a warning."""
        before = self._ask(Client.metrics).total_ticks_received
        time.sleep(duration_seconds)
        received = self._ask(Client.metrics).total_ticks_received - before
        level = logging.INFO if received >= expected_min_ticks else logging.WARNING
        log.log(level, "%d ticks in %g s, expected %d or more", received, duration_seconds, expected_min_ticks)
        return received

    def monitor(self, duration_seconds: float = 60, interval_seconds: float = 5) -> None:
        """Print a line about the service now and at every interval, as `mds top` does, until so long has passed.

        A service that ends meanwhile is told as down.
        """
        if interval_seconds <= 0:
            raise ValueError(f"interval_seconds is {interval_seconds}, it must be above 0")
        began_s = time.monotonic()
        line = readable.line(self._ask(Client.overview))
        for count in itertools.count(1):
            print(line, flush=True)  # noqa: T201  that is what it is for
            due_s = began_s + min(count * interval_seconds, duration_seconds)
            time.sleep(max(due_s - time.monotonic(), 0.0))
            if (count - ROUNDING) * interval_seconds > duration_seconds:
                return
            try:
                line = readable.line(self._ask(Client.overview))
            except MdsError as error:
                line = readable.absence(answers.timestamp(self._calendar.now()), str(error))

    # The process.

    def _start(self) -> None:
        """Start the service. Raises one of MdsError; nothing runs then that did not before."""
        if (holder := self._holder()) is not None:
            raise AlreadyRunningError(
                f"in {self.run_dir} a service runs already, as process {holder.pid}; "
                f"it can be ended by: MDS_RUNTIME__RUN_DIR={self.run_dir} mds stop"
            )
        role.prepare_run_dir(self._settings)
        process = self._launch()
        try:
            self._wait_until_ready(process)
        except BaseException:
            self._terminate(process)
            raise
        if self._client is not None:  # of a service that has ended by itself
            self._client.close()
        self._process, self._client = process, Client(self.run_dir)
        log.info("the service runs as process %d, data goes to %s", process.pid, self.data_dir)

    def _launch(self) -> "subprocess.Popen[bytes]":
        """Run the command, with its output in the run folder, where the last run's is kept under another name."""
        log_file = self._log_file
        simulate = ["--simulate"] if self._simulate else []
        try:
            with suppress(FileNotFoundError):
                log_file.replace(log_file.with_suffix(".log.1"))
            with log_file.open("wb") as output:
                return subprocess.Popen(
                    [sys.executable, "-m", "pipeline", "run", "--fresh", *simulate],
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            raise ControlError(f"no process can be started: {error}") from None

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]") -> None:
        give_up_s = time.monotonic() + START_S
        with Client(self.run_dir, timeout_s=PROBE_S) as probe:
            while process.poll() is None:
                holder = self._holder()
                if holder is not None and holder.pid == process.pid:
                    with suppress(NotRunningError):
                        if probe.storage().state in WRITER_STATES:
                            return
                if time.monotonic() > give_up_s:
                    raise NotRunningError(f"it is not ready after {START_S:g} s; its log is {self._log_file}")
                time.sleep(POLL_S)
        raise NotRunningError(f"it ended at once, {_how(process)}: {self._last_words()}")

    def _end(self, process: "subprocess.Popen[bytes]", client: Client) -> None:
        """End the service in order. Raises one of MdsError if it goes on."""
        if process.poll() is None:
            try:
                client.shutdown(END_S)
            except MdsError as error:
                log.warning("the service is ended by a signal: %s", error)
                process.terminate()
            self._wait(process)
        orphans.end(self._settings, log.warning)  # it may have been killed

    def _terminate(self, process: "subprocess.Popen[bytes]") -> None:
        process.terminate()
        self._wait(process)

    def _wait(self, process: "subprocess.Popen[bytes]") -> None:
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            raise ControlError(f"process {process.pid} is still ending; its log is {self._log_file}") from None

    def _holder(self) -> role.Holder | None:
        """Return who has the run folder."""
        return role.read_holder(role.lock_path(self._settings, role.SUPERVISOR))

    @property
    def _log_file(self) -> Path:
        return self.run_dir / f"{role.SUPERVISOR}.log"

    def _last_words(self) -> str:
        """Return the error that the process has printed, or else its last line."""
        said = self._log_file.read_text(errors="replace").strip()
        error = re.search(r"^mds: (.*)", said, re.MULTILINE | re.DOTALL)
        return error[1] if error else said.rpartition("\n")[2] or "it has said nothing"

    # Asking it.

    def _ask(self, request: Callable[[Client], _Answer]) -> _Answer:
        with self._asking:
            if self._process is None or self._client is None:
                raise NotRunningError("the service does not run: call start() first")
            if not self.running:
                raise NotRunningError(f"the service has ended {_how(self._process)}: start() starts it again")
            return request(self._client)

    def _change(
        self, request: Callable[[Client], Change], describe: Callable[[Change], dict[str, Any]]
    ) -> dict[str, Any]:
        try:
            return describe(self._ask(request)) | {"success": True}
        except MdsError as error:
            log.warning("refused: %s", error)
            return answers.refused(error)

    def _storage(self, storage: Storage) -> dict[str, Any]:
        return {
            **storage.model_dump(),
            "timestamp": answers.timestamp(self._calendar.now()),
            "storage_type": "JSONL",
            "total_files": self.storage_mgr.count_files(),
            "total_ticks_today": self.storage_mgr.count_ticks_today(),
        }


def _how(process: "subprocess.Popen[bytes]") -> str:
    code = process.returncode
    return f"with exit code {code}" if code >= 0 else f"by signal {-code}"


# From what callers write.


def _words(tokens: Iterable[int | str]) -> list[int | str]:
    """Return symbols as they are and tokens as plain integers: numpy's are taken, what no token can be is not."""
    words: list[int | str] = []
    for token in tokens:
        try:
            words.append(_WORD.validate_python(token if isinstance(token, str) else index(token)))
        except (TypeError, ValidationError):
            raise ControlError(
                f"{token!r} is no instrument token: that is a positive 32-bit integer; a symbol is written NSE:INFY"
            ) from None
    return words


def _mode(name: str) -> Mode:
    try:
        return _MODES[name.upper()]
    except (KeyError, AttributeError):
        raise ControlError(f"there is no mode {name!r}, the modes are {', '.join(_MODES)}") from None
