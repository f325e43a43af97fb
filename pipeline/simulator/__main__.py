"""The command `mds simulate`, which hands over to `python -m pipeline.simulator`."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from pipeline import config, log
from pipeline.credentials import SECRET_CHARS
from pipeline.errors import ConfigError, MdsError
from pipeline.simulator import faults, market
from pipeline.simulator.server import Simulator

SECRET_VARIABLE = "KITE_API_SECRET"  # noqa: S105  its name


@click.command(context_settings={"max_content_width": 110, "show_default": True})
@click.option(
    "--config",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Settings file; else the one that MDS_CONFIG names, else mds.toml if there is one.",
)
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on; 0 takes any free one.")
@click.option("--rate", type=int, help="Ticks a second on each connection.")
@click.option("--instruments", type=int, help="Length of the list at GET /tokens.")
@click.option("--seed", type=int, help="Seed of the market: the same seed gives the same instruments.")
@click.option("--frame-ticks", type=int, help="Ticks in one message; 0 sends what every ten milliseconds bring.")
@click.option(
    "--record",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write what each connection is sent into connection-N.sent there, to compare it with what was recorded.",
)
@click.option("--listed", type=int, help="Rows at GET /instruments at least; 0 is as many as come by themselves.")
@click.option("--redirect-url", metavar="URL", help="Where a login sends the browser; else to a page of its own.")
@click.option("--fault", "texts", multiple=True, metavar="FAULT", help="A fault on request, see above; repeatable.")
@click.option("--print-tokens", type=click.IntRange(1, 9000), metavar="N", help="Print N tokens for a universe, end.")
def main(file: Path | None, texts: tuple[str, ...], print_tokens: int | None, **options: Any) -> None:
    """Serve a made-up market as Kite does: same protocol, same limits.

    Options that are not given come from the [simulator] section of the settings. The only lines on stdout are
    "listening on ws://HOST:PORT" and "REST API at http://HOST:PORT", both on one port.

    \b
    Of the REST API there are, for the official client or a browser:
      GET    /connect/login?api_key=K     logs anyone in, and sends the browser on with a request_token
      POST   /session/token               exchanges that for an access token; DELETE ends it
      GET    /user/profile                tells whose access token it is, and so whether it is good
      GET    /instruments[/EXCHANGE]      today's list of instruments, CSV; real names, and made-up ones
      GET    /quote/ltp?i=NSE:INFY        the last price

    Any api_key and access_token are good, for feed and REST API, except the tokens "expired" and "invalid" (HTTP 403).
    Where KITE_API_KEY and KITE_ACCESS_TOKEN are set, only these are, and what a login has brought. Where
    KITE_API_SECRET is set, a login must be completed with it. GET /expire is the morning: no access token is good any
    more but those that are issued later, and the one in /expire?accept=TOKEN. What is connected stays connected.

    Every token of a known segment (its lowest byte: 1 nse, 2 nfo, 3 cds, 4 bse, 5 bfo, 6 bcd, 7 mcx, 8 mcxsx,
    9 indices, 12 nco) can be subscribed, except the dead, which show what becomes of instruments that never
    tick: those with (token >> 8) % 97 == 13.

    \b
    A FAULT is KIND[=VALUE][:CONNECTION][@START][+DURATION], the times in seconds:
      silence:1@5       connection 1 gets nothing from the fifth second on, not even heartbeats
      abort:2@10        connection 2 is dropped without a closing handshake
      malformed=50      every 50th message on all connections is damaged
      refuse=429@0+30   connects are refused with 429 for thirty seconds (or 403)
      profile=403       GET /user/profile refuses every token (or answers with 429, 503)

    While it runs, GET /stats tells what is subscribed and was sent, GET /tokens lists instruments,
    GET /rate?ticks_per_second=N changes the rate of each connection, and
    GET /fault?do=KIND&connection=N&after=S&for=S (every=N for malformed, status=N for refuse and profile)
    makes faults; GET /fault?do=clear ends them.
    """
    try:
        if print_tokens is not None:
            click.echo("\n".join(map(str, market.tokens(print_tokens))))
            return
        wanted = faults.Faults(faults.parse(text) for text in texts)
        settings = _settings(file, {name: value for name, value in options.items() if value is not None})
        api_secret = os.environ.get(SECRET_VARIABLE, "")
        log.setup(settings, "simulator")
        if len(api_secret) >= SECRET_CHARS:
            log.hide(api_secret)
        asyncio.run(_run(Simulator(settings, wanted, api_secret)))
    except MdsError as error:
        click.echo(f"simulator: {error}", err=True)
        sys.exit(error.exit_code)


def _settings(file: Path | None, options: dict[str, Any]) -> config.Config:
    """Return the settings with the options laid over the [simulator] section."""
    is_child = file is None and config.CHILD_VARIABLE in os.environ
    settings = config.from_child() if is_child else config.load(file)
    try:
        section = config.Simulator.model_validate({**settings.simulator.model_dump(), **options})
    except ValidationError as error:
        problem = error.errors()[0]
        message = problem["msg"].removeprefix("Value error, ").lower()
        option = "--" + str(problem["loc"][0]).replace("_", "-")
        raise ConfigError(f"{option} {problem['input']}: {message}") from None
    return settings.with_changes(simulator=section.model_dump())


async def _run(simulator: Simulator) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await simulator.start()
    click.echo(f"listening on {simulator.url}\nREST API at {simulator.api_url}")
    sys.stdout.flush()
    await simulator.run(stop)


if __name__ == "__main__":
    main(prog_name="mds simulate")
