"""What everything stands on: errors, randomness, spaces, tensor files, doubts."""
