"""Many worlds: batched in one process, on Ray, and for stable-baselines3. May import: env and everything below."""
