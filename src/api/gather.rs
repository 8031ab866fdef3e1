//! Asking shards: several questions under way at once, each within a bound.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::Node;
use super::router::Call;
use super::wire::{Code, Failure};
use crate::bus::message::{Answer, Ask};
use crate::bus::view::StreamView;
use crate::limits::API_ASKS_MAX;
use crate::media::{ShardId, StreamKey};

impl<N: Node> Call<'_, N> {
    /// How long a shard may take: a close answers within the first part of it whatever happens.
    pub(super) fn bound(&self) -> Duration {
        Duration::from_millis(self.config.api.reply_bound_ms) + BOUND_SLACK
    }

    pub(super) async fn ask(&self, to: ShardId, ask: Ask) -> Result<Answer, Failure> {
        self.ask_within(to, ask, self.bound()).await
    }

    pub(super) async fn ask_within(
        &self,
        to: ShardId,
        ask: Ask,
        bound: Duration,
    ) -> Result<Answer, Failure> {
        let answer = self.node.ask(to, ask, bound).await;
        answer.ok_or_else(|| {
            let ms = bound.as_millis();
            Failure::new(Code::Exception, format!("shard {to} did not answer within {ms} ms"))
        })
    }

    pub(super) async fn ask_owner(&self, key: &StreamKey, ask: Ask) -> Result<Answer, Failure> {
        self.ask(self.node.owner_of(key), ask).await
    }

    /// The same question to every shard; the answers in their order.
    pub(super) async fn ask_all(&self, ask: impl Fn() -> Ask) -> Vec<Result<Answer, Failure>> {
        let shards = (0..self.node.shards()).map(|index| ShardId(index as u16));
        concurrently(shards.map(|shard| self.ask(shard, ask()))).await
    }

    /// The stream of a key.
    pub(super) async fn stream(&self, key: &StreamKey) -> Result<Option<StreamView>, Failure> {
        let answer = self.ask_owner(key, Ask::Stream { key: key.clone() }).await?;
        let Answer::Stream(view) = answer else { return Err(Failure::other_answer()) };
        Ok(view.map(|view| *view))
    }

    /// The streams that are let through, in the order of their names. They are asked for in pages,
    /// and each shard goes on with its streams between two of them.
    pub(super) async fn streams(
        &self,
        registered_only: bool,
        lets_through: impl Fn(&StreamView) -> bool,
    ) -> Result<BTreeMap<StreamKey, StreamView>, Failure> {
        let found = RefCell::new(BTreeMap::new());
        let add_page = |page: Vec<StreamView>| {
            let mut found: RefMut<'_, BTreeMap<StreamKey, StreamView>> = found.borrow_mut();
            for view in page.into_iter().filter(&lets_through) {
                // A key that has ended and begun again meanwhile may be in two pages.
                let seen = found.get(&view.key).map(|seen| seen.generation);
                if seen.is_none_or(|seen| seen < view.generation) {
                    found.insert(view.key.clone(), view);
                }
            }
        };
        let shards = (0..self.node.shards()).map(|index| ShardId(index as u16));
        let ends = concurrently(shards.map(async |shard| {
            let mut from = Some(0);
            while let Some(slot) = from {
                let ask = Ask::Streams { from: slot, registered_only };
                let answer = self.ask(shard, ask).await?;
                let Answer::Streams { page, next } = answer else {
                    return Err(Failure::other_answer());
                };
                add_page(page);
                from = next;
            }
            Ok(())
        }));
        ends.await.into_iter().collect::<Result<(), Failure>>()?;
        Ok(found.into_inner())
    }
}

/// Runs futures, at most [`API_ASKS_MAX`] at a time; their results in order.
pub(super) async fn concurrently<F: Future>(
    futures: impl IntoIterator<Item = F>,
) -> Vec<F::Output> {
    let mut waiting = futures.into_iter();
    let mut running: Vec<(usize, Pin<Box<F>>)> = Vec::new();
    let mut results: Vec<Option<F::Output>> = Vec::new();
    poll_fn(|context| {
        loop {
            while running.len() < API_ASKS_MAX
                && let Some(future) = waiting.next()
            {
                running.push((results.len(), Box::pin(future)));
                results.push(None);
            }
            let running_before = running.len();
            running.retain_mut(|(index, future)| match future.as_mut().poll(context) {
                Poll::Pending => true,
                Poll::Ready(result) => {
                    results[*index] = Some(result);
                    false
                }
            });
            if running.len() == running_before {
                let is_done = running.is_empty();
                return if is_done { Poll::Ready(()) } else { Poll::Pending };
            }
        }
    })
    .await;
    results.into_iter().map(|result| result.expect("each future has ended")).collect()
}

/// Lets others run once.
pub(super) async fn give_way() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What a question and its answer may take on the bus of a busy node.
const BOUND_SLACK: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::api::testing::block_on;

    #[test]
    fn results_keep_their_order_and_few_run_at_once() {
        let (running, most) = (Cell::new(0), Cell::new(0));
        let (running, most) = (&running, &most);
        let count = API_ASKS_MAX * 3 + 1;
        let results = block_on(concurrently((0..count).map(|index| async move {
            running.set(running.get() + 1);
            most.set(most.get().max(running.get()));
            for _ in 0..=index % 5 {
                give_way().await;
            }
            running.set(running.get() - 1);
            index
        })));
        assert_eq!(results, Vec::from_iter(0..count));
        assert_eq!((running.get(), most.get()), (0, API_ASKS_MAX));
    }

    #[test]
    fn nothing_to_run_is_done_at_once() {
        let results: Vec<()> = block_on(concurrently(std::iter::empty::<std::future::Ready<()>>()));
        assert!(results.is_empty());
    }
}
