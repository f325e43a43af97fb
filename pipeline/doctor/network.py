"""The way to Kite: names, TCP, TLS with a certificate that is checked, and how long each takes."""

import socket
import ssl
import time
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi

from pipeline import readable
from pipeline.config import Config, is_loopback
from pipeline.doctor.finding import Check, Finding
from pipeline.doctor.task import Task

AREA = "network"
LOOK_UP_S = 3.0
CONNECT_S = 1.5  # to one address
ADDRESSES_TRIED = 2
HANDSHAKE_S = 2.0
SLOW_MS = 1000.0
CERTIFICATE_DAYS = 3.0  # with fewer left its owner is late to renew it
_PORTS = {"ws": 80, "http": 80, "wss": 443, "https": 443}
_NO_WAY = "without it no connection can be opened, and nothing is recorded"


class Target(NamedTuple):
    """What is to be reached."""

    key: str  # ws_url or api_url
    host: str
    port: int
    is_secure: bool

    def check(self, what: str) -> Check:
        """Return the check of one step of the way there."""
        return Check(AREA, f"{'feed' if self.key == 'ws_url' else 'api'}_{what}")

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks of all steps."""
        return tuple(self.check(what) for what in ("name", "tcp", "tls"))


class Reach(NamedTuple):
    """How far one comes, and how long it takes; None: so far one did not come, or need not go."""

    failed: Literal["name", "tcp", "tls", ""] = ""
    fault: str = ""
    look_up_ms: float | None = None  # None: it is an address already
    tcp_ms: float | None = None
    tls_ms: float | None = None
    days_left: float | None = None  # of the certificate


def targets(config: Config) -> tuple[Target, Target]:
    """Return what the settings name."""
    feed, api = (_target(key, getattr(config.kite, key)) for key in ("ws_url", "api_url"))
    return feed, api


def proxy_of(target: Target) -> str | None:
    """Return the variable that names a proxy for this; the feed uses none."""
    scheme = "https" if target.is_secure else "http"
    if target.key == "ws_url" or scheme not in getproxies() or proxy_bypass(target.host):
        return None
    return f"{scheme.upper()}_PROXY"


def gather(target: Target) -> Reach:
    """Go there, hand over nothing, and come back."""
    try:
        addresses, look_up_ms = _look_up(target)
    except TimeoutError:
        return Reach("name", f"no answer from a name server within {LOOK_UP_S:.0f} s")
    except OSError as error:
        return Reach("name", error.strerror or str(error))
    except UnicodeError:
        return Reach("name", "it is no name")
    reach = Reach(look_up_ms=look_up_ms)
    fault = ""
    for address in addresses[:ADDRESSES_TRIED]:
        began_s = time.monotonic()
        try:
            with socket.create_connection(address, CONNECT_S) as opened:
                reach = reach._replace(tcp_ms=_since_ms(began_s))
                return _with_tls(target, opened, reach) if target.is_secure else reach
        except OSError as error:
            fault = f"{address[0]}: {error.strerror or error}"
    return reach._replace(failed="tcp", fault=fault)


def judge(target: Target, reach: Reach) -> list[Finding]:
    """Judge the steps of the way."""
    return [_judge_name(target, reach), _judge_tcp(target, reach), _judge_tls(target, reach)]


def _judge_name(target: Target, reach: Reach) -> Finding:
    check = target.check("name")
    if reach.failed == "name":
        what = f"{target.host}, of kite.{target.key}, has no address: {reach.fault}"
        return check.failure(what, _NO_WAY, "look at the network, at /etc/resolv.conf, and at the setting")
    if reach.look_up_ms is None:
        return check.ok(f"{target.host} is an address")
    return check.ok(f"{target.host} is found in {reach.look_up_ms:.0f} ms")


def _judge_tcp(target: Target, reach: Reach) -> Finding:
    check = target.check("tcp")
    if reach.failed == "name":
        return check.skipped("it has no address")
    place = f"{target.host} port {target.port}"
    if reach.failed == "tcp" or reach.tcp_ms is None:
        what = f"{place} cannot be reached: {reach.fault}"
        return check.failure(what, _NO_WAY, f"look at the network, the firewall, and kite.{target.key}")
    if reach.tcp_ms > SLOW_MS:
        what = f"{place} is reached, but after {reach.tcp_ms:.0f} ms"
        return check.warning(
            what, "ticks arrive late, and a connection that is lost comes back late", "see the network"
        )
    return check.ok(f"{place} is reached in {reach.tcp_ms:.0f} ms")


def _judge_tls(target: Target, reach: Reach) -> Finding:
    check = target.check("tls")
    if reach.failed in ("name", "tcp"):
        return check.skipped("it cannot be reached")
    if not target.is_secure and is_loopback(target.host):
        return check.ok("none, and none is needed on this machine")
    if not target.is_secure:
        what = f"kite.{target.key} has no TLS"
        why = "whoever is on the way can read the API key and the token, and change what is recorded"
        return check.warning(what, why, f"write it with {'wss' if target.key == 'ws_url' else 'https'}://")
    if reach.failed == "tls" or reach.days_left is None:
        what = f"TLS with {target.host} fails: {reach.fault}"
        why = "mds does not connect without: key and token could go to an impostor"
        todo = "look for a proxy or a login page on the way, at the clock, and at SSL_CERT_FILE and the CA certificates"
        return check.failure(what, why, todo)
    if reach.days_left < CERTIFICATE_DAYS:
        what = f"the certificate of {target.host} ends in {reach.days_left:.1f} d"
        return check.warning(what, "from then on connects are refused", "look at it again; its owner should renew it")
    return check.ok(f"certificate verified, good for {reach.days_left:.0f} d; {reach.tls_ms or 0:.0f} ms")


def tls_context() -> ssl.SSLContext:
    """Return what checks certificates as the feed does: SSL_CERT_FILE and the system's authorities, else certifi's."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if not paths.cafile and not (paths.capath and any(Path(paths.capath).iterdir())):
        context.load_verify_locations(certifi.where())
    return context


def _target(key: str, url: str) -> Target:
    parts = urlsplit(url)
    return Target(key, parts.hostname or "", parts.port or _PORTS[parts.scheme], parts.scheme in ("wss", "https"))


def _look_up(target: Target) -> tuple[list[tuple[str, int]], float | None]:
    with suppress(ValueError):
        return [(str(ip_address(target.host)), target.port)], None
    began_s = time.monotonic()
    task = Task(lambda: socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM))
    found = task.result(LOOK_UP_S)
    by_family = sorted(found, key=lambda one: one[0] != socket.AF_INET)  # the feed takes IPv4, where there is any
    return [(str(one[4][0]), target.port) for one in by_family], _since_ms(began_s)


def _with_tls(target: Target, opened: socket.socket, reach: Reach) -> Reach:
    opened.settimeout(HANDSHAKE_S)
    began_s = time.monotonic()
    try:
        with tls_context().wrap_socket(opened, server_hostname=target.host) as secured:
            certificate = secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return reach._replace(failed="tls", fault=error.verify_message or str(error.reason))
    except TimeoutError:
        return reach._replace(failed="tls", fault=f"no answer within {HANDSHAKE_S:.0f} s")
    except (OSError, ValueError) as error:
        return reach._replace(failed="tls", fault=getattr(error, "reason", None) or str(error))
    ends_s = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    return reach._replace(tls_ms=_since_ms(began_s), days_left=(ends_s - time.time()) / readable.DAY_S)


def _since_ms(began_s: float) -> float:
    return (time.monotonic() - began_s) * 1000
