"""The shells: everything that touches a socket, a pipe, a process or OpenTelemetry."""
