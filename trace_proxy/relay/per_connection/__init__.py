"""One core for each client, everything passed through."""
