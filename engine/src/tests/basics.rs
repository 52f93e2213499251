use super::kit::*;
use crate::api::*;

#[test]
fn what_is_appended_is_read_and_survives_a_shutdown() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    with_engine(&config, |engine| async move {
        let created = engine
            .create(vec![(partition(0), PartitionConfig::default())])
            .await;
        assert_eq!(created, [Ok(())]);
        for tag in 0..50 {
            let appended = append(&engine, partition(0), batch(tag, 3, 100))
                .await
                .expect("appended");
            assert_eq!(appended.base_offset, tag as i64 * 3);
        }
        let tags = read_tags(&engine, partition(0), 0, 1000).await;
        assert_eq!(tags.len(), 150);
        assert!(
            tags.iter()
                .enumerate()
                .all(|(at, tag)| *tag == at as u64 / 3)
        );
        engine.shutdown().await;
    });
    for round in 0..3 {
        with_engine(&config, |engine| async move {
            assert_eq!(engine.list().await, [partition(0)]);
            let info = engine
                .describe(vec![partition(0)])
                .await
                .pop()
                .expect("one")
                .expect("known");
            assert_eq!(info.leader_epoch, 0, "every end was clean");
            assert_eq!(info.log_end, 150 + round * 3);
            assert_eq!(
                read_tags(&engine, partition(0), 0, 5000).await.len(),
                150 + round as usize * 3
            );
            append(&engine, partition(0), batch(1000, 3, 100))
                .await
                .expect("appended");
            assert_eq!(
                read_tags(&engine, partition(0), 0, 5000).await.len(),
                153 + round as usize * 3
            );
            engine.shutdown().await;
        });
    }
}
