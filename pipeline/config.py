"""The settings: `mds.toml` with the environment laid over it, checked before anything starts.

`load` is for commands: file and environment in, `Config` or a `ConfigError` that names the key out. A child process
gets what its supervisor has resolved, as JSON in one variable (`to_child`, `from_child`), so that editing the file
changes nothing until the next `mds run`. Secrets travel in their own variables and are never part of that JSON.
"""

import hashlib
import ipaddress
import json
import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from datetime import date, time
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from pipeline.credentials import SECRET_CHARS, StoredToken, TokenFile, character_fault
from pipeline.errors import ConfigError
from pipeline.rules import parse_rule, parse_session
from pipeline.secret_files import read_secrets

MAX_INSTRUMENTS = 3000  # on one connection, Kite's limit
CONNECTIONS = (1, 2, 3)
DEFAULT_FILE = Path("mds.toml")
STATE_FOLDER = ".mds"  # in the data folder
CHILD_VARIABLE = "MDS_CHILD_CONFIG"
HTTP_TOKEN_VARIABLE = "MDS_HTTP__TOKEN"  # noqa: S105  its name
API_SECRET_VARIABLE = "KITE_API_SECRET"  # noqa: S105  its name; for `mds login` alone, and never a setting
GIVEN_VARIABLES = ("KITE_API_KEY", "KITE_ACCESS_TOKEN", HTTP_TOKEN_VARIABLE)  # or as files: `secret_files`
SECRET_VARIABLES = ("KITE_API_KEY", "KITE_ACCESS_TOKEN", API_SECRET_VARIABLE)

Mode = Literal["ltp", "quote", "full"]
Overflow = Literal["refuse", "spill"]
Token = Annotated[int, Field(strict=True, gt=0, lt=2**32)]


def _word(value: Any) -> Any:
    """Tell tokens from symbols; what is neither gets one message, not one for each."""
    if isinstance(value, str):
        if value.isascii() and value.isdecimal():
            raise ValueError("a token is an integer, written without quotes")
        if not _SYMBOL.fullmatch(value):
            raise ValueError('a symbol is written "NSE:INFY"')
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError('should be an integer, the token, or a symbol like "NSE:INFY"')
    if value <= 0:
        raise ValueError("should be greater than 0")
    if value >= 2**32:
        raise ValueError(f"should be less than {2**32}")
    return value


_SYMBOL = re.compile(r"(?=.{1,64}$)[^\s:][^:]*(:[^\s:][^:]*)?")
Word = Annotated[int | str, BeforeValidator(_word)]  # 408065, "NSE:INFY", or "INFY" where one exchange alone has it


def _is_url(text: str, schemes: tuple[str, ...]) -> bool:
    """Tell whether this is a URL of one of the schemes, with a host."""
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Kite(_Section):
    """Where Kite is, and how many of the key's three connections are ours."""

    ws_url: str = "wss://ws.kite.trade"
    api_url: str = "https://api.kite.trade"
    login_url: str = "https://kite.zerodha.com/connect/login"  # for people, by `mds login`
    max_connections: int = Field(default=3, ge=1, le=3)
    access_token_file: Path | None = None  # default: mds/access_token.json in the user's config folder

    @field_validator("access_token_file")
    @classmethod
    def _is_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.name:
            raise ValueError("names no file")
        return value

    @field_validator("ws_url", "api_url", "login_url")
    @classmethod
    def _is_reachable(cls, value: str, info: Any) -> str:
        schemes = ("ws", "wss") if info.field_name == "ws_url" else ("http", "https")
        if not _is_url(value, schemes):
            raise ValueError(f"must be a {' or '.join(schemes)} URL with a host")
        return value


class Storage(_Section):
    """Where ticks go, and what the disk must keep free."""

    data_dir: Path = Path("market_data")
    timezone: str = "Asia/Kolkata"
    commit_interval_ms: int = Field(default=50, ge=0, le=1000)
    reserve_mb: int = Field(default=256, ge=0)  # below this the writer stops and the spools go on
    spool_dir: Path | None = None  # default: spool/ in data_dir
    spool_max_mb: int = Field(default=4096, ge=1)  # for each epoch of a connection; what killed ones left comes on top
    compact: bool = False  # days that are over become Parquet, beside the JSONL

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, OSError, ValueError) as error:
            raise ValueError(f"no time zone is called {value!r}, try Asia/Kolkata") from error
        return value


class Runtime(_Section):
    """Where sockets, locks and logs of the running service are."""

    run_dir: Path = Path("run")


class Universe(_Section):
    """What is subscribed at start: `primary` in quote mode on connection 1, `secondary` in full mode on 2.

    `select` are rules as `rules.parse_rule` reads them, for derivatives around the money and the expiry.
    """

    overflow: Overflow = "refuse"  # what finds no room; "spill": it goes to the other of connections 1 and 2
    primary: tuple[Word, ...] = ()
    secondary: tuple[Word, ...] = ()
    select: tuple[str, ...] = ()
    select_move_percent: float = Field(default=0.5, gt=0, le=100)  # of the spot, until the rules are looked at again
    batch_size: int = Field(default=500, ge=1, le=MAX_INSTRUMENTS)  # tokens in one request to Kite

    @field_validator("primary", "secondary")
    @classmethod
    def _fits(cls, value: tuple[int | str, ...], info: ValidationInfo) -> tuple[int | str, ...]:
        room, who = MAX_INSTRUMENTS, "one connection holds"
        if info.data.get("overflow") == "spill":
            room, who = 2 * MAX_INSTRUMENTS, "two connections hold"
        if len(set(value)) > room:
            raise ValueError(f"{len(set(value))} instruments, {who} {room}")
        return value

    @field_validator("select")
    @classmethod
    def _are_rules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            parse_rule(text)
        return value


class Instruments(_Section):
    """Kite's list of instruments, which knows them by symbol."""

    sync: bool = True  # fetch it once a day, while credentials allow
    sync_at: time = time(8, 30)  # from then on Kite has the day's, in storage.timezone


class Market(_Section):
    """When instruments trade, and so when a tick is missed; times are in storage.timezone.

    The calendar tells the days and hours of shares and their derivatives. On its holidays commodities trade in the
    evening alone.
    """

    calendar: str = "XBOM"  # as exchange_calendars calls it; "": it is always open
    currency_open: time = time(9, 0)
    currency_close: time = time(17, 0)
    commodity_open: time = time(9, 0)
    commodity_evening: time = time(17, 0)
    commodity_close: time = time(23, 30)
    commodity_holidays: tuple[date, ...] = ()  # on which they do not trade at all
    extra_sessions: tuple[str, ...] = ()  # that no calendar knows: "2026-11-08 18:00-19:15"
    stale_s: float = Field(default=60.0, ge=0, le=3600)  # without a tick in an open market: degraded; 0: never
    connect: time | None = None  # from then on, on days on which something trades, connections are open
    disconnect: time | None = None  # until then; neither: always

    @field_validator("extra_sessions")
    @classmethod
    def _are_sessions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            parse_session(text)
        return value

    @model_validator(mode="after")
    def _is_in_order(self) -> "Market":
        if (self.connect is None) != (self.disconnect is None):
            raise ValueError("market.connect and market.disconnect are given together, or neither")
        if self.connect is not None and self.disconnect is not None and self.connect >= self.disconnect:
            raise ValueError("market.disconnect must be later in the day than market.connect")
        return self


class Failover(_Section):
    """When the spare takes over, when it gives back, and when a process is given up."""

    after_ms: int = Field(default=1000, ge=0, le=60_000)  # for a socket to come back by itself
    stable_s: float = Field(default=30.0, ge=0, le=3600)  # live for so long before it gets its instruments back
    max_deaths: int = Field(default=5, ge=1)  # more within a minute: the process is given up; never the writer


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach what listens there; a name other than localhost may be anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_host(host: str) -> bool:
    """Tell whether this may be a name or an address at all, as far as that is to be seen without asking for it."""
    try:
        host.encode("idna")
    except UnicodeError:  # a label is empty or too long
        return False
    return bool(host) and "\0" not in host


class Http(_Section):
    """The status pages and API. Read-only; a token is asked for wherever one is set."""

    listen: str = "127.0.0.1:8080"  # host:port, [::1]:port for IPv6; "": off
    token: SecretStr = Field(default=SecretStr(""), exclude=True)
    hosts: tuple[str, ...] = ()  # further names by which it may be called, as in the Host header

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port to listen on, None where it is off."""
        host, _, port = self.listen.rpartition(":")
        return (host.removeprefix("[").removesuffix("]"), int(port)) if self.listen else None

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.address is None or is_loopback(self.address[0])

    @field_validator("listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        bare = host.startswith("[") == host.endswith("]") == (":" in host)
        if value and not (_is_host(host) and bare and port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
            raise ValueError('must be "host:port", like 127.0.0.1:8080 or [::1]:8080, or "" for none')
        return value

    @field_validator("token")
    @classmethod
    def _is_token(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if not re.fullmatch(r"[\x21-\x7e]*", text):
            raise ValueError("must be printable ASCII characters without blanks")
        return value

    @model_validator(mode="after")
    def _is_guarded(self) -> "Http":
        if not self.is_local and not self.token.get_secret_value():
            raise ValueError(
                f"others can reach http.listen = {self.listen!r}: set http.token, or listen on 127.0.0.1 only"
            )
        return self


class Notify(_Section):
    """A command that is told of events, as JSON on its standard input."""

    command: str = ""  # program and arguments; split as a shell does, but not run by one
    timeout_s: float = Field(default=10.0, gt=0, le=300)  # then it is killed
    per_minute: int = Field(default=20, ge=1, le=600)  # at most; what is left out is counted in the next one

    @property
    def argv(self) -> list[str]:
        """Program and arguments, empty where there is no command."""
        return shlex.split(self.command)

    @field_validator("command")
    @classmethod
    def _can_be_split(cls, value: str) -> str:
        try:
            shlex.split(value)
        except ValueError as error:
            raise ValueError(f"cannot be split into program and arguments: {error}") from error
        return value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class Log(_Section):
    """What `mds run` says of itself, on stderr and in a file; the latter rotates."""

    format: Literal["text", "json"] = "text"
    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    file: Path | None = None  # what stderr has, from all processes
    max_mb: int = Field(default=50, ge=1, le=100_000)  # then it is begun anew
    keep: int = Field(default=5, ge=1, le=1000)  # of those before it

    @field_validator("file")
    @classmethod
    def _is_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.name:
            raise ValueError("names no file")
        return value


class Simulator(_Section):
    """The market of `mds simulate` and `mds run --simulate`."""

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, lt=65536)  # 0: any free one
    rate: int = Field(default=1000, ge=0, le=1_000_000)  # ticks a second on each connection
    instruments: int = Field(default=100, ge=1, le=2 * MAX_INSTRUMENTS)  # on the list of tokens that it offers
    frame_ticks: int = Field(default=0, ge=0, le=3000)  # ticks in one frame; 0: what ten milliseconds bring
    seed: int = Field(default=1, ge=0)
    record: Path | None = None  # folder for connection-N.sent: the messages with ticks that each connection is sent
    listed: int = Field(default=0, ge=0, le=200_000)  # rows on the list of instruments at least; 0: as many as come
    redirect_url: str = ""  # where a login sends the browser; "": to a page of the simulator's own

    @field_validator("redirect_url")
    @classmethod
    def _is_page(cls, value: str) -> str:
        if value and not _is_url(value, ("http", "https")):
            raise ValueError('must be a http or https URL with a host, or "" for the simulator\'s own page')
        return value


class Config(BaseSettings):
    """Everything that can be set. Frozen; paths as given, `Config.resolved` makes them absolute."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="MDS_", env_nested_delimiter="__", env_ignore_empty=False
    )

    kite: Kite = Kite()
    storage: Storage = Storage()
    runtime: Runtime = Runtime()
    universe: Universe = Universe()
    instruments: Instruments = Instruments()
    market: Market = Market()
    failover: Failover = Failover()
    http: Http = Http()
    notify: Notify = Notify()
    log: Log = Log()
    simulator: Simulator = Simulator()
    api_key: SecretStr = Field(default=SecretStr(""), validation_alias="KITE_API_KEY", exclude=True)
    access_token: SecretStr = Field(default=SecretStr(""), validation_alias="KITE_ACCESS_TOKEN", exclude=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        *_: Any,
        **__: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, whose content is handed in as arguments."""
        return env_settings, init_settings

    @property
    def spool_dir(self) -> Path:
        """The folder of all spools."""
        return self.storage.spool_dir or self.storage.data_dir / "spool"

    @property
    def state_dir(self) -> Path:
        """The folder of what the recorder must remember between runs: checkpoint, locks, ends of streams."""
        return self.storage.data_dir / STATE_FOLDER

    @property
    def token_file(self) -> Path:
        """Where `mds login` stores. Raises ConfigError where nobody's home folder is found for it."""
        folder = Path(os.environ.get("XDG_CONFIG_HOME", ""))
        if not folder.is_absolute():  # to be passed over, as the XDG specification has it
            folder = Path("~/.config")
        path = self.kite.access_token_file or folder / "mds" / "access_token.json"
        try:
            return path.expanduser()
        except RuntimeError as error:
            raise ConfigError(f"kite.access_token_file: {path}: {error}; name a file with its whole path") from None

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that no log may show; what is too short to be one would blank out words."""
        values = (s.get_secret_value() for s in (self.api_key, self.access_token, self.http.token))
        return tuple(value for value in values if len(value) >= SECRET_CHARS)

    def with_changes(self, **sections: Mapping[str, Any]) -> "Config":
        """Return this configuration with some keys of some sections replaced: `with_changes(kite={"ws_url": ...})`."""
        update = {name: getattr(self, name).model_copy(update=dict(keys)) for name, keys in sections.items()}
        return self.model_copy(update=update)

    def with_stored(self, stored: StoredToken) -> "Config":
        """Return this configuration with a stored token, and with the key that it was made for, where that is known."""
        return self.model_copy(update={"access_token": stored.access_token, "api_key": stored.api_key or self.api_key})

    def resolved(self) -> "Config":
        """Return this configuration with absolute paths."""
        return self.with_changes(
            kite={"access_token_file": self.token_file.absolute()},
            storage={"data_dir": self.storage.data_dir.absolute(), "spool_dir": self.spool_dir.absolute()},
            runtime={"run_dir": self.runtime.run_dir.absolute()},
            log={"file": self.log.file and self.log.file.absolute()},
        )

    def to_child(self) -> dict[str, str]:
        """Return the environment variables from which `from_child` makes the same configuration."""
        return {
            CHILD_VARIABLE: self.model_dump_json(),
            "KITE_API_KEY": self.api_key.get_secret_value(),
            "KITE_ACCESS_TOKEN": self.access_token.get_secret_value(),
            **({HTTP_TOKEN_VARIABLE: token} if (token := self.http.token.get_secret_value()) else {}),
        }

    @property
    def hash(self) -> str:
        """A short digest of what recording rests on: where it differs, a running process is out of date.

        The access token is left out: a running process may have one that is newer than ours.
        """
        storage = self.storage.model_copy(update={"compact": False})
        unconcerned = {"http": Http(), "notify": Notify(), "log": Log()}
        unconcerned |= {"instruments": Instruments(), "market": Market()}
        return self.model_copy(update={**unconcerned, "storage": storage}).http_hash

    @property
    def http_hash(self) -> str:
        """The same of all settings, for the process that serves HTTP: to change how one looks on restarts no other."""
        variables = self.to_child() | {"KITE_ACCESS_TOKEN": ""}
        return hashlib.sha256(repr(sorted(variables.items())).encode()).hexdigest()[:16]


def load(file: Path | None = None, *, need_credentials: bool = False) -> Config:
    """Read `file` (or MDS_CONFIG, or `mds.toml` where there is one), secrets in files, and the environment.

    With `need_credentials` there are an API key and an access token in it, as `with_credentials` finds them.
    Raises ConfigError, one line for each wrong key.
    """
    named = file or (Path(os.environ["MDS_CONFIG"]) if os.environ.get("MDS_CONFIG") else None)
    path = named or DEFAULT_FILE
    values: dict[str, Any] = {}
    if named or path.exists():
        values = _read_toml(path)
    _check_names(values, path)
    _check_types(values, path)
    try:
        config = Config(**_with_secrets(values))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, path))) from None
    except ValueError as error:  # pydantic-settings: a variable that is not JSON where a list is wanted
        raise ConfigError(
            f"environment: {error}; lists are written as JSON, like MDS_UNIVERSE__PRIMARY=[408065]"
        ) from None
    return with_credentials(config) if need_credentials else config


def from_child(environment: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration that the supervisor handed to this process."""
    try:
        values = Config.model_validate_json(environment[CHILD_VARIABLE])
    except KeyError:
        raise ConfigError("this process is started by `mds run`, not by hand") from None
    return values.model_copy(
        update={
            "api_key": SecretStr(environment.get("KITE_API_KEY", "")),
            "access_token": SecretStr(environment.get("KITE_ACCESS_TOKEN", "")),
        }
    )


def with_credentials(config: Config) -> Config:
    """Return the configuration with API key and access token: each the environment's, else the token file's.

    Raises ConfigError where one is missing or cannot be one, or where the stored token was made for another key than
    the given one.
    """
    key, token = config.api_key.get_secret_value(), config.access_token.get_secret_value()
    for variable, value in (("KITE_API_KEY", key), ("KITE_ACCESS_TOKEN", token)):
        if fault := character_fault(value):
            raise ConfigError(f"{variable} cannot be used: {fault}; set it again, or unset it and: mds login")
    if key and token:
        return config
    file = TokenFile(config.token_file)
    stored = file.read()
    without = "log in with: mds login; or try the recorder without any: mds run --simulate"
    if not key and not (stored and stored.api_key):
        raise ConfigError(f"KITE_API_KEY is not set: export the key of your Kite Connect app, or {without}")
    if token:
        assert stored  # noqa: S101  it has the key
        return config.model_copy(update={"api_key": stored.api_key})
    if stored is None:
        raise ConfigError(f"KITE_ACCESS_TOKEN is not set: nor is there a token in {file.path}; {without}")
    if key and stored.api_key and stored.api_key.get_secret_value() != key:
        raise ConfigError(
            f"{file.path}: this token was made for another API key than KITE_API_KEY; "
            "log in with: mds login; or unset KITE_API_KEY to use the key that is stored with it"
        )
    return config.with_stored(stored)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; MDS_CONFIG or --config names it") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _with_secrets(values: dict[str, Any]) -> dict[str, Any]:
    """Return the file's values with what secret files have laid over them; the environment comes over both."""
    secrets = read_secrets(GIVEN_VARIABLES)
    token = secrets.pop(HTTP_TOKEN_VARIABLE, None)
    return {**values, **secrets, **({"http": {**values.get("http", {}), "token": token}} if token else {})}


_SECRET_NAMES = ("api_key", "access_token", "api_secret", *SECRET_VARIABLES)
_SECRETS_ELSEWHERE = (
    "secrets are not read from this file: log in with mds login, or set KITE_API_KEY, KITE_ACCESS_TOKEN"
)
_SECTIONS = tuple(name for name in Config.model_fields if name not in _SECRET_NAMES)


def _check_names(values: dict[str, Any], path: Path) -> None:
    """Refuse sections and MDS_ variables that do not exist: pydantic-settings would pass over the latter."""
    for name in values:
        if name in _SECRET_NAMES:
            raise ConfigError(f"{path}: {name}: {_SECRETS_ELSEWHERE}")
        if name not in _SECTIONS:
            raise ConfigError(f"{path}: {name}: unknown section, known are {', '.join(_SECTIONS)}")
    for variable in os.environ:
        if variable.upper().startswith("MDS_") and variable not in ("MDS_CONFIG", CHILD_VARIABLE):
            section, _, key = variable.removeprefix("MDS_").lower().partition("__")
            if section not in _SECTIONS or not key or variable != variable.upper():
                raise ConfigError(f"{variable}: unknown variable, they are called MDS_<SECTION>__<KEY>")


def _check_types(values: dict[str, Any], path: Path) -> None:
    """Hold the file to TOML's types: "50" and true are no numbers there, as they may be in a variable."""
    for name, section in values.items():
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: {name}: is a section, written as [{name}]")
        model: Any = Config.model_fields[name].annotation
        try:
            model.model_validate_json(json.dumps(section, default=str), strict=True)
        except ValidationError as error:
            # What is no matter of types may be mended by the environment, and is checked with it.
            if any(problem["type"] != "value_error" for problem in error.errors()):
                raise ConfigError("\n".join(_explain(error, path, name))) from None


def _explain(error: ValidationError, path: Path, section: str | None = None) -> list[str]:
    """Return a line for each wrong key; with `section` it is about that section of the file, environment aside."""
    lines = []
    for problem in error.errors(include_url=False):
        loc = (section, *problem["loc"]) if section else problem["loc"]
        key = ".".join(str(part) for part in loc)
        variable = "MDS_" + "__".join(str(part) for part in loc[:2]).upper()
        source = variable if variable in os.environ and not section else str(path)
        if problem["type"] == "extra_forbidden":
            lines.append(f"{source}: {key}: {_SECRETS_ELSEWHERE if loc[-1] in _SECRET_NAMES else 'unknown key'}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            message = message[:1].lower() + message[1:]
            shown = (
                "" if "token" in loc or isinstance(problem["input"], dict) else f" (it is {_shown(problem['input'])})"
            )
            lines.append(f"{source}: {key}: {message}{shown}")
    return lines


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
