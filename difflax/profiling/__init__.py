"""Plans, benchmarks, and reading compiled programs."""
