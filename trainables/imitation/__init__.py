"""Behaviour cloning with Ray Train: an MLP over the whole observation and the recurrent ``simple_lstm``."""
