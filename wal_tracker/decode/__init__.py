"""The stream's bytes to model items: no connection, no clock."""
