"""The proxy, with the number of its asyncio tasks in a file: for `scale`, which sees it from outside.

python -m tests.load.watched_proxy FILE [options of trace-proxy]
"""

import asyncio
import sys
import threading
import time
from pathlib import Path

import uvloop

from trace_proxy.cli.main import main

LOOK_S = 0.2
"""How often it counts."""


def watch(file: Path, loops: list[asyncio.AbstractEventLoop]) -> None:
    """Write how many tasks there are, until the process ends."""
    while True:
        time.sleep(LOOK_S)
        tasks = sum(len(asyncio.all_tasks(loop)) for loop in loops)
        file.with_suffix(".new").write_text(str(tasks))
        file.with_suffix(".new").replace(file)


def watched_main() -> int:
    """Run the proxy."""
    file = Path(sys.argv.pop(1))
    loops: list[asyncio.AbstractEventLoop] = []
    make = uvloop.new_event_loop

    def remembered() -> uvloop.Loop:
        loop = make()
        loops.append(loop)
        return loop

    uvloop.new_event_loop = remembered
    threading.Thread(target=watch, args=(file, loops), daemon=True).start()
    return main()


if __name__ == "__main__":
    raise SystemExit(watched_main())
