"""Augmentation: changed copies of recorded episodes, each a pure function of the episode, the configuration and its seed."""
