"""What a run minimises, one objective a file."""
