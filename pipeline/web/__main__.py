"""The HTTP process: `python -m pipeline.web`, by the supervisor.

It asks the supervisor and answers over HTTP. Nothing depends on it: where its port is taken it waits, and where it
dies it is started again. It gives way to the recording processes.
"""

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
import sys

import zmq

from pipeline import role
from pipeline.config import Config, from_child
from pipeline.errors import ConfigError, MdsError
from pipeline.web import app, page
from pipeline.web.events import Hub
from pipeline.web.guard import Guard
from pipeline.web.protocol import BACKLOG, Server
from pipeline.web.source import Source

log = logging.getLogger("pipeline.web")

NICENESS = 10
FILES = 1024  # open at a time: all connections that the server takes, and those that wait to be accepted
HEARTBEAT_S = 0.5
RETRY_S = 1.0  # to listen
SEND_BUFFER = 256 * 1024  # bytes that the kernel keeps for a client that does not read


class Web:
    """One run of the process."""

    def __init__(self, config: Config, line: role.StatusLine) -> None:
        if config.http.address is None:
            raise ConfigError("http.listen is empty: there is nothing to serve")
        self._address = config.http.address
        self._listen_on = config.http.listen
        self._line = line
        self._state = "waiting"
        self._stop = asyncio.Event()
        self._source = Source(config.runtime.run_dir)
        self._hub = Hub(self._source)
        document = page.load()
        self._server = Server(Guard(app.create(config, self._source, self._hub, document), config.http, document))

    async def run(self) -> None:
        """Serve until a signal comes."""
        for number in role.STOP_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        tasks = [
            asyncio.create_task(work) for work in (self._beat(), self._serve(), self._hub.run(), self._stop.wait())
        ]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self._hub.end()
        self._server.should_exit = True
        if self._state == "running":
            await asyncio.wait([tasks[1]])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._source.close()
        for task in done:
            task.result()  # one that ended by itself has failed

    async def _serve(self) -> None:
        sockets = await self._listen()
        self._state = "running"
        self._tell()
        await self._server.serve(sockets)

    async def _listen(self) -> list[socket.socket]:
        """Return the sockets, as soon as they can be had."""
        told = ""
        while True:
            try:
                sockets = await _bound(self._address)
            except OSError as error:
                problem = str(error.strerror).partition(" (while")[0]  # the address is named already
                if problem != told:
                    told = problem
                    log.error(
                        'cannot listen on %s: %s; end what has it, or set http.listen to another address ("": none). '
                        "Recording goes on, and this is tried again every second",
                        self._listen_on,
                        problem,
                    )
                await asyncio.sleep(RETRY_S)
            else:
                log.info("the status is at http://%s", self._listen_on)
                return sockets

    async def _beat(self) -> None:
        while True:
            self._tell()
            await asyncio.sleep(HEARTBEAT_S)

    def _tell(self) -> None:
        self._line.send("status", state=self._state)


async def _bound(address: tuple[str, int]) -> list[socket.socket]:
    """Return a listening socket for each address that the name has. Raises OSError."""
    host, port = address
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    with contextlib.ExitStack() as opened:
        sockets = []
        for family, at in dict.fromkeys((family, at) for family, _, _, _, at in found):
            try:
                made = socket.create_server(at, family=family, backlog=BACKLOG)  # with SO_REUSEADDR
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and len(found) > 1:  # localhost where there is no IPv6
                    continue
                raise
            opened.callback(made.close)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # head and body of an answer leave one by one
            sockets.append(made)
        if not sockets:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        opened.pop_all()
        return sockets


def main() -> int:
    """Run the process as the supervisor's child; return the exit code."""
    config = from_child()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    role.set_up_log(config, role.HTTP, context)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # what clients do wrong is no news
    try:
        role.Lock(role.lock_path(config, role.HTTP)).acquire(config.http_hash)
        _give_way()
        _raise_file_limit()
        asyncio.run(_run(config, context))
    except MdsError as error:
        log.error("%s", error)
        return error.exit_code
    except Exception:
        log.exception("the HTTP process has failed")
        return 1
    return 0


def _give_way() -> None:
    """Let recording come first, as far as this may be asked for."""
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # who wakes up does not interrupt those that run


def _raise_file_limit() -> None:
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    may_have = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    if files < may_have:
        resource.setrlimit(resource.RLIMIT_NOFILE, (may_have, most))


async def _run(config: Config, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    line = role.StatusLine(context, config.runtime.run_dir, role.HTTP)
    try:
        await Web(config, line).run()
    finally:
        line.close()


if __name__ == "__main__":
    sys.exit(main())
