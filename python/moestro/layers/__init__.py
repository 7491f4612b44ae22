"""The parts of a decoder layer over the core's operations: no state but weights, no arithmetic of their own."""
