"""Weights of the Hub in and out, one file a family."""
