"""LeRobot v3.0 folders: the format itself, which collection writes, imitation reads, and the endpoint writes again."""
