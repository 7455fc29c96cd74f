"""Rollouts with confidence intervals, and a simulated fleet that calls a live endpoint."""
