"""`python -m core_server`."""

from core_server.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
