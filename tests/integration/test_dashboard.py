"""The dashboard, as a browser shows it: of a simulated service, of one that Kite turns away, and of none."""

import json
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Route, expect

from pipeline.client import Client
from tests.integration.browser import PHONE, Window, chromium
from tests.integration.conftest import Begin, NewService
from tests.integration.kite import Kite
from tests.integration.service import Service, until

PRIMARY = 80  # instruments of connection 1 where the simulator's are recorded
MARKUP = '<img src="x" onerror="document.title = 1">'
TOKEN = "made-up-http-token"  # noqa: S105  it is made up

Open = Callable[..., Window]


def free_address() -> str:
    """Return an address on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def address(service: Service) -> str:
    """Return where a service's dashboard is."""
    found = re.search(r'^listen = "(.+)"$', (service.folder / "mds.toml").read_text(), re.MULTILINE)
    assert found
    return f"http://{found[1]}/"


def is_served(service: Service) -> bool:
    """Tell whether somebody listens at a service's address."""
    found = urlsplit(address(service))
    try:
        socket.create_connection((str(found.hostname), int(found.port or 0)), timeout=1).close()
    except OSError:
        return False
    return True


def start(service: Service) -> None:
    """Start a service with a simulated Kite, and wait until it records and can be looked at."""
    service.start("--simulate")
    service.wait_until_live(1, 2)
    until(lambda: is_served(service), "the dashboard is served")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all."""
    with chromium() as running:
        yield running


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens the dashboard of a service, and waits until it is live."""
    windows: list[Window] = []

    def opened(service: Service, **arguments: Any) -> Window:
        window = Window(browser, address(service), **arguments)
        windows.append(window)
        window.open()
        window.wait_for_link("live")
        return window

    yield opened
    for window in windows:
        window.close()


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that records the simulator; the spare gives nothing back unless it is told to."""
    folder: Path = tmp_path_factory.mktemp("simulated")
    service = Service(folder, http={"listen": free_address()}, failover={"stable_s": 3600})
    start(service)
    yield service
    service.kill_all()
    print(service.logs())  # noqa: T201  pytest shows it with a failure


def test_it_shows_figures_that_live(simulated: Service, open_page: Open):
    """Health, rate and charts go on by themselves; the page talks to nobody else and has nothing to complain of."""
    window = open_page(simulated)
    window.wait_for_health("healthy")
    page = window.page
    expect(page).to_have_title(re.compile("^healthy · [1-9][0-9,]*/s$"))
    for name in ("storage.ticks_stored", "health.uptime_seconds", "storage.bytes_written"):
        expect(window.figure(name)).not_to_have_text(window.figure(name).inner_text())
    for connection_id, state in ((1, "live"), (2, "live"), (3, "standby")):
        expect(window.figure("state", connection_id)).to_have_text(state)
    expect(window.figure("subscribed_instruments", 1)).to_have_text(str(PRIMARY))
    for chart in ("#rate-chart", "#latency-chart"):
        line = page.locator(f"{chart} path.line").first
        expect(line).not_to_have_attribute("d", str(line.get_attribute("d")))
    expect(page.locator("#instruments tbody tr")).to_have_count(50)
    expect(page.locator("#events li").first).to_be_visible()
    expect(page.locator("#processes tbody tr")).to_have_count(7)
    assert window.complaints == []
    assert window.elsewhere() == []
    window.picture("desktop-light")
    window.picture("desktop-dark", scheme="dark")


def test_everybody_can_read_it(simulated: Service, open_page: Open):
    """All text has contrast in both schemes; a chart's figures can be had with the keyboard, and as text."""
    window = open_page(simulated)
    page = window.page
    expect(page.locator("#instruments tbody tr")).to_have_count(50)
    assert window.illegible() == []
    expect(page.locator("#rate-summary")).to_contain_text("ticks/s, now")
    page.focus("#rate-chart .plot")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#rate-chart .plot")).to_have_attribute("aria-valuenow", "-1")
    expect(page.locator("#rate-chart .plot")).to_have_attribute("aria-valuetext", re.compile("^1 s ago: connection 1 "))
    expect(page.locator("#rate-chart .cursor")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator("#rate-chart .cursor")).to_have_count(0)


def test_the_tab_key_reaches_all_in_order_of_the_page(simulated: Service, open_page: Open):
    """From the link to the filters and pages of the list; whatever has the focus shows it."""
    window = open_page(simulated)
    expect(window.page.locator("#next")).to_be_enabled()
    reached: list[str] = []
    for _ in range(20):
        window.page.keyboard.press("Tab")
        name, outline = window.page.evaluate("""() => {
            const element = document.activeElement;
            return [element.id || element.textContent, getComputedStyle(element).outlineStyle];
        }""")
        assert outline != "none", f"nothing shows that {name} has the focus"
        reached.append(name)
        if name == "next":
            break
    wanted = ["docs", "gaps-only", "search", "connection", "mode", "stale", "instruments-panel", "next"]
    assert [name for name in reached if name in wanted] == wanted


def test_a_phone_shows_it_without_scrolling_sideways(simulated: Service, open_page: Open):
    """At 360 pixels nothing sticks out."""
    window = open_page(simulated, size=PHONE)
    expect(window.page.locator("#instruments tbody tr")).to_have_count(50)
    assert window.overflow() == 0
    window.picture("phone")


def test_the_list_of_instruments_can_be_searched_filtered_and_paged(simulated: Service, open_page: Open):
    """What is shown is what the service has of it, and how many they are."""
    page = open_page(simulated).page
    rows, count = page.locator("#instruments tbody tr"), page.locator("#range")
    with Client(simulated.run_dir) as client:
        instruments = client.instruments()
    expect(count).to_have_text("1 to 50 of 100")
    page.click("#next")
    expect(count).to_have_text("51 to 100 of 100")
    expect(rows.first.locator("td").first).to_have_text(str(instruments[50].instrument_token))
    page.select_option("#connection", "2")
    expect(count).to_have_text("1 to 20 of 20")
    page.select_option("#connection", "")
    page.select_option("#mode", "quote")
    expect(count).to_have_text(f"1 to 50 of {PRIMARY}")
    page.select_option("#mode", "")
    token = str(instruments[-1].instrument_token)
    page.fill("#search", token)
    expect(count).to_have_text("1 to 1 of 1")
    expect(rows.first.locator("td").first).to_have_text(token)
    page.fill("#search", "")
    dead = sum((i.instrument_token >> 8) % 97 == 13 for i in instruments)  # of the simulator's
    page.check("#stale")
    expect(count).to_have_text(f"1 to {dead} of {dead}" if dead else "None.")
    page.fill("#search", "no token")
    expect(count).to_have_text("None.")


def test_what_comes_from_elsewhere_is_text(simulated: Service, open_page: Open):
    """Markup in reasons and events stands there as it was written."""
    window = open_page(simulated)
    with Client(simulated.run_dir) as client:
        overview = client.overview().model_dump(mode="json")
    notice = overview.pop("notices")[-1] | {"text": MARKUP, "source": MARKUP}
    status = overview | {"health": overview["health"] | {"status": "down", "reasons": [MARKUP]}}
    events = "".join(f"event: {k}\ndata: {json.dumps(v)}\n\n" for k, v in (("status", status), ("notice", notice)))

    def answer(route: Route) -> None:
        route.fulfill(content_type="text/event-stream", body=events)

    window.page.route("**/events", answer)
    window.open()
    expect(window.page.locator("#events .text")).to_have_text(MARKUP)
    expect(window.page.locator("#events .source")).to_have_text(MARKUP)
    expect(window.page.locator("#reasons")).to_contain_text("Lost the service")  # this stream has an end
    expect(window.page.locator("img")).to_have_count(0)


def test_a_failover_shows_as_it_happens(simulated: Service, open_page: Open):
    """Worker 1 is killed: degraded, and why; the spare is live with its instruments. Given back, it is healthy."""
    window = open_page(simulated)
    window.wait_for_health("healthy")
    simulated.kill("worker-1")
    window.wait_for_health("degraded")
    expect(window.page.locator("#reasons")).to_have_text("connection 1 has failed over, others record its instruments")
    expect(window.figure("state", 3)).to_have_text("live")
    expect(window.figure("confirmed_instruments", 3)).to_have_text(str(PRIMARY))
    expect(window.figure("tick_rate_1s", 3)).not_to_have_text("0.0")
    window.page.select_option("#connection", "3")
    expect(window.page.locator("#range")).to_have_text(f"1 to 50 of {PRIMARY}")
    window.page.check("#gaps-only")
    expect(window.page.locator("#events .text")).to_contain_text([f"{PRIMARY} instruments were not recorded for"])
    window.page.uncheck("#gaps-only")
    assert window.illegible() == []
    window.picture("degraded")
    simulated.wait_until_live(1)
    with Client(simulated.run_dir) as client:
        client.failback(1)
    window.wait_for_health("healthy")
    expect(window.figure("state", 3)).to_have_text("standby")
    assert window.complaints == []


def test_it_says_when_nobody_answers(simulated: Service, open_page: Open):
    """Without the supervisor, with a silent server and without any it says so, and goes on when all is back."""
    window = open_page(simulated)
    page = window.page
    simulated.kill("supervisor")
    window.wait_for_link("gone")
    expect(page.locator("#health-word")).to_have_text("no service")
    expect(page.locator("#reasons")).to_contain_text("The service does not answer")
    start(simulated)
    window.wait_for_link("live")
    simulated.send("http", signal.SIGSTOP)
    window.wait_for_link("lost")
    simulated.send("http", signal.SIGCONT)
    window.wait_for_link("live")
    simulated.kill_all()
    window.wait_for_link("lost")
    expect(page.locator("#health-word")).to_have_text("lost")
    expect(page.locator("#reasons")).to_contain_text(re.compile(r"Figures are as of \d\d:\d\d:\d\d, when it was"))
    assert page.title().startswith("lost")
    expect(window.figure("storage.ticks_stored")).to_contain_text(re.compile(r"\d"))
    assert window.illegible() == []
    window.picture("lost")
    start(simulated)
    window.wait_for_link("live")
    expect(page.locator("#health-word")).to_have_text("healthy")


def test_all_connections_refused_is_down(kite: Kite, new_service: NewService, begin: Begin, open_page: Open):
    """Kite drops all sockets and takes none: down, with the reason on the page and on the cards; and back."""
    universe = {"primary": [408065, 256265], "secondary": [738561]}
    service = new_service(http={"listen": free_address()}, universe=universe)
    begin(service)
    kite.load(200)
    window = open_page(service)
    window.wait_for_health("healthy")
    kite.tell("bar", how=429)
    for connection in kite.connections():
        kite.tell("abort", connection=connection["number"])
    window.wait_for_health("down")
    expect(window.page.locator("#reasons li").first).to_contain_text("2 instruments uncovered")
    expect(window.figure("state", 1)).not_to_have_text("live")
    expect(window.page).to_have_title(re.compile("^down · "))
    expect(window.figure("reason", 1)).to_contain_text("429")
    assert window.illegible() == []
    window.picture("down")
    kite.tell("bar", how=None)
    expect(window.page.locator("body")).not_to_have_attribute("data-health", "down")


def test_it_asks_for_the_token(tmp_path: Path, browser: Browser):
    """Where one is set the page asks for it, keeps it for the tab and never puts it into an address."""
    service = Service(tmp_path / "service", http={"listen": free_address()})
    service.give(MDS_HTTP__TOKEN=TOKEN)
    window = Window(browser, address(service))
    try:
        start(service)
        page = window.open()
        expect(page.locator("#token")).to_be_focused()
        expect(page.locator("#figures")).to_be_hidden()
        assert window.illegible() == []
        page.keyboard.type("another")
        page.keyboard.press("Enter")
        expect(page.locator("#token-problem")).to_have_text("The service does not take this token.")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        window.wait_for_link("live")
        expect(page.locator("#ask-token")).to_be_hidden()
        expect(page.locator("#instruments tbody tr")).to_have_count(50)
        page.reload()
        window.wait_for_link("live")
        expect(page.locator("#ask-token")).to_be_hidden()
        expect(page.locator("#docs")).to_be_hidden()  # a link carries no token
        assert not [url for url in window.requests if TOKEN in url]
        assert page.evaluate("localStorage.length") == 0
    finally:
        window.close()
        service.kill_all()
        print(service.logs())  # noqa: T201  pytest shows it with a failure
