# shellcheck shell=bash
# shellcheck disable=SC2154
# The part "kernels" of scripts/prerequisites, which sources this.
#
# .build/kernels/KIND has the kernel, its modules below lib/modules, and first-root: an archive with what the kernel
# needs to find the machine's own root (scripts/guest-init, busybox, modules).

get_kernels() {
    if [ "$(uname -m)" != x86_64 ]; then
        warn "note: no other kernels for this machine: they are Debian's for x86-64"
        return
    fi
    local kind package updated=
    if ! ls "$build_dir"/kernels/*/kernel >/dev/null 2>&1 && ! can_unpack kernels; then return 0; fi
    # They boot what an earlier machine fetched, too.
    install_kernel_tools
    for kind in uml 6.1 6.12; do
        if [ -x "$build_dir/kernels/$kind/kernel" ]; then continue; fi
        can_unpack kernels || return 0
        package=$(kernel_package "$kind")
        if [ -z "$package" ] && [ -z "$updated" ]; then
            apt_update
            updated=1
            package=$(kernel_package "$kind")
        fi
        if [ -z "$package" ]; then
            warn "note: this release of Debian has no such kernel: $kind"
            continue
        fi
        unpack "kernels/$kind.unpack" "$package" busybox-static
        sort_kernel "$build_dir/kernels/$kind.unpack"
        as_owner mv "$build_dir/kernels/$kind.unpack" "$build_dir/kernels/$kind"
    done
    for kind in "$build_dir"/kernels/*/kernel; do
        [ -x "$kind" ] || continue
        kind=${kind%/kernel}
        if [ ! "$kind/first-root" -nt scripts/guest-init ]; then make_first_root "$kind"; fi
    done
}

install_kernel_tools() {
    local missing=() pair
    for pair in qemu-system-x86_64:qemu-system-x86 depmod:kmod cpio:cpio xz:xz-utils; do
        if ! have "${pair%%:*}"; then missing+=("${pair#*:}"); fi
    done
    install_packages ${missing[@]+"${missing[@]}"}
}

# Prints what the newest of this kind is called today; nothing if there is none.
kernel_package() {
    if [ "$1" = uml ]; then
        { apt-cache pkgnames user-mode-linux || true; } | sed -n '/^user-mode-linux$/p'
    else
        # It fails where it knows neither.
        { apt-cache depends linux-image-amd64 "linux-image-$1-amd64" 2>/dev/null || true; } |
            sed -n "s/^ *Depends: \(linux-image-${1//./\\.}[.-][^ ]*\)$/\1/p" | sed 1q
    fi
}

# sort_kernel FOLDER: what is needed of the unpacked packages, in the same places for each kind.
sort_kernel() {
    if [ -e "$1/usr/bin/linux.uml" ]; then
        as_owner mkdir -p "$1/lib"
        as_owner mv "$1/usr/lib/uml/modules" "$1/lib/modules"
        as_owner mv "$1/usr/bin/linux.uml" "$1/kernel"
    else
        as_owner mv "$1"/boot/vmlinuz-* "$1/kernel"
        as_owner chmod +x "$1/kernel"
    fi
    as_owner mv "$1/bin/busybox" "$1/busybox"
    as_owner depmod -b "$1" "$(ls "$1/lib/modules")"
    as_owner rm -rf "$1/boot" "$1/usr" "$1/bin"
}

# make_first_root FOLDER: the archive, complete or not at all.
make_first_root() {
    local tree=$1/tree module number=100
    as_owner rm -rf "$tree"
    as_owner mkdir -p "$tree"/{bin,modules,proc,dev,lower,over,root}
    as_owner cp "$1/busybox" "$tree/bin/"
    as_owner cp scripts/guest-init "$tree/init"
    as_owner chmod 755 "$tree/init"
    # User-mode Linux has none of virtio's.
    for module in $(modprobe -d "$1" -S "$(ls "$1/lib/modules")" --show-depends -a overlay virtio_pci 9pnet_virtio 9p 2>/dev/null |
        sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++'); do
        number=$((number + 1))
        module_text "$module" | as_owner tee "$tree/modules/$number.ko" >/dev/null
    done
    (cd "$tree" && find . | cpio --quiet -o -H newc | gzip -1) | as_owner tee "$1/archive" >/dev/null
    as_owner mv "$1/archive" "$1/first-root"
    as_owner rm -rf "$tree"
}

# What is in a module's file, which Debian compresses since 6.12.
module_text() {
    case $1 in
        *.xz) xz -dc "$1" ;;
        *) cat "$1" ;;
    esac
}
