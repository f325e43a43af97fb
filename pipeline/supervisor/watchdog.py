"""Whether a restart of the supervisor may help, and how the service does in one line: what systemd is told. Pure.

systemd ends and restarts a supervisor that does not feed its watchdog for WatchdogSec. The others are adopted by the
next one and lose nothing by it; a process that was given up gets new tries, which is the point of it.
"""

from pipeline.config import CONNECTIONS
from pipeline.role import WRITER, worker_role
from pipeline.status import HealthResponse
from pipeline.supervisor.health import STUCK_S, Facts


def fault(facts: Facts) -> str:
    """Return what is wrong with recording by our own doing, "" where nothing is, or where no restart would mend it.

    It is what is wrong at this moment: a process that is about to be started again counts, and it is the watchdog's own
    time that makes it last. The watchdog is fed, because the cause lies elsewhere, while Kite refuses the token, while
    there is no network, while the market is closed, and while the disk is full, fails or hangs. Where the supervisor's
    loop itself hangs, nobody comes to ask.
    """
    roles = [WRITER, *(worker_role(c) for c in CONNECTIONS if facts.connections[str(c)].subscribed_instruments)]
    for name in roles:
        state = facts.processes[name].state
        if state != "running":
            return f"{name} is {'given up' if state == 'failed' else state}"
    storage = facts.storage
    is_the_disk = storage.state != "recording" or (storage.syncing_since_s or 0) > STUCK_S
    if facts.uncommitted_s > STUCK_S and facts.writer_answers and not is_the_disk:
        return "nothing becomes durable, and it is not the disk"
    return ""


def status_line(health: HealthResponse) -> str:
    """Return how it does, for `systemctl status`: the worst of the reasons; nothing that changes with every tick."""
    if health.reasons:
        more = f" (and {len(health.reasons) - 1} more: mds health)" if len(health.reasons) > 1 else ""
        return f"{health.status}: {health.reasons[0]}{more}"
    return f"{health.status}: {health.total_subscribed_instruments} instruments" + (
        f", {health.resting}" if health.resting else f" on {health.active_connections} connections"
    )
