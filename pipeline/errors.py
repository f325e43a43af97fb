"""What can go wrong, as a user sees it: each error names the thing, the cause and the way out."""


class MdsError(Exception):
    """Base of every error that is shown as one line without a traceback; `exit_code` ends the command."""

    exit_code = 1


class ConfigError(MdsError):
    """The configuration or the environment is wrong; nothing was started."""

    exit_code = 2


class AlreadyRunningError(MdsError):
    """Another process holds the run folder or the data folder."""

    exit_code = 2


class NotRunningError(MdsError):
    """No service answers in this run folder."""


class ControlError(MdsError):
    """The service answered a request with an error."""


class EpochError(MdsError):
    """A stream cannot be begun: its spool or what is remembered of it cannot be written."""


class SpoolFullError(MdsError):
    """The spool has reached its limit or its file system is full; the frame was not taken."""
