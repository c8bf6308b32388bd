"""What belongs to records and can be erased: keys, pseudonyms, texts; sealed, outside the log."""
