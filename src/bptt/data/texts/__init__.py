"""Texts as tokens: characters, bytes or pairs of them."""
