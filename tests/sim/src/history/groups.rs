//! The claims about consumer groups' generations.

use std::collections::BTreeMap;

use super::{Checker, History, LogId};

#[derive(Default)]
struct Generation {
    /// The broker's process that began it. A generation that nobody has an assignment of is not durable: after a restart
    /// its number may be another one's.
    process: u32,
    is_assigned: bool,
    leader: String,
    /// What the leader handed in; what a member got has to be its part of it.
    assignments: BTreeMap<String, Vec<u8>>,
    /// Who was given which partition.
    owners: BTreeMap<LogId, String>,
}

#[derive(Default)]
pub(super) struct Groups {
    generations: BTreeMap<(String, i32), Generation>,
}

impl History {
    /// JoinGroup, sent to the broker's process of this number, was answered.
    pub fn told_joined(
        &mut self,
        process: u32,
        group: &str,
        generation: i32,
        leader: Option<&str>,
        member: &str,
    ) {
        let leader = leader.unwrap_or_default();
        self.note(generation as u64, || {
            format!("join  {group} generation {generation}: {member}, led by {leader}")
        });
        let generations = &mut self.groups.generations;
        let key = (group.to_owned(), generation);
        // One with the same leader may be the same one, whose assignment became durable while its answers were lost.
        if let Some(old) = generations.get_mut(&key)
            && !old.is_assigned
            && old.process != process
        {
            match old.leader == leader {
                true => old.process = process,
                false => drop(generations.remove(&key)),
            }
        }
        let is_new = !generations.contains_key(&key);
        let state = generations.entry(key).or_default();
        if is_new {
            state.leader = leader.to_owned();
            state.process = process;
            self.counts.rebalances += 1;
        } else if state.leader != leader {
            let what = format!(
                "{group} generation {generation} is led by {} and by {leader}",
                state.leader
            );
            self.broken(Checker::Groups, what);
        }
    }

    /// The leader hands in who gets what.
    pub fn assigning(
        &mut self,
        group: &str,
        generation: i32,
        assignments: impl Iterator<Item = (String, Vec<u8>)>,
    ) {
        let state = self
            .groups
            .generations
            .entry((group.to_owned(), generation))
            .or_default();
        // A leader that asks again after a lost answer says the same again.
        state.assignments.extend(assignments);
    }

    /// SyncGroup was answered: the member owns these logs in this generation.
    pub fn told_assigned(
        &mut self,
        group: &str,
        generation: i32,
        member: &str,
        assignment: &[u8],
        logs: &[LogId],
    ) {
        self.note(generation as u64, || {
            format!("sync  {group} generation {generation}: {member} has {logs:?}")
        });
        let state = self
            .groups
            .generations
            .entry((group.to_owned(), generation))
            .or_default();
        state.is_assigned = true;
        let given = state.assignments.get(member).cloned().unwrap_or_default();
        if given != assignment {
            let what = format!(
                "{group} generation {generation}: {member} was not given what its leader gave it"
            );
            return self.broken(Checker::Groups, what);
        }
        for log in logs {
            let owner = state
                .owners
                .entry(*log)
                .or_insert_with(|| member.to_owned());
            if owner != member {
                let what = format!(
                    "{group} generation {generation}: log {log} is {owner}'s and {member}'s"
                );
                return self.broken(Checker::Groups, what);
            }
        }
    }
}
