"""`mds stop` where the supervisor was killed."""

from tests.integration.conftest import NewService
from tests.integration.service import until

ROLES = ("worker-1", "worker-2", "worker-3", "writer", "simulator")


def test_stop_ends_what_a_killed_supervisor_has_left(new_service: NewService):
    """Recording goes on without it; then all ends in order, everything is stored, and nothing is left to stop."""
    service = new_service()
    service.start("--simulate")
    service.wait_until_live(1, 2)
    service.kill("supervisor")
    stored = service.stored()
    until(lambda: service.stored() > stored + 100, "it goes on recording")
    pids = {role: service.pid(role) for role in ROLES}
    done = service.mds("stop")

    named = ", ".join(f"{role} (process {pid})" for role, pid in pids.items())
    expected = f"the supervisor is gone; ending what it has left: {named}\nended\n"
    assert (done.stdout, done.stderr, done.returncode) == (expected, "", 0)
    assert service.processes() == []
    service.assert_verified()
    assert len(service.events("stopped")) == 3
    again = service.mds("stop")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == f"mds: no service is running in {service.run_dir}; start one with: mds run\n"


def test_stop_ends_children_that_have_just_been_started(new_service: NewService):
    """The supervisor is killed before they hold their locks: nobody stays behind."""
    service = new_service()
    service.start("--simulate")
    until(lambda: service.pid("supervisor") and len(service.processes()) > 1, "a child is started")
    service.kill("supervisor")
    assert service.processes()
    assert service.mds("stop").returncode == 0
    assert service.processes() == []


def test_what_a_killed_worker_has_left_is_named(new_service: NewService):
    """Nobody has started it again: exit 1 says that something stays in its spool; the others end as ever."""
    service = new_service()
    service.start("--simulate")
    service.wait_until_live(1, 2)
    service.kill("supervisor")
    service.kill("worker-1")
    done = service.mds("stop")
    told = "connections with something left in the spool: 1; the next mds run stores it\nended\n"
    assert (done.stdout.partition("\n")[2], done.stderr, done.returncode) == (told, "", 1)
    assert service.processes() == []
    assert {path.name for path in service.spool_dir.iterdir()} == {"0", "1"}  # the supervisor's own events, too
