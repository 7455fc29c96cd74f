"""``python -m cluster.pipeline CONFIG.yaml [--set a.b=c] [--new] [--json]``: what ``ray job submit`` runs."""

from __future__ import annotations

from cluster.cli.pipeline import run
from cluster.stage import run_app

if __name__ == "__main__":
    run_app(run, name="python -m cluster.pipeline")
