"""Units of one's own: what they are compiled from, how, and what they are tried against."""
