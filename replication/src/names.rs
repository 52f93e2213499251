//! What a topic may be called: the rules of Apache Kafka, since its clients and tools rely on them.

/// Longest topic name, in bytes: leaves room for suffixes in file names that tools derive from it.
pub const MAX_TOPIC_NAME_BYTES: usize = 249;

/// Why a name cannot be a topic's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the empty string is not allowed")]
    Empty,
    #[error("'.' or '..' is not allowed")]
    Dots,
    #[error("the length is longer than the max allowed length 249")]
    TooLong,
    #[error("it contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")]
    Character,
}

/// Checks one topic name.
pub fn check_topic_name(name: &str) -> Result<(), NameError> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    match name {
        "" => Err(NameError::Empty),
        "." | ".." => Err(NameError::Dots),
        _ if name.len() > MAX_TOPIC_NAME_BYTES => Err(NameError::TooLong),
        _ if !name.bytes().all(ok) => Err(NameError::Character),
        _ => Ok(()),
    }
}

/// Two names that differ only in `.` against `_` cannot both exist: metric names write both as `_`.
pub fn names_collide(a: &str, b: &str) -> bool {
    let plain = |c: u8| if c == b'.' { b'_' } else { c };
    a.len() == b.len() && a.bytes().map(plain).eq(b.bytes().map(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "A.b_c-9", "...", &"x".repeat(249)] {
            assert_eq!(check_topic_name(good), Ok(()), "{good}");
        }
        let long = "x".repeat(250);
        for (bad, why) in [
            ("", NameError::Empty),
            (".", NameError::Dots),
            ("..", NameError::Dots),
            (long.as_str(), NameError::TooLong),
            ("a b", NameError::Character),
            ("ä", NameError::Character),
            ("a/b", NameError::Character),
        ] {
            assert_eq!(check_topic_name(bad), Err(why), "{bad}");
        }
        assert!(names_collide("a.b", "a_b"));
        assert!(names_collide("a.b", "a.b"));
        assert!(!names_collide("a.b", "a-b"));
    }
}
