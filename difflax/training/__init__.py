"""State, train step, optimizers, objectives, tunings and the loop that runs them."""
