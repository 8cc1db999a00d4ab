"""One YAML file to frozen dataclasses, every error with its line. Compiles no rule, imports no destination."""
