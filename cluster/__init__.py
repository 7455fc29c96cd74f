"""The ground floor: what every process of Gaitway shares. It imports neither ``trainables`` nor ``serve_apps``."""

__version__ = "0.1.0"
