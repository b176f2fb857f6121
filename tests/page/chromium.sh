#!/usr/bin/env bash
# Fetch a Chromium without root: Debian's headless shell and the libraries that this machine lacks. 100 MB.
#
#   chromium.sh DIRECTORY     leaves DIRECTORY/chromium, which starts it
#
# Where there are no such packages to be had it says so in DIRECTORY/unavailable and fails.
set -euo pipefail
directory=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$directory"

unavailable() {
    echo "chromium: $1" | tee unavailable >&2
    exit 1
}
{ command -v apt-get && command -v dpkg-deb; } >/dev/null || unavailable "no apt-get and dpkg-deb here"

# Lists and a cache of its own: nothing of this machine is touched.
mkdir -p apt/lists/partial apt/cache/archives/partial debs root
options=(-qq -o APT::Sandbox::User="$(id -un)" -o Dir::State::Lists="$directory/apt/lists"
    -o Dir::Cache="$directory/apt/cache")
apt-get "${options[@]}" update || unavailable "no package lists: no Debian mirror answers"
wanted=$(apt-get "${options[@]}" --simulate --no-install-recommends install chromium-headless-shell fonts-dejavu-core |
    sed -n 's/^Inst \([^ ]*\) .*/\1/p') || unavailable "no packages: this is not Debian"
(cd debs && apt-get "${options[@]}" download $wanted) || unavailable "no packages: the mirror does not answer"
for package in debs/*.deb; do dpkg-deb -x "$package" root; done
cat >chromium <<END
#!/usr/bin/env bash
export LD_LIBRARY_PATH=$(find "$directory/root" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
exec $directory/root/usr/lib/chromium/chromium-headless-shell "\$@"
END
chmod +x chromium
rm -rf debs apt
