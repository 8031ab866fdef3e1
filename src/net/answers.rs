//! Answers that tasks of this shard wait for: of shards, and of threads that may block.

use std::time::Instant;

use super::driver::Driver;
use crate::bus::message::Answer;
use crate::rt::OneshotSender;

impl Driver {
    /// Enters who waits for an answer, and until when.
    pub(super) fn await_answer(&mut self, sender: OneshotSender<Answer>, deadline: Instant) -> u64 {
        self.next_ask += 1;
        self.asks.insert(self.next_ask, (sender, deadline));
        self.ask_deadlines.insert((deadline, self.next_ask));
        self.next_ask
    }

    /// What gives the answer to a question from another thread.
    pub(super) fn answer_from_thread(&self, serial: u64) -> impl FnOnce(Answer) + Send + use<> {
        let (answers, waker) = (self.answers_in.clone(), self.waker.clone());
        move |answer| {
            // A shard that is gone wants no answer.
            let _ = answers.send((serial, answer));
            waker.wake();
        }
    }

    /// Takes what other threads have answered since the last turn.
    pub(super) fn take_answers(&mut self) {
        while let Ok((serial, answer)) = self.answers_out.try_recv() {
            self.give_answer(serial, answer);
        }
    }

    pub(super) fn give_answer(&mut self, serial: u64, answer: Answer) {
        if let Some((sender, deadline)) = self.asks.remove(&serial) {
            self.ask_deadlines.remove(&(deadline, serial));
            // Who asked may have gone meanwhile.
            let _ = sender.send(answer);
        }
    }
}
