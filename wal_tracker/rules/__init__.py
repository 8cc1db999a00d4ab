"""A change to the events the configuration makes of it. Pure: knows no connection and no destination."""
