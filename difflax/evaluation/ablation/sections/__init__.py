"""The parts of a report, one file each: what they say, and how it is shown."""
