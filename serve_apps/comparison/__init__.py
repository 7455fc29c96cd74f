"""Live comparison: which arm an episode gets, what the outcomes prove, and what is done about it."""
