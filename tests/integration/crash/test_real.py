"""Killed at any line, for real."""
