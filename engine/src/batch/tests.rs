//! Tests of the header's room against batches made by hand and bent in every way.

use proptest::prelude::*;

use super::header::HeaderFields;
use super::*;
use crate::crc::crc32c;
use zerocopy::IntoBytes;

const LIMITS: Limits = Limits::client(1 << 20);

fn fields() -> HeaderFields {
    HeaderFields {
        base_offset: 0,
        batch_length: 0,
        leader_epoch: -1,
        crc: 0,
        attributes: 0,
        last_offset_delta: 0,
        base_timestamp: 1_700_000_000_000,
        max_timestamp: 1_700_000_000_000,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        records_count: 1,
    }
}

/// A batch with right length and CRC, whatever the rest says.
fn batch(mut fields: HeaderFields, payload: &[u8]) -> Vec<u8> {
    fields.batch_length = (HEADER_BYTES - LENGTH_FIELD_END + payload.len()) as i32;
    let mut bytes = BatchHeader::from(fields).as_bytes().to_vec();
    bytes.extend_from_slice(payload);
    seal(&mut bytes);
    bytes
}

fn seal(bytes: &mut [u8]) {
    let crc = crc32c(0, &bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn refused(fields: HeaderFields) -> BatchError {
    validate(&batch(fields, &[0; 70]), &LIMITS).expect_err("is refused")
}

#[test]
fn fields_stand_where_the_format_says() {
    let bytes = BatchHeader::from(HeaderFields {
        base_offset: 0x0102_0304_0506_0708,
        batch_length: 0x1112_1314,
        leader_epoch: 0x2122_2324,
        crc: 0x3132_3334,
        attributes: 0x4142,
        last_offset_delta: 0x5152_5354,
        base_timestamp: 0x6162_6364_6566_6768,
        max_timestamp: 0x7172_7374_7576_7778,
        producer_id: 0x0112_2334_4556_6778,
        producer_epoch: 0x1A1B,
        base_sequence: 0x2A2B_2C2D,
        records_count: 0x3A3B_3C3D,
    })
    .as_bytes()
    .to_vec();
    let expected = concat!(
        "0102030405060708",
        "11121314",
        "21222324",
        "02",
        "31323334",
        "4142",
        "51525354",
        "6162636465666768",
        "7172737475767778",
        "0112233445566778",
        "1a1b",
        "2a2b2c2d",
        "3a3b3c3d"
    );
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected);
}

#[test]
fn a_plain_batch_passes() {
    let bytes = batch(fields(), &[1; 7]);
    let valid = validate(&bytes, &LIMITS).expect("valid");
    assert_eq!(valid.codec(), Codec::None);
    assert_eq!(valid.records_count(), 1);
    assert_eq!(valid.payload(), [1; 7]);
    assert_eq!(valid.bytes(), bytes);
    assert_eq!(valid.header().next_offset(), 1);
}

#[test]
fn every_codec_passes_and_no_other() {
    for id in 0..8 {
        let bytes = batch(
            HeaderFields {
                attributes: id,
                ..fields()
            },
            &[0; 70],
        );
        let result = validate(&bytes, &LIMITS).map(|valid| valid.codec().id());
        let expected = if id <= 4 {
            Ok(id as u8)
        } else {
            Err(BatchError::Codec(id as u8))
        };
        assert_eq!(result, expected);
    }
    assert_eq!(
        refused(HeaderFields {
            attributes: 7,
            ..fields()
        })
        .kind(),
        BatchErrorKind::Compression
    );
}

#[test]
fn what_a_client_may_not_set() {
    let base = fields();
    assert_eq!(
        refused(HeaderFields {
            attributes: 0x20,
            ..base
        }),
        BatchError::Control
    );
    assert_eq!(
        refused(HeaderFields {
            attributes: 0x10,
            ..base
        }),
        BatchError::Transactional
    );
    assert_eq!(
        refused(HeaderFields {
            attributes: 0x08,
            ..base
        }),
        BatchError::TimestampType
    );
    assert_eq!(
        refused(HeaderFields {
            base_offset: 5,
            ..base
        }),
        BatchError::BaseOffset(5)
    );
    for (count, last_offset_delta) in [
        (0, -1),
        (0, 0),
        (1, 1),
        (2, 0),
        (-1, -2),
        (i32::MIN, i32::MAX),
        (-5, 3),
    ] {
        let bent = HeaderFields {
            records_count: count,
            last_offset_delta,
            ..base
        };
        assert_eq!(
            refused(bent),
            BatchError::Count {
                count,
                last_offset_delta
            }
        );
    }
    let many = HeaderFields {
        records_count: 11,
        last_offset_delta: 10,
        ..base
    };
    assert_eq!(
        refused(many),
        BatchError::CountBeyondPayload {
            count: 11,
            payload: 70
        }
    );
    let huge = HeaderFields {
        records_count: i32::MAX,
        last_offset_delta: i32::MAX - 1,
        attributes: 4,
        ..base
    };
    assert_eq!(
        refused(huge),
        BatchError::TooManyRecords {
            count: i32::MAX,
            max: Limits::RECORDS_MAX
        }
    );
}

#[test]
fn timestamps() {
    let of = |base_timestamp, max_timestamp| HeaderFields {
        base_timestamp,
        max_timestamp,
        ..fields()
    };
    let check = |fields, limits: &Limits| validate(&batch(fields, &[0; 70]), limits).map(|_| ());
    assert_eq!(check(of(-1, -1), &LIMITS), Ok(()));
    assert_eq!(check(of(5, 9), &LIMITS), Ok(()));
    // A client that leaves the max unset is let through, and the base counts.
    assert_eq!(check(of(5, -1), &LIMITS), Ok(()));
    assert_eq!(BatchHeader::from(of(5, -1)).latest_timestamp(), 5);
    assert_eq!(
        check(of(9, 5), &LIMITS),
        Err(BatchError::Timestamps { base: 9, max: 5 })
    );
    let narrow = Limits {
        timestamp_min: 100,
        timestamp_max: 200,
        ..LIMITS
    };
    assert_eq!(check(of(100, 200), &narrow), Ok(()));
    assert_eq!(check(of(-1, -1), &narrow), Ok(()));
    assert_eq!(
        check(of(99, 150), &narrow),
        Err(BatchError::Timestamps { base: 99, max: 150 })
    );
    assert_eq!(
        check(of(100, 201), &narrow),
        Err(BatchError::Timestamps {
            base: 100,
            max: 201
        })
    );
}

#[test]
fn producers() {
    let of = |id, epoch, sequence| HeaderFields {
        producer_id: id,
        producer_epoch: epoch,
        base_sequence: sequence,
        ..fields()
    };
    let check = |fields| validate(&batch(fields, &[0; 70]), &LIMITS).map(|_| ());
    assert_eq!(check(of(7, 0, 0)), Ok(()));
    assert_eq!(check(of(7, i16::MAX, i32::MAX)), Ok(()));
    assert_eq!(
        check(of(7, 0, -1)),
        Err(BatchError::Producer {
            id: 7,
            epoch: 0,
            sequence: -1
        })
    );
    assert_eq!(
        check(of(7, -1, 0)),
        Err(BatchError::Producer {
            id: 7,
            epoch: -1,
            sequence: 0
        })
    );
    // Without a producer id the two others have no meaning, and some clients leave 0 there.
    assert_eq!(check(of(-1, 0, 0)), Ok(()));
}

#[test]
fn a_log_may_hold_what_compaction_leaves() {
    let limits = Limits::log(1 << 20);
    let check = |fields| validate(&batch(fields, &[0; 70]), &limits).map(|_| ());
    let base = HeaderFields {
        base_offset: 1000,
        last_offset_delta: 9,
        records_count: 3,
        ..fields()
    };
    assert_eq!(check(base), Ok(()));
    assert_eq!(
        check(HeaderFields {
            records_count: 0,
            ..base
        }),
        Ok(())
    );
    assert_eq!(
        check(HeaderFields {
            attributes: 0x38,
            ..base
        }),
        Ok(())
    );
    let over = HeaderFields {
        records_count: 11,
        ..base
    };
    assert_eq!(
        check(over),
        Err(BatchError::Count {
            count: 11,
            last_offset_delta: 9
        })
    );
    for base_offset in [-1, i64::MIN, i64::MAX, i64::MAX - 9] {
        let bent = HeaderFields {
            base_offset,
            ..base
        };
        assert_eq!(
            check(bent),
            Err(BatchError::OffsetRange {
                base_offset,
                last_offset_delta: 9
            })
        );
    }
    assert_eq!(
        check(HeaderFields {
            base_offset: i64::MAX - 10,
            ..base
        }),
        Ok(())
    );
}

#[test]
fn size_and_shape() {
    let bytes = batch(fields(), &[0; 70]);
    let too_large = validate(&bytes, &Limits::client(bytes.len() - 1));
    assert_eq!(
        too_large.unwrap_err(),
        BatchError::TooLarge {
            bytes: 131,
            max: 130
        }
    );
    assert!(validate(&bytes, &Limits::client(bytes.len())).is_ok());

    assert_eq!(validate(&[], &LIMITS).unwrap_err(), BatchError::Empty);
    let two = [bytes.clone(), bytes.clone()].concat();
    assert_eq!(
        validate(&two, &LIMITS).unwrap_err(),
        BatchError::SeveralBatches
    );
    assert_eq!(Batches::new(&two).count_whole(), 2);

    for length in [i32::MIN, -1, 0, 48] {
        let mut bent = bytes.clone();
        bent[8..12].copy_from_slice(&length.to_be_bytes());
        assert_eq!(
            validate(&bent, &LIMITS).unwrap_err(),
            BatchError::Length(length)
        );
    }
    let mut bent = bytes.clone();
    bent[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
    let needed = i32::MAX as usize + 12;
    assert_eq!(
        validate(&bent, &LIMITS).unwrap_err(),
        BatchError::Truncated { needed, have: 131 }
    );
    assert_eq!(Batches::new(&bent).count_whole(), 0);

    // A message of the oldest format: shorter than our header, magic 0 at the same place.
    let mut old = vec![0u8; 30];
    old[11] = 18;
    assert_eq!(validate(&old, &LIMITS).unwrap_err(), BatchError::Magic(0));
}

#[test]
fn sequences_wrap_within_31_bits() {
    assert_eq!(sequence_add(0, 0), 0);
    assert_eq!(sequence_add(i32::MAX, 0), i32::MAX);
    assert_eq!(sequence_add(i32::MAX, 1), 0);
    assert_eq!(sequence_add(i32::MAX - 1, 5), 3);
    let header = BatchHeader::from(HeaderFields {
        base_sequence: -1,
        last_offset_delta: 4,
        ..fields()
    });
    assert_eq!(header.last_sequence(), NO_SEQUENCE);
}

fn any_fields() -> impl Strategy<Value = HeaderFields> {
    (
        any::<(i64, i32, i32, u32, i16, i32)>(),
        any::<(i64, i64, i64, i16, i32, i32)>(),
    )
        .prop_map(|(a, b)| HeaderFields {
            base_offset: a.0,
            batch_length: a.1,
            leader_epoch: a.2,
            crc: a.3,
            attributes: a.4,
            last_offset_delta: a.5,
            base_timestamp: b.0,
            max_timestamp: b.1,
            producer_id: b.2,
            producer_epoch: b.3,
            base_sequence: b.4,
            records_count: b.5,
        })
}

proptest! {
    /// Nothing panics on any header, and every accessor can be called.
    #[test]
    fn any_header_is_read_without_panic(fields in any_fields(), payload in prop::collection::vec(any::<u8>(), 0..100)) {
        let bytes = batch(fields, &payload);
        for limits in [Limits::client(1 << 20), Limits::log(1 << 20)] {
            if let Ok(valid) = validate(&bytes, &limits) {
                prop_assert!(valid.header().next_offset() > valid.header().base_offset());
            }
        }
        let header = BatchHeader::view(&bytes).unwrap();
        let _ = (format!("{header:?}"), header.last_sequence(), header.next_offset(), header.latest_timestamp());
    }

    /// Every single flipped bit from the length on is noticed (the first 8 bytes and the epoch lie outside the CRC).
    #[test]
    fn a_flipped_bit_is_noticed(payload in prop::collection::vec(any::<u8>(), 7..60), at in 0usize..1000, bit in 0u8..8) {
        let mut bytes = batch(fields(), &payload);
        let at = 16 + at % (bytes.len() - 16);
        bytes[at] ^= 1 << bit;
        prop_assert!(validate(&bytes, &LIMITS).is_err());
        bytes[at] ^= 1 << bit;
        prop_assert!(validate(&bytes, &LIMITS).is_ok());
    }

    #[test]
    fn patches_leave_a_right_crc(
        payload in prop::collection::vec(any::<u8>(), 7..5000),
        offset in 0i64..i64::MAX / 2, epoch: i32, timestamp: i64, base_timestamp: i64,
    ) {
        let mut bytes = batch(HeaderFields { base_timestamp, ..fields() }, &payload);
        let produced = bytes.clone();
        assign(&mut bytes[..HEADER_BYTES], offset, epoch);
        let limits = Limits::log(1 << 20);
        let header = validate(&bytes, &limits).expect("assign keeps the CRC right").header();
        prop_assert_eq!((header.base_offset(), header.leader_epoch()), (offset, epoch));
        prop_assert_eq!(&bytes[16..], &produced[16..]);

        set_log_append_time(&mut bytes[..HEADER_BYTES], timestamp);
        let mut recomputed = bytes.clone();
        seal(&mut recomputed);
        prop_assert_eq!(&recomputed, &bytes);
        let header = BatchHeader::view(&bytes).unwrap();
        prop_assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);
        prop_assert_eq!(header.max_timestamp(), timestamp);
        prop_assert_eq!(header.base_timestamp(), base_timestamp);

        set_max_timestamp(&mut bytes, timestamp.wrapping_add(1));
        let mut recomputed = bytes.clone();
        seal(&mut recomputed);
        prop_assert_eq!(&recomputed, &bytes);
    }

    /// A patch never makes a wrong CRC right.
    #[test]
    fn a_patch_keeps_damage_visible(payload in prop::collection::vec(any::<u8>(), 7..300), flip in 1u32.., timestamp: i64) {
        let mut bytes = batch(fields(), &payload);
        let header = BatchHeader::view_mut(&mut bytes).unwrap();
        let wrong = header.crc() ^ flip;
        header.crc.set(wrong);
        set_log_append_time(&mut bytes, timestamp);
        let is_crc_error = matches!(validate(&bytes, &Limits::log(1 << 20)), Err(BatchError::Crc { .. }));
        prop_assert!(is_crc_error);
    }

    /// Cut anywhere, a run of batches yields the whole ones, one error unless the cut is between two, then nothing.
    #[test]
    fn splitting_a_cut_log(lengths in prop::collection::vec(0usize..90, 1..8), cut: prop::sample::Index) {
        let batches: Vec<_> = lengths.iter().map(|&length| batch(fields(), &vec![3; length])).collect();
        let log = batches.concat();
        let cut = cut.index(log.len() + 1);
        let mut whole = 0;
        let mut end = 0;
        while whole < batches.len() && end + batches[whole].len() <= cut {
            end += batches[whole].len();
            whole += 1;
        }
        let mut split = Batches::new(&log[..cut]);
        prop_assert_eq!(split.count_whole(), whole);
        for expected in &batches[..whole] {
            let raw = split.next().unwrap().unwrap();
            prop_assert_eq!(raw.bytes(), expected.as_slice());
        }
        prop_assert_eq!(split.position(), end);
        match split.next() {
            None => prop_assert_eq!(cut, end),
            Some(result) => {
                let is_cut = matches!(result, Err(BatchError::Truncated { .. }));
                prop_assert!(is_cut && cut > end);
            }
        }
        prop_assert_eq!(split.position(), end);
        prop_assert!(split.next().is_none());
    }

    #[test]
    fn splitting_noise_ends(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut split = Batches::new(&bytes);
        let items = split.by_ref().count();
        prop_assert!(items <= bytes.len() / HEADER_BYTES + 1);
        let _ = single(&bytes);
    }
}
