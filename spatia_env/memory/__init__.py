"""The point map, the persistent state of a world: fused from clips, rendered, edited, queried and saved.

May import `io`, camera geometry and `errors`; knows neither a model nor SLAM.
"""
