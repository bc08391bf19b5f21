//! Which errors each system call can have: those that a node in trouble has, and one that is out of the ordinary.

/// Calls that cannot fail, or that are the process itself; and `close`, which closes whatever it says (`close(2)`), while
/// one that fails by `strace` has not been made.
const NEVER: &[&str] = &[
    "close",
    "execve",
    "exit",
    "exit_group",
    "rt_sigreturn",
    "restart_syscall",
    "arch_prctl",
    "set_tid_address",
    "getpid",
    "gettid",
    "getppid",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "umask",
    "sched_yield",
];

/// The errors to try one at a time, by `errno(3)`'s names.
///
/// # Panics
/// When a plugin uses a call that the table has not: it is to be extended then.
pub(crate) fn of(call: &str, line: &str) -> &'static [&'static str] {
    match call {
        _ if NEVER.contains(&call) => &[],
        "mmap" | "munmap" | "mprotect" | "mremap" | "brk" | "madvise" => &["ENOMEM"],
        "open" | "openat" | "creat" if line.contains("O_CREAT") => &["ENOSPC", "EROFS", "EMFILE"],
        "open" | "openat" => &["EMFILE", "EACCES"],
        "read" | "pread64" | "readv" => &["EIO", "EINTR"],
        "write" | "pwrite64" | "writev" => &["ENOSPC", "EIO", "EINTR"],
        "sendto" | "sendmsg" => &["ENOBUFS", "EINTR"],
        "recvfrom" | "recvmsg" => &["ENOBUFS", "EINTR"],
        "rename" | "renameat" | "renameat2" | "link" | "linkat" | "mkdir" | "mkdirat" | "symlink" => &["ENOSPC", "EIO"],
        "unlink" | "unlinkat" | "rmdir" => &["EROFS", "EIO"],
        "utimensat" | "chmod" | "fchmod" | "fchown" | "ftruncate" | "fsync" => &["EPERM", "EROFS"],
        "stat" | "lstat" | "newfstatat" | "statx" | "access" | "faccessat" | "faccessat2" | "readlink"
        | "readlinkat" | "fstat" | "fstatfs" | "statfs" | "getcwd" => &["EACCES", "EIO"],
        "getdents" | "getdents64" | "lseek" | "ioctl" => &["EIO"],
        "socket" | "memfd_create" | "pipe" | "pipe2" | "dup" | "eventfd2" | "epoll_create1" => &["EMFILE", "EPERM"],
        "pidfd_open" => &["EMFILE", "ENOSYS"],
        "socketpair" | "connect" | "bind" | "getsockname" | "setsockopt" | "getsockopt" => &["ENOBUFS"],
        "fcntl" if line.contains("F_DUPFD") => &["EMFILE"],
        "fcntl" => &["EPERM"],
        "poll" | "ppoll" => &["EINTR", "ENOMEM"],
        "wait4" | "waitid" | "nanosleep" | "clock_nanosleep" => &["EINTR"],
        "flock" => &["EINTR", "ENOLCK"],
        "clone" | "clone3" | "fork" | "vfork" => &["EAGAIN"],
        "setns" | "unshare" => &["ENOMEM", "EPERM"],
        "kill" | "tgkill" => &["ESRCH"],
        "getrandom" => &["EINTR", "ENOSYS"],
        "prctl" | "sigaltstack" | "rt_sigaction" | "rt_sigprocmask" | "setitimer" | "setrlimit" | "prlimit64" => {
            &["EPERM"]
        }
        _ => panic!("which errors can {call:?} have? {line}"),
    }
}

/// What goes on failing from some moment: no memory, no space, no descriptors, no buffers.
pub(crate) fn lasting(call: &str) -> Option<&'static str> {
    match call {
        "mmap" => Some("ENOMEM"),
        "open" | "openat" | "socket" | "pipe2" => Some("EMFILE"),
        "write" | "rename" | "link" | "mkdir" => Some("ENOSPC"),
        "sendto" | "recvfrom" => Some("ENOBUFS"),
        "unlink" => Some("EROFS"),
        _ => None,
    }
}
