"""What waits and how much of it: admission, the queue to a core, the queue to a client."""
