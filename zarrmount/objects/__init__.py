"""Objects as files: reading them through the cache, staging what is written, storing it."""
