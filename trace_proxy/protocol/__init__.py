"""The wire as a proxy sees it: methods, envelopes, the members that it reads, refusals."""
