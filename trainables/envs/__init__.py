"""Batch-first tasks: one file a task holds its configuration, observation, named reward terms and termination."""
