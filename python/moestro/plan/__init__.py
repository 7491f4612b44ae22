"""Plans made from plain numbers, before anything is loaded: memory, and what this machine offers."""
