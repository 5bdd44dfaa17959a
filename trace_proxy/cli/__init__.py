"""The commands: `trace-proxy`, and `trace-proxy talk`, a client for people."""
