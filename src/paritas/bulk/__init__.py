"""Encoding a corpus of any size into files, on one machine or many, so that nothing is lost or done twice."""

from paritas.bulk.job import Request, Stopped, Summary, encode

__all__ = ["Request", "Stopped", "Summary", "encode"]
