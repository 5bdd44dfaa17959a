"""What answers a turn: pluggable, all of one shape (`base.Engine`)."""
