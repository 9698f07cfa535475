"""The gradient looked into: by lag, by step, and as a dynamical system."""
