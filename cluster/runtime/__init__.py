"""Start, attach to and stop Ray and Serve."""
