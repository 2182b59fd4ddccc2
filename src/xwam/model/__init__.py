"""The networks: VAE, text encoder, diffusion transformer."""
