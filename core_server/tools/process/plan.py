"""What a reaper is to start: made by `spawn`, carried by `marshal`, read by reaper and child.

No import: this is paid for every command.
"""


class Plan:
    """What to start; `marshal` carries it, so plain attributes and no defaults.

    Attributes:
        argv: The command.
        wrapper: What is put before it (bwrap with its options), or nothing.
        cwd: Where it starts.
        env: All of its environment.
        tty: Standard input is a terminal that the command shall control.
        writable: Under Landlock, what it may write to; None for no Landlock.
        filter: The seccomp filter, or nothing.
        user: User and group to become first; None to stay.
        ids: Their names in a new PID namespace; None for no such namespace.
        scratch: Directory to remove afterwards, or an empty text.
        grace_s: From TERM to KILL.
        max_processes: More than so many at once and the command is killed.
        max_memory_bytes: Private memory that one process may have.
    """

    def __init__(self, values: dict[str, object]) -> None:
        self.argv: list[str]
        self.wrapper: list[str]
        self.cwd: str
        self.env: dict[str, str]
        self.tty: bool
        self.writable: list[str] | None
        self.filter: bytes
        self.user: tuple[int, int] | None
        self.ids: tuple[int, int] | None
        self.scratch: str
        self.grace_s: float
        self.max_processes: int
        self.max_memory_bytes: int
        self.__dict__.update(values)
