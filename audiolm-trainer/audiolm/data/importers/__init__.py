"""Published corpora as they lie on disk -> annotation entries."""
