"""The engine: batches, training steps, evaluation. It knows no settings, files or screen."""
