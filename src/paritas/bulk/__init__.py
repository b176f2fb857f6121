"""Encoding a corpus of any size into files, on one machine or many, so that nothing is lost or done twice."""
