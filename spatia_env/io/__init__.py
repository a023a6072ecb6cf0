"""Files and their formats: images, video, point clouds, meshes, tensors, atomic writing, argument validation.

May import `errors` and the geometry of cameras; knows neither the map nor a model.
"""
