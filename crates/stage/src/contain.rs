//! One piece of work of many: what goes wrong in it stays in it.

use crate::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Does a piece of work; a panic in it becomes its failure, so that the others go on. The last resort: a panic is a fault
/// of the program, and its place has been printed. The caller throws away what the work may have left half-changed.
///
/// # Errors
/// What the work returns, or that it panicked.
pub fn contain<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let line = text.and_then(|text| text.lines().next()).unwrap_or("no message");
        Err(Error::failed(format!("a fault of this program: {line}"))
            .hint("please report it, with the lines above; the same file will fail again"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Exit;

    #[test]
    fn a_panic_is_a_failure_like_another() {
        assert_eq!(contain(|| Ok(3)).unwrap(), 3);
        assert_eq!(contain(|| Err::<(), _>(Error::input("broken"))).unwrap_err().message, "broken");
        let empty: [u8; 0] = [];
        let works: [&dyn Fn() -> Result<u8>; 2] =
            [&|| panic!("with {}\nand more", "words"), &|| Ok(empty[empty.len()])];
        let found = works.map(|work| contain(work).unwrap_err());
        assert_eq!(found[0].message, "a fault of this program: with words");
        assert!(found[1].message.contains("index out of bounds"), "{}", found[1].message);
        assert!(found.iter().all(|e| e.exit == Exit::Failed));
    }
}
