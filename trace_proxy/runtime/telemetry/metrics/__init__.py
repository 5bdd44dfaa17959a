"""What is counted, and how it is read: Prometheus and OTLP."""
