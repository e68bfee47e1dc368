"""Text: prompts, tokenising with labels, batches, and one file per data set."""
