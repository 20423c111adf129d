"""Meshes and sharding rules, processes, placement of activations."""
