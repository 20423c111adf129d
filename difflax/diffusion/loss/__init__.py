"""What a diffusion model is trained on: losses, weightings, training times, noises."""
