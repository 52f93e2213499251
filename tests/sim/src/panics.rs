//! Panics are outcomes here: where one happened is kept for the report instead of printed.

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::sync::Once;

/// Places of the broker's code that a report names, innermost first.
const PLACES_MAX: usize = 8;

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Installs the hook.
pub fn keep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let text = format!(
                "{info}; {}",
                places(&Backtrace::force_capture().to_string())
            );
            PANIC.with_borrow_mut(|kept| {
                kept.get_or_insert(text.replace('\n', " "));
            });
        }));
    });
}

/// What the first panic of this thread since the last call said.
pub fn take() -> String {
    PANIC
        .take()
        .unwrap_or_else(|| "a panic that says nothing".to_owned())
}

/// The broker's functions in a backtrace.
fn places(backtrace: &str) -> String {
    let places: Vec<&str> = backtrace
        .lines()
        .map(str::trim)
        .filter_map(|line| line.strip_prefix("at "))
        .filter(|place| {
            !place.contains("/rustc/")
                && !place.contains("/registry/")
                && !place.contains("sim/src/")
        })
        .take(PLACES_MAX)
        .collect();
    format!("in {}", places.join(", "))
}
