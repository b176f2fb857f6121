#!/usr/bin/env bash
# Fetch what runs other CPUs here, without root: qemu's user-mode emulators, and an ARM64 Python with the wheels
# that the engine and the operators' tests need. 100 MB of packages from the configured Debian mirror and package
# index; half a minute.
#
#   emulators.sh DIRECTORY PIP     leaves DIRECTORY/qemu-x86_64, DIRECTORY/qemu-aarch64, DIRECTORY/arm64
#
# Where there are no such packages to be had it says so in DIRECTORY/unavailable and fails.
set -euo pipefail
directory=$(mkdir -p "$1" && cd "$1" && pwd)
pip=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
cd "$directory"

unavailable() {
    echo "emulators: $1" | tee unavailable >&2
    exit 1
}
{ command -v apt-get && command -v dpkg-deb; } >/dev/null || unavailable "no apt-get and dpkg-deb here"

# A state of its own: no lists, no architectures and no sources of this machine are touched.
mkdir -p apt/lists/partial apt/cache/archives/partial
apt() {
    apt-get -qq -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 -o APT::Sandbox::User="$(id -un)" \
        -o Dir::State::Lists="$directory/apt/lists" -o Dir::Cache="$directory/apt/cache" "$@"
}
apt update || unavailable "no package lists: no Debian mirror answers"
mkdir -p debs && (
    cd debs
    apt download qemu-user-static:amd64 libc6:arm64 libgcc-s1:arm64 libstdc++6:arm64 zlib1g:arm64 \
        libexpat1:arm64 libffi8:arm64 libpython3.11-minimal:arm64 libpython3.11-stdlib:arm64 python3.11-minimal:arm64
) || unavailable "no packages: this is not Debian 12, or its mirror does not answer"
dpkg-deb --fsys-tarfile debs/qemu-user-static_*_amd64.deb | tar -x --strip-components=3 \
    ./usr/bin/qemu-x86_64-static ./usr/bin/qemu-aarch64-static
mv qemu-x86_64-static qemu-x86_64
mv qemu-aarch64-static qemu-aarch64
for package in debs/*_arm64.deb; do dpkg-deb -x "$package" arm64; done

# qemu 7.2 shows an ARM64 program this machine's /proc/cpuinfo, and onnxruntime ends in a segmentation fault over it.
# This is a Cortex-A76's: byte dot products, no matrix products.
mkdir -p arm64/proc
cat >arm64/proc/cpuinfo <<'END'
processor	: 0
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x4
CPU part	: 0xd0b
CPU revision	: 1
END
"$pip" install -q --no-deps --no-compile --python-version 311 --only-binary=:all: --target arm64/site \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
    --platform manylinux2014_aarch64 \
    "onnxruntime==$("$pip" show onnxruntime | sed -n 's/^Version: //p')" \
    "numpy==$("$pip" show numpy | sed -n 's/^Version: //p')" \
    tokenizers msgspec pyyaml platformdirs tqdm packaging flatbuffers protobuf click \
    onnx ml_dtypes typing_extensions safetensors pytest pluggy iniconfig pygments
rm -rf debs apt
