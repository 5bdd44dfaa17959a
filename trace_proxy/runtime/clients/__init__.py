"""Client connections: listeners, websockets, stdio, and what is written to them."""
