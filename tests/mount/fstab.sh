#!/bin/sh
# As root, in a mount namespace of its own: fstab, mount(8) and umount(8) for root and for a user
# who has nothing but fusermount3. Prints what it has seen, a line each; ends with "done".
#
#   unshare -m sh tests/mount/fstab.sh PLACE MOUNT_CBFS USER
#
# PLACE has "jörg's home/account", made by cbfs init, and belongs to USER.
set -eu
place=$1 program=$2 user=$3
home="$place/jörg's home"
spec=$home/account dir=$home/chat
export dir
escaped() { printf %s "$1" | sed 's/ /\\040/g'; }

trap 'umount -l "$dir" 2>/dev/null || true' EXIT
mount --make-rprivate /
mount -t tmpfs -o mode=755 none /mnt
mkdir /mnt/up /mnt/work /mnt/python
# /sbin with our helper in it, without touching the system's
mount -t overlay -o lowerdir=/usr/sbin,upperdir=/mnt/up,workdir=/mnt/work none /usr/sbin
printf '#!/bin/sh\nexec %s "$@" -o no_tor\n' "$program" >/usr/sbin/mount.cbfs
chmod 755 /usr/sbin/mount.cbfs
# a node of /dev/fuse that everybody may open
mknod -m 666 /mnt/fuse c 10 229
mount --bind /mnt/fuse /dev/fuse
# Python, where only root may go
case $(readlink -f "$(head -1 "$program" | cut -c3-)") in
/root/*)
    mkdir /mnt/root
    mount --bind /root /mnt/root
    mount -t tmpfs -o mode=755 none /root
    for folder in $(cd /mnt/root && ls -A); do
        [ -d "/mnt/root/$folder" ] || continue
        mkdir "/root/$folder"
        mount --bind "/mnt/root/$folder" "/root/$folder"
    done
    ;;
esac
as_user() { setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups env HOME="$home" "$@"; }
fstab() {
    printf '%s\n' "$1" >/mnt/fstab
    [ -e /mnt/bound ] || { touch /mnt/bound; mount --bind /mnt/fstab /etc/fstab; }
}
told() { grep -F " $(escaped "$dir") " /proc/self/mountinfo | sed 's/.* - //; s/ .*//'; }
# what modes forbid their owner: read, write, cut, add, remove, rename, list, find
modes() {
    as_user env folder="$1" sh -c '
        cd "$folder"; mkdir d e; echo x >d/f; chmod 400 d/f; chmod 500 d
        { echo y >d/f; } 2>/dev/null && echo "f: written"
        truncate -s 0 d/f 2>/dev/null && echo "f: cut"
        [ -r d/f ] && [ ! -w d/f ] && [ ! -w d ] && [ -w e ] && echo "told"
        for change in "rm -f d/f" "touch d/g" "mkdir d/g" "ln -s f d/g" "ln d/f d/g" "mv d/f e" \
            "mv e/h d" "rmdir d/i"; do
            [ -e e/h ] || echo h >e/h
            $change 2>/dev/null && echo "d: $change"
        done
        chmod 000 d/f 2>/dev/null && cat d/f 2>/dev/null && echo "f: read"
        chmod 300 d; ls d >/dev/null 2>&1 && echo "d: listed"
        chmod 600 d; cat d/nothing 2>&1 | grep -c denied
        chmod 700 d; chmod 200 d/f; { echo z >d/f; } && chmod 600 d/f && cat d/f; rm -r d e'
}
gone() { while pgrep -u "$user" -f "$dir" >/dev/null; do sleep 0.1; done; }

fstab "$(escaped "$spec") $(escaped "$dir") cbfs noauto,user 0 0"
as_user mount "$dir"
echo "user mounted $(told)"
as_user sh -c 'echo kept >"$dir/ui_info/f"; cat "$dir/ui_info/f"; stat -c %U "$dir/ui_info/f"'
as_user mkdir "$home/plain"
modes "$home/plain" >/mnt/plain
modes "$dir/tmp" >/mnt/mounted
cmp /mnt/plain /mnt/mounted && echo "modes: $(tr '\n' ' ' </mnt/mounted)"
as_user umount "$dir"
gone
[ -z "$(told)" ] && echo "user unmounted"

fstab "$(escaped "$spec") $(escaped "$dir") cbfs uid=$user 0 0"
mount -a -t cbfs
mount -a -t cbfs
echo "mounted once: $(told | wc -l)"
as_user cat "$dir/ui_info/f"
kill -9 $(pgrep -u "$user" -f "$dir")
gone
mount "$dir" # mount -a takes the dead one for mounted
as_user cat "$dir/ui_info/f"
echo "mounted over the dead one: $(told | wc -l)"
if as_user sh -c 'cd "$dir" && umount "$dir"' 2>/mnt/busy; then echo "not busy?"; else echo "busy: told"; fi
umount "$dir"
gone

# a system without /etc/mtab, which fusermount3 needs
mkdir /mnt/etc-up /mnt/etc-work
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/etc-up,workdir=/mnt/etc-work none /etc
rm /etc/mtab
as_user "$program" "$spec" "$dir" --no-tor
kill -9 $(pgrep -u "$user" -f "$dir")
gone
as_user "$program" "$spec" "$dir" --no-tor # over the dead one
echo "without mtab: $(told | wc -l)"
kill $(pgrep -u "$user" -f "$dir")
gone
[ -z "$(told)" ] && echo "and ended"
echo done
