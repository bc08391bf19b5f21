//! Kernel settings below `/proc/sys`, of the calling thread's network namespace where they have one.

use std::fs;
use std::io;

/// Sets a value unless it is set already. `path` is relative to `/proc/sys`, with slashes.
pub fn set(path: &str, value: &str) -> io::Result<()> {
    // Reading first spares a read-only /proc/sys (containers, rootless) that already says the right thing.
    if get(path).is_ok_and(|present| present == value) {
        return Ok(());
    }
    overwrite(path, value)
}

/// Sets a value without looking: one system call less where it is known to differ.
pub fn overwrite(path: &str, value: &str) -> io::Result<()> {
    fs::write(full(path), value).map_err(|e| io::Error::new(e.kind(), format!("/proc/sys/{path}: {e}")))
}

/// The present value, without the newline.
pub fn get(path: &str) -> io::Result<String> {
    Ok(fs::read_to_string(full(path))?.trim_end().to_owned())
}

/// Whether the kernel has IPv6 (it may be built or booted without).
#[must_use]
pub fn has_ipv6() -> bool {
    fs::exists("/proc/sys/net/ipv6/conf").unwrap_or(false)
}

fn full(path: &str) -> String {
    format!("/proc/sys/{path}")
}
