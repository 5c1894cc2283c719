"""Densities: how likely an image is among clean ones. One exact likelihood of 8-bit values
(`pixelcnn`), trained on clean images alone (`fitting`), and where an image ranks in it (`ranks`).
"""
