"""What a user may settle: the command line and the environment, read once, as frozen values."""
