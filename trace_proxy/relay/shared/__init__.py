"""Many clients on a few cores: `hub` takes every event and hands it to one of its parts."""
