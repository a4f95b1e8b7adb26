"""Orders of the training images, one file each."""
