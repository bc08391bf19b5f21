//! Places where a test lets this process die. Nothing at all in the program itself.

#[cfg(not(test))]
#[inline(always)]
pub(super) fn point(_: &'static str) {}

/// Whether this process is to count as dead already: then nothing may act while unwinding, as after SIGKILL.
#[cfg(not(test))]
#[inline(always)]
pub(crate) fn is_dead() -> bool {
    false
}

#[cfg(test)]
pub(crate) use for_tests::*;

#[cfg(test)]
mod for_tests {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};

    thread_local! {
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
        static DEAD: Cell<bool> = const { Cell::new(false) };
    }

    struct Died(&'static str);

    pub(in crate::store) fn point(name: &'static str) {
        match LEFT.get() {
            Some(0) => {
                LEFT.set(None);
                DEAD.set(true);
                panic_any(Died(name));
            }
            Some(left) => LEFT.set(Some(left - 1)),
            None => {}
        }
    }

    pub(crate) fn is_dead() -> bool {
        DEAD.get()
    }

    /// Runs `work` until it comes to its `n`th point and lets it die there. The point's name, or `Err` with the result
    /// where the work has fewer.
    pub(crate) fn at<T>(n: usize, work: impl FnOnce() -> T) -> Result<&'static str, T> {
        LEFT.set(Some(n));
        let result = catch_unwind(AssertUnwindSafe(work));
        LEFT.set(None);
        DEAD.set(false);
        match result {
            Ok(done) => Err(done),
            Err(payload) => match payload.downcast::<Died>() {
                Ok(died) => Ok(died.0),
                Err(other) => std::panic::resume_unwind(other),
            },
        }
    }
}
