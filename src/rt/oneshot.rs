//! One value from one task to another of the same executor.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

/// A channel for one value. Each end notices when the other is dropped.
pub fn oneshot<T>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let slot = Rc::new(RefCell::new(Slot { value: None, waker: None }));
    (OneshotSender(Rc::downgrade(&slot)), OneshotReceiver { slot })
}

/// The end that gives the value.
#[derive(Debug)]
pub struct OneshotSender<T>(Weak<RefCell<Slot<T>>>);

/// The end that waits for the value.
#[derive(Debug)]
pub struct OneshotReceiver<T> {
    slot: Rc<RefCell<Slot<T>>>,
}

/// No value will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sender was dropped")]
pub struct SenderDropped;

#[derive(Debug)]
struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

impl<T> OneshotSender<T> {
    /// Gives the value, or gives it back when nobody waits for it any more.
    pub fn send(self, value: T) -> Result<(), T> {
        let Some(slot) = self.0.upgrade() else { return Err(value) };
        slot.borrow_mut().value = Some(value);
        Ok(()) // Dropping `self` wakes the receiver.
    }

    /// Whether nobody waits for the value any more.
    pub fn is_closed(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl<T> Drop for OneshotSender<T> {
    fn drop(&mut self) {
        let waker = self.0.upgrade().and_then(|slot| slot.borrow_mut().waker.take());
        // The receiver must see that the sender is gone when it is polled.
        self.0 = Weak::new();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for OneshotReceiver<T> {
    type Output = Result<T, SenderDropped>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.slot.borrow_mut();
        if let Some(value) = slot.value.take() {
            return Poll::Ready(Ok(value));
        }
        if Rc::weak_count(&self.slot) == 0 {
            return Poll::Ready(Err(SenderDropped));
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct WakeCount(AtomicU32);

    impl Wake for WakeCount {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn value_wakes_the_receiver() {
        let wakes = Arc::new(WakeCount::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut context = Context::from_waker(&waker);
        let (sender, receiver) = oneshot();
        let mut receiver = pin!(receiver);
        assert_eq!(receiver.as_mut().poll(&mut context), Poll::Pending);
        assert!(!sender.is_closed());
        assert_eq!(sender.send(3), Ok(()));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!(receiver.as_mut().poll(&mut context), Poll::Ready(Ok(3)));
    }

    #[test]
    fn dropped_sender_wakes_the_receiver() {
        let wakes = Arc::new(WakeCount::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut context = Context::from_waker(&waker);
        let (sender, receiver) = oneshot::<u8>();
        let mut receiver = pin!(receiver);
        assert_eq!(receiver.as_mut().poll(&mut context), Poll::Pending);
        drop(sender);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!(receiver.as_mut().poll(&mut context), Poll::Ready(Err(SenderDropped)));
    }

    #[test]
    fn dropped_receiver_gives_the_value_back() {
        let (sender, receiver) = oneshot();
        drop(receiver);
        assert!(sender.is_closed());
        assert_eq!(sender.send(3), Err(3));
    }
}
