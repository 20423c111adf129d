"""Captioned image data: sources, transforms, the Grain loader, caches."""
