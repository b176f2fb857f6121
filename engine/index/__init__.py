"""The index: vectors in usearch, their texts in SQLite, and the name of the bundle that made them.

On disk an index is a directory. `index.json` names the files of the current generation and their digests;
saving writes a new generation beside it and then replaces that one small file.

    index.json   vectors-<generation>.usearch   texts-<generation>.sqlite

    index.py            VectorIndex
    contents.py         vectors and documents together: reads, and changes that are whole
    hnsw.py             the vectors; each distinct one once
    document_table.py   their ids, titles and texts
    info.py             index.json
    storage.py          numbers of four bytes to one bit a channel
    generations.py      the files: whole, checked, replaced
    turns.py            many searches or one change at a time
    arguments.py        what callers pass
"""

from paritas.engine.index.generations import check_target
from paritas.engine.index.index import VectorIndex
from paritas.engine.index.info import FORMAT, INDEX, Hit, IndexInfo, Metric, ScalarType
from paritas.engine.index.storage import DIRECTIONS

__all__ = [
    "DIRECTIONS",
    "FORMAT",
    "INDEX",
    "Hit",
    "IndexInfo",
    "Metric",
    "ScalarType",
    "VectorIndex",
    "check_target",
]
