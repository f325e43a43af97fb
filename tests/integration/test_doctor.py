"""The doctor beside a running service: nothing to say while all is well, and the right words when it is not."""

import json
import signal
from typing import Any

from pipeline.doctor.processes import state_of
from tests.integration.conftest import NewService
from tests.integration.kite import Kite
from tests.integration.service import Service, until
from tests.test_doctor import KEY, TOKEN, serving


def examined(service: Service, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Return exit code and findings by their check; nothing may show a secret."""
    done = service.mds("doctor", *arguments, "--json")
    assert done.stdout, done.stderr
    assert "canary" not in done.stdout + done.stderr
    findings = json.loads(done.stdout)["findings"]
    return done.returncode, {finding["check"]: finding for finding in findings}


def failures(findings: dict[str, Any]) -> set[str]:
    """Return the checks that have failed."""
    return {name for name, finding in findings.items() if finding["status"] == "failure"}


def test_a_service_in_health_and_in_trouble(new_service: NewService, kite: Kite):
    """All is well; then Kite refuses the token, and then the supervisor is stopped by a signal."""
    with serving() as api:
        api_url = f"http://127.0.0.1:{api.server_port}"
        service = new_service(
            kite={"ws_url": kite.url, "api_url": api_url},
            universe={"primary": [408065], "secondary": [738561]},
            market={"calendar": ""},
        )
        service.give(KITE_API_KEY=KEY, KITE_ACCESS_TOKEN=TOKEN)
        service.start()
        kite.load(200)
        service.wait_until_live(1, 2)
        service.wait_for(lambda status: not status["health"]["never_ticked"], "ticks come")
        until(lambda: examined(service)[0] == 0, "the doctor finds nothing wrong")
        _, found = examined(service)
        well = ("service", "supervisor", "worker-1", "connection_1", "connection_2", "token_accepted", "tick_flow")
        assert {found[check]["status"] for check in well} == {"ok"}, found
        assert examined(service, "connection", "2")[0] == 0

        api.token = "canary-newer"  # noqa: S105  made up
        kite.tell("bar", how=403)
        for connection in kite.connections():
            kite.tell("abort", connection=connection["number"])
        service.wait_for(
            lambda status: status["connections"]["1"]["state"] == "unauthorised", "connection 1 is unauthorised"
        )
        code, found = examined(service)
        assert code == 1
        assert {"connection_1", "token_accepted", "health"} <= failures(found), found
        assert "mds login" in found["connection_1"]["todo"]
        done = service.mds("doctor", "connection", "1")
        assert done.returncode == 1
        for words in ("unauthorised", "mds login", "could not connect (refused)", "1 wanted", "canary"):
            assert (words in done.stdout) == (words != "canary"), done.stdout

        pid = service.send("supervisor", signal.SIGSTOP)
        until(lambda: state_of(pid) == "T", "the supervisor is stopped")
        code, found = examined(service, "--offline")
        assert code == 1
        assert {"supervisor", "control_socket"} <= failures(found), found
        assert f"kill -CONT {pid}" in found["supervisor"]["todo"]
        service.send("supervisor", signal.SIGCONT)
        service.kill("supervisor")
        code, found = examined(service, "--offline")
        assert code == 1
        assert "service" in failures(found)
        assert service.mds("stop").returncode in (0, 1)
