"""A run's folder: what is in it, and how it is written so that nothing is lost."""
