"""Whole networks, one file per system, with named presets that match the papers.

Nothing is imported eagerly: write `from vaesr.models.vae import VAE, PRESETS`.
"""
