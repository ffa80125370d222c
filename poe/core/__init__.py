"""What everything stands on: errors, randomness, spaces, doubts."""
