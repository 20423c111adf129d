"""Judges that read an image and say whether it shows what its prompt names."""
