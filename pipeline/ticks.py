"""A tick: as it is written, as it is checked, and as a user reads it back.

The structs are what the recorder writes, one for each kind of packet, with the official client's field names and values
behind `mode`, and then, last and in this order, `timestamp`, `connection_id`, `epoch` and `seq`. The journal's recovery
relies on it: every stored line ends like `"connection_id":1,"epoch":1759290323123,"seq":123}`.

`decode_line` is for machines that read every line there is (`mds verify`); `parse_tick` is for users: pydantic models
with aware datetimes. Both take and refuse the same lines, unless a key is escaped or repeated, which is never written.
"""

import re
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from pipeline.config import CONNECTIONS

_DATE_TIME = "^[0-9]{4}-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]"
_OFFSET = r"[+-][0-2][0-9]:[0-5][0-9]\Z"
_RECEIVE_TIME = _DATE_TIME + r"\.[0-9]{6}" + _OFFSET
_EXCHANGE_TIME = _DATE_TIME + _OFFSET

# Each of these is read by msgspec through its Meta and by pydantic through its Field.
_UInt16: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**16), Field(ge=0, lt=2**16)]
_UInt32: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**32), Field(ge=0, lt=2**32)]
_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1), Field(ge=1, le=2**63 - 1)]
_ConnectionId: TypeAlias = Annotated[
    int, msgspec.Meta(ge=CONNECTIONS[0], le=CONNECTIONS[-1]), Field(ge=CONNECTIONS[0], le=CONNECTIONS[-1])
]
_ReceiveText: TypeAlias = Annotated[str, msgspec.Meta(pattern=_RECEIVE_TIME)]
_ExchangeText: TypeAlias = Annotated[str, msgspec.Meta(pattern=_EXCHANGE_TIME)]


class _Written(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Base of the structs: nothing in them can be part of a cycle, so the collector need not look (a sixth faster)."""


class Ohlc(_Written, frozen=True, gc=False):
    """The day's prices; `close` is the previous day's."""

    open: float
    high: float
    low: float
    close: float


class DepthLevel(_Written, frozen=True, gc=False):
    """One of the five best bids or offers."""

    quantity: _UInt32
    price: float
    orders: _UInt16


Levels: TypeAlias = tuple[DepthLevel, DepthLevel, DepthLevel, DepthLevel, DepthLevel]


class Depth(_Written, frozen=True, gc=False):
    """The five best bids and offers, best first."""

    buy: Levels
    sell: Levels


class LtpTick(_Written, frozen=True, gc=False, tag_field="mode", tag="ltp"):
    """An 8-byte packet."""

    tradable: bool
    instrument_token: _UInt32
    last_price: float
    timestamp: _ReceiveText
    connection_id: _ConnectionId
    epoch: _Number
    seq: _Number


class IndexQuoteTick(_Written, frozen=True, gc=False, tag_field="mode", tag="quote"):
    """A 28-byte packet."""

    tradable: bool
    instrument_token: _UInt32
    last_price: float
    ohlc: Ohlc
    change: float
    timestamp: _ReceiveText
    connection_id: _ConnectionId
    epoch: _Number
    seq: _Number


class IndexFullTick(_Written, frozen=True, gc=False, tag_field="mode", tag="full"):
    """A 32-byte packet."""

    tradable: bool
    instrument_token: _UInt32
    last_price: float
    ohlc: Ohlc
    change: float
    exchange_timestamp: _ExchangeText | None
    timestamp: _ReceiveText
    connection_id: _ConnectionId
    epoch: _Number
    seq: _Number


class QuoteTick(_Written, frozen=True, gc=False, tag_field="mode", tag="quote"):
    """A 44-byte packet."""

    tradable: bool
    instrument_token: _UInt32
    last_price: float
    last_traded_quantity: _UInt32
    average_traded_price: float
    volume_traded: _UInt32
    total_buy_quantity: _UInt32
    total_sell_quantity: _UInt32
    ohlc: Ohlc
    change: float
    timestamp: _ReceiveText
    connection_id: _ConnectionId
    epoch: _Number
    seq: _Number


class FullTick(_Written, frozen=True, gc=False, tag_field="mode", tag="full"):
    """A 184-byte packet."""

    tradable: bool
    instrument_token: _UInt32
    last_price: float
    last_traded_quantity: _UInt32
    average_traded_price: float
    volume_traded: _UInt32
    total_buy_quantity: _UInt32
    total_sell_quantity: _UInt32
    ohlc: Ohlc
    change: float
    last_trade_time: _ExchangeText | None
    oi: _UInt32
    oi_day_high: _UInt32
    oi_day_low: _UInt32
    exchange_timestamp: _ExchangeText | None
    depth: Depth
    timestamp: _ReceiveText
    connection_id: _ConnectionId
    epoch: _Number
    seq: _Number


StoredTick: TypeAlias = LtpTick | IndexQuoteTick | IndexFullTick | QuoteTick | FullTick

_encoder = msgspec.json.Encoder()
# One union cannot hold two structs of one mode, so there are two: with the trade fields and without.
_decode_traded = msgspec.json.Decoder(LtpTick | QuoteTick | FullTick).decode
_decode_index = msgspec.json.Decoder(LtpTick | IndexQuoteTick | IndexFullTick).decode


def encode_lines(ticks: list[StoredTick]) -> bytes:
    """Return `ticks` as JSON lines, each ending in a newline; floats read back as the same doubles."""
    return _encoder.encode_lines(ticks)


def decode_line(line: bytes) -> StoredTick:
    """Return the tick of one stored line, checked strictly: types, ranges, times, no field too many or too few.

    Raises msgspec.DecodeError where the line is not JSON, and its subclass ValidationError where it is not a tick.
    """
    try:
        # Not by `tradable`: a packet is an index packet by its length, and the official client takes it for any token.
        tick: StoredTick = (_decode_traded if b'"volume_traded"' in line else _decode_index)(line)
        # The patterns have checked the form; this checks that there is such a day.
        datetime.fromisoformat(tick.timestamp)
        if isinstance(tick, (FullTick, IndexFullTick)):
            if tick.exchange_timestamp is not None:
                datetime.fromisoformat(tick.exchange_timestamp)
            if isinstance(tick, FullTick) and tick.last_trade_time is not None:
                datetime.fromisoformat(tick.last_trade_time)
    except msgspec.DecodeError:
        raise
    except ValueError as error:  # no such day, or a time that is not UTF-8
        raise msgspec.ValidationError(str(error)) from None
    return tick


def _time(pattern: str) -> BeforeValidator:
    """Return a validator that reads text of this form as a datetime, and leaves what is no text to the field's type."""
    form = re.compile(pattern)

    def read(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not form.match(value):
            raise ValueError("not a time in the form of this field")
        return datetime.fromisoformat(value)

    return BeforeValidator(read)


_ReceiveTime: TypeAlias = Annotated[AwareDatetime, _time(_RECEIVE_TIME)]
_ExchangeTime: TypeAlias = Annotated[AwareDatetime | None, _time(_EXCHANGE_TIME)]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class OhlcRecord(_Model):
    """The day's prices; `close` is the previous day's."""

    open: float
    high: float
    low: float
    close: float


class LevelRecord(_Model):
    """One of the five best bids or offers."""

    quantity: _UInt32
    price: float
    orders: _UInt16


class DepthRecord(_Model):
    """The five best bids and offers, best first."""

    buy: Annotated[list[LevelRecord], Field(min_length=5, max_length=5)]
    sell: Annotated[list[LevelRecord], Field(min_length=5, max_length=5)]


class _Record(_Model):
    tradable: bool
    instrument_token: _UInt32
    last_price: float
    timestamp: _ReceiveTime
    connection_id: _ConnectionId
    epoch: _Number
    seq: _Number

    @model_validator(mode="after")
    def _has_all_trade_fields_or_none(self) -> "_Record":
        """Hold the rule of index packets: what has a default is there as a whole, or not at all."""
        optional = {name for name, field in type(self).model_fields.items() if not field.is_required()}
        given = optional & self.model_fields_set
        if given and given != optional:
            raise ValueError(f"{', '.join(sorted(optional - given))} missing: only an index has no trade fields at all")
        if any(getattr(self, name) is None for name in given - {"last_trade_time"}):
            raise ValueError("a trade field is null")
        return self


class LtpRecord(_Record):
    """A stored tick in ltp mode."""

    mode: Literal["ltp"]


class QuoteRecord(_Record):
    """A stored tick in quote mode; an index has no trade fields, they are None here and not in `model_fields_set`."""

    mode: Literal["quote"]
    ohlc: OhlcRecord
    change: float
    last_traded_quantity: _UInt32 | None = None
    average_traded_price: float | None = None
    volume_traded: _UInt32 | None = None
    total_buy_quantity: _UInt32 | None = None
    total_sell_quantity: _UInt32 | None = None


class FullRecord(_Record):
    """A stored tick in full mode; an index has neither trade fields nor depth, as in `QuoteRecord`.

    A time that the exchange did not give is None.
    """

    mode: Literal["full"]
    ohlc: OhlcRecord
    change: float
    exchange_timestamp: _ExchangeTime
    last_traded_quantity: _UInt32 | None = None
    average_traded_price: float | None = None
    volume_traded: _UInt32 | None = None
    total_buy_quantity: _UInt32 | None = None
    total_sell_quantity: _UInt32 | None = None
    last_trade_time: _ExchangeTime = None
    oi: _UInt32 | None = None
    oi_day_high: _UInt32 | None = None
    oi_day_low: _UInt32 | None = None
    depth: DepthRecord | None = None


Tick: TypeAlias = Annotated[LtpRecord | QuoteRecord | FullRecord, Field(discriminator="mode")]
TickAdapter: TypeAdapter[LtpRecord | QuoteRecord | FullRecord] = TypeAdapter(Tick)


def parse_tick(line: bytes | str) -> LtpRecord | QuoteRecord | FullRecord:
    """Return the tick of one stored line for a user. Raises pydantic.ValidationError where it is not one."""
    return TickAdapter.validate_json(line)
