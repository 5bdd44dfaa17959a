"""A core that writes down every line it gets, and answers every request with a turn.

Its one argument is the file; a test reads there what the proxy handed on.
"""

import json
import sys
from pathlib import Path


def main() -> None:
    """Serve stdin."""
    with Path(sys.argv[1]).open("ab", buffering=0) as record:
        for line in sys.stdin.buffer:
            record.write(line)
            message = json.loads(line)
            if "id" in message:
                result = {"thread": {"id": "thread"}, "turn": {"id": f"turn-{message['id']}"}}
                answer = json.dumps({"id": message["id"], "result": result}).encode()
                sys.stdout.buffer.write(answer + b"\n")
                sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
