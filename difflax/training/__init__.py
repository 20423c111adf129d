"""State, train step, optimizers, sharding, checkpoints and the loop."""
