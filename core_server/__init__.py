"""core-server: a plain app-server that speaks JSON-RPC over stdio."""
