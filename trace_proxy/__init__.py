"""trace-proxy: a websocket sidecar that shares, traces and drains app-servers."""
