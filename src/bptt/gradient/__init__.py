"""Derivatives through time."""
