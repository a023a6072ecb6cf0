"""SLAM of a clip in the map: poses (`tracking`, `pose_graph`), depth and dynamic mask (`depth_network`), `pipeline`.

May import: memory, models, geometry, io, errors.
"""
