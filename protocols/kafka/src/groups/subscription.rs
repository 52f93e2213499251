//! The topics that a consumer's subscription names: the only part of the assignors' opaque bytes that a coordinator looks
//! at, to know which committed offsets are still of use. Version 0 of the consumer protocol (version i16, topics: array of
//! strings, big endian) is a prefix of all later ones.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Adds the topics of `subscription` to `topics`. False when it is not of the consumer protocol's form; `topics` may
/// then have got some of them.
pub(super) fn topics_of(subscription: &[u8], topics: &mut BTreeSet<Arc<str>>) -> bool {
    read(subscription, topics).is_some()
}

fn read(mut bytes: &[u8], topics: &mut BTreeSet<Arc<str>>) -> Option<()> {
    let version = i16::from_be_bytes(take(&mut bytes)?);
    let count = i32::from_be_bytes(take(&mut bytes)?);
    if version < 0 || count < 0 {
        return None;
    }
    for _ in 0..count {
        let len = usize::try_from(i16::from_be_bytes(take(&mut bytes)?)).ok()?;
        let (name, rest) = bytes.split_at_checked(len)?;
        bytes = rest;
        let name = std::str::from_utf8(name).ok()?;
        if !topics.contains(name) {
            topics.insert(name.into());
        }
    }
    Some(())
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, BytesMut};

    fn subscription(version: i16, topics: &[&str]) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        bytes.put_i16(version);
        bytes.put_i32(topics.len() as i32);
        for topic in topics {
            bytes.put_i16(topic.len() as i16);
            bytes.put_slice(topic.as_bytes());
        }
        bytes.put_slice(b"\xff\xff\xff\xff later versions");
        bytes.to_vec()
    }

    #[test]
    fn reads_the_common_prefix_of_all_versions() {
        for version in 0..4 {
            let mut topics = BTreeSet::new();
            assert!(topics_of(
                &subscription(version, &["a", "b", "a"]),
                &mut topics
            ));
            assert_eq!(topics.iter().map(|t| &**t).collect::<Vec<_>>(), ["a", "b"]);
        }
    }

    #[test]
    fn refuses_what_is_cut_or_negative_or_boundless() {
        let whole = subscription(1, &["abc"]);
        for cut in 0..11 {
            assert!(
                !topics_of(&whole[..cut], &mut BTreeSet::new()),
                "cut at {cut}"
            );
        }
        assert!(!topics_of(
            &subscription(-1, &["abc"]),
            &mut BTreeSet::new()
        ));
        assert!(!topics_of(b"\0\0\x7f\xff\xff\xff", &mut BTreeSet::new()));
        assert!(!topics_of(
            b"\0\0\0\0\0\x01\0\x01\xff",
            &mut BTreeSet::new()
        ));
    }
}
