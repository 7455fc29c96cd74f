"""What Ray Data, Train, RLlib and Tune run; each entry point is ``python -m trainables.NAME CONFIG.yaml``."""
