"""One line of Kite's list of instruments."""

from datetime import date
from typing import NamedTuple


class Instrument(NamedTuple):
    """What can be subscribed, as Kite's list has it (https://kite.trade/docs/connect/v3/market-quotes/)."""

    token: int
    exchange: str  # NSE, BSE, NFO, BFO, CDS, BCD, MCX, NCO, ...; of indices NSE and BSE, too
    tradingsymbol: str  # unique on its exchange: INFY, NIFTY 50, NIFTY25OCTFUT
    name: str  # of the company, or of the underlying: NIFTY
    expiry: date | None  # the last day on which it trades
    strike: float  # 0 where it has none
    tick_size: float
    lot_size: int
    instrument_type: str  # EQ, FUT, CE, PE
    segment: str  # NSE, INDICES, NFO-OPT, NFO-FUT, ...

    @property
    def symbol(self) -> str:
        """The way people name it: `NSE:INFY`."""
        return f"{self.exchange}:{self.tradingsymbol}"
