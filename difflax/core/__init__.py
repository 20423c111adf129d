"""What everything stands on: types, random streams, filters, chips, events, FLOP counts."""
