#!/bin/sh
# package.sh SOURCE OUTPUT [deb]: builds a wheel and an sdist of SOURCE, a tree without anything else
# in it, and with "deb" the package for this distribution, into OUTPUT. SOURCE_DATE_EPOCH is the
# time of all files. Two runs give the same bytes.
#
# The package has an environment of its own below /usr/lib/cbfs: Debian's cryptography has no ML-KEM.
# It is made here and not by dh-virtualenv, which writes times, paths and byte code with times
# into it, and so gives other bytes every time.
set -eu
umask 022
source=$1
output=$2
kind=${3-}
: "${SOURCE_DATE_EPOCH:?}"
export SOURCE_DATE_EPOCH PYTHONHASHSEED=0 LC_ALL=C.UTF-8 TZ=UTC PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH PYTHONDONTWRITEBYTECODE || :
system=/usr/bin/python3

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
tools=$work/tools/bin
# What the compiler would tell of this machine.
export CFLAGS="-g0 -ffile-prefix-map=$work=." LDFLAGS=-Wl,--build-id=none

"$system" -m venv "$work/tools"
"$tools/pip" install --quiet --require-hashes -r "$source/release/build.lock"

cp -R "$source" "$work/source"
(cd "$work/source" && "$tools/python" -m build --no-isolation --outdir "$work/dist" >"$work/log" 2>&1) || {
    cat "$work/log" >&2
    exit 1
}
"$tools/python" "$source/release/repacked.py" "$work"/dist/*.tar.gz
mkdir -p "$output"
cp "$work"/dist/* "$output/"
[ "$kind" = deb ] || exit 0

# The environment, as it will be below /usr/lib/cbfs.
tree=$work/tree
home=$tree/usr/lib/cbfs
version=$("$system" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$tools/pip" wheel --quiet --no-deps --no-build-isolation --require-hashes \
    --wheel-dir "$work/wheels" -r "$source/requirements.lock"
"$system" -m venv --without-pip --symlinks "$home"
site=$home/lib/python$version/site-packages
"$tools/pip" --python "$home/bin/python3" install --quiet --no-deps --no-index --no-compile \
    "$work"/wheels/*.whl "$work"/dist/*.whl
rm -rf "$home"/bin/[Aa]ctivate* "$home/include" "$home/lib64" "$home/.gitignore"
find "$site" \( -name direct_url.json -o -name INSTALLER -o -name REQUESTED -o -name RECORD \) -delete
find "$site" -name '*.pyc' -delete
ln -sfn "/usr/bin/python$version" "$home/bin/python3"
ln -sfn python3 "$home/bin/python"
rm -f "$home/bin/python$version"
printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = %s\n' "$version" \
    >"$home/pyvenv.cfg"
for program in "$home"/bin/*; do
    [ -L "$program" ] && continue
    case ${program##*/} in
    cbfs | cbfs-server | cbfs-names | mount.cbfs) sed -i '1s|.*|#!/usr/lib/cbfs/bin/python3|' "$program" ;;
    *) rm "$program" ;; # of libraries
    esac
done
find "$site" -name '*.so*' -exec strip --strip-unneeded {} +
find "$site" -type f -exec chmod 644 {} +
# Nobody may write there, so it is done here; by the source's hash, as times would differ.
"$system" -m compileall -q -s "$tree" -p / --invalidation-mode unchecked-hash "$site"

# What stands elsewhere in a system.
share=$tree/usr/share
mkdir -p "$tree/usr/bin" "$tree/usr/sbin" "$share/doc/cbfs/examples" "$share/lintian/overrides" \
    "$share/zsh" "$tree/usr/lib/systemd"
mv "$home/share/man" "$home/share/bash-completion" "$home/share/fish" "$home/share/applications" \
    "$home/share/icons" "$share/"
mv "$home/share/zsh/site-functions" "$share/zsh/vendor-completions"
rm -r "$home/share"
rm -f "$share/man/man1/segno.1" # of a library, as are the programs that are taken away above
for program in cbfs cbfs-server cbfs-names mount.cbfs; do
    ln -s "../lib/cbfs/bin/$program" "$tree/usr/bin/$program"
done
ln -s ../bin/mount.cbfs "$tree/usr/sbin/mount.cbfs"
find "$share/man" -type f -exec gzip -9n {} +
mkdir "$tree/usr/lib/systemd/user" "$tree/usr/lib/systemd/system"
for unit in "$source"/systemd/*.service "$source"/server/*.service; do
    case ${unit##*/} in
    cbfs-names* | cbfs-server*) to=system ;;
    *) to=user ;;
    esac
    sed 's|/usr/local/bin/|/usr/bin/|' "$unit" >"$tree/usr/lib/systemd/$to/${unit##*/}"
done
cp "$source"/systemd/*.mount "$source"/server/*.toml "$share/doc/cbfs/examples/"
cp "$source/README.rst" "$source/SECURITY.rst" "$share/doc/cbfs/"
gzip -9nc "$source/CHANGES.rst" >"$share/doc/cbfs/CHANGES.rst.gz"
cp "$source/release/lintian-overrides" "$share/lintian/overrides/cbfs"

# The package.
. /etc/os-release
number=$("$home/bin/python3" -c 'from cbfs_common.version import VERSION; print(VERSION)')+$ID$VERSION_ID
owner='cbfs <cbfs@localhost>'
{
    printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n'
    printf 'Upstream-Name: cbfs\n\nFiles: *\nCopyright: 2026 the authors of cbfs\nLicense: Apache-2.0\n'
    printf ' See /usr/share/common-licenses/Apache-2.0\n'
    printf '\nFiles: usr/lib/cbfs/lib/*\nCopyright: 2000-2026 the authors of each package\nLicense: of-each-package\n'
    printf ' The licence of each package that is in the environment is in the folder\n'
    printf ' of its name below /usr/lib/cbfs/lib, which ends in .dist-info.\n'
} >"$share/doc/cbfs/copyright"
{
    printf 'cbfs (%s) unstable; urgency=medium\n\n  * See CHANGES.rst.gz.\n\n' "$number"
    printf ' -- %s  %s\n' "$owner" "$(date -R -d "@$SOURCE_DATE_EPOCH")"
} | gzip -9n >"$share/doc/cbfs/changelog.gz"
fuse=$(ldd "$site"/pyfuse3/*.so "$site"/*.so 2>/dev/null | sed -n 's/.*=> \(.*libfuse3[^ ]*\).*/\1/p' | head -n 1)
# By its name alone: dpkg knows it in /lib, which may be a link to /usr/lib.
fuse=$(dpkg -S "*/$(basename "$(readlink -f "$fuse")")" | head -n 1 | cut -d : -f 1)
libc=$(dpkg-query -W -f '${Version}' libc6 | cut -d - -f 1)
mkdir "$tree/DEBIAN"
for script in postinst prerm postrm; do
    cp "$source/release/maintainer/$script" "$tree/DEBIAN/$script"
    chmod 755 "$tree/DEBIAN/$script"
done
cat >"$tree/DEBIAN/control" <<END
Package: cbfs
Version: $number
Architecture: $(dpkg --print-architecture)
Maintainer: $owner
Section: net
Priority: optional
Installed-Size: $(du -ks --apparent-size "$tree/usr" | cut -f 1)
Depends: python$version, $fuse, fuse3, libc6 (>= $libc)
Recommends: tor, xdg-utils
Suggests: bash-completion
Description: private messaging as a file system
 Chatterbox shows an account as folders: a file that is saved in outbox/bob is
 sent to bob, and what arrives is in conversations. Everything is encrypted from
 end to end, and goes through Tor. The servers for it are in this package, too.
END
(cd "$tree" && find usr -type f | LC_ALL=C sort | xargs -d '\n' md5sum) >"$tree/DEBIAN/md5sums"
find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
# dpkg-deb sorts, and takes SOURCE_DATE_EPOCH for what it writes itself.
dpkg-deb --root-owner-group -Zxz --threads-max=1 --build "$tree" \
    "$output/cbfs_${number}_$(dpkg --print-architecture).deb" >/dev/null
