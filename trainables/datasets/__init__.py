"""Datasets: LeRobot v3.0 folders written and read with pyarrow and Ray Data, their statistics, digest and split."""
