"""Which core a thread lives at: new ones go where there is least to do, then stay.

Sticky, because a thread's owner holds it in memory and leases it in the store; asking
another core would be refused. What a placed thread does is not known here.
"""

from collections.abc import Iterable

from trace_proxy.state.core_session import CoreSession, CoreState

_FAILED = CoreState.FAILED  # an attribute of an Enum class costs as much as a call


class Placement:
    """Threads to cores."""

    __slots__ = ("_cores", "_expected", "_home")

    def __init__(self, cores: list[CoreSession]) -> None:
        self._cores = cores
        self._home: dict[str, CoreSession] = {}
        self._expected: dict[str, tuple[CoreSession, int]] = {}

    def __repr__(self) -> str:
        return f"<Placement threads={len(self._home)} cores={len(self._cores)}>"

    def home(self, thread: str) -> CoreSession | None:
        """Where the thread lives, or is just being loaded, if it is anywhere."""
        home = self._home.get(thread)
        if home is None and self._expected and thread in self._expected:
            return self._expected[thread][0]
        return home

    def expect(self, thread: str, core: CoreSession) -> None:
        """A core is asked to load the thread; a second client must not ask another core.

        Each call is taken back by one of `expected_no_more`, however the first ends.
        """
        home, times = self._expected.get(thread, (core, 0))
        self._expected[thread] = (home, times + 1)

    def expected_no_more(self, thread: str) -> None:
        """The core has answered, or never will; `place` says whether it lives there."""
        home, times = self._expected.pop(thread)
        if times > 1:
            self._expected[thread] = (home, times - 1)

    def choose(self, near: int = -1) -> CoreSession | None:
        """The core for something new: up before starting, then the least loaded.

        Args:
            near: The place of the core where who asks was last, -1 for none. It stays there as
                long as the load is about the same: what it says in one piece is then answered in
                one piece.

        Returns:
            None when every core has failed.
        """
        cores = self._cores
        if len(cores) == 1:
            return cores[0] if cores[0].state is not _FAILED else None
        best: CoreSession | None = None
        for core in cores:
            if core.state is not _FAILED and (best is None or core.precedes(best)):
                best = core
        if best is None or not 0 <= near < len(cores):
            return best
        last = cores[near]
        return last if last.about_as(best) else best

    def place(self, thread: str, core: CoreSession) -> None:
        """Make `core` the thread's home."""
        before = self._home.get(thread)
        if before is core:
            return
        if before is not None:
            before.threads -= 1
        self._home[thread] = core
        core.threads += 1

    def forget(self, thread: str) -> None:
        """The thread is loaded nowhere any more."""
        core = self._home.pop(thread, None)
        if core is not None:
            core.threads -= 1

    def of(self, core: CoreSession) -> Iterable[str]:
        """The threads that live at a core; for the rare case that it dies."""
        return [thread for thread, home in self._home.items() if home is core]
