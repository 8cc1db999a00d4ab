"""The first draft of a configuration for a database: what its tables suggest, as a file a person goes on from."""
