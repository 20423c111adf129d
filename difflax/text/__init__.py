"""Text encoders in Flax NNX, and their tokenizers."""
