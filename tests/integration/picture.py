"""Makes the README's picture, `deploy/pictures/dashboard.png`: the dashboard of a service that records the simulator.

    python -m tests.integration.picture

It takes five minutes, for the charts to have something to show.
"""

import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

from tests.integration.browser import ROOT, Window, chromium
from tests.integration.service import Service
from tests.integration.test_dashboard import address, free_address, start

PICTURE = ROOT / "deploy/pictures/dashboard.png"
SIZE = (1280, 1290)  # down to the first instruments
SECONDS = 300  # that the charts show
COLORS = 256  # half the bytes, and nobody sees it
UNIVERSE = {
    "primary": ["NSE:INFY", "NSE:NIFTY 50", "NSE:RELIANCE"],
    "select": ["NFO:NIFTY:options:weekly:10", "NFO:BANKNIFTY:options:monthly:10:full", "MCX:GOLD:futures:monthly"],
}


def make(folder: Path) -> None:
    """Record for a while, with a connection that fails over once, and take the picture."""
    service = Service(
        folder, http={"listen": free_address()}, universe=UNIVERSE, instruments={"sync": True}, failover={"stable_s": 5}
    )
    try:
        start(service)
        with chromium() as browser:
            window = Window(browser, address(service), size=SIZE)
            window.open()
            window.wait_for_health("healthy")
            window.page.wait_for_timeout(SECONDS / 2 * 1000)
            service.kill("worker-1")
            window.wait_for_health("degraded")
            window.wait_for_health("healthy")
            window.page.wait_for_timeout(SECONDS / 2 * 1000)
            window.page.emulate_media(color_scheme="light")
            picture = Image.open(BytesIO(window.page.screenshot()))
            picture.quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
            window.close()
    finally:
        service.kill_all()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="mds-") as temporary:
        make(Path(temporary))
