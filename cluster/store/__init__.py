"""What outlives a process: one SQL database of our own tables, and MLflow's runs and model registry behind two small modules.

``database`` and ``comparisons`` are light enough for a serving replica. ``tracking`` and ``registry`` import MLflow when they
are first used, which takes seconds; replicas leave them alone.
"""
