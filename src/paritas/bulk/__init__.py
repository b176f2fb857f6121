"""Encoding a corpus of any size into files, on one machine or many, so that nothing is lost or done twice."""

from paritas.bulk.job import Summary, encode
from paritas.bulk.progress import Stopped
from paritas.bulk.request import Request

__all__ = ["Request", "Stopped", "Summary", "encode"]
