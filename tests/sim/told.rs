//! What hooks are told of streams, form by form: that one is there, and then that it is gone, by turns;
//! and of a loss nothing for as long as the players are kept.

use std::collections::BTreeMap;

use rillcast::bus::event::{Event, What};
use rillcast::media::Form;

use super::world::World;

/// The forms in which each key is there, by what was told of it.
#[derive(Default)]
pub(crate) struct Told(BTreeMap<usize, Vec<Form>>);

impl World {
    pub(crate) fn check_told(&mut self) {
        for shard in 0..self.shards.len() {
            for Event { key, what, .. } in self.shards[shard].take_events() {
                let key = self.key_index(&key);
                self.check_change(key, &what);
            }
        }
    }

    fn check_change(&mut self, key: usize, what: &What) {
        let known = self.told_of.0.entry(key).or_default();
        let (before, after) = match what {
            What::Registered { view: Some(view), before, .. } => {
                let playable = view.forms.iter().filter(|form| form.playable);
                (before, playable.map(|form| form.form).collect())
            }
            What::FormsChanged { before, forms, .. } => (before, forms.clone()),
            What::GraceOver { forms } | What::Ended { forms, .. } => (forms, Vec::new()),
            _ => return,
        };
        assert_eq!(&*known, before, "s{key}: {what:?}");
        let is_hidden = matches!(what, What::Registered { back: true, .. }) && *known == after;
        self.stats.hidden_losses += u64::from(is_hidden && !after.is_empty());
        self.stats.told_losses += u64::from(matches!(what, What::GraceOver { .. }));
        *known = after;
    }

    /// Nothing is there any more.
    pub(crate) fn check_told_end(&self) {
        let there = self.told_of.0.iter().filter(|(_, forms)| !forms.is_empty());
        assert_eq!(there.collect::<Vec<_>>(), [], "told to be there, and never to be gone");
    }
}
