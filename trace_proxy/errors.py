"""The two ways in which the proxy may fail to serve, each with its exit code.

Both carry one plain line for the person at the terminal: what was wrong and what
to do.  They are for the time before (and the end of) serving; what goes wrong
between two parties on the wire is a JSON-RPC error and never comes through here.
"""


class ConfigurationError(Exception):
    """The options make no sense together or alone: exit code 2.

    The message is one line: which option, what was wrong with it, what to do.
    """

    exit_code = 2


class StartError(Exception):
    """The options are fine, yet the proxy cannot serve: exit code 1.

    The message is one line: what failed (address in use, no core starts) and what to do.
    """

    exit_code = 1
