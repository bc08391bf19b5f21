//! Undoing what was done half-way.

/// Steps that take back what this call has made, run in reverse when dropped, also by a panic, unless [`Undo::disarm`]ed.
#[derive(Default)]
pub struct Undo<'a> {
    steps: Vec<(&'static str, Step<'a>)>,
}

type Step<'a> = Box<dyn FnOnce() -> Result<(), String> + 'a>;

impl<'a> Undo<'a> {
    /// Nothing to undo yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers how to take back what was just made. `what` names it in the message should that fail.
    pub fn push<E: std::fmt::Display>(&mut self, what: &'static str, step: impl FnOnce() -> Result<(), E> + 'a) {
        self.steps.push((what, Box::new(move || step().map_err(|e| e.to_string()))));
    }

    /// All went well: nothing is taken back.
    pub fn disarm(mut self) {
        self.steps.clear();
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        while let Some((what, step)) = self.steps.pop() {
            // One step that fails must not keep the others from being tried.
            if let Err(error) = step() {
                crate::syslog::warn("undoing", format_args!("{what}: {error}"));
            }
        }
    }
}

impl std::fmt::Debug for Undo<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.steps.iter().map(|(what, _)| what)).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A step that writes a number down.
    fn note(log: &RefCell<Vec<i32>>, number: i32) -> impl FnOnce() -> Result<(), String> {
        move || {
            log.borrow_mut().push(number);
            Ok(())
        }
    }

    #[test]
    fn steps_run_in_reverse_and_go_on_past_errors() {
        let log = RefCell::new(Vec::new());
        let mut undo = Undo::new();
        undo.push("one", note(&log, 1));
        undo.push("two", || Err("cannot"));
        undo.push("three", note(&log, 3));
        drop(undo);
        assert_eq!(*log.borrow(), [3, 1]);
    }

    #[test]
    fn a_panic_undoes_and_success_does_not() {
        let log = RefCell::new(Vec::new());
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut undo = Undo::new();
            undo.push("it", note(&log, 1));
            panic!("on the way");
        }));
        assert!(result.is_err());
        let mut undo = Undo::new();
        undo.push("it", note(&log, 2));
        undo.disarm();
        assert_eq!(*log.borrow(), [1]);
    }
}
