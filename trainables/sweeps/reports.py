"""Names under which a trial tells Tune, beside its figures, how it stands. Imports nothing."""

__all__ = ["NODE", "PROGRESS", "WORK"]

PROGRESS = "progress"
"""How far its policy is, in the sweep's unit."""
WORK = "work"
"""What this report cost, in the sweep's unit."""
NODE = "node"
"""Ray's id of the node that it runs on."""
