"""Models to try moestro with: small trained ones that come along (models/), and random ones of any size."""
