"""Command line of the export stage."""

from cluster.stage import stage_main

if __name__ == "__main__":
    stage_main("trainables.export")
