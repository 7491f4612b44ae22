"""Tiny configs of every family: name -> a function that makes it. "fused" in a name: experts saved as one tensor."""
