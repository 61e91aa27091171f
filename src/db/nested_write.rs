//! Finds a write that is called from inside another one of the same database on the same thread: it would wait for itself.
//!
//! The list is thread-local, so nothing waits for it. An entry goes when its guard is dropped, also after a panic.

use std::cell::RefCell;

thread_local! {
    /// The databases that this thread is writing, by an address of each.
    static WRITING: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Notes that this thread writes a database, until it is dropped.
pub(super) struct Writing;

impl Drop for Writing {
    fn drop(&mut self) {
        WRITING.with_borrow_mut(Vec::pop);
    }
}

/// Notes that this thread writes a database; `None` where it does already.
pub(super) fn begin_writing<T>(database: &T) -> Option<Writing> {
    let address = std::ptr::from_ref(database).addr();
    WRITING.with_borrow_mut(|writing| {
        if writing.contains(&address) {
            return None;
        }
        writing.push(address);
        Some(Writing)
    })
}
