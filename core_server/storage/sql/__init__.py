"""The store in SQL: one writer, leases with epochs, rows and their schema."""
