"""The shells: stdio, dispatcher, turn runner, server. Machines decide, these act."""
