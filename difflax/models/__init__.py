"""Image networks in Flax NNX whose attribute paths mirror the weights of the Hub."""
