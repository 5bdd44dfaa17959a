"""Core processes: started, watched, restarted, never orphaned."""
