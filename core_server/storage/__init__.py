"""Where threads live: pluggable, all of one shape (`base.Store`)."""
