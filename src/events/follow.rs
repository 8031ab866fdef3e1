//! Who follows the log: server-sent events (WHATWG HTML, 9.2).

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shards;
use super::log::{Entry, Log, Resume};
use crate::bus::keeper::{Filter, Follow, Follower, FromKeeper};
use crate::limits::EVENTS_KEPT;
use crate::media::ShardId;

/// All followers, and when they are next told that the connection lives.
#[derive(Default)]
pub(super) struct Followers {
    list: Vec<Following>,
    next_ping: Option<Instant>,
}

struct Following {
    shard: ShardId,
    follower: Arc<Follower>,
    filter: Filter,
    /// The next entry that it gets.
    next: u64,
    /// The newest id that it was told: where it comes back to.
    told: u64,
}

impl Followers {
    /// Gives a new follower its position and what it missed.
    pub(super) fn enter(
        &mut self,
        now: Instant,
        log: &Log,
        (shard, follower, follow): (ShardId, Arc<Follower>, Follow),
        shards: &mut Shards,
    ) {
        let (next, mut text) = greet(log, follow.after.as_deref());
        let (filter, told) = (follow.filter, next - 1);
        let mut following = Following { shard, follower, filter, next, told };
        following.render(log, &mut text);
        following.tell_place(log, &mut text, 1);
        if following.give(text, shards) {
            self.list.push(following);
            self.next_ping.get_or_insert(now + PING);
        }
    }

    pub(super) fn leave(&mut self, follower: &Arc<Follower>) {
        self.list.retain(|following| !Arc::ptr_eq(&following.follower, follower));
        if self.list.is_empty() {
            self.next_ping = None;
        }
    }

    /// Gives everybody what is new in the log.
    pub(super) fn feed(&mut self, log: &Log, shards: &mut Shards) {
        self.list.retain_mut(|following| {
            let mut text = String::new();
            following.render(log, &mut text);
            following.tell_place(log, &mut text, PASSED_OVER_MAX);
            text.is_empty() || following.give(text, shards)
        });
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next_ping
    }

    /// Has a connection that is gone noticed.
    pub(super) fn handle_timeout(&mut self, now: Instant, log: &Log, shards: &mut Shards) {
        if self.next_ping.is_some_and(|due| due <= now) {
            self.next_ping = Some(now + PING);
            self.list.retain_mut(|following| {
                let mut text = ":\n".to_owned();
                following.tell_place(log, &mut text, 1);
                if text.len() == 2 {
                    text.push('\n');
                }
                following.give(text, shards)
            });
        }
    }
}

impl Following {
    fn render(&mut self, log: &Log, text: &mut String) {
        for entry in log.from(self.next) {
            // What is of no stream is for everybody.
            if entry.key.as_ref().is_none_or(|key| self.filter.lets_through(key)) {
                push(text, log, entry);
                self.told = entry.seq;
            }
        }
        self.next = log.newest() + 1;
    }

    /// Where its filter has passed over so many entries since it was told an id, it is told one with no
    /// event: a client comes back to it (HTML, 9.2.6: the id is set before a block without data is
    /// dropped), and what was not for it makes no gap.
    fn tell_place(&mut self, log: &Log, text: &mut String, passed_over: u64) {
        if self.next - 1 - self.told >= passed_over {
            self.told = self.next - 1;
            writeln!(text, "id: {}\n", log.id(self.told)).expect("a String takes everything");
        }
    }

    /// `false` when it has not taken what it was given, and gets no more.
    fn give(&self, text: String, shards: &mut Shards) -> bool {
        let follower = self.follower.clone();
        let has_room = follower.put(text.len());
        let message = match has_room {
            true => FromKeeper::Feed { follower, bytes: text.into() },
            false => FromKeeper::Ended { follower },
        };
        shards.put(self.shard.index(), message);
        has_room
    }
}

/// The first entry for a follower, and what it is told first: the newest id, so that it can come back
/// to it, or what it has missed.
fn greet(log: &Log, after: Option<&str>) -> (u64, String) {
    let mut text = "retry: 1000\n".to_owned();
    let next = match after.map(|last_id| log.resume(last_id)) {
        None => {
            let next = log.newest() + 1;
            let id = log.id(log.newest());
            writeln!(text, "id: {id}\n").expect("a String takes everything");
            return (next, text);
        }
        Some(Resume::At(next)) => {
            text.push('\n');
            return (next, text);
        }
        Some(Resume::Missed { from, count }) => {
            push_gap(&mut text, log, from, &format!("\"missed\":{count}"));
            from
        }
        Some(Resume::OtherRun { from }) => {
            push_gap(&mut text, log, from, "\"reason\":\"another run\"");
            from
        }
    };
    (next, text)
}

/// What lies before this entry is missing; with the id of the one before it, which who comes back has had.
fn push_gap(text: &mut String, log: &Log, from: u64, more: &str) {
    let (id, run) = (log.id(from - 1), log.run);
    let data = format!("{{\"run\":{run},\"event\":\"gap\",{more}}}");
    writeln!(text, "id: {id}\nevent: gap\ndata: {data}\n").expect("a String takes everything");
}

fn push(text: &mut String, log: &Log, entry: &Entry) {
    let (id, event, data) = (log.id(entry.seq), entry.name, &entry.json);
    writeln!(text, "id: {id}\nevent: {event}\ndata: {data}\n").expect("a String takes everything");
}

/// Entries that are passed over before a follower is told where it is; some of those that are kept, so that
/// it never comes back behind them for that alone.
const PASSED_OVER_MAX: u64 = EVENTS_KEPT as u64 / 16;

/// Proxies close what is silent for a minute, some for half of one.
const PING: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::bus::event::{Event, What};
    use crate::bus::mesh::Wake;
    use crate::clock;
    use crate::events::ShardEnd;
    use crate::limits::{EVENTS_KEPT_LEN_MAX, FOLLOWER_QUEUE_LEN_MAX};
    use crate::media::{SourceUrl, StreamKey};

    struct Awake;

    impl Wake for Awake {
        fn wake(&self) {}
    }

    struct Scene {
        log: Log,
        followers: Followers,
        shards: Shards,
        inbox: Receiver<FromKeeper>,
    }

    impl Scene {
        fn new() -> Self {
            let (sender, inbox) = channel();
            let mut shards = Shards::default();
            shards.enter(0, ShardEnd { inbox: sender, waker: Arc::new(Awake), to_wake: false });
            Self { log: Log::new(7), followers: Followers::default(), shards, inbox }
        }

        fn happen(&mut self, stream: &str) {
            let key = StreamKey::in_default_vhost("live", stream).unwrap();
            self.log.add(0, &Event { key, generation: None, what: What::Unwatched });
            self.followers.feed(&self.log, &mut self.shards);
        }

        fn follow(&mut self, token: u64, stream: Option<&str>, after: Option<&str>) {
            let filter = Filter { stream: stream.map(str::to_owned), ..Filter::default() };
            let follow = Follow { filter, after: after.map(str::to_owned) };
            let follower = (ShardId(0), Arc::new(Follower::new(token)), follow);
            self.followers.enter(clock::now(), &self.log, follower, &mut self.shards);
        }

        /// The ids that each follower was told, and whether it was told of a gap.
        fn told(&self, token: u64) -> (Vec<String>, bool) {
            let mut text = String::new();
            for message in self.inbox.try_iter() {
                if let FromKeeper::Feed { follower, bytes } = message
                    && follower.token == token
                {
                    text += std::str::from_utf8(&bytes).unwrap();
                }
            }
            let ids = text.lines().filter_map(|line| line.strip_prefix("id: ").map(str::to_owned));
            (ids.collect(), text.contains("event: gap"))
        }
    }

    fn place_of(id: &str) -> u64 {
        id.strip_prefix("7-").and_then(|place| place.parse().ok()).expect("an id of this run")
    }

    #[test]
    fn a_follower_gets_what_comes_and_what_its_filter_lets_through() {
        let mut scene = Scene::new();
        scene.happen("a");
        scene.follow(1, Some("a"), None);
        for stream in ["a", "b", "a"] {
            scene.happen(stream);
        }
        assert_eq!(
            scene.told(1),
            (vec!["7-1".to_owned(), "7-2".to_owned(), "7-4".to_owned()], false)
        );
    }

    #[test]
    fn who_comes_back_gets_what_it_missed_once() {
        let mut scene = Scene::new();
        for _ in 0..4 {
            scene.happen("a");
        }
        scene.follow(1, None, Some("7-2"));
        scene.happen("a");
        let ids = ["7-3", "7-4", "7-5"].map(str::to_owned).to_vec();
        assert_eq!(scene.told(1), (ids, false));
        scene.follow(2, None, Some("6-2"));
        assert_eq!((scene.told(2).0.len(), scene.told(2).1), (6, false), "with that of the gap");
    }

    #[test]
    fn what_a_filter_passes_over_makes_no_gap() {
        let mut scene = Scene::new();
        scene.happen("a");
        scene.follow(1, Some("a"), None);
        for _ in 0..2 * EVENTS_KEPT {
            scene.happen("b");
        }
        let (ids, _) = scene.told(1);
        assert!(ids.len() as u64 <= 2 + 2 * EVENTS_KEPT as u64 / PASSED_OVER_MAX, "{}", ids.len());
        let last = ids.last().cloned().expect("it was told where it is");
        scene.happen("b");
        scene.follow(2, Some("a"), Some(&last));
        let newest = 2 * EVENTS_KEPT + 2;
        assert_eq!(scene.told(2), (vec![format!("7-{newest}")], false));
        // A ping tells it too, and of one that has heard nothing new no more than that it lives.
        scene.happen("b");
        let mut now = clock::now();
        for ids in [vec![format!("7-{}", newest + 1)], vec![]] {
            now += 2 * PING;
            scene.followers.handle_timeout(now, &scene.log, &mut scene.shards);
            assert_eq!(scene.told(2), (ids, false));
        }
    }

    #[test]
    fn who_comes_back_right_after_a_gap_is_told_of_it_once() {
        let mut scene = Scene::new();
        for _ in 0..EVENTS_KEPT + 5 {
            scene.happen("b");
        }
        scene.follow(1, Some("a"), Some("7-1"));
        let (ids, is_gap) = scene.told(1);
        assert_eq!((&ids[..], is_gap), (&["7-5".to_owned(), "7-16389".to_owned()][..], true));
        scene.follow(2, Some("a"), Some(&ids[0]));
        assert_eq!(scene.told(2), (vec![ids[1].clone()], false));
    }

    #[test]
    fn another_run_is_a_gap() {
        let mut scene = Scene::new();
        scene.happen("a");
        scene.follow(2, None, Some("6-2"));
        assert_eq!(scene.told(2), (vec!["7-0".to_owned(), "7-1".to_owned()], true));
    }

    #[test]
    fn who_does_not_read_is_dropped_and_nobody_else() {
        let mut scene = Scene::new();
        scene.follow(1, None, None);
        let stuck = scene.followers.list[0].follower.clone();
        assert!(stuck.put(FOLLOWER_QUEUE_LEN_MAX - 100 - "retry: 1000\nid: 7-0\n\n".len()));
        scene.follow(2, None, None);
        scene.happen("a");
        let messages: Vec<FromKeeper> = scene.inbox.try_iter().collect();
        let is_ended = |message: &FromKeeper| matches!(message, FromKeeper::Ended { follower } if follower.token == 1);
        assert!(messages.iter().any(is_ended));
        assert_eq!(scene.followers.list.len(), 1);
        scene.happen("a");
        assert_eq!(scene.told(2).0, ["7-2"]);
    }

    #[test]
    fn a_replay_of_the_longest_events_is_cut_where_a_follower_can_take_it() {
        let mut scene = Scene::new();
        let url = format!("rtmp://h/live/{}", "x".repeat(1900));
        let url: Arc<SourceUrl> = SourceUrl::parse(&url, false).unwrap().into();
        let key = StreamKey::in_default_vhost("live", &"k".repeat(200)).unwrap();
        let what = What::Registered { view: None, url: Some(url), back: false, before: Vec::new() };
        let event = Event { key, generation: None, what };
        for at in 0..EVENTS_KEPT as u64 {
            scene.log.add(at, &event);
        }
        scene.follow(1, None, Some("7-1"));
        assert_eq!(scene.followers.list.len(), 1, "it is not closed");
        let (ids, is_gap) = scene.told(1);
        assert!(is_gap, "and is told that something is missing");
        assert_eq!(ids.last(), Some(&format!("7-{EVENTS_KEPT}")));
        assert_eq!(ids.len() as u64, 1 + EVENTS_KEPT as u64 - place_of(&ids[0]), "{}", ids[0]);
        assert!(ids.len() * 2000 > EVENTS_KEPT_LEN_MAX * 3 / 4, "{}", ids.len());
    }
}
