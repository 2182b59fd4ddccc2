"""Noise levels, losses, solvers and the asynchronous loop. Knows no network."""
