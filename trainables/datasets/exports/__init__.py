"""What datasets are written as for others: one file a format, all streaming an episode at a time, all published whole or not at all."""
