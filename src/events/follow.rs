//! Who follows the log: server-sent events (WHATWG HTML, 9.2).

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shards;
use super::log::{Entry, Log, Resume};
use crate::bus::keeper::{Filter, Follow, Follower, FromKeeper};
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
        let mut following = Following { shard, follower, filter: follow.filter, next };
        following.render(log, &mut text);
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
            text.is_empty() || following.give(text, shards)
        });
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next_ping
    }

    /// Has a connection that is gone noticed.
    pub(super) fn handle_timeout(&mut self, now: Instant, shards: &mut Shards) {
        if self.next_ping.is_some_and(|due| due <= now) {
            self.next_ping = Some(now + PING);
            self.list.retain(|following| following.give(":\n\n".to_owned(), shards));
        }
    }
}

impl Following {
    fn render(&mut self, log: &Log, text: &mut String) {
        for entry in log.from(self.next) {
            // What is of no stream is for everybody.
            if entry.key.as_ref().is_none_or(|key| self.filter.lets_through(key)) {
                push(text, log, entry);
            }
        }
        self.next = log.newest() + 1;
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
    let run = log.run;
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
            let data = format!("{{\"run\":{run},\"event\":\"gap\",\"missed\":{count}}}");
            writeln!(text, "event: gap\ndata: {data}\n").expect("a String takes everything");
            from
        }
        Some(Resume::OtherRun { from }) => {
            let data = format!("{{\"run\":{run},\"event\":\"gap\",\"reason\":\"another run\"}}");
            writeln!(text, "event: gap\ndata: {data}\n").expect("a String takes everything");
            from
        }
    };
    (next, text)
}

fn push(text: &mut String, log: &Log, entry: &Entry) {
    let (id, event, data) = (log.id(entry.seq), entry.name, &entry.json);
    writeln!(text, "id: {id}\nevent: {event}\ndata: {data}\n").expect("a String takes everything");
}

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
    use crate::limits::{EVENTS_KEPT, EVENTS_KEPT_LEN_MAX, FOLLOWER_QUEUE_LEN_MAX};
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
        assert_eq!((scene.told(2).0.len(), scene.told(2).1), (5, false));
    }

    #[test]
    fn another_run_is_a_gap() {
        let mut scene = Scene::new();
        scene.happen("a");
        scene.follow(2, None, Some("6-2"));
        assert_eq!(scene.told(2), (vec!["7-1".to_owned()], true));
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
        assert!(ids.len() * 2000 > EVENTS_KEPT_LEN_MAX * 3 / 4, "{}", ids.len());
    }
}
