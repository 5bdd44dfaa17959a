"""core-server: a plain app-server that speaks JSON-RPC over stdio."""

__version__ = "0.1.0"
