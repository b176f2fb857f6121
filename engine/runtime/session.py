"""The onnxruntime session: which provider, how many threads, and what runs.

Importing this module checks that exactly one onnxruntime distribution is installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from paritas.engine.runtime.cpus import dot_product, instructions
from paritas.engine.runtime.installation import check_installation
from paritas.engine.runtime.kernels import LIBRARY
from paritas.engine.runtime.mapped import Mapped
from paritas.errors import BundleError, ProviderError, RunError, did_you_mean

check_installation()

# From 1.29 on, onnxruntime leaves files in the user's folders and sends its maker what runs here (the names
# and digests of models), unless it is told not to before it is imported. Whoever wants that sets 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime  # noqa: E402 - both lines above must come first

VERSION: str = onnxruntime.__version__

_CACHE_LINE = 64
# Where onnxruntime notes packed weights in an optimized graph: "operator+hash|offset;length;checksum|...".
_PACKED_AT = re.compile(rb"\|(\d+);\d+;")

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "dml": "DmlExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "qnn": "QNNExecutionProvider",
}

_NVIDIA = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
# FP32 on CUDA is TF32 unless told otherwise: factors of 10 bits, which no FP32 certificate allows.
_PROVIDER_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0"}}


def available_providers() -> list[str]:
    """Return the providers of the installed onnxruntime, by its own names."""
    return list(onnxruntime.get_available_providers())


def provider_name(provider: str) -> str:
    """Return onnxruntime's name of a provider that can run here.

    Args:
        provider: a short name ("cpu", "cuda", ...) or onnxruntime's own.

    Raises:
        ProviderError: not a provider, or the installed onnxruntime does not have it.
    """
    name = PROVIDERS.get(provider, provider)
    if name not in PROVIDERS.values():
        raise ProviderError(f"unknown provider {provider!r}{did_you_mean(provider, PROVIDERS)}")
    available = available_providers()
    if name not in available:
        mend = (
            "type: pip uninstall -y onnxruntime && pip install 'paritas[gpu]'"
            if name in _NVIDIA
            else "install the onnxruntime build that has it"
        )
        raise ProviderError(
            f"provider {provider!r} ({name}) is not in the installed onnxruntime "
            f"{onnxruntime.__version__}, which has {', '.join(available)}; {mend}"
        )
    return name


def is_cpu(provider: str) -> bool:
    """Say whether a provider, by either name, is the CPU."""
    return provider in ("cpu", PROVIDERS["cpu"])


_sessions: WeakSet[Session] = WeakSet()


def _keep_in_child() -> None:
    """Let no forked child free its parent's sessions: it would wait for ever for threads it does not have.

    A reference that nobody gives back outlives even the interpreter's exit. What the child loads itself has
    arenas of its own: the shared one may have been locked when it was forked.
    """
    _share_arena.cache_clear()
    for session in list(_sessions):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session._session))


os.register_at_fork(after_in_child=_keep_in_child)


class Session:
    """One graph, loaded. `run` may be called by many threads at once."""

    def __init__(
        self,
        graph: Path,
        *,
        provider: str,
        threads: int,
        optimized: bool = False,
        weights: Mapping[Path, str] | None = None,
        kernels: bool = False,
    ) -> None:
        """Load a graph.

        Args:
            graph: the .onnx file; its weights file lies beside it.
            provider: see `provider_name`.
            threads: threads inside one run.
            optimized: the graph was written by `write_optimized`, and is taken as it is.
            weights: sha256 of its weights files, which CPUs map; a run fails once one is written to.
            kernels: let paritas's own operators run; an optimized graph has to be loaded as it was written.

        Raises:
            ProviderError: the provider cannot run here.
            BundleError: onnxruntime cannot load the graph.
        """
        name = provider_name(provider)
        if name in _NVIDIA:
            # The gpu extra's CUDA and cuDNN lie in site-packages, where the loader does not look by itself.
            with contextlib.redirect_stdout(sys.stderr):
                onnxruntime.preload_dlls()
        options = _options(threads, kernels=kernels)
        if optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = _load(graph, options, name)
        except BundleError as error:
            if name == PROVIDERS["cpu"] or not _loads_on_cpu(graph, options):
                raise
            raise ProviderError(f"provider {provider!r} ({name}) cannot load {graph}: {error}") from error
        # onnxruntime drops a provider whose libraries do not load and goes on with the CPU.
        if self._session.get_providers()[0] != name:
            raise ProviderError(
                f"provider {provider!r} ({name}) is installed but does not start here; check the driver "
                "and that its libraries can be found (onnxruntime's message is above)"
            )
        _sessions.add(self)
        self._on_cpu = name == PROVIDERS["cpu"]
        self._mapped = Mapped(weights or {} if self._on_cpu else {})
        self.input_names = frozenset(value.name for value in self._session.get_inputs())
        self.output_name: str = self._session.get_outputs()[0].name
        self.dim: int | str | None = self._session.get_outputs()[0].shape[-1]

    def run(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        token_type_ids: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return last_hidden_state, float32, (batch, seq, dim); the inputs are int64, (batch, seq).

        Raises:
            RunError: onnxruntime cannot run them.
            BundleError: a weights file was written to since it was loaded.
        """
        hidden = self.fetch([self.output_name], input_ids, attention_mask, token_type_ids)[0]
        self._mapped.check()
        return hidden

    def release(self) -> None:
        """Give the memory that earlier runs left in the arena back to the system; runs under way keep theirs.

        onnxruntime does so at the end of a run that asks for it, here the shortest there is. Its output is
        bound to memory of ours, for one in the arena would hold a region there. On CPUs only: elsewhere the
        memory is the provider's to manage.
        """
        if not self._on_cpu:
            return
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        token = np.zeros((1, 1), np.int64)
        assert isinstance(self.dim, int)
        vector = np.empty((1, 1, self.dim), np.float32)
        binding = self._session.io_binding()
        for name in self.input_names:
            binding.bind_cpu_input(name, token)
        binding.bind_output(self.output_name, "cpu", 0, np.float32, vector.shape, vector.ctypes.data)
        self._session.run_with_iobinding(binding, options)

    def fetch(
        self,
        names: Sequence[str],
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        token_type_ids: NDArray[np.int64],
    ) -> list[NDArray[np.float32]]:
        """Return the graph's outputs of these names; the inputs are int64, (batch, seq).

        Raises:
            RunError: onnxruntime cannot run them.
        """
        feeds: dict[str, Any] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
        }
        wanted = {name: value for name, value in feeds.items() if name in self.input_names}
        try:
            outputs: list[NDArray[np.float32]] = self._session.run(list(names), wanted)
        except Exception as error:  # onnxruntime has a class for each code, and no common one
            raise RunError(f"onnxruntime cannot run it: {_first_line(error)}") from error
        return outputs


def write_optimized(graph: Path, target: Path, *, kernels: bool = False) -> None:
    """Write a CPU's form of a graph: optimized for it, with the weights packed as its kernels read them.

    The weights lie beside `target`, in a file named like it with `.data`. onnxruntime maps that file, so
    sessions and processes share one copy in memory, packed as it is.

    Args:
        graph: the .onnx file; its weights file lies beside it.
        target: the .onnx file to write.
        kernels: leave paritas's own operators in it; see `Session`.

    Raises:
        BundleError: onnxruntime cannot load the graph, or cannot write.
    """
    _write(graph, target, packed=True, kernels=kernels)
    # Up to onnxruntime 1.31 packed weights lie wherever the tensors before them end, and kernels that read
    # whole cache lines crash on any other address (FP32 on AVX-512); 1.32 starts them on a line. Native
    # graphs are written so that all tensors that come into the file end on one; where others do not, each
    # session packs its own.
    if any(int(place) % _CACHE_LINE for place in _PACKED_AT.findall(target.read_bytes())):
        target.unlink()
        _write(graph, target, packed=False, kernels=kernels)


def _write(graph: Path, target: Path, *, packed: bool, kernels: bool) -> None:
    options = _options(threads=1, kernels=kernels)
    options.optimized_model_filepath = str(target)
    data = target.with_name(f"{target.name}.data")
    data.unlink(missing_ok=True)
    for key, value in (
        ("session.save_external_prepacked_constant_initializers", "1" if packed else "0"),
        ("session.optimized_model_external_initializers_file_name", data.name),
        # Biases and scales, of any length, stay in the graph's own file.
        ("session.optimized_model_external_initializers_min_size_in_bytes", "65536"),
    ):
        options.add_session_config_entry(key, value)
    _load(graph, options, PROVIDERS["cpu"])


def _load(graph: Path, options: Any, name: str) -> Any:
    fallback = [] if name == PROVIDERS["cpu"] else [PROVIDERS["cpu"]]
    try:
        return onnxruntime.InferenceSession(
            str(graph),
            options,
            providers=[(name, _PROVIDER_OPTIONS.get(name, {})), *fallback],
            # On CPU the fused SkipLayerNormalization is about ten times slower than the Add and the
            # LayerNormalization it replaces: 1.13x tokens/s without it at 32 texts of 16 tokens.
            disabled_optimizers=["SkipLayerNormFusion"] if name == PROVIDERS["cpu"] else None,
            # It would print "EP Error" to standard output, among our JSON, and go on with another provider.
            enable_fallback=0,
        )
    except Exception as error:
        raise BundleError(f"{graph}: onnxruntime cannot load it: {_first_line(error)}") from error


def _loads_on_cpu(graph: Path, options: Any) -> bool:
    try:
        _load(graph, options, PROVIDERS["cpu"])
    except BundleError:
        return False
    return True


def _options(threads: int, *, kernels: bool = False) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if _share_arena():
        options.add_session_config_entry("session.use_env_allocators", "1")
    # Which buffer may serve a second value is looked up among all others: 0.2 s of a BERT-base's loading.
    # Freed buffers are found again by the arena as well, with the same memory and speed as measured.
    options.enable_mem_reuse = False
    # A pattern of buffers is kept for every shape seen. Without, 2,000 calls of random sizes end at 167 MB
    # instead of 187 (all-MiniLM-L6-v2 in INT8), and runs are as fast within 2 %.
    options.enable_mem_pattern = False
    # Threads wait actively between the nodes of a run (1 to 4 % faster than sleeping there) and stop
    # doing so when it ends: an idle encoder uses no CPU.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Where products of unsigned and signed bytes saturate, let onnxruntime shift the weights to unsigned ones
    # while it loads: the same integers, exact. It would do so on every x86 CPU, though, and with VNNI that
    # took 1.6 times as long for nothing.
    if dot_product(instructions()) is None:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if kernels:
        try:
            options.register_custom_ops_library(str(LIBRARY))
        except Exception as error:  # removed or replaced since it was looked at
            raise BundleError(f"{LIBRARY}: onnxruntime cannot load it: {_first_line(error)}") from error
    return options


@cache
def _share_arena() -> bool:
    """Register one arena for all sessions of this process; say whether that could be done.

    It takes from the system what a run asks for. The arenas that sessions have by default double with each
    region they take, and what they keep grows with the callers. After two bursts of 16 callers,
    all-MiniLM-L6-v2 in INT8 held 231 MB with them, and 96 MB with this one. The CPU time was the same.

    There may be one already, registered by other code or before a fork. Older releases of onnxruntime then
    refuse. Newer ones replace it for the sessions to come; those that hold it keep it.
    """
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    as_requested = onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1})
    try:
        onnxruntime.create_and_register_allocator(memory, as_requested)
    except RuntimeError:  # onnxruntime 1.22
        return False
    return True


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
