"""Served episodes return to the datasets: sampled and recorded in the replica, written by a process beside it."""
