"""One retryable step each, for the flows to put in order."""
