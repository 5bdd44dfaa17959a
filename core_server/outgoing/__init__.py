"""What leaves for the client: nothing before it is durable, everything in order."""
