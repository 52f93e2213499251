//! The claims about committed offsets.
//!
//! A commit takes effect at some moment between being sent and being answered; one that got no answer, at any moment until
//! its broker's process ended, or never. So a fetch may return any commit that is not certainly overwritten by another one
//! before the fetch was sent.

use std::collections::BTreeMap;
use std::time::Duration;

use trireme_runtime::Instant;

use super::{Checker, History, LogId};

/// Names a commit: it travels as the commit's metadata.
pub type CommitId = u64;

/// A request that nobody waits for is not carried out any more after this time.
const IN_DOUBT_MAX: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct Commit {
    id: CommitId,
    offset: i64,
    sent: Instant,
    /// The latest moment at which it took effect, once that is known.
    done: Option<Instant>,
    /// It certainly took effect: answered, or fetched.
    certain: bool,
}

#[derive(Default)]
pub(super) struct Commits {
    next: CommitId,
    of: BTreeMap<(String, LogId), Vec<Commit>>,
}

impl Commits {
    pub(super) fn process_ended(&mut self, now: Instant) {
        for commits in self.of.values_mut() {
            commits.iter_mut().for_each(|commit| {
                commit.done.get_or_insert(now);
            });
        }
    }
}

impl History {
    pub fn committing(&mut self, group: &str, log: LogId, offset: i64, now: Instant) -> CommitId {
        self.commits.next += 1;
        let id = self.commits.next;
        let commits = self.commits.of.entry((group.to_owned(), log)).or_default();
        commits.push(Commit {
            id,
            offset,
            sent: now,
            done: None,
            certain: false,
        });
        id
    }

    pub fn told_committed(&mut self, group: &str, log: LogId, id: CommitId, now: Instant) {
        self.counts.commits += 1;
        let commits = self
            .commits
            .of
            .get_mut(&(group.to_owned(), log))
            .expect("it was sent");
        let mut offset = -1;
        if let Some(commit) = commits.iter_mut().find(|commit| commit.id == id) {
            commit.done = Some(now);
            commit.certain = true;
            offset = commit.offset;
        }
        self.note(id, || format!("commit {group} log {log} {offset} as {id}"));
    }

    /// It was refused: it never takes effect.
    pub fn told_not_committed(&mut self, group: &str, log: LogId, id: CommitId) {
        let commits = self
            .commits
            .of
            .get_mut(&(group.to_owned(), log))
            .expect("it was sent");
        commits.retain(|commit| commit.id != id);
    }

    /// OffsetFetch, sent at `asked`, was answered now: -1 for none.
    pub fn told_fetched(
        &mut self,
        group: &str,
        log: LogId,
        offset: i64,
        metadata: &str,
        asked: Instant,
        now: Instant,
    ) {
        self.note(offset as u64, || {
            format!("offset {group} log {log} {offset} as {metadata:?}")
        });
        let name = self.log_name(log);
        let commits = self.commits.of.entry((group.to_owned(), log)).or_default();
        for commit in commits.iter_mut() {
            if commit.done.is_none() && commit.sent + IN_DOUBT_MAX < asked {
                commit.done = Some(commit.sent + IN_DOUBT_MAX);
            }
        }
        let newest_certain = commits
            .iter()
            .filter(|commit| commit.certain && commit.done.is_some_and(|done| done < asked))
            .max_by_key(|commit| commit.sent)
            .cloned();
        if offset < 0 {
            if let Some(newest) = newest_certain {
                let what = format!(
                    "{group} has no offset for {name}; {} was committed",
                    newest.offset
                );
                self.broken(Checker::Commits, what);
            }
            return;
        }
        let found = metadata.parse::<CommitId>().ok();
        let Some(at) = commits.iter().position(|commit| Some(commit.id) == found) else {
            let what =
                format!("{group} has {offset} ({metadata:?}) for {name}, which nobody committed");
            return self.broken(Checker::Commits, what);
        };
        let it = commits[at].clone();
        let overwritten = newest_certain
            .filter(|newest| newest.id != it.id && it.done.is_some_and(|done| done < newest.sent));
        if it.offset != offset {
            let what = format!(
                "{group} has {offset} for {name}; commit {} was of {}",
                it.id, it.offset
            );
            return self.broken(Checker::Commits, what);
        }
        if let Some(newest) = overwritten {
            let what = format!(
                "{group} has {offset} for {name} (commit {}), and {} was committed after it (commit {})",
                it.id, newest.offset, newest.id
            );
            return self.broken(Checker::Commits, what);
        }
        // It is certain now, and everything that is certainly older is of no interest any more.
        let it = &mut commits[at];
        it.certain = true;
        let done = it.done.map_or(now, |done| done.min(now));
        it.done = Some(done);
        let sent = it.sent;
        commits.retain(|commit| commit.done.is_none_or(|done| done >= sent));
    }
}
