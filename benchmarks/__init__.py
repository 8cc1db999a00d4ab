"""What the pipeline costs and how far behind it runs: see README.md here. Not part of the package."""
