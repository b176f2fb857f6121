"""Run by an emulated CPU: encode texts from a bundle, and say what precision="auto" takes there.

    python encode.py PACKAGES BUNDLE TEXTS.json OUT PRECISION...

OUT is a directory, for PRECISION.npy and facts.json.
"""

import json
import sys
from pathlib import Path

sys.path[:0] = sys.argv[1].split(":")

import numpy as np  # noqa: E402 - from the folders named above

from paritas.engine.encoder import Encoder  # noqa: E402
from paritas.engine.runtime.cpus import instructions  # noqa: E402

bundle, texts, out = sys.argv[2], json.loads(Path(sys.argv[3]).read_text("utf-8")), Path(sys.argv[4])
for precision in sys.argv[5:]:
    with Encoder(bundle, precision=precision, threads=1) as encoder:
        np.save(out / f"{precision}.npy", encoder.encode(texts, role="query"))
with Encoder(bundle, precision="auto", threads=1) as encoder:
    facts = {"instructions": instructions(), "auto": encoder.precision, "reason": encoder.contract.reason}
with Encoder(bundle, precision="int8", threads=1) as encoder:
    facts |= {"kernels": encoder.contract.kernels, "kernels_reason": encoder.contract.kernels_reason}
(out / "facts.json").write_text(json.dumps(facts))
