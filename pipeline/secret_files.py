"""Secrets as files in a folder that CREDENTIALS_DIRECTORY names: systemd's credentials, a container's secrets.

A file is named as the variable that it stands for, in any case, and may begin with `mds_`, as systemd names the files
of a folder that is handed over with `LoadCredential=mds:FOLDER`. Other files are somebody else's. What the variable
itself says goes first. No error shows a secret.
"""

import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from pipeline.credentials import TOKEN_CHARS_MAX, character_fault
from pipeline.errors import ConfigError

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
_PREFIX = "MDS_"
_WAY_OUT = "it has to hold the secret alone, or not to be there"


def read_secrets(variables: Collection[str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what the folder has for these variables. Raises ConfigError, one line that names the file."""
    folder = Path(environment.get(CREDENTIALS_VARIABLE, ""))
    if not folder.is_absolute():  # nobody has handed over anything
        return {}
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{CREDENTIALS_VARIABLE}: {folder}: {error.strerror}") from None
    found: dict[str, str] = {}
    files: dict[str, str] = {}
    for name in names:
        upper = name.upper()
        variable = upper if upper in variables else upper.removeprefix(_PREFIX)
        if variable in variables:
            if variable in files:
                raise ConfigError(f"{folder}: {files[variable]} and {name} are both for {variable}; remove one")
            files[variable] = name
            if variable not in environment:
                found[variable] = _read(folder / name)
    return found


def _read(path: Path) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe in its place must not hold us
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigError(f"{path}: not a file; {_WAY_OUT}")
            content = os.read(fd, TOKEN_CHARS_MAX + 3)  # a line break, and one more than there may be
        finally:
            os.close(fd)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; it has to be readable for the user that mds runs as") from None
    try:
        secret = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text; {_WAY_OUT}") from None
    fault = "it is empty" if not secret else character_fault(secret)
    if not fault and len(secret) > TOKEN_CHARS_MAX:
        fault = f"it is too long, with more than {TOKEN_CHARS_MAX} characters"
    if fault:
        raise ConfigError(f"{path}: {fault}; {_WAY_OUT}")
    return secret
