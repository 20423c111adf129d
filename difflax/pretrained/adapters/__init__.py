"""Files that change a checkpoint: LoRA and textual inversion."""
