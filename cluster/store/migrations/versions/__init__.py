"""One file a revision, named by its revision: ``v0001_...``."""
