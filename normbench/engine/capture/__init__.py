"""The captured step: what a step calls, recorded once and called again without autograd."""
