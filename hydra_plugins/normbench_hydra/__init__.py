"""Hydra finds sweeper and launcher in this namespace package."""
