"""Ray Tune sweeps over PPO: search space, scheduler, trials, their record in MLflow, and the best checkpoint."""
