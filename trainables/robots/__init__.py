"""One folder a robot: the MJCF that we wrote, its joint names, limits, and the source of every number."""
