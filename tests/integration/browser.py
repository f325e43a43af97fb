"""A headless Chromium, what a page in it may not do, and whether people can read it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect, sync_playwright

from tests.integration.service import DEADLINE_S

ROOT = Path(__file__).parents[2]
SCREENSHOTS = Path(os.environ.get("MDS_SCREENSHOTS", ROOT / "screenshots"))
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ColorScheme = Literal["dark", "light"]

DESKTOP = (1440, 900)
PHONE = (360, 740)
CONTRAST = 4.5  # WCAG 2.2, 1.4.3, level AA

# Returns [contrast, text] of each visible piece of text against what is painted behind it. All backgrounds below the
# body are opaque or none; where that changes, the alpha has to be reckoned with.
_CONTRASTS = """() => {
    const numbers = (color) => color.match(/[0-9.]+/g).map(Number);
    const luminance = ([r, g, b]) => {
        const [R, G, B] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * R + 0.7152 * G + 0.0722 * B;
    };
    const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const [r, g, b, a = 1] = numbers(getComputedStyle(e).backgroundColor);
            if (a === 1) return [r, g, b];
            if (a !== 0) throw new Error(`half transparent: ${e.outerHTML.slice(0, 80)}`);
        }
        return [255, 255, 255];
    };
    const found = [];
    const judge = (element, color, text) => {
        const [light, dark] = [luminance(numbers(color)), luminance(behind(element))].sort((a, b) => b - a);
        found.push([(light + 0.05) / (dark + 0.05), text]);
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
        if (!text || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(element.tagName) || !element.checkVisibility()) continue;
        const style = getComputedStyle(element);
        judge(element, element instanceof SVGElement ? style.fill : style.color, text);
    }
    for (const input of document.querySelectorAll("input[placeholder]"))
        judge(input, getComputedStyle(input, "::placeholder").color, input.placeholder);
    return found;
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser."""
    expect.set_options(timeout=DEADLINE_S * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Window:
    """A page in a context of its own, and all that it has asked for and complained of."""

    def __init__(self, browser: Browser, url: str, *, size: tuple[int, int] = DESKTOP) -> None:
        self.context: BrowserContext = browser.new_context(viewport={"width": size[0], "height": size[1]})
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(DEADLINE_S * 1000)
        self.url = url
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self) -> Page:
        """Load the page."""
        self.page.goto(self.url)
        return self.page

    def wait_for_link(self, link: str) -> None:
        """Wait until the page is `live`, or says that the service is `gone` or `lost`."""
        self.page.wait_for_selector(f"body[data-link={link}]")

    def wait_for_health(self, health: str) -> None:
        """Wait until the page shows this health."""
        self.page.wait_for_selector(f"body[data-link=live][data-health={health}]")

    def figure(self, name: str, connection_id: int | None = None) -> Locator:
        """Return where the page shows this field of the status, or of a connection."""
        place = self.page.locator("article").nth(connection_id - 1) if connection_id else self.page
        return place.locator(f'[data-value="{name}"]').first

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def illegible(self) -> list[Any]:
        """Return the texts with too little contrast in either scheme, each with its contrast."""
        found: list[Any] = []
        schemes: tuple[ColorScheme, ...] = ("dark", "light")
        for scheme in schemes:
            self.page.emulate_media(color_scheme=scheme)
            texts = self.page.evaluate(_CONTRASTS)
            assert len(texts) > 5, "hardly any text"
            found += [(scheme, text, round(contrast, 2)) for contrast, text in texts if contrast < CONTRAST]
        return found

    def elsewhere(self) -> list[str]:
        """Return the requests that went to another origin."""
        home = urlsplit(self.url)[:2]
        return [url for url in self.requests if urlsplit(url)[:2] != home]

    def picture(self, name: str, *, scheme: ColorScheme = "light") -> None:
        """Keep a screenshot of the whole page for people to look at."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.emulate_media(color_scheme=scheme)
        self.page.evaluate("window.scrollTo(0, 0)")
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    def close(self) -> None:
        """Close it."""
        self.context.close()

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)
