"""A core that has threads and no turns: `thread/start` gets a fresh id, all else its params.

For measuring what threads cost the proxy, so it does as little as it can.
"""

import json
import sys
from itertools import count


def main() -> None:
    """Serve stdin until it ends."""
    numbers = count(1)
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "id" not in message:
            continue
        result = message.get("params", {})
        if message["method"] == "initialize":
            result = {"userAgent": "thread-core"}
        elif message["method"] == "thread/start":
            result = {"thread": {"id": f"thread-{next(numbers)}"}}
        answer = json.dumps({"id": message["id"], "result": result})
        sys.stdout.buffer.write(answer.encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
