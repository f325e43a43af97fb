"""`mds doctor`: what is wrong, why that matters, and what to do."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from pipeline import config, readable
from pipeline.cli.options import completions, config_option, json_option, print_json
from pipeline.config import CONNECTIONS
from pipeline.doctor import connection as depth
from pipeline.doctor import examination
from pipeline.doctor.finding import Finding, is_well

STYLES = {"ok": "green", "warning": "yellow", "failure": "red", "skipped": "dim"}


@click.group(invoke_without_command=True)
@click.option("--offline", is_flag=True, help="Ask nobody over the network.")
@config_option
@json_option
@click.pass_context
def doctor(context: click.Context, *, offline: bool, config_file: Path | None, as_json: bool) -> None:
    """Find out what is wrong with the recorder, the machine, or the way to Kite, and what to do about it.

    It looks at settings, credentials, network, clock, disk, limits, processes, connections, ticks and market hours. It
    takes less than ten seconds, changes nothing, shows no secret, and needs neither credentials nor a running service.

    Exits with 1 if anything has failed, with 0 where there are no more than warnings.

    \b
      mds doctor                    look at everything
      mds doctor connection 1       look closely at one connection
    """
    if context.invoked_subcommand:
        context.obj = (config_file, as_json)
        return
    findings = examination.examine(config_file, offline=offline)
    if as_json:
        print_json({"ok": is_well(findings), "findings": [finding._asdict() for finding in findings]})
    else:
        _show(Console(), findings)
    sys.exit(0 if is_well(findings) else 1)


@doctor.command(short_help="Look closely at one connection.")
@click.argument(
    "number",
    type=click.IntRange(CONNECTIONS[0], CONNECTIONS[-1]),
    metavar="N",
    shell_complete=completions(*CONNECTIONS),
)
@config_option
@json_option
@click.pass_obj
def connection(group: tuple[Path | None, bool], number: int, config_file: Path | None, as_json: bool) -> None:
    """Look closely at connection N: state and cause, process, spool, instruments, rates, and what happened today.

    Without a running service it tells what the files tell, and exits with 1.
    """
    settings = config.load(config_file or group[0]).resolved()
    found = depth.examine(settings, number)
    if as_json or group[1]:
        findings = [finding._asdict() for finding in found.findings]
        print_json({"ok": is_well(found.findings), "connection": found.to_json(), "findings": findings})
    else:
        console = Console()
        _show(console, found.findings)
        console.print()
        for line in _lines(found):
            console.print(readable.printable(line), highlight=False, markup=False, soft_wrap=True)
    sys.exit(0 if is_well(found.findings) else 1)


def _show(console: Console, findings: Sequence[Finding]) -> None:
    """Print the findings of each area under its name, and how many there are of each kind."""
    area = ""
    for finding in findings:
        if finding.area != area:
            area = finding.area
            console.print(Text(area, style="bold"))
        console.print(_told(finding), highlight=False, soft_wrap=True)
    counts = Counter(finding.status for finding in findings)
    problems = [readable.counted(counts[status], status) for status in ("failure", "warning")]
    console.print(", ".join([*problems, f"{counts['ok']} ok, {counts['skipped']} skipped"]), highlight=False)


def _told(finding: Finding) -> Text:
    text = Text("  ") + Text(f"{finding.status:8}", style=STYLES[finding.status])
    text.append(f"{finding.check.replace('_', ' ')}: {finding.what}")
    for name, words in (("why", finding.why), ("do", finding.todo)):
        if words:
            text.append(f"\n          {name + ':':5}{words}")
    return text


def _lines(found: depth.Depth) -> Iterator[str]:
    if (status := found.status) is not None:
        since = f" since {readable.moment(found.since)}" if found.since else ""
        reason = f" ({status.reason})" if status.reason else ""
        yield f"connection {status.connection_id}, {status.role}, for {status.mode} mode: {status.state}{reason}{since}"
        yield f"  process      {status.pid or '-'}, died {readable.counted(status.restarts, 'time')}"
        wanted, sent = status.subscribed_instruments, status.confirmed_instruments
        never = f", {len(found.never_ticked):,} never ticked{_some(found.never_ticked)}" if found.never_ticked else ""
        yield f"  instruments  {wanted:,} wanted, {sent:,} sent to Kite{never}; room for {status.capacity_remaining:,}"
        rates = f"{status.tick_rate_1s:,.0f} / {status.tick_rate:,.0f} / {status.tick_rate_60s:,.0f} a second"
        yield f"  ticks        {status.tick_count:,}, {rates} (1, 10, 60 s), {readable.ago(status.tick_age_s)}"
        lag = f"{status.ticks_pending:,} pending, lag {readable.milliseconds(status.lag_ms)}"
        yield f"  to be stored {lag}, {status.ticks_refused:,} lost, {status.rejects:,} rejects"
        reconnects = readable.counted(status.reconnects, "reconnect")
        yield f"  since start  {reconnects}, {readable.counted(status.gaps, 'gap')}"
    epochs = readable.counted(len(found.spool_epochs), "epoch")
    yield f"  spool        {readable.size(found.spool_bytes)} in {epochs}"
    for carried in found.carried:
        number = readable.counted(carried.instruments, "instrument")
        yield f"  carried      {number} of connection {carried.home} by connection {carried.carrier}"
    yield "  today        " + ("nothing happened" if not found.latest else "")
    for happening in found.latest:
        yield f"    {readable.moment(happening.timestamp)} {happening.event:14} {happening.text}"


def _some(tokens: Sequence[int]) -> str:
    more = ", ..." if len(tokens) > depth.SHOWN_TOKENS else ""
    return f" ({', '.join(map(str, tokens[: depth.SHOWN_TOKENS]))}{more})"
