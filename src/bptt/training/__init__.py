"""Data in, trained networks out."""
