"""What can go wrong, as a user sees it: each error names the thing, the cause and the way out."""

from collections.abc import Mapping
from typing import Any


class MdsError(Exception):
    """Base of every error that is shown as one line without a traceback; `exit_code` ends the command."""

    exit_code = 1


class ConfigError(MdsError):
    """The configuration or the environment is wrong; nothing was started."""

    exit_code = 2


class AlreadyRunningError(MdsError):
    """Another process holds the run folder or the data folder."""

    exit_code = 2


class NotRunningError(MdsError):
    """No service answers in this run folder."""


class ControlError(MdsError):
    """The service answered a request with an error."""


class RequestRefusedError(ControlError):
    """A request was understood and refused as a whole: nothing has changed.

    `details` are JSON types and hold what a program may want to know of the reason, `kind` included.
    """

    kind = "refused"

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = {"kind": self.kind, **(details or {})}


class AlreadySubscribedError(RequestRefusedError):
    """Instruments are subscribed already. `details["duplicates"]`: instrument_token, connection_id, mode of each."""

    kind = "already_subscribed"


class NotSubscribedError(RequestRefusedError):
    """Instruments are not subscribed. `details["unknown"]`: their tokens."""

    kind = "not_subscribed"


class CapacityError(RequestRefusedError):
    """A connection has no room for all of them. `details`: connection_id, requested, available."""

    kind = "capacity"


class UnknownSymbolError(RequestRefusedError):
    """Words name no instrument, or more than one. `details["unknown_symbols"]`: why, by word."""

    kind = "unknown_symbol"


def refusal(message: str, details: Mapping[str, Any]) -> RequestRefusedError:
    """Return the refusal that an answer of the service tells of."""
    kinds = (AlreadySubscribedError, NotSubscribedError, CapacityError, UnknownSymbolError)
    known = {kind.kind: kind for kind in kinds}
    return known.get(details.get("kind", ""), RequestRefusedError)(message, details)


class FormatError(MdsError):
    """A newer version has recorded, in a format that this one does not know; nothing was read or written."""

    exit_code = 2


class EpochError(MdsError):
    """A stream cannot be begun: its spool or what is remembered of it cannot be written."""


class SpoolFullError(MdsError):
    """The spool has reached its limit or its file system is full; the frame was not taken."""
