//! Memory for a program that must finish what it has begun when the kernel gives no more.
//!
//! A program of Rust that is refused memory ends at once: nothing is undone, and nobody is told. A plugin needs little,
//! so a reserve is set aside for it; only where that is used up as well it ends like that.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// In bytes: as much as a call with the largest of ordinary configs uses in all. It costs nothing until it is touched.
const SIZE: usize = 1 << 20;

/// The system's allocator, with a reserve of its own behind it: `#[global_allocator]` of every plugin.
#[derive(Debug)]
pub struct WithReserve {
    bytes: UnsafeCell<[u8; SIZE]>,
    /// How many of them are given away. They are not taken back.
    used: AtomicUsize,
}

// SAFETY: `bytes` is only ever handed out, in pieces that `used` keeps apart.
unsafe impl Sync for WithReserve {}

impl WithReserve {
    /// With all of the reserve.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "it is made once, as a static")]
    pub const fn new() -> Self {
        Self { bytes: UnsafeCell::new([0; SIZE]), used: AtomicUsize::new(0) }
    }

    /// A piece of the reserve; null if it has no such piece any more.
    fn spare(&self, layout: Layout) -> *mut u8 {
        let base = self.bytes.get().cast::<u8>();
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let gap = base.wrapping_add(used).align_offset(layout.align());
            let Some(end) = used.checked_add(gap).and_then(|start| start.checked_add(layout.size())) else {
                return ptr::null_mut();
            };
            if end > SIZE {
                return ptr::null_mut();
            }
            match self.used.compare_exchange_weak(used, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return base.wrapping_add(end - layout.size()),
                Err(now) => used = now,
            }
        }
    }

    fn is_spare(&self, piece: *mut u8) -> bool {
        let base = self.bytes.get().addr();
        (base..base + SIZE).contains(&piece.addr())
    }
}

// SAFETY: what the system gives goes back to the system, with the layout it was given for; what the reserve gives is
// aligned, as large as asked for, and nobody else's.
unsafe impl GlobalAlloc for WithReserve {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let piece = unsafe { System.alloc(layout) };
        if piece.is_null() { self.spare(layout) } else { piece }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let piece = unsafe { System.alloc_zeroed(layout) };
        // What is never taken back is as it was at first.
        if piece.is_null() { self.spare(layout) } else { piece }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        if !self.is_spare(piece) {
            // SAFETY: it is the system's; the rest is the caller's promise.
            unsafe { System.dealloc(piece, layout) }
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.is_spare(piece) {
            // SAFETY: it is the system's; the rest is the caller's promise.
            let moved = unsafe { System.realloc(piece, layout, size) };
            if !moved.is_null() {
                return moved;
            }
        }
        // SAFETY: the caller promises that `size` goes with this alignment.
        let new = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !new.is_null() {
            // SAFETY: both are that long, and different pieces.
            unsafe { ptr::copy_nonoverlapping(piece, new, layout.size().min(size)) };
            // SAFETY: the old piece is given back once, with its layout.
            unsafe { self.dealloc(piece, layout) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than there is.
    const TOO_MUCH: usize = isize::MAX as usize - 4096;

    static FIRST: WithReserve = WithReserve::new();
    static SECOND: WithReserve = WithReserve::new();

    #[test]
    fn the_reserve_gives_pieces_apart_and_aligned_until_it_is_used_up() {
        let memory = &FIRST;
        let mut end = 0;
        for (size, align) in [(1, 1), (3, 8), (100, 64), (4096, 4096), (5, 1)] {
            let piece = memory.spare(Layout::from_size_align(size, align).unwrap());
            assert!(memory.is_spare(piece) && piece.addr().is_multiple_of(align) && piece.addr() >= end);
            end = piece.addr() + size;
        }
        assert!(memory.spare(Layout::from_size_align(SIZE, 1).unwrap()).is_null());
        assert!(!memory.spare(Layout::from_size_align(SIZE / 2, 1).unwrap()).is_null());
        assert!(memory.spare(Layout::from_size_align(SIZE / 2, 1).unwrap()).is_null());
        assert!(memory.spare(Layout::from_size_align(TOO_MUCH, 1).unwrap()).is_null());
    }

    #[test]
    fn a_piece_of_the_reserve_grows_and_goes() {
        let memory = &SECOND;
        let layout = Layout::from_size_align(4, 4).unwrap();
        let piece = memory.spare(layout);
        // SAFETY: it is four bytes long, and given back once in each of these lives.
        unsafe {
            piece.copy_from(b"text".as_ptr(), 4);
            let grown = memory.realloc(piece, layout, 4096);
            assert!(!memory.is_spare(grown), "the system has memory");
            assert_eq!(std::slice::from_raw_parts(grown, 4), b"text");
            memory.dealloc(grown, Layout::from_size_align(4096, 4).unwrap());
            memory.dealloc(piece, layout);
            assert!(memory.alloc(Layout::from_size_align(TOO_MUCH, 1).unwrap()).is_null());
        }
    }
}
