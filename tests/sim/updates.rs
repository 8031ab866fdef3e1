//! Pulls that are given other sources while they are up: the new one takes over before the old one is
//! given up, and players notice nothing.

use std::time::Duration;

use rillcast::bus::view::SourceView;
use rillcast::media::Form;
use rillcast::media::state::Generation;

use super::world::World;

/// A pull that is up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Up {
    generation: Generation,
    losses: u32,
    /// That of its source.
    form: Form,
    players: u32,
    ends_of_lost: u64,
}

impl World {
    /// The pull of a key, where it is up.
    pub(crate) fn up(&mut self, key: usize) -> Option<Up> {
        let view = self.peek(key).filter(|view| view.registered)?;
        let SourceView::Pull(pull) = &view.source else { return None };
        let players = view.forms.iter().map(|form| form.players).sum();
        let (generation, losses, form) = (view.generation, pull.losses, pull.url.form());
        Some(Up { generation, losses, form, players, ends_of_lost: self.ends_of_lost[key] })
    }

    /// Where the old source was not lost by itself meanwhile, nobody was ended for it.
    pub(crate) fn check_updates(&mut self) {
        for (key, before) in std::mem::take(&mut self.updated) {
            let Some(after) = self.up(key) else { continue };
            if before.form != after.form && self.plan.policy.reconnect_grace < SOUND_ALONE {
                continue;
            }
            if (before.generation, before.losses) == (after.generation, after.losses) {
                let ends = (before.ends_of_lost, after.ends_of_lost);
                assert_eq!(ends.0, ends.1, "players of s{key} were ended by an update");
                self.stats.updates += u64::from(before.players > 0);
            }
        }
    }
}

/// What players wait for a source of sound alone that has taken over from one of another form, with some
/// time for its next sound: where they are not kept for so long, it ends them.
const SOUND_ALONE: Duration = Duration::from_millis(3500);
