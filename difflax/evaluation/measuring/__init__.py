"""Anybody's images measured: from files to features, references and numbers with their manifests."""
