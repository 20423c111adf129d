"""What keeps a run alive: checkpoints, recovery, interruption, logs."""
