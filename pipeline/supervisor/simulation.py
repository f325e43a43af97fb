"""What `mds run --simulate` changes in the configuration: the simulator in Kite's place."""

import contextlib
import socket
import subprocess
import sys

from pydantic import SecretStr

from pipeline import role
from pipeline.config import MAX_INSTRUMENTS, Config
from pipeline.errors import ConfigError

PORT_FILE = "simulator.port"
TOKEN_FILE = "simulator_access_token.json"  # noqa: S105  a name, no secret
CREDENTIAL = "no-account"
PRIMARY_SHARE = 0.8  # of the simulator's instruments, where the configuration names none


def with_simulator(config: Config) -> Config:
    """Return the configuration with the simulator as Kite, and with its instruments where there is no universe."""
    host = config.simulator.host
    port = _port(config)
    universe = {}
    if not config.universe.model_fields_set & {"primary", "secondary", "select"}:
        tokens = _tokens(config.simulator.instruments)
        cut = min(round(len(tokens) * PRIMARY_SHARE), MAX_INSTRUMENTS)
        universe = {"primary": tokens[:cut], "secondary": tokens[cut : cut + MAX_INSTRUMENTS]}
    kite = {
        "ws_url": f"ws://{host}:{port}",
        "api_url": f"http://{host}:{port}",
        "access_token_file": config.runtime.run_dir / TOKEN_FILE,  # the user's own is not for the simulator
    }
    market = {"calendar": "", "connect": None, "disconnect": None}  # it trades day and night
    changed = config.with_changes(kite=kite, simulator={"port": port}, universe=universe, market=market)
    return changed.model_copy(update={"api_key": SecretStr(CREDENTIAL), "access_token": SecretStr(CREDENTIAL)})


def _port(config: Config) -> int:
    """Return the port of the simulator that a killed supervisor has left running, or a free one.

    Raises ConfigError where the simulator could not listen.
    """
    role.prepare_run_dir(config)
    host, port = config.simulator.host, config.simulator.port
    remembered = config.runtime.run_dir / PORT_FILE
    if role.read_holder(role.lock_path(config, role.SIMULATOR)) is not None:
        with contextlib.suppress(OSError, ValueError):
            return port or int(remembered.read_text())
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the simulator will
            probe.bind((host, port))
            port = int(probe.getsockname()[1])
    except OSError as error:
        at = f"{host} port {port}" if port else host
        raise ConfigError(f"simulator: cannot listen on {at}: {error.strerror}") from None
    remembered.write_text(str(port))
    return port


def _tokens(count: int) -> tuple[int, ...]:
    """Ask the simulator, which nobody imports, for tokens that it knows."""
    command = [sys.executable, "-m", "pipeline.simulator", "--print-tokens", str(count)]
    return tuple(map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()))
