"""The three connections to Kite, by what the supervisor says of them: for each state the cause and the cure. Pure."""

from typing import NamedTuple

from pipeline.config import MAX_INSTRUMENTS
from pipeline.doctor.finding import Check, Finding
from pipeline.role import worker_role
from pipeline.status import ConnectionStatus

AREA = "connections"
ROOM_LEFT = 100  # with less room for further instruments it is nearly full
SPARE = 3


class Cure(NamedTuple):
    """What a state that is not wished for means, and what helps."""

    why: str
    todo: str


_PATIENCE = Cure("what it should record is not recorded yet", "wait a moment; it tries again by itself")
CURES = {
    "starting": _PATIENCE,
    "connecting": _PATIENCE,
    "unauthorised": Cure("Kite refuses the access token, and goes on doing so until there is a new one", "mds login"),
    "rate_limited": Cure(
        "Kite gives an API key three connections: others use the rest, or ones that are gone are still counted",
        "end the other program that uses this API key, or leave it room with kite.max_connections; a connection that "
        "broke is counted for some minutes",
    ),
    "silent": Cure(
        "the socket was open and nothing came any more, not even Kite's heartbeat",
        "look at the network (mds doctor, network); it tries again by itself",
    ),
    "down": Cure(
        "what it should record is not recorded, unless another connection carries it",
        "look at the network (mds doctor, network), and at mds events; it tries again by itself",
    ),
    "failed": Cure("its process is given up, and not started again by itself", "see its log, then: mds restart {role}"),
}
WELL = {
    "live": "live",
    "idle": "closed, for it has no instruments",
    "standby": "standing by as the spare",
    "off": "not used, as kite.max_connections says",
}


def judge(connection: ConnectionStatus) -> list[Finding]:
    """Judge state and room of a connection."""
    return [judge_state(connection), *judge_room(connection)]


def judge_state(connection: ConnectionStatus) -> Finding:
    """Judge whether it does what it should."""
    check = Check(AREA, f"connection_{connection.connection_id}")
    name = connection.role
    unsent = connection.subscribed_instruments - connection.confirmed_instruments
    if connection.state == "live" and connection.gap_open:
        why = "ticks are being missed; the gap goes to the event log when it is over"
        return check.failure(f"{name}, live, and a gap is open", why, f"see mds events; {_restart(connection)}")
    if connection.state == "live" and unsent > 0:
        why = "of these no ticks come on this connection"
        return check.warning(f"{name}, live, {unsent:,} instruments are not sent to Kite yet", why, "wait a moment")
    if connection.state == "idle" and connection.subscribed_instruments:
        until = "until its instruments are sent to it, or until market.connect"
        return check.ok(f"{name}, closed, {connection.subscribed_instruments:,} instruments, {until}")
    if connection.state in WELL:
        on = f", {connection.subscribed_instruments:,} instruments" if connection.state == "live" else ""
        return check.ok(f"{name}, {WELL[connection.state]}{on}")
    reason = f": {connection.reason}" if connection.reason else ""
    what = f"{name}, {connection.state}{reason}"
    cure = CURES.get(connection.state, Cure("this version does not know that state", "mds events"))
    todo = cure.todo.format(role=worker_role(connection.connection_id))
    is_spare = connection.connection_id == SPARE and not connection.subscribed_instruments
    if is_spare:
        return check.warning(what, f"there is no spare while another fails: {cure.why}", todo)
    is_passing = connection.state in ("starting", "connecting")
    return (check.warning if is_passing else check.failure)(what, cure.why, todo)


def judge_room(connection: ConnectionStatus) -> list[Finding]:
    """Judge whether it can take more instruments, if it is nearly full."""
    subscribed = connection.subscribed_instruments
    if not subscribed or connection.capacity_remaining >= ROOM_LEFT or subscribed < MAX_INSTRUMENTS - ROOM_LEFT:
        return []
    what = f"connection {connection.connection_id} has {subscribed:,} of the {MAX_INSTRUMENTS:,} that Kite allows"
    todo = 'let the others take them: universe.overflow = "spill", or mds subscribe --connection N'
    check = Check(AREA, f"room_{connection.connection_id}")
    return [check.warning(what, "further ones are refused, and it can carry none of another's", todo)]


def _restart(connection: ConnectionStatus) -> str:
    return f"if it stays: mds restart {worker_role(connection.connection_id)}"
