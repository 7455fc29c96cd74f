"""Datasets: recorded from experts, and LeRobot v3.0 folders (``cluster.lerobot``) written and read through Ray Data."""
