"""What the released 5B weights alone need; never imported by the embedded size. May import: models, io, errors."""
