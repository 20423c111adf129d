"""Files of the Hub: safetensors, downloads, PyTorch's names; nothing about a model."""
