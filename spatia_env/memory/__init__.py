"""The map: points in blocks, written by clips, rendered, edited, asked, and kept in files."""
