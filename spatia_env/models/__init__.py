"""Networks of both sizes and the pipeline that samples clips. May import: geometry, io, errors."""
