//! Fetch sessions: what a consumer fetches is remembered between its requests, so that these and their answers name only what
//! changed. Pure: time and randomness are handed in.
//!
//! The rules are those of KIP-227. A request with epoch 0 opens a session, one with epoch -1 closes it and is answered without one, any
//! other continues the session whose epoch it names; every request counts the epoch up. The cache is bounded by sessions and by
//! remembered partitions: a new session may take the place of one that was not used for [`EVICTION_MS`], or of a smaller one that is
//! older than that; otherwise it gets none and its client goes on sending full requests. A session belongs to the core of its
//! connection; a client that comes back on another core is told FETCH_SESSION_ID_NOT_FOUND and opens a new one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use kacrab_protocol::generated::ErrorCode;

/// Sessions of all cores (Kafka's max.incremental.fetch.session.cache.slots).
pub const MAX_SESSIONS: usize = 1000;
/// Partitions that all sessions of a core may remember.
pub const MAX_SESSION_PARTITIONS: usize = 1 << 20;
/// Time without use after which a session may go, and age from which a larger one may push it out.
pub const EVICTION_MS: u64 = 120_000;

/// Epoch of a request that opens a session, and of one that wants none (any more).
pub const INITIAL_EPOCH: i32 = 0;
pub const FINAL_EPOCH: i32 = -1;
pub const NO_SESSION: i32 = 0;

/// A topic as the request names it. A session uses one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicKey {
    Name(Arc<str>),
    Id([u8; 16]),
}

/// What is fetched of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchParameters {
    pub leader_epoch: i32,
    pub offset: i64,
    pub last_fetched_epoch: i32,
    pub max_bytes: i32,
}

/// What the client was told last: an answer that would say the same is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    high_watermark: i64,
    log_start: i64,
}

const NOTHING_TOLD: Told = Told {
    high_watermark: -1,
    log_start: -1,
};

/// What is about to be told of a partition.
#[derive(Clone, Copy, Debug)]
pub struct Telling {
    pub high_watermark: i64,
    pub log_start: i64,
    pub has_records: bool,
    pub is_error: bool,
}

#[derive(Debug)]
struct Cached {
    key: (TopicKey, i32),
    parameters: FetchParameters,
    told: Told,
}

/// One consumer's session. Partitions have an order: those that gave records go to the end, so that none is starved by a byte limit.
#[derive(Debug)]
pub struct Session {
    pub id: i32,
    pub epoch: i32,
    uses_ids: bool,
    created_ms: u64,
    used_ms: u64,
    by_key: BTreeMap<(TopicKey, i32), u64>,
    in_order: BTreeMap<u64, Cached>,
    next: u64,
}

impl Session {
    fn set(&mut self, key: (TopicKey, i32), parameters: FetchParameters, told: Told) {
        if let Some(cached) = self
            .by_key
            .get(&key)
            .and_then(|place| self.in_order.get_mut(place))
        {
            cached.parameters = parameters;
            return;
        }
        self.by_key.insert(key.clone(), self.next);
        self.in_order.insert(
            self.next,
            Cached {
                key,
                parameters,
                told,
            },
        );
        self.next += 1;
    }

    fn forget(&mut self, key: &(TopicKey, i32)) {
        if let Some(place) = self.by_key.remove(key) {
            self.in_order.remove(&place);
        }
    }

    pub fn len(&self) -> usize {
        self.in_order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.in_order.is_empty()
    }

    /// All partitions in the order in which they are to be read, with a handle for [`Session::tell`].
    pub fn partitions(&self) -> impl Iterator<Item = (u64, &TopicKey, i32, FetchParameters)> {
        self.in_order
            .iter()
            .map(|(&place, cached)| (place, &cached.key.0, cached.key.1, cached.parameters))
    }

    /// Whether the partition has to be named in the answer; remembers what it says.
    pub fn tell(&mut self, place: u64, telling: Telling) -> bool {
        let Some(cached) = self.in_order.get_mut(&place) else {
            return true;
        };
        let now = Told {
            high_watermark: telling.high_watermark,
            log_start: telling.log_start,
        };
        let news = telling.has_records || telling.is_error || cached.told != now;
        cached.told = now;
        if telling.is_error {
            // When the error goes away, the partition is told again whatever it says.
            cached.told.high_watermark = -1;
        }
        if telling.has_records {
            let cached = self.in_order.remove(&place).expect("was there");
            self.by_key.insert(cached.key.clone(), self.next);
            self.in_order.insert(self.next, cached);
            self.next += 1;
        }
        news
    }
}

/// What a request is.
pub enum Kind {
    /// All partitions are in the request; no session is wanted.
    Sessionless,
    /// All partitions are in the request; open a session with what the answer tells, see [`Cache::open`].
    Full,
    /// The session says what is fetched.
    Incremental(Rc<RefCell<Session>>),
}

/// The sessions of one core.
pub struct Cache {
    sessions: BTreeMap<i32, Rc<RefCell<Session>>>,
    max_sessions: usize,
    partitions: usize,
    pub evicted: u64,
}

impl Cache {
    pub fn new(max_sessions: usize) -> Cache {
        Cache {
            sessions: BTreeMap::new(),
            max_sessions,
            partitions: 0,
            evicted: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Partitions that all sessions remember.
    pub fn partitions(&self) -> usize {
        self.partitions
    }

    /// Takes in a request: closes, updates, counts the epoch up.
    pub fn enter(
        &mut self,
        id: i32,
        epoch: i32,
        uses_ids: bool,
        now_ms: u64,
        fetched: impl Iterator<Item = (TopicKey, i32, FetchParameters)>,
        forgotten: impl Iterator<Item = (TopicKey, i32)>,
    ) -> Result<Kind, ErrorCode> {
        if epoch == INITIAL_EPOCH || epoch == FINAL_EPOCH {
            if id != NO_SESSION {
                self.close(id);
            }
            return Ok(if epoch == FINAL_EPOCH {
                Kind::Sessionless
            } else {
                Kind::Full
            });
        }
        let shared = self
            .sessions
            .get(&id)
            .cloned()
            .ok_or(ErrorCode::FetchSessionIdNotFound)?;
        let mut session = shared.borrow_mut();
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.uses_ids != uses_ids {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        let before = session.len();
        for (topic, partition, parameters) in fetched {
            session.set((topic, partition), parameters, NOTHING_TOLD);
        }
        for key in forgotten {
            session.forget(&key);
        }
        self.partitions = self.partitions + session.len() - before;
        if session.is_empty() || self.partitions > MAX_SESSION_PARTITIONS {
            // Without partitions there is nothing to remember; beyond the limit the client has to send full requests.
            let too_large = !session.is_empty();
            drop(session);
            self.close(id);
            return if too_large {
                Err(ErrorCode::FetchSessionIdNotFound)
            } else {
                Ok(Kind::Sessionless)
            };
        }
        session.epoch = next_epoch(epoch);
        session.used_ms = now_ms;
        drop(session);
        Ok(Kind::Incremental(shared))
    }

    /// Opens a session for what a full request asked and was told. 0 when the cache has no place for it.
    pub fn open<'p>(
        &mut self,
        uses_ids: bool,
        now_ms: u64,
        mut random: impl FnMut() -> u32,
        partitions: impl ExactSizeIterator<Item = (TopicKey, i32, FetchParameters, Telling)> + 'p,
    ) -> i32 {
        let size = partitions.len();
        if size == 0 || self.partitions + size > MAX_SESSION_PARTITIONS {
            return NO_SESSION;
        }
        if self.sessions.len() >= self.max_sessions && !self.evict(size, now_ms) {
            return NO_SESSION;
        }
        let id = loop {
            let id = (random() & 0x7fff_ffff) as i32;
            if id != NO_SESSION && !self.sessions.contains_key(&id) {
                break id;
            }
        };
        let mut session = Session {
            id,
            epoch: next_epoch(INITIAL_EPOCH),
            uses_ids,
            created_ms: now_ms,
            used_ms: now_ms,
            by_key: BTreeMap::new(),
            in_order: BTreeMap::new(),
            next: 0,
        };
        for (topic, partition, parameters, telling) in partitions {
            let high_watermark = if telling.is_error {
                -1
            } else {
                telling.high_watermark
            };
            session.set(
                (topic, partition),
                parameters,
                Told {
                    high_watermark,
                    log_start: telling.log_start,
                },
            );
        }
        self.partitions += session.len();
        self.sessions.insert(id, Rc::new(RefCell::new(session)));
        id
    }

    fn evict(&mut self, size: usize, now_ms: u64) -> bool {
        let stale = |session: &Session| now_ms.saturating_sub(session.used_ms) > EVICTION_MS;
        let old = |session: &Session| now_ms.saturating_sub(session.created_ms) > EVICTION_MS;
        let mut oldest: Option<(u64, i32)> = None;
        let mut smallest: Option<(usize, i32)> = None;
        for session in self.sessions.values() {
            let session = session.borrow();
            if stale(&session) && oldest.is_none_or(|found| (session.used_ms, session.id) < found) {
                oldest = Some((session.used_ms, session.id));
            }
            if old(&session) && smallest.is_none_or(|found| (session.len(), session.id) < found) {
                smallest = Some((session.len(), session.id));
            }
        }
        let victim = match (oldest, smallest) {
            (Some((_, id)), _) => id,
            (None, Some((len, id))) if len < size => id,
            _ => return false,
        };
        self.close(victim);
        self.evicted += 1;
        true
    }

    fn close(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.partitions -= session.borrow().len();
        }
    }
}

/// The epoch behind `epoch`: counts from 1 and wraps to 1.
fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, partition: i32) -> (TopicKey, i32) {
        (TopicKey::Name(name.into()), partition)
    }

    fn at(offset: i64) -> FetchParameters {
        FetchParameters {
            leader_epoch: -1,
            offset,
            last_fetched_epoch: -1,
            max_bytes: 1000,
        }
    }

    fn telling(high_watermark: i64) -> Telling {
        Telling {
            high_watermark,
            log_start: 0,
            has_records: false,
            is_error: false,
        }
    }

    type Changes = std::iter::Empty<(TopicKey, i32, FetchParameters)>;
    type Forgotten = std::iter::Empty<(TopicKey, i32)>;

    fn none() -> (Changes, Forgotten) {
        (std::iter::empty(), std::iter::empty())
    }

    fn open(cache: &mut Cache, size: i32, now_ms: u64) -> i32 {
        let mut next = 1000 * now_ms as u32 + size as u32;
        let random = || {
            next += 1;
            next
        };
        let partitions: Vec<_> = (0..size)
            .map(|p| {
                let (topic, partition) = key("t", p);
                (topic, partition, at(0), telling(5))
            })
            .collect();
        cache.open(false, now_ms, random, partitions.into_iter())
    }

    fn incremental(kind: Result<Kind, ErrorCode>) -> Rc<RefCell<Session>> {
        match kind {
            Ok(Kind::Incremental(session)) => session,
            _ => panic!("not an incremental fetch"),
        }
    }

    #[test]
    fn a_session_counts_epochs_and_leaves_out_what_is_known() {
        let mut cache = Cache::new(10);
        assert!(matches!(
            cache.enter(0, 0, false, 0, none().0, none().1),
            Ok(Kind::Full)
        ));
        let id = open(&mut cache, 2, 0);
        assert!(id > 0);
        let session = incremental(cache.enter(id, 1, false, 1, none().0, none().1));
        let places: Vec<_> = session
            .borrow()
            .partitions()
            .map(|(place, ..)| place)
            .collect();
        assert!(
            !session.borrow_mut().tell(places[0], telling(5)),
            "nothing new"
        );
        assert!(
            session.borrow_mut().tell(places[0], telling(6)),
            "a new high watermark"
        );
        assert!(!session.borrow_mut().tell(places[0], telling(6)));
        let error = Telling {
            is_error: true,
            ..telling(-1)
        };
        assert!(session.borrow_mut().tell(places[0], error));
        assert!(
            session.borrow_mut().tell(places[0], error),
            "an error is told each time"
        );
        assert!(
            session.borrow_mut().tell(places[0], telling(6)),
            "and its end"
        );

        assert_eq!(
            cache.enter(id, 1, false, 1, none().0, none().1).err(),
            Some(ErrorCode::InvalidFetchSessionEpoch)
        );
        assert_eq!(
            cache.enter(id, 2, true, 1, none().0, none().1).err(),
            Some(ErrorCode::FetchSessionTopicIdError)
        );
        incremental(cache.enter(id, 2, false, 1, none().0, none().1));
        assert_eq!(
            cache.enter(id + 1, 1, false, 1, none().0, none().1).err(),
            Some(ErrorCode::FetchSessionIdNotFound)
        );
    }

    #[test]
    fn partitions_with_records_go_to_the_end() {
        let mut cache = Cache::new(10);
        let id = open(&mut cache, 3, 0);
        let session = incremental(cache.enter(id, 1, false, 1, none().0, none().1));
        let first = session.borrow().partitions().next().unwrap().0;
        assert!(session.borrow_mut().tell(
            first,
            Telling {
                has_records: true,
                ..telling(5)
            }
        ));
        let order: Vec<_> = session
            .borrow()
            .partitions()
            .map(|(_, _, partition, _)| partition)
            .collect();
        assert_eq!(order, [1, 2, 0]);
        // It is still found by its name.
        let (topic, partition) = key("t", 0);
        let changed = std::iter::once((topic, partition, at(9)));
        incremental(cache.enter(id, 2, false, 1, changed, none().1));
        assert_eq!(session.borrow().partitions().last().unwrap().3.offset, 9);
        assert_eq!(session.borrow().len(), 3);
    }

    #[test]
    fn forgetting_everything_ends_the_session() {
        let mut cache = Cache::new(10);
        let id = open(&mut cache, 2, 0);
        let session =
            incremental(cache.enter(id, 1, false, 1, none().0, std::iter::once(key("t", 0))));
        assert_eq!(session.borrow().len(), 1);
        assert_eq!(cache.partitions(), 1);
        let ended = cache.enter(id, 2, false, 1, none().0, std::iter::once(key("t", 1)));
        assert!(matches!(ended, Ok(Kind::Sessionless)));
        assert_eq!((cache.len(), cache.partitions()), (0, 0));
    }

    #[test]
    fn a_full_or_final_request_closes_its_session() {
        let mut cache = Cache::new(10);
        let id = open(&mut cache, 2, 0);
        assert!(matches!(
            cache.enter(id, FINAL_EPOCH, false, 1, none().0, none().1),
            Ok(Kind::Sessionless)
        ));
        assert!(cache.is_empty());
        let id = open(&mut cache, 2, 0);
        assert!(matches!(
            cache.enter(id, INITIAL_EPOCH, false, 1, none().0, none().1),
            Ok(Kind::Full)
        ));
        assert!(cache.is_empty());
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut cache = Cache::new(2);
        let first = open(&mut cache, 1, 0);
        let second = open(&mut cache, 1, 1);
        assert_eq!(open(&mut cache, 5, 2), NO_SESSION, "all are young");
        let later = EVICTION_MS + 1;
        // The first one is in use, and old enough to be pushed out by a larger one; the second is stale.
        incremental(cache.enter(first, 1, false, later, none().0, none().1));
        assert_ne!(open(&mut cache, 1, later + 1), NO_SESSION);
        assert!(
            cache
                .enter(second, 1, false, later, none().0, none().1)
                .is_err(),
            "the stale one went first"
        );
        assert_ne!(open(&mut cache, 5, later + 2), NO_SESSION);
        assert!(
            cache
                .enter(first, 2, false, later, none().0, none().1)
                .is_err(),
            "then the smaller one"
        );
        assert_eq!((cache.len(), cache.evicted), (2, 2));
    }

    #[test]
    fn epochs_wrap_to_one() {
        assert_eq!(next_epoch(i32::MAX), 1);
        assert_eq!(next_epoch(0), 1);
    }
}
