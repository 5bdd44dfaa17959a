"""A turn as it runs: the engine is sampled, tools are used, approvals are asked, all is reported."""
