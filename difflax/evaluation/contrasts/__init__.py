"""Statistics of several arms that drew the same prompts with the same seeds: who differs, who leads, what the
design could have seen.
"""
