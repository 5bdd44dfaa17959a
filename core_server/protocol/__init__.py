"""The typed vocabulary of the wire: params, results, notifications, items, methods."""
