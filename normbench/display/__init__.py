"""What stands on the screen while a command works, and after it."""
