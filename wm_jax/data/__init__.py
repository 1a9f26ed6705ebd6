"""Recorded episodes, latents and weights on disk."""
