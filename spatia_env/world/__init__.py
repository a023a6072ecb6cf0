"""What persists between steps (`WorldState`), how a world begins, is edited and asked.

May import: slam, events, memory, models, sim, geometry, io, errors.
"""
