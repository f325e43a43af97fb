"""What can be asked of the control socket, and the answers that are not a status: one set of models for both sides."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.config import Mode, Word

MAX_TOKENS = 20_000  # in one request; more than can be subscribed, so that the answer can say by how much
MAX_PAGE = 6000  # instruments in one answer: all that can be subscribed
KEPT_CHANGES = 1000  # that `history` can tell of

ConnectionId = Annotated[int, Field(strict=True, ge=1, le=3)]
HomeId = Annotated[int, Field(strict=True, ge=1, le=2)]  # of a connection that the spare stands in for by hand
Words = Annotated[list[Word], Field(min_length=1, max_length=MAX_TOKENS)]
Action = Literal["subscribe", "unsubscribe", "set_mode", "mirror", "unmirror", "failover", "failback"]
By = Literal["cli", "client", "universe", "failover"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NoParams(_Model):
    """Of a method that takes none."""


class _ChangeParams(_Model):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    by: Literal["cli", "client"] = "client"  # who asks, for the history


class SubscribeParams(_ChangeParams):
    """Subscribe instruments that are not subscribed yet; all or none."""

    tokens: Words
    mode: Mode = "quote"
    connection_id: ConnectionId | None = None  # None: the one that is for this mode


class UnsubscribeParams(_ChangeParams):
    """Unsubscribe instruments; all or none, unless unknown ones are to be passed over."""

    tokens: Words
    ignore_unknown: bool = False


class UnsubscribeAllParams(_ChangeParams):
    """Unsubscribe everything."""


class SetModeParams(_ChangeParams):
    """Give instruments a mode, and move them to the connection that is for it; all or none."""

    tokens: Words
    mode: Mode
    subscribe_unknown: bool = False  # take in those that are not subscribed yet


class MirrorParams(_ChangeParams):
    """Let connection 3 record, or no longer record, what connection 1 records."""

    on: bool = True


class FailoverParams(_ChangeParams):
    """Let the spare carry what a connection has."""

    connection_id: HomeId


class FailbackParams(_ChangeParams):
    """Give back what the spare carries; None: all of it."""

    connection_id: HomeId | None = None


class RestartParams(_Model):
    """End a process in order and start it anew."""

    role: str = Field(max_length=40)


class HistoryParams(_Model):
    """The latest changes."""

    limit: int = Field(default=100, strict=True, ge=1, le=KEPT_CHANGES)


class FindParams(_Model):
    """Subscribed instruments that fulfil all of these, a page of them."""

    connection_id: ConnectionId | None = None  # that records it
    mode: Mode | None = None
    stale: bool | None = None  # it has not ticked for `stale_s`, or never
    stale_s: float = Field(default=60.0, ge=0, le=86_400 * 365)
    search: str | None = Field(default=None, min_length=1, max_length=64)  # is part of the token or the symbol
    offset: int = Field(default=0, strict=True, ge=0, le=1_000_000)
    limit: int = Field(default=100, strict=True, ge=1, le=MAX_PAGE)


class InstrumentParams(_Model):
    """One instrument."""

    token: Word


class OverviewParams(_Model):
    """Everything but the instruments."""

    after: int = Field(default=0, strict=True)  # the number of a notice: only later ones


class Pending(_Model):
    """What a connection has not yet sent to Kite."""

    connection_id: int
    reason: str  # its state in words


class Change(_Model):
    """What a request has changed."""

    success: Literal[True] = True
    action: Action
    requested: int  # tokens in the request, repeats included
    instruments: list[int]  # what has changed, each once, in the order of the request
    mode: Mode | None = None  # of them from now on
    connections: dict[str, int] = {}  # how many of them are on which connection; were, where they are unsubscribed
    repeats: list[int] = []  # given more than once in the request, and counted once
    unchanged: list[int] = []  # were already as wished
    unknown: list[int] = []  # not subscribed, and passed over as asked
    saved: bool = True  # the next run will know of it
    confirmed: bool  # all of it has been sent to Kite
    pending: list[Pending] = []  # where not; it is sent as soon as it can be


class HistoryEntry(_Model):
    """A change that was asked for."""

    timestamp: str
    action: Action
    by: By
    instruments: list[int]
    mode: Mode | None = None
    connections: dict[str, int] = {}
    result: Literal["done", "refused"]
    reason: str = ""  # of a refusal, or of what the service has done by itself


class Restarted(_Model):
    """A process that was started anew."""

    role: str
    pid: int | None  # of the new one; None: it is not there yet
