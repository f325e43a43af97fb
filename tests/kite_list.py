"""Lists of instruments for tests: a small one as Kite has it, and a server that hands out whatever it is told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pipeline.instruments.rows import COLUMNS

POLL_S = 0.01  # until the server notices that it is to end
HEADER = ",".join(COLUMNS)
ROWS = (
    "408065,1594,INFY,INFOSYS,0.0,,0,0.05,1,EQ,NSE,NSE",
    "128053508,500209,INFY,INFOSYS,0.0,,0,0.05,1,EQ,BSE,BSE",
    "738561,2885,RELIANCE,RELIANCE INDUSTRIES,0.0,,0,0.05,1,EQ,NSE,NSE",
    '256265,1001,NIFTY 50,"NIFTY, 50",0.0,,0,0,0,EQ,INDICES,NSE',
    "519937,2031,M&M,MAHINDRA & MAHINDRA,0.0,,0,0.05,1,EQ,NSE,NSE",
    "11924738,46581,NIFTY25OCTFUT,NIFTY,0.0,2025-10-28,0,0.1,75,FUT,NFO-FUT,NFO",
    "11924994,46582,NIFTY25NOVFUT,NIFTY,0.0,2025-11-25,0,0.1,75,FUT,NFO-FUT,NFO",
    "12000258,46876,NIFTY25OCT24800CE,NIFTY,0.0,2025-10-28,24800,0.05,75,CE,NFO-OPT,NFO",
    "12000514,46877,NIFTY25OCT24800PE,NIFTY,0.0,2025-10-28,24800,0.05,75,PE,NFO-OPT,NFO",
    "12000770,46878,BANKNIFTY25OCT56000CE,BANKNIFTY,0.0,2025-10-28,56000,0.05,35,CE,NFO-OPT,NFO",
    "112340487,438829,GOLD25DECFUT,GOLD,0.0,2025-12-05,0,1,100,FUT,MCX-FUT,MCX",
)


def csv_of(*rows: str) -> str:
    """Return a list with these lines."""
    return "\n".join((HEADER, *rows, ""))


LIST = csv_of(*ROWS)


class Kite:
    """What the server answers, to whom, and what it was asked; all of it may be changed at any time."""

    def __init__(self) -> None:
        self.url = ""
        self.body = LIST.encode()
        self.content_type = "text/csv"
        self.refused: set[str] = set()  # values of the Authorization header; "": none
        self.asked: list[str] = []  # Authorization headers
        self.hold = threading.Event()  # answers wait for it
        self.hold.set()


@contextmanager
def serving() -> Iterator[Kite]:
    """Serve `GET /instruments` on loopback."""
    kite = Kite()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            authorization = self.headers.get("Authorization", "")
            kite.asked.append(authorization)
            kite.hold.wait()
            if authorization in kite.refused:
                body = b'{"status":"error","message":"Incorrect token","data":null,"error_type":"TokenException"}'
                self._answer(403, "application/json", body)
            else:
                self._answer(200, kite.content_type, kite.body)

        def _answer(self, code: int, content_type: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    kite.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(POLL_S,))
    thread.start()
    try:
        yield kite
    finally:
        kite.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()
