"""File changes: read a patch, plan it whole, apply it beneath the workspace."""
