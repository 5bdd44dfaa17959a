"""What a turn may do to the machine: run a command, change a file; always bounded."""
