"""A command as processes: forked by a reaper, watched, bounded, and gone with its turn."""
