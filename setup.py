"""Takes models_registry.yaml, which lives at the root, into the package, and compiles native/ into it.

PARITAS_KERNELS=none leaves the compiled part out: the wheel is then for any machine. With
PARITAS_KERNELS=required a part that does not compile is an error. Otherwise the package goes without it.
"""

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError, LinkError

REGISTRY = "models_registry.yaml"
SOURCES = [
    "operators",
    "linear",
    "linear_amx_int8",
    "linear_avx512_vnni",
    "linear_avx_vnni",
    "linear_avx2",
    "linear_i8mm",
    "linear_asimddp",
    "attention",
    "attention_avx512",
    "attention_avx2",
    "attention_neon",
]
KERNELS = Extension(
    "paritas.kernels",
    sources=[f"native/{name}.c" for name in SOURCES],
    # Products and sums rounded one by one, as every CPU rounds them; square roots without libm.
    extra_compile_args=[
        "-std=gnu11",
        "-O3",
        "-g0",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fvisibility=hidden",
    ],
)
CHOICE = os.environ.get("PARITAS_KERNELS", "")


class BuildWithRegistry(build_py):
    def _target(self) -> str:
        return str(Path(self.build_lib, "paritas", REGISTRY))

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            # What an earlier install left, lest it run where this one has none.
            Path("src/paritas/kernels.so").unlink(missing_ok=True)
        else:
            Path(self._target()).parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(REGISTRY, self._target())

    def get_output_mapping(self) -> dict[str, str]:
        # A strict editable install links exactly these files.
        return {**super().get_output_mapping(), self._target(): REGISTRY}


class BuildKernels(build_ext):
    """Compiles a library that onnxruntime loads; Python never imports it, so one serves all its versions."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def finalize_options(self) -> None:
        super().finalize_options()
        self.force = True  # what lies in build/ may be another compiler's, or for another machine

    def run(self) -> None:
        Path(self.build_lib, self.get_ext_filename(KERNELS.name)).unlink(missing_ok=True)
        try:
            super().run()
        except (CompileError, LinkError) as error:
            if CHOICE == "required":
                raise
            print(f"paritas is installed without its kernels: {error}", file=sys.stderr)
            self.extensions = []


class AnyPythonWheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


if CHOICE not in ("", "none", "required"):
    sys.exit(f"PARITAS_KERNELS is {CHOICE!r}; expected none or required, or unset it")
fitting = os.name == "posix" and platform.machine() in ("x86_64", "aarch64", "arm64")
setup(
    ext_modules=[KERNELS] if CHOICE == "required" or (fitting and not CHOICE) else [],
    cmdclass={"build_py": BuildWithRegistry, "build_ext": BuildKernels, "bdist_wheel": AnyPythonWheel},
)
