"""Today's access token, in a file that can be replaced while the service runs.

Kite's access tokens die every morning. `mds login` and `mds token set` put the new one into this file, from where a
running service takes it up, by `TokenFile.poll`, and with which the next `mds run` begins. The content is JSON. The key
of the app that the token was made for, and whose it is, are there where they are known.

    {"access_token": "...", "stored_at": "2025-10-01T08:41:07.123456+05:30",
     "api_key": "...", "user_id": "AB1234", "user_name": "..."}

Only its owner may read it. No error, log line or repr shows token or key.
"""

import errno
import logging
import os
import tempfile
from contextlib import suppress
from datetime import datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, SecretStr, ValidationError, field_validator

from pipeline.durable import replace_durably
from pipeline.errors import ConfigError

log = logging.getLogger(__name__)

KITE_ZONE = ZoneInfo("Asia/Kolkata")
EXPIRY = time(6)  # about then Kite's tokens die, each morning
SECRET_CHARS = 5  # fewer are none: Kite's secrets have 16 and 32
TOKEN_CHARS_MAX = 4096
_FILE_BYTES_MAX = 4 * TOKEN_CHARS_MAX
_OTHERS = 0o077  # the mode bits of all but the owner
_WAY_OUT = "log in again with: mds login"
_ELSEWHERE = "kite.access_token_file names another file"

_Stamp = tuple[int, int, int, int]


class StoredToken(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    access_token: SecretStr
    stored_at: AwareDatetime
    api_key: SecretStr | None = None  # None: not known, the environment's
    user_id: str | None = None
    user_name: str | None = None

    @field_validator("access_token", "api_key")
    @classmethod
    def _is_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and (fault := token_fault(value.get_secret_value())):
            raise ValueError(fault)
        return value


def expires_at(stored_at: datetime) -> datetime:
    """Return about when a token dies that was stored at this time: at the next six o'clock in India."""
    here = stored_at.astimezone(KITE_ZONE)
    dawn = datetime.combine(here.date(), EXPIRY, KITE_ZONE)
    return dawn if here < dawn else dawn + timedelta(days=1)  # no clock is changed there


def token_fault(token: str) -> str | None:
    """Return why this can be no token, key or secret of Kite's, without showing it; None where it can be one."""
    if not token:
        return "it is empty"
    if fault := character_fault(token):
        return fault
    if len(token) < SECRET_CHARS:
        return f"it is too short, with {len(token)} characters"
    if len(token) > TOKEN_CHARS_MAX:
        return f"it is too long, with more than {TOKEN_CHARS_MAX} characters"
    return None


def character_fault(token: str) -> str | None:
    """Return what is in this that no header of a request may have, without showing it; None where all is well."""
    if any(character.isspace() for character in token):
        return "it has white space in it: one word is wanted"
    if not (token.isascii() and token.isprintable()):
        return "it has control characters in it, or others that are not ASCII"
    return None


class TokenFile:
    """The file at `path`, which need not be there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._polled = self._stamp()

    def read(self) -> StoredToken | None:
        """Return what is stored, None where nothing is. Raises ConfigError."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe in its place must not hold us
            try:
                mode = os.fstat(fd).st_mode
                content = os.read(fd, _FILE_BYTES_MAX)
            finally:
                os.close(fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}; {_ELSEWHERE}") from None
        if mode & _OTHERS:
            readable = f"is open to other users (mode {mode & 0o777:04o})"
            raise ConfigError(f"{self.path}: {readable}: close it with chmod 600, or {_WAY_OUT}")
        try:
            return StoredToken.model_validate_json(content)
        except ValidationError as error:
            raise ConfigError(f"{self.path}: damaged: {_cause(error)}; {_WAY_OUT}") from None

    def write(
        self,
        token: SecretStr,
        *,
        api_key: SecretStr | None = None,
        user_id: str | None = None,
        user_name: str | None = None,
    ) -> StoredToken:
        """Replace what is stored; a folder that is not there is made, for this user only. Raises ConfigError."""
        for secret, what in ((token, "access token"), (api_key, "API key")):
            if secret is not None and (fault := token_fault(secret.get_secret_value())):
                raise ConfigError(f"this is no {what}, nothing was stored: {fault}")
        stored = StoredToken(
            access_token=token,
            stored_at=datetime.now().astimezone(),
            api_key=api_key,
            user_id=user_id or None,
            user_name=user_name or None,
        )
        content = stored.model_dump(exclude_none=True) | {"stored_at": stored.stored_at.isoformat()}
        for name in ("access_token", "api_key"):
            if name in content:
                content[name] = content[name].get_secret_value()
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_durably(self.path, orjson.dumps(content) + b"\n", mode=0o600, suffix=f".{os.getpid()}.new")
        except OSError as error:
            raise self._unwritable(error) from None
        return stored

    def try_folder(self) -> None:
        """Find out whether `write` could store here, and leave nothing behind. Raises ConfigError."""
        there = next(folder for folder in self.path.absolute().parents if folder.exists())
        try:
            if self.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> ConfigError:
        in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
        cause = "a file is in the way of its folder" if in_the_way else error.strerror
        return ConfigError(f"{self.path}: cannot be written: {cause}; {_ELSEWHERE}")

    def poll(self) -> StoredToken | None:
        """Return what is stored if it was replaced or changed since the last call, or else since this object was made.

        Costs one `stat` where nothing has changed. What cannot be used is logged, once for each change.
        """
        stamp = self._stamp()
        if stamp == self._polled:
            return None
        self._polled = stamp
        try:
            return self.read()
        except ConfigError as error:
            log.warning("a new access token cannot be used: %s", error)
            return None

    def _stamp(self) -> _Stamp | None:
        """Return what tells one content of the file from the next, and whether it was opened or closed to others."""
        with suppress(OSError):
            found = self.path.stat()
            return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns
        return None


def _cause(error: ValidationError) -> str:
    """Return what is wrong in words that do not repeat the content."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = "".join(f"{part}: " for part in problem["loc"])
    return place + problem["msg"].removeprefix("Value error, ")
