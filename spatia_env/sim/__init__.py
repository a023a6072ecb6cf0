"""Simulated scenes with ground truth (PyBullet): training data, scene resets and benchmarks."""
