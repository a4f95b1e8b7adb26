"""What every part has: typed options, and a finder by file name."""
