"""Datasets on their way out: HDF5, MCAP, ROS 2 bags, LeRobot folders; each comes back with the same digest."""
