"""One run: built from its settings, trained, and recorded in its directory."""
