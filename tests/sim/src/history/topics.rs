//! The claims about topics. Each topic is changed by one client only, so at any time one of these is true of it.

use uuid::Uuid;

use super::{Checker, History};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existence {
    Absent,
    /// It is there, with at least so many partitions and at most so many.
    Present {
        id: Uuid,
        least: i32,
        most: i32,
    },
    /// A creation, or a deletion of this topic, got no answer.
    Maybe {
        id: Option<Uuid>,
        partitions: i32,
    },
}

impl History {
    /// Metadata says whether a topic is there, with which id and how many partitions; what is known from then on.
    pub fn told_topic(
        &mut self,
        name: &str,
        known: Existence,
        told: Option<(Uuid, i32)>,
    ) -> Existence {
        self.note(
            told.map_or(0, |(id, count)| id.as_u64_pair().0 ^ count as u64),
            || format!("topic {name}: {told:?}"),
        );
        let wrong = match (known, told) {
            (Existence::Absent, Some((id, _))) => Some(format!("is there with id {id}")),
            (Existence::Present { id, .. }, None) => Some(format!("with id {id} is missing")),
            (Existence::Present { id, least, most }, Some((other, count))) => (id != other || count < least || count > most)
                .then(|| format!("has id {other} and {count} partitions, and had id {id} and {least} to {most}")),
            (Existence::Maybe { id: Some(id), .. }, Some((other, _))) => {
                (id != other).then(|| format!("has id {other} and had {id}"))
            }
            (Existence::Absent | Existence::Maybe { .. }, _) => None,
        };
        if let Some(wrong) = wrong {
            self.broken(Checker::Topics, format!("topic {name} {wrong}"));
        }
        match told {
            None => Existence::Absent,
            Some((id, count)) => Existence::Present {
                id,
                least: count,
                most: count,
            },
        }
    }
}
