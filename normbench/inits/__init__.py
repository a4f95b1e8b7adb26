"""Weight initializers, one file each."""
