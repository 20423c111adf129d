"""The parts of a checkpoint, one file each: text encoders, autoencoder, scheduler."""
