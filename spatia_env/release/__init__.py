"""The authors' pipeline, exactly as released: case folders, rounds, renderer, retrieval.

May import: memory, models, slam, geometry, io, errors.
"""
