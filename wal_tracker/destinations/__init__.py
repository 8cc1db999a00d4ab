"""What a destination is (`base`), how it is found (`registry`), and HTTP for those that need it (`http`)."""
