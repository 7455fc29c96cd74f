"""Stages, their fingerprints, resume after a crash, the run folder."""
