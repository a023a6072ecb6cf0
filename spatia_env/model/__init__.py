"""The world model: transformer, autoencoder, text, conditioning, sampling and checkpoints. It knows tensors only."""
