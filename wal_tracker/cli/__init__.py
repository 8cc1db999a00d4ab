"""The commands: read, call, print. Every decision is made below."""
