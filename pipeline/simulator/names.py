"""Names that people know, with the numbers that Kite has for them, as far as they are known here. Data alone.

Kite's instrument token is the exchange's own number, shifted by a byte, and the code of the segment in that byte.
"""

from typing import Final, NamedTuple


class Index(NamedTuple):
    """An index; it has no name but its symbol."""

    symbol: str
    token: int
    exchange: str = "NSE"


class Share(NamedTuple):
    """A share, which is traded on both exchanges under the same symbol."""

    symbol: str
    name: str
    token: int  # on NSE
    scrip: int  # BSE's own number


class Underlying(NamedTuple):
    """What there are options of."""

    name: str
    exchange: str
    token: int  # whose price the strikes surround
    lot: int
    weekday: int  # on which they expire, Monday is 0
    weeks: int = 0  # expiries that come weekly; besides there are monthly ones
    step: float = 0.0  # between strikes; 0: by the price


class Commodity(NamedTuple):
    """A commodity or currency of which there are futures."""

    name: str
    exchange: str
    day: int  # of the month, about which they expire
    months: tuple[int, ...]
    lot: int


_TUESDAY, _THURSDAY = 1, 3
_EVERY_MONTH: Final = tuple(range(1, 13))

INDICES: Final = (
    Index("NIFTY 50", 256265),
    Index("NIFTY BANK", 260105),
    Index("NIFTY FIN SERVICE", 257801),
    Index("INDIA VIX", 264969),
    Index("SENSEX", 265, "BSE"),
)

SHARES: Final = (
    Share("RELIANCE", "RELIANCE INDUSTRIES", 738561, 500325),
    Share("INFY", "INFOSYS", 408065, 500209),
    Share("TCS", "TATA CONSULTANCY SERV LT", 2953217, 532540),
    Share("HDFCBANK", "HDFC BANK", 341249, 500180),
    Share("ICICIBANK", "ICICI BANK", 1270529, 532174),
    Share("SBIN", "STATE BANK OF INDIA", 779521, 500112),
    Share("ITC", "ITC", 424961, 500875),
    Share("TATASTEEL", "TATA STEEL", 895745, 500470),
    Share("M&M", "MAHINDRA & MAHINDRA", 519937, 500520),
    Share("BAJAJ-AUTO", "BAJAJ AUTO", 4267265, 532977),
    Share("HINDUNILVR", "HINDUSTAN UNILEVER", 356865, 500696),
    Share("BHARTIARTL", "BHARTI AIRTEL", 2714625, 532454),
    Share("KOTAKBANK", "KOTAK MAHINDRA BANK", 492033, 500247),
    Share("LT", "LARSEN & TOUBRO", 2939649, 500510),
    Share("AXISBANK", "AXIS BANK", 1510401, 532215),
    Share("ASIANPAINT", "ASIAN PAINTS", 60417, 500820),
    Share("MARUTI", "MARUTI SUZUKI INDIA", 2815745, 532500),
    Share("SUNPHARMA", "SUN PHARMACEUTICAL IND L", 857857, 524715),
    Share("TITAN", "TITAN COMPANY", 897537, 500114),
    Share("ULTRACEMCO", "ULTRATECH CEMENT", 2952193, 532538),
    Share("NESTLEIND", "NESTLE INDIA", 4598529, 500790),
    Share("WIPRO", "WIPRO", 969473, 507685),
    Share("BAJFINANCE", "BAJAJ FINANCE", 81153, 500034),
    Share("BAJAJFINSV", "BAJAJ FINSERV", 4268801, 532978),
    Share("HCLTECH", "HCL TECHNOLOGIES", 1850625, 532281),
    Share("POWERGRID", "POWER GRID CORP", 3834113, 532898),
    Share("NTPC", "NTPC", 2977281, 532555),
    Share("ONGC", "OIL AND NATURAL GAS CORP", 633601, 500312),
    Share("TATAMOTORS", "TATA MOTORS", 884737, 500570),
    Share("JSWSTEEL", "JSW STEEL", 3001089, 500228),
    Share("ADANIPORTS", "ADANI PORT & SEZ", 3861249, 532921),
    Share("ADANIENT", "ADANI ENTERPRISES", 6401, 512599),
    Share("COALINDIA", "COAL INDIA", 5215745, 533278),
    Share("GRASIM", "GRASIM INDUSTRIES", 315393, 500300),
    Share("HINDALCO", "HINDALCO INDUSTRIES", 348929, 500440),
    Share("TECHM", "TECH MAHINDRA", 3465729, 532755),
    Share("DRREDDY", "DR. REDDY'S LABORATORIES", 225537, 500124),
    Share("CIPLA", "CIPLA", 177665, 500087),
    Share("DIVISLAB", "DIVI'S LABORATORIES", 2800641, 532488),
    Share("EICHERMOT", "EICHER MOTORS", 232961, 505200),
    Share("HEROMOTOCO", "HERO MOTOCORP", 345089, 500182),
    Share("BRITANNIA", "BRITANNIA INDUSTRIES", 140033, 500825),
    Share("BPCL", "BHARAT PETROLEUM CORP", 134657, 500547),
    Share("INDUSINDBK", "INDUSIND BANK", 1346049, 532187),
    Share("HDFCLIFE", "HDFC LIFE INS CO", 119553, 540777),
    Share("SBILIFE", "SBI LIFE INSURANCE CO", 5582849, 540719),
    Share("APOLLOHOSP", "APOLLO HOSPITALS ENTER. L", 40193, 508869),
    Share("TATACONSUM", "TATA CONSUMER PRODUCT", 878593, 500800),
    Share("SHRIRAMFIN", "SHRIRAM FINANCE", 1102337, 511218),
    Share("BEL", "BHARAT ELECTRONICS", 98049, 500049),
    Share("TRENT", "TRENT", 502785, 500251),
)

UNDERLYINGS: Final = (
    Underlying("NIFTY", "NFO", 256265, 75, _TUESDAY, weeks=4, step=50),
    Underlying("BANKNIFTY", "NFO", 260105, 35, _TUESDAY, step=100),
    Underlying("SENSEX", "BFO", 265, 20, _THURSDAY, weeks=4, step=100),
    *(Underlying(share.symbol, "NFO", share.token, 500, _TUESDAY) for share in SHARES[:10]),
)

COMMODITIES: Final = (
    Commodity("GOLD", "MCX", 5, (2, 4, 6, 8, 10, 12), 1),
    Commodity("SILVER", "MCX", 5, (3, 5, 7, 9, 12), 30),
    Commodity("CRUDEOIL", "MCX", 19, _EVERY_MONTH, 100),
    Commodity("USDINR", "CDS", 27, _EVERY_MONTH, 1),
)
