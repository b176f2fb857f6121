"""The certificate: probes, the reference, the comparison, and what a precision costs a search."""
