use super::kit::*;
use crate::api::*;

#[test]
fn what_is_acknowledged_survives_an_end_without_shutdown() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let mut expected = 0;
    for round in 0..4u64 {
        expected = with_engine(&config, |engine| async move {
            if round == 0 {
                engine.create(vec![(partition(0), PartitionConfig::default())]).await;
            }
            let tags = read_tags(&engine, partition(0), 0, 100_000).await;
            assert_eq!(tags.len() as u64, expected);
            assert!(tags.iter().enumerate().all(|(at, tag)| *tag == at as u64));
            for tag in expected..expected + 200 {
                let appended = append(&engine, partition(0), batch(tag, 1, 5000)).await.expect("appended");
                assert_eq!(appended.base_offset, tag as i64);
            }
            let info = engine.describe(vec![partition(0)]).await.pop().expect("one").expect("known");
            assert_eq!(info.leader_epoch, round as i32);
            expected + 200
        });
    }
}
