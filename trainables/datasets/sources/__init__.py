"""Where datasets come from: one file a format, all answering the same few questions (``base.Source``)."""
