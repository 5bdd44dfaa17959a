"""`python -m trace_proxy`. Imports the door only: `main` blocks the signals first thing."""

from trace_proxy.cli.main import main

raise SystemExit(main())
