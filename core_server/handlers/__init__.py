"""A file per resource: context and params in, a result out; never a write to the wire."""
