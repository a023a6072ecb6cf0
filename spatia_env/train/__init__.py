"""From seeds to the embedded checkpoint: data, autoencoder, geometry, world model, packing."""
