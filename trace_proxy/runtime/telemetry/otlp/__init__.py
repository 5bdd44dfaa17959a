"""OTLP: records encoded straight to protobuf or JSON, posted by a thread of their own."""
