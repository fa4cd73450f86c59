//! The allocator of this test binary: the system's, and it counts for each thread by itself.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static MADE: Cell<u64> = const { Cell::new(0) };
}

/// Runs `work`; how many blocks this thread asked for meanwhile. One that grows counts once more: it
/// may be copied.
pub fn allocations<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = MADE.get();
    let result = work();
    (MADE.get() - before, result)
}

fn count() {
    MADE.set(MADE.get() + 1);
}

// SAFETY: every call goes to the system's allocator as it came; the count is a plain thread-local
// without a destructor, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as it came.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as it came.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as it came.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as it came.
        unsafe { System.dealloc(block, layout) }
    }
}
