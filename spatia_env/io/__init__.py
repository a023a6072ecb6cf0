"""Files and pictures in and out, argument validation. May import: geometry, errors."""
