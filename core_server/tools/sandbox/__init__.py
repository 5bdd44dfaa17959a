"""What a command may touch, and the ways this machine has to hold it to that."""
