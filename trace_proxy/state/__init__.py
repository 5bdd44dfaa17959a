"""What is known of connections, cores, threads and requests; each piece has one owner here."""
