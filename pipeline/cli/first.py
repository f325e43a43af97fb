"""The first process of a container, PID 1, which owes the others there two things that no other process does.

What loses its parent becomes its child, and stays a zombie until it is waited for. And the kernel keeps from it each
signal that it has no handler for. So `mds run` as the first process goes on in a child, and the first one does nothing
but hand on signals and wait. It ends as the child does, and with it all that is in the container: nothing outlives the
supervisor there, and none is adopted. What was received by then is in the spools, and stored by the next run.
"""

import os
import signal

HANDED_ON = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_KILLED = 128  # and the signal: the exit code of a process that was ended by one, as shells have it


def go_on_in_child() -> None:
    """Return in a child process, if this is the first process; the first one never returns. To be called early."""
    if os.getpid() != 1:
        return
    awaited = HANDED_ON | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    code = None
    while code is None:
        number = signal.sigwait(awaited)
        if number in HANDED_ON:
            os.kill(child, number)  # it is not waited for yet, so it is nobody else
        code = _reap(child)
    os._exit(code)


def _reap(child: int) -> int | None:
    """Wait for all that have ended; return the exit code if the child is among them."""
    code = None
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                code = os.waitstatus_to_exitcode(ended[1])
    except ChildProcessError:  # there is none left
        pass
    return code if code is None or code >= 0 else _KILLED - code
